"""The cache: what is made from a model file once and mapped at later starts (packed weights, tokenizer tables, headers).

Nothing here fails a caller. An entry that is absent, truncated, damaged or of another version is `None`, and is made again; a
disk that refuses means no cache, and `CacheStore.problem` says why. Entries are written to a temporary file, which is locked
while its process lives, and renamed when they are whole. It begins with a header that lacks the checksums, so that what a
killed process leaves tells its source. There is no fsync: what a power failure leaves fails the checks.
"""

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from samovar.errors import StoreError
from samovar.formats.cache_file import (
    HUGE_PAGE,
    CacheFile,
    CacheHeader,
    UnusableCache,
    layout,
    open_cache_file,
    preface_and_header,
    read_cache_header,
)
from samovar.kernels.checksum import checksum

__all__ = ["CacheEntry", "CacheFile", "CacheStore", "CacheWriter"]

_NAME: Final = re.compile(r"[a-z]+-[0-9a-f]{16,64}")
_SUFFIX, _UNFINISHED = ".cache", ".tmp"
_REASONS: Final = {
    errno.ENOSPC: "no space is left",
    errno.EEXIST: "a file is where the folder has to be",
    errno.ENOTDIR: "a file is where a folder has to be",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEntry:
    """One file of the cache. `header` is None where it cannot be read; `used_s` is when it was last used (Unix time).

    What is not finished is being written by a process, or was left by one that was killed.
    """

    path: Path
    header: CacheHeader | None
    size_bytes: int
    used_s: float
    state: Literal["finished", "being written", "unfinished"]


class CacheWriter:
    """A cache file in the making. After a refusal of the disk it takes what it is given and does nothing."""

    def __init__(self, store: "CacheStore", path: Path, target: Path, fd: int, header: CacheHeader) -> None:
        self._store, self._path, self._target, self._fd, self._header = store, path, target, fd, header
        self._held, self._held_at = bytearray(), 0  # what is not on disk yet, within one huge page, and its offset

    def write(self, name: str, *parts: NDArray[np.uint8]) -> None:
        """Fill section `name` with `parts`, one after the other; together they have its size. Called once for each section."""
        section = self._header.sections[name]
        assert sum(len(part) for part in parts) == section.size, name
        if self._fd < 0:
            return
        data = parts[0] if len(parts) == 1 else np.concatenate(parts)
        self._header.sections[name] = replace(section, checksum=checksum(np.ascontiguousarray(data)))
        self._put(data.data, section.offset)

    def write_header(self) -> None:
        """Write what is held back and the header, with the checksums of the sections that were written so far."""
        self._put(memoryview(preface_and_header(self._header)), 0)
        self._write_held()

    def finish(self) -> bool:
        """Make the file an entry of the cache; whether that could be done."""
        self.write_header()
        if self._fd < 0:
            return False
        try:
            self._path.rename(self._target)
        except OSError as error:
            self._store.note(self._header.kind, error)
            self.abandon()
            return False
        self._close()
        self._store.remove_older(self._header)
        return True

    def abandon(self) -> None:
        """Remove what was written."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                self._path.unlink()
            self._close()

    def _put(self, data: memoryview, offset: int) -> None:
        """Write in whole huge pages: what is written in one go, a file system keeps in one, and maps as one."""
        while self._fd >= 0 and len(data):
            n = min(len(data), HUGE_PAGE - offset % HUGE_PAGE)
            gap = offset - (self._held_at + len(self._held))
            if gap < 0 or self._held_at // HUGE_PAGE != offset // HUGE_PAGE:
                self._write_held()
                self._held_at, gap = offset, 0
            self._held += bytes(gap)
            self._held += data[:n]
            data, offset = data[n:], offset + n

    def _write_held(self) -> None:
        held, self._held = self._held, bytearray()
        if self._fd < 0:
            return
        try:
            _write_all(self._fd, memoryview(held), self._held_at)
        except OSError as error:
            self._store.note(self._header.kind, error)
            self.abandon()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        os.close(fd)


class CacheStore:
    """The cache in `folder`, which is made (for this user alone) when something is first written.

    A kind is a lower-case word, a key 16 to 64 hexadecimal digits that stand for everything an entry depends on. Where
    meta["source"] is given, it names what the entry was made from, and a new entry takes the place of older ones of its kind.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._reason = ""
        self._refused: list[str] = []

    @property
    def problem(self) -> str | None:
        """What could not be written and why, as a sentence for the user; None where nothing was refused."""
        if not self._refused:
            return None
        kinds = ", ".join(dict.fromkeys(self._refused))
        return f"{self.folder}: the cache cannot be written ({self._reason}); the next start will make these again: {kinds}"

    def open(self, kind: str, key: str, *, check_sections: bool = True) -> CacheFile | None:
        """The entry, or None. With `check_sections` False the caller asks `is_sound` before it uses a section."""
        try:
            path = self._path(kind, key)
            file = open_cache_file(path)
            if (file.kind, file.key) != (kind, key):
                return None
            if check_sections and not all(map(file.is_sound, file.sections)):
                return None
        except (UnusableCache, OSError):
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # when it was last used
        return file

    def has(self, kind: str, key: str) -> bool:
        """Whether there is a file in the entry's place, sound or not."""
        return self._path(kind, key).exists()

    def create(self, kind: str, key: str, meta: dict[str, object], sizes: Mapping[str, int]) -> CacheWriter | None:
        """Begin an entry with sections of these sizes. None, with `problem` set, where the disk refuses."""
        header = layout(kind, key, meta, sizes)
        target = self._path(kind, key)
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if target.is_dir() and not target.is_symlink():  # no entry can take its place, and it is not ours to delete
                raise IsADirectoryError(errno.EISDIR, f"{target.name} in it is a folder; move it away")
            with self._alone():
                for left in self.folder.glob(f"*{_UNFINISHED}"):
                    with contextlib.suppress(OSError):
                        _remove_unfinished(left)
                path = target.with_name(f"{target.stem}.{os.urandom(8).hex()}{_UNFINISHED}")
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                with contextlib.suppress(OSError):  # file systems without locks
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.note(kind, error)
            return None
        writer = CacheWriter(self, path, target, fd, header)
        try:
            os.ftruncate(fd, header.file_size)
            os.posix_fallocate(fd, 0, header.file_size)  # a full disk shows before anything is computed
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # file systems that cannot reserve space
                self.note(kind, error)
                writer.abandon()
                return None
        writer.write_header()
        return writer

    def write(
        self, kind: str, key: str, meta: dict[str, object], sections: Mapping[str, bytes | NDArray[np.uint8]]
    ) -> CacheFile | None:
        """Write an entry and map it. None, with `problem` set, where the disk refuses."""
        arrays = {name: np.frombuffer(data, np.uint8) for name, data in sections.items()}
        writer = self.create(kind, key, meta, {name: len(data) for name, data in arrays.items()})
        if writer is None:
            return None
        for name, data in arrays.items():
            writer.write(name, data)
        return self.open(kind, key, check_sections=False) if writer.finish() else None

    def remove_older(self, new: CacheHeader) -> None:
        """Delete the entries of the same kind and source under another key: the source has changed, or the layout."""
        source = new.meta.get("source")
        with contextlib.suppress(OSError):
            for entry in self._finished() if source else ():
                old = entry.header
                if old and old.kind == new.kind and old.key != new.key and old.meta.get("source") == source:
                    self.remove(entry)

    def entries(self) -> list[CacheEntry]:
        """All files, in the order of their names, the finished ones first.

        Raises StoreError where a file is in the folder's place, OSError where the folder cannot be read.
        """
        return [*self._finished(), *self._not_finished()]

    def remove(self, entry: CacheEntry) -> int:
        """Delete a file of the cache; processes that have it mapped keep it, and what is being written stays.

        Returns the bytes freed. Raises OSError where that is refused.
        """
        if entry.state != "finished":
            with self._alone():
                return _remove_unfinished(entry.path)
        if entry.path.is_dir() and not entry.path.is_symlink():  # something else in an entry's place
            import shutil  # brings three compressors along, and start-up waits for imports

            shutil.rmtree(entry.path)
        else:
            entry.path.unlink(missing_ok=True)
        return entry.size_bytes

    def clear(self) -> int:
        """Delete all entries and what killed processes left behind; bytes freed. Raises as `entries` and `remove`."""
        return sum(map(self.remove, self.entries()))

    def _finished(self) -> list[CacheEntry]:
        return [entry for path in self._files(_SUFFIX) for entry in _entry(path, "finished")]

    def _not_finished(self) -> list[CacheEntry]:
        paths = self._files(_UNFINISHED)
        if not paths:
            return []
        with self._alone():
            return [entry for path in paths for entry in _entry(path, "being written" if _is_locked(path) else "unfinished")]

    def _files(self, suffix: str) -> list[Path]:
        try:
            return sorted(path for path in self.folder.iterdir() if path.suffix == suffix)
        except FileNotFoundError:
            return []
        except NotADirectoryError:
            raise StoreError(
                f"{self.folder}: a file is where a folder has to be; move it away, or set SAMOVAR_HOME to another folder"
            ) from None

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes and threads from removing a temporary file between its creation and its lock."""
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(OSError):  # file systems without locks
                fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _path(self, kind: str, key: str) -> Path:
        name = f"{kind}-{key}"
        assert _NAME.fullmatch(name), name
        return self.folder / f"{name}{_SUFFIX}"

    def note(self, kind: str, error: OSError) -> None:
        """Remember that an entry of this kind could not be written, and the first refusal's reason."""
        self._reason = self._reason or _REASONS.get(error.errno or 0, error.strerror or str(error))
        self._refused.append(kind)


def _entry(path: Path, state: Literal["finished", "being written", "unfinished"]) -> list[CacheEntry]:
    """One entry; none where another process removed it."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return []
    return [CacheEntry(path=path, header=_header_of(path), size_bytes=stat.st_size, used_s=stat.st_mtime, state=state)]


def _is_locked(path: Path) -> bool:
    """Whether a living process writes a temporary file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        finally:
            os.close(fd)
    except OSError as error:  # others: it is gone, or the file system has no locks
        return isinstance(error, BlockingIOError)
    return False


def _remove_unfinished(path: Path) -> int:
    """Delete a temporary file whose process is gone: a living one holds a lock. Returns the bytes freed. Raises OSError."""
    with contextlib.suppress(FileNotFoundError, BlockingIOError):
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            freed = os.fstat(fd).st_size
            path.unlink()
        finally:
            os.close(fd)
        return freed
    return 0


def _header_of(path: Path) -> CacheHeader | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return read_cache_header(fd)
    except (UnusableCache, OSError):
        return None
    finally:
        os.close(fd)


def _write_all(fd: int, data: memoryview, offset: int) -> None:
    while len(data):
        n = os.pwrite(fd, data, offset)
        data, offset = data[n:], offset + n
