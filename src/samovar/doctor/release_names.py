"""Which release a file says it is, by the names it bears."""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from samovar.doctor.releases import Release

_MAX_NEAR: Final = 5
_SPLIT: Final = re.compile(r"[^a-z0-9.]+")
# What names hold beside the release: how the file is quantised, who published it, which part of several it is.
_HARMLESS: Final = re.compile(
    r"|gguf|hf|qwen|huggingfacetb|awq|gptq|fp8|bf16|fp16|f16|f32|fp32|int[48]|[48]bit|w4a16|w8a8|g128|mxfp4|nvfp4|moe"
    r"|i?q\d|i?q\d[_.]?\d?|tq[12]|[01k]|nl|x*[sml]|xs|xl|ud|imat|imatrix|i1|\d{5}|of|unsloth|bartowski|ggml.?org|mradermacher"
    r"|lmstudio|ms|community|models|model|dynamic"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedRelease:
    """A release that a name stands for, and the words of the name that are not the release's: a fine-tune's, most often."""

    release: Release
    where: str
    name: str
    n_words: int
    others: tuple[str, ...]


def read_name(where: str, name: str, releases: Iterable[Release]) -> NamedRelease | None:
    """The release with the most words in `name`, in their order; None where no release is named."""
    given = _words(name)
    best: NamedRelease | None = None
    for release in releases:
        for known in (release.name, *release.aliases):
            wanted = _words(known)
            start = _place(given, wanted)
            if start is None or (best is not None and len(wanted) <= best.n_words):
                continue
            rest = given[:start] + given[start + len(wanted) :]
            others = tuple(word for word in rest if not _HARMLESS.fullmatch(word))
            best = NamedRelease(release=release, where=where, name=name, n_words=len(wanted), others=others)
    return best


def find_release(name: str, releases: Iterable[Release]) -> Release | None:
    """The release of exactly this name, upper and lower case aside."""
    wanted = _words(name)
    return next((r for r in releases if wanted in [_words(known) for known in (r.name, *r.aliases)]), None)


def no_such_release(name: str, releases: Iterable[Release]) -> str:
    """What to say of a name that is no release's, with the nearest few."""
    known = {r.name.lower(): r.name for r in releases}
    near = difflib.get_close_matches(name.lower(), known, n=_MAX_NEAR, cutoff=0.0)
    return f"{name[:80]!r} is no release known here; the nearest are: {', '.join(known[low] for low in near)}"


def _words(name: str) -> list[str]:
    low = re.sub(r"\.gguf$", "", name.lower())
    low = re.sub(r"qwen[\s_-]+(?=[23](\.|[\s_-]))", "qwen", low)
    return [word for word in _SPLIT.split(low) if word]


def _place(given: Sequence[str], wanted: Sequence[str]) -> int | None:
    """Where `wanted` stands in `given` as a run."""
    starts = range(len(given) - len(wanted) + 1)
    return next((start for start in starts if given[start : start + len(wanted)] == wanted), None)
