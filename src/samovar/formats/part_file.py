"""A large file written from start to end, that shows under its name only when it is whole, and can be gone on with.

It grows as NAME.part. Beside it, NAME.part.journal holds a digest of the job that the bytes belong to, and a line for each
boundary up to which they are known to be on disk, with a note of the writer's. A second run of the same job goes on from the
last boundary; a run of another job starts over. A lock on NAME.part keeps two processes from writing at once; the system lets
go of it when a process ends, however it ends. It knows no format.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from samovar.errors import StoreError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

_SYNC_BYTES: Final = 64 << 20  # written between two syncs, which may take a second on a slow disk
_REASONS: Final = {
    errno.ENOSPC: "no space is left on the disk; free some",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EFBIG: "the file system takes no file of this size; choose a folder on another disk",
    errno.EACCES: "permission denied; choose a folder that can be written",
    errno.EROFS: "the disk is read-only; choose a folder that can be written",
    errno.ENOENT: "no such folder; make it first",
    errno.ENOTDIR: "a file is where a folder has to be; choose another name",
    errno.EIO: "the disk failed; look after it",
}


class PartFile:
    """The file while it grows. `notes` has those of all boundaries, `done_bytes` the bytes before the last of them.

    Made by `open_part`.
    """

    def __init__(self, target: Path, fd: int, job: bytes) -> None:
        self.target, self.notes, self.done_bytes = target, list[str](), 0
        self._fd, self._unsynced, self._waiting = fd, 0, list[str]()
        self._journal_path = _journal_of(target)
        first = hashlib.sha256(job).hexdigest()
        self._read_journal(first, os.fstat(fd).st_size)
        lines = [first, *(f"{offset} {note}" for offset, note in self._kept)]
        self._journal = os.open(self._journal_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        os.write(self._journal, "".join(line + "\n" for line in lines).encode())
        os.ftruncate(fd, self.done_bytes)
        os.lseek(fd, self.done_bytes, os.SEEK_SET)

    def _read_journal(self, first: str, size: int) -> None:
        """Take over the boundaries of an earlier run of the job; a line that was cut off does not count."""
        self._kept: list[tuple[int, str]] = []
        try:
            lines = self._journal_path.read_bytes().decode("utf-8", "replace").split("\n")[:-1]
        except OSError:
            return
        if not lines or lines[0] != first:
            return
        for line in lines[1:]:
            offset, _, note = line.partition(" ")
            if not (offset.isascii() and offset.isdigit() and self.done_bytes <= int(offset) <= size):
                return
            self.done_bytes = int(offset)
            self.notes.append(note)
            self._kept.append((self.done_bytes, note))

    def write(self, data: "Buffer") -> None:
        """Append bytes. Raises OSError."""
        view = memoryview(data).cast("B")
        while len(view):
            n_bytes = os.write(self._fd, view[: 1 << 30])
            self._unsynced += n_bytes
            view = view[n_bytes:]

    def end_piece(self, note: str) -> None:
        """Mark a boundary; `note` is one line. It counts for a later run as soon as the disk has it. Raises OSError."""
        assert "\n" not in note, note
        self.notes.append(note)
        self._waiting.append(f"{os.lseek(self._fd, 0, os.SEEK_CUR)} {note}\n")
        if self._unsynced >= _SYNC_BYTES:
            self.sync()

    def sync(self) -> None:
        """Bring everything to the disk, and then the boundaries into the journal. Raises OSError."""
        os.fsync(self._fd)
        os.write(self._journal, "".join(self._waiting).encode())
        os.fsync(self._journal)
        self._waiting.clear()
        self._unsynced = 0

    def finish(self) -> None:
        """Give the file its name, and drop the journal. Raises OSError."""
        os.fsync(self._fd)
        _part_of(self.target).replace(self.target)
        _sync_folder(self.target.parent)
        self._journal_path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the journal; the file stays for a later run unless it was finished."""
        os.close(self._journal)


@contextlib.contextmanager
def open_part(target: Path, job: bytes, size_bytes: int, *, replace: bool = False) -> Iterator[PartFile]:
    """Begin or go on with a file of `size_bytes` that `target` will be. `job` stands for the source and all choices.

    An OSError inside the block becomes a StoreError. Raises StoreError where the target is there and `replace` is not set,
    another process writes it, or the disk refuses or has no room; what was written stays for the next run.
    """
    try:
        fd = _lock(target, replace=replace)
        try:
            with contextlib.closing(PartFile(target, fd, job)) as part:
                _check_room(target, size_bytes - part.done_bytes)
                try:
                    yield part
                except BaseException:
                    with contextlib.suppress(OSError):
                        part.sync()
                    raise
        finally:
            os.close(fd)
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
        raise StoreError(
            f"{target}: cannot be written: {reason}, and run the command again: what is done is kept in {_part_of(target).name}"
        ) from error


def _part_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _journal_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.part.journal")


def _lock(target: Path, *, replace: bool) -> int:
    """The part file, opened, for this process alone."""
    part = _part_of(target)
    while True:
        if target.is_dir():
            raise StoreError(f"{target}: a folder, where a file is to be written; give a file name")
        if target.exists() and not replace:
            raise StoreError(f"{target}: there is a file of this name; choose another, or give --force to replace it")
        fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        if not _is_ours(fd):
            os.close(fd)
            raise StoreError(f"{target}: another process is writing this file; wait for it, or choose another name")
        if part.exists() and os.path.samestat(part.stat(), os.fstat(fd)):
            return fd
        os.close(fd)  # another process finished between the two calls: look again


def _is_ours(fd: int) -> bool:
    """Whether no other process holds the file; we do from here on."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _check_room(target: Path, needed: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        raise StoreError(
            f"{target.parent}: {needed / 1e6:,.0f} MB are still to be written, {free / 1e6:,.0f} MB are free; "
            "free some, or choose a folder on another disk"
        )


def _sync_folder(path: Path) -> None:
    """Make a rename in this folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
