"""What a check has found: one line of the doctor's report."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class Status(Enum):
    """How a check ended. `UNKNOWN` is for what cannot be told from what is at hand."""

    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line. `what` was looked at, within `section`; `found` and `expected` are for people.

    `advice` says what to do, where there is something to do or to know. `detail` are further lines, such as a diff.
    """

    section: str
    what: str
    status: Status
    found: str
    expected: str = ""
    advice: str = ""
    detail: tuple[str, ...] = ()


def passed(section: str, what: str, found: str, *, advice: str = "") -> Finding:
    """A line that is as it should be; `advice` is what there is to know all the same."""
    return Finding(section=section, what=what, status=Status.PASS, found=found, advice=advice)


def failed(section: str, what: str, found: str, expected: str, advice: str, detail: Sequence[str] = ()) -> Finding:
    """A line that is not as it should be."""
    return Finding(
        section=section, what=what, status=Status.FAIL, found=found, expected=expected, advice=advice, detail=tuple(detail)
    )


def unknown(section: str, what: str, found: str, *, expected: str = "", advice: str = "") -> Finding:
    """A line that nothing at hand can settle; `found` says why."""
    return Finding(section=section, what=what, status=Status.UNKNOWN, found=found, expected=expected, advice=advice)
