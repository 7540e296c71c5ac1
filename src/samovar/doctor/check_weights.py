"""The values of the weights: scales that are numbers, stretches that were written, and the whole file by its sha256."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from samovar.doctor.finding import Finding, failed, passed, unknown
from samovar.doctor.releases import Release
from samovar.doctor.scan_weights import Scan
from samovar.doctor.subject import Subject
from samovar.formats.mapped_file import open_plain

SECTION: Final = "weights"
SHA256: Final = "sha256"
_FILE: Final = "file"
_AGAIN: Final = "copy or download the file again; if that does not help, it was made like this: get it from its publisher"
_READ_BYTES: Final = 4 << 20
_MAX_HASHED: Final = 4 << 30  # bytes that are read unasked, beside known files
Advance = Callable[[int], None]


def check_opens(subject: Subject) -> list[Finding]:
    """One line for each thing that could not be read."""
    if not subject.problems:
        lines = [passed(_FILE, "opens", "GGUF" if subject.is_gguf else "Hugging Face folder")]
        if subject.n_spare_bytes:
            found = f"{subject.n_spare_bytes:,} bytes after the last tensor"
            lines.append(failed(_FILE, "end", found, "none", _AGAIN))
        return lines
    return [failed(_FILE, "opens", problem, "", "") for problem in subject.problems]  # they say what to do


def check_hash(plan: "HashPlan", release: Release | None, advance: Advance) -> Finding:
    """The sha256 of the files against those that are known. `advance(bytes)` is called as they are read."""
    what = SHA256
    if not plan.expected:
        reason = plan.reason
        if release is not None and release.files and plan.one_size_bytes not in (None, *release.files.values()):
            sizes = " or ".join(f"{size:,}" for size in release.files.values())
            reason += f"; its size differs from the published file's: {plan.one_size_bytes:,} bytes, {sizes} known"
        return unknown(_FILE, what, reason, advice=f"compare it with the one on {_page(release)}")
    shown = whose = ""
    for path, expected in plan.expected.items():
        found = _sha256(path, advance)
        if found not in expected:
            wanted = " or ".join(f"{known[:12]}, {whose}" for known, whose in expected.items())
            advice = "the file was damaged on its way, or edited: " + _AGAIN
            return failed(_FILE, what, f"{path.name}: {found[:12]}", wanted, advice)
        shown, whose = found[:12], expected[found]
    return passed(_FILE, what, f"{shown}, {whose}" if len(plan.expected) == 1 else f"{len(plan.expected)} files, {whose}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HashPlan:
    """The files whose sha256 can be held against known ones, with whose these are; or the `reason` why there are none.

    `one_size_bytes` is the size of a model in one file.
    """

    expected: Mapping[Path, Mapping[str, str]]
    size_bytes: int = 0
    reason: str = "no hash of this file is known here"
    one_size_bytes: int | None = None


def plan_hashes(subject: Subject, releases: Sequence[Release], *, is_full: bool) -> HashPlan:
    """Which files to read whole: one that has the size of a known file, else those that a hub gave hashes for."""
    files = {path: path.stat().st_size for path in subject.files if path.exists()}
    if len(files) == 1:
        ((path, size),) = files.items()
        known = {sha256: f"the known file of {r.name}" for r in releases for sha256, n in r.files.items() if n == size}
        if known:
            return HashPlan(expected={path: known}, size_bytes=size)
    recorded = {f.path.rpartition("/")[2]: f for f in subject.record.files} if subject.record else {}
    given = {path: f for path in files if (f := recorded.get(path.name)) is not None and f.checked == "sha256"}
    one_size = next(iter(files.values())) if len(files) == 1 else None
    if not given:
        return HashPlan(expected={}, one_size_bytes=one_size)
    total = sum(files[path] for path in given)
    if total > _MAX_HASHED and not is_full:
        reason = "not read for its size; --full holds it against what its source gave"
        return HashPlan(expected={}, reason=reason, one_size_bytes=one_size)
    return HashPlan(expected={path: {f.sha256: "as its source gave it"} for path, f in given.items()}, size_bytes=total)


def check_scan(scan: Scan) -> list[Finding]:
    """The lines on what a scan has seen."""
    if not scan.n_tensors:
        return [unknown(SECTION, "scales", "not looked at: see the lines on the file")]
    how = "all values" if scan.is_whole else f"{scan.n_seen / max(1, scan.n_all):.0%} of the values; --full looks at all"
    lines = []
    if scan.broken:
        shown = [f"{name}: {why}" for name, why in list(scan.broken.items())[:3]]
        lines.append(failed(SECTION, "parts", f"{len(scan.broken)} weights cannot be put together", "none", _AGAIN, shown))
    if scan.bad:
        shown = [f"{name}: {count:,} blocks, the first is {first:,}" for name, (count, first) in list(scan.bad.items())[:3]]
        lines.append(failed(SECTION, "scales", f"infinite or no number in {len(scan.bad)} tensors", "numbers", _AGAIN, shown))
    else:
        lines.append(passed(SECTION, "scales", f"finite in {scan.n_tensors:,} tensors ({how})"))
    if scan.holes:
        shown = [f"{name}: from block {start:,}" for name, start in list(scan.holes.items())[:3]]
        found = f"stretches of zero bytes in {len(scan.holes)} tensors"
        advice = "a download was not finished, though the file has its full size: " + _AGAIN
        lines.append(failed(SECTION, "stretches", found, "none", advice, shown))
    else:
        lines.append(passed(SECTION, "stretches", "none left empty"))
    return lines


def _page(release: Release | None) -> str:
    return f"the publisher's page of {release.name}" if release else "the page that it is from"


def _sha256(path: Path, advance: Advance) -> str:
    digest = hashlib.sha256()
    with open_plain(path) as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()
