"""The values of the weights: scales that are numbers, stretches that were written, and the whole file by its sha256."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from samovar.doctor.finding import Finding, failed, passed, unknown
from samovar.doctor.releases import Release
from samovar.doctor.scan_weights import Scan
from samovar.doctor.subject import Subject
from samovar.formats.mapped_file import open_plain

SECTION: Final = "weights"
_FILE: Final = "file"
_AGAIN: Final = "copy or download the file again; if that does not help, it was made like this: get it from its publisher"
_READ_BYTES: Final = 4 << 20
Advance = Callable[[int], None]


def check_opens(subject: Subject) -> list[Finding]:
    """One line for each thing that could not be read."""
    if not subject.problems:
        return [passed(_FILE, "opens", "GGUF" if subject.is_gguf else "Hugging Face folder")]
    advice = "what could be read all the same was checked"
    return [failed(_FILE, "opens", problem, "a sound model", advice) for problem in subject.problems]


def check_hash(subject: Subject, releases: Sequence[Release], release: Release | None, advance: Advance) -> Finding:
    """The sha256 of the file against those that are known. `advance(bytes)` is called as it is read."""
    what = "sha256"
    known = {sha256: (size, r) for r in releases for sha256, size in r.files.items()}
    file = subject.files[0] if len(subject.files) == 1 else None
    size = file.stat().st_size if file is not None else -1
    near = [(sha256, r) for sha256, (n, r) in known.items() if n == size]
    if file is None or not near:
        return unknown(_FILE, what, "no hash of this file is known here", advice=f"compare it with the one on {_page(release)}")
    found = _sha256(file, advance)
    if found in known:
        return passed(_FILE, what, f"{found[:12]}, the known file of {known[found][1].name}")
    return failed(
        _FILE,
        what,
        found[:12],
        f"{near[0][0][:12]}, as the file of {near[0][1].name} has, which is of the same size",
        "the file was damaged on its way, or edited: " + _AGAIN,
    )


def hash_bytes(subject: Subject, releases: Sequence[Release]) -> int:
    """How many bytes `check_hash` will read."""
    if len(subject.files) != 1 or not subject.files[0].exists():
        return 0
    size = subject.files[0].stat().st_size
    return size if any(size in r.files.values() for r in releases) else 0


def check_scan(scan: Scan) -> list[Finding]:
    """The lines on what a scan has seen."""
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
