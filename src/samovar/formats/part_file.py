"""A large file written from start to end, that shows under its name only when it is whole, and can be gone on with.

It grows as NAME.part. Beside it, NAME.part.journal holds a digest of the job that the bytes belong to, and a line for each
boundary up to which they are known to be on disk, with a CRC-32 of the bytes since the one before and a note of the writer's.
A second run of the same job goes on from the last boundary before which all is as it was written; a run of another job starts
over. A NAME.part without such a journal is somebody else's, and is left alone.
A lock on NAME.part keeps two processes from writing at once; the system lets go of it when a process ends, however it ends.
It knows no format.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from samovar.errors import FormatError, StoreError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

_SYNC_BYTES: Final = 64 << 20  # written between two syncs, which may take a second on a slow disk
_FIRST_LINE: Final = re.compile(rb"[0-9a-f]{64}\n")  # of a journal
_LINE: Final = re.compile(r"([0-9]{1,18}) ([0-9a-f]{8}) (.*)")  # the others: a boundary, the CRC-32 of its piece, its note
_READ_BYTES: Final = 1 << 20
GO_ON: Final = "free some space and run the command again (what is done is kept), or write elsewhere and start anew"
_REASONS: Final = {
    errno.ENOSPC: f"no space is left on the disk; {GO_ON}",
    errno.EDQUOT: f"the disk quota is used up; {GO_ON}",
    errno.EFBIG: "the file system, or a limit (ulimit -f), allows no file of this size; lift it and run the command again "
    "(what is done is kept), or write elsewhere and start anew",
    errno.EACCES: "permission denied; choose a folder that can be written",
    errno.EPERM: "not permitted; choose a folder that can be written",
    errno.EROFS: "the disk is read-only; choose a folder that can be written",
    errno.ENOTDIR: "a file is where a folder has to be; choose another name",
    errno.EIO: "the disk failed; look after it",
}


class PartFile:
    """The file while it grows. `notes` has those of all boundaries, `done_bytes` the bytes before the last of them.

    Made by `open_part`.
    """

    def __init__(self, target: Path, fd: int, job: bytes) -> None:
        self.target, self.notes, self.done_bytes = target, list[str](), 0
        self._fd, self._unsynced, self._waiting, self._crc = fd, 0, list[str](), 0
        self._journal_path = _journal_of(target)
        first = hashlib.sha256(job).hexdigest()
        self._read_journal(first, os.fstat(fd).st_size)
        lines = [first, *self._kept]
        self._journal = os.open(self._journal_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        os.write(self._journal, "".join(line + "\n" for line in lines).encode())
        os.fsync(self._journal)  # before the bytes that only it says are ours
        os.ftruncate(fd, self.done_bytes)
        os.lseek(fd, self.done_bytes, os.SEEK_SET)

    def _read_journal(self, first: str, size: int) -> None:
        """Take over the boundaries of an earlier run of the job, up to one that is cut off or whose bytes have changed."""
        self._kept = list[str]()
        try:
            lines = self._journal_path.read_bytes().decode("utf-8", "replace").split("\n")[:-1]
        except OSError:
            return
        if not lines or lines[0] != first:
            return
        for line in lines[1:]:
            if (found := _LINE.fullmatch(line)) is None or not self.done_bytes <= (end := int(found[1])) <= size:
                return
            if _crc_of(self._fd, self.done_bytes, end) != int(found[2], 16):
                return
            self.done_bytes = end
            self.notes.append(found[3])
            self._kept.append(line)

    def write(self, data: "Buffer") -> None:
        """Append bytes. Raises OSError."""
        view = memoryview(data).cast("B")
        while len(view):
            n_bytes = os.write(self._fd, view[: 1 << 30])
            self._unsynced += n_bytes
            self._crc = zlib.crc32(view[:n_bytes], self._crc)
            view = view[n_bytes:]

    def end_piece(self, note: str) -> None:
        """Mark a boundary; `note` is one line. It counts for a later run as soon as the disk has it. Raises OSError."""
        assert "\n" not in note, note
        self.notes.append(note)
        self._waiting.append(f"{os.lseek(self._fd, 0, os.SEEK_CUR)} {self._crc:08x} {note}\n")
        self._crc = 0
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

    def discard(self) -> None:
        """Remove what was written, which no later run can go on from. Raises OSError."""
        _part_of(self.target).unlink(missing_ok=True)
        self._journal_path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the journal; the file stays for a later run unless it was finished."""
        os.close(self._journal)


@contextlib.contextmanager
def open_part(target: Path, job: bytes, size_bytes: int, *, replace: bool = False) -> Iterator[PartFile]:
    """Begin or go on with a file of `size_bytes` that `target` will be. `job` stands for the source and all choices.

    An OSError inside the block becomes a StoreError. Raises StoreError where the target is there and `replace` is not set,
    another process writes it, a file of another origin has the name of the unfinished one, or the disk refuses or has no room.
    What was written stays for the next run, but not after a FormatError: the source is at fault, and stays so.
    """
    try:
        fd = _lock(target, replace=replace)
        try:
            with contextlib.closing(PartFile(target, fd, job)) as part:
                _check_room(target, size_bytes - part.done_bytes)
                try:
                    yield part
                except FormatError:
                    part.discard()
                    raise
                except BaseException:
                    with contextlib.suppress(OSError):
                        part.sync()
                    raise
        finally:
            os.close(fd)
    except OSError as error:
        raise StoreError(f"{target}: cannot be written: {disk_reason(error, target.parent)}") from error


def disk_reason(error: OSError, folder: Path) -> str:
    """Why something could not be written in `folder`, and what to do."""
    if error.errno == errno.ENOENT:
        return "the folder takes no such file; choose another folder" if folder.is_dir() else "no such folder; make it first"
    return _REASONS.get(error.errno or 0, error.strerror or str(error))


def is_begun(target: Path) -> bool:
    """Whether there is an unfinished file that a later run goes on from: with more in it than a head."""
    try:
        journal = _journal_of(target).read_bytes()
    except OSError:
        return False
    return _FIRST_LINE.match(journal) is not None and journal.count(b"\n") > 2 and _part_of(target).is_file()


def _crc_of(fd: int, start: int, end: int) -> int:
    """CRC-32 of the bytes [start, end) of a file."""
    crc = 0
    while start < end and (data := os.pread(fd, min(end - start, _READ_BYTES), start)):
        crc, start = zlib.crc32(data, crc), start + len(data)
    return crc


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
        if os.path.lexists(part) and not stat.S_ISREG(part.lstat().st_mode):
            raise _foreign(part, "a folder" if part.is_dir() and not part.is_symlink() else "a link or a device")
        if not os.path.lexists(part) and not _has_own_journal(target, if_none=True):
            raise _foreign(_journal_of(target), "a file")
        fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        if not _is_ours(fd):
            os.close(fd)
            raise StoreError(f"{target}: another process is writing this file; wait for it, or choose another name")
        if part.exists() and os.path.samestat(part.stat(), os.fstat(fd)):
            if _has_own_journal(target, if_none=os.fstat(fd).st_size == 0):
                return fd
            os.close(fd)
            raise _foreign(part, "a file")
        os.close(fd)  # another process finished between the two calls: look again


def _has_own_journal(target: Path, *, if_none: bool) -> bool:
    """Whether the journal beside the file is one, so that the file is ours; `if_none` where there is no journal."""
    journal = _journal_of(target)
    if not os.path.lexists(journal):
        return if_none
    if not stat.S_ISREG(journal.lstat().st_mode):
        return False
    with journal.open("rb") as file:
        return _FIRST_LINE.match(file.read(65)) is not None


def _foreign(path: Path, found: str) -> StoreError:
    return StoreError(
        f"{path}: {found} that Samovar did not write is where it keeps what is unfinished; move it away, or choose another name"
    )


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
            f"{target.parent}: {needed / 1e6:,.0f} MB are still to be written, {free / 1e6:,.0f} MB are free; {GO_ON}"
        )


def _sync_folder(path: Path) -> None:
    """Make a rename in this folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
