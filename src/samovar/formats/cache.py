"""The cache: what is made from a model file once and mapped at later starts (packed weights, tokenizer tables, headers).

Nothing here fails a caller. An entry that is absent, truncated, damaged or of another version is `None`, and is made again; a
disk that refuses means no cache, and `CacheStore.problem` says why. Entries are written to a temporary file, which is locked
while its process lives, and renamed when they are whole. There is no fsync: what a power failure leaves fails the checks.
"""

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from samovar.formats.cache_file import (
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


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEntry:
    """One finished file of the cache. `header` is None where it cannot be used; `used_s` is when it last was (Unix time)."""

    path: Path
    header: CacheHeader | None
    size_bytes: int
    used_s: float


class CacheWriter:
    """A cache file in the making. After a refusal of the disk it takes what it is given and does nothing."""

    def __init__(self, store: "CacheStore", path: Path, target: Path, fd: int, header: CacheHeader) -> None:
        self._store, self._path, self._target, self._fd, self._header = store, path, target, fd, header

    def write(self, name: str, *parts: NDArray[np.uint8]) -> None:
        """Fill section `name` with `parts`, one after the other; together they have its size. Called once for each section."""
        section = self._header.sections[name]
        assert sum(len(part) for part in parts) == section.size, name
        if self._fd < 0:
            return
        data = parts[0] if len(parts) == 1 else np.concatenate(parts)
        self._header.sections[name] = replace(section, checksum=checksum(np.ascontiguousarray(data)))
        try:
            _write_all(self._fd, data.data, section.offset)
        except OSError as error:
            self._store.note(error)
            self.abandon()

    def finish(self) -> bool:
        """Make the file an entry of the cache; whether that could be done."""
        if self._fd < 0:
            return False
        try:
            _write_all(self._fd, memoryview(preface_and_header(self._header)), 0)
            self._path.rename(self._target)
        except OSError as error:
            self._store.note(error)
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
        self.problem: str | None = None

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

    def create(self, kind: str, key: str, meta: dict[str, object], sizes: Mapping[str, int]) -> CacheWriter | None:
        """Begin an entry with sections of these sizes. None, with `problem` set, where the disk refuses."""
        header = layout(kind, key, meta, sizes)
        target = self._path(kind, key)
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._alone():
                self._remove_unfinished()
                path = target.with_name(f"{target.stem}.{os.urandom(8).hex()}{_UNFINISHED}")
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                with contextlib.suppress(OSError):  # file systems without locks
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.note(error)
            return None
        writer = CacheWriter(self, path, target, fd, header)
        try:
            os.ftruncate(fd, header.file_size)
            os.posix_fallocate(fd, 0, header.file_size)  # a full disk shows before anything is computed
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # file systems that cannot reserve space
                self.note(error)
                writer.abandon()
                return None
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
            for entry in self.entries() if source else ():
                old = entry.header
                if old and old.kind == new.kind and old.key != new.key and old.meta.get("source") == source:
                    self.remove(entry)

    def entries(self) -> list[CacheEntry]:
        """All finished files, in the order of their names. Raises OSError where the folder cannot be read."""
        if not self.folder.exists():
            return []
        found = []
        for path in sorted(self.folder.glob(f"*{_SUFFIX}")):
            with contextlib.suppress(FileNotFoundError):  # another process cleared it
                stat = path.stat()
                header = _header_of(path)
                found.append(CacheEntry(path=path, header=header, size_bytes=stat.st_size, used_s=stat.st_mtime))
        return found

    def remove(self, entry: CacheEntry) -> None:
        """Delete a file of the cache; processes that have it mapped keep it. Raises OSError where that is refused."""
        if entry.path.is_dir() and not entry.path.is_symlink():  # something else in an entry's place
            import shutil  # brings three compressors along, and start-up waits for imports

            shutil.rmtree(entry.path)
        else:
            entry.path.unlink(missing_ok=True)

    def clear(self) -> int:
        """Delete all entries and what killed processes left behind; bytes freed. Raises OSError where that is refused."""
        freed = 0
        for entry in self.entries():
            self.remove(entry)
            freed += entry.size_bytes
        if not self.folder.exists():
            return freed
        with self._alone():
            return freed + self._remove_unfinished()

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

    def _remove_unfinished(self) -> int:
        """Delete temporary files whose process is gone: a living one holds a lock. Returns the bytes freed."""
        freed = 0
        for path in self.folder.glob(f"*{_UNFINISHED}"):
            with contextlib.suppress(OSError):
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    freed += os.fstat(fd).st_size
                    path.unlink()
                finally:
                    os.close(fd)
        return freed

    def _path(self, kind: str, key: str) -> Path:
        name = f"{kind}-{key}"
        assert _NAME.fullmatch(name), name
        return self.folder / f"{name}{_SUFFIX}"

    def note(self, error: OSError) -> None:
        """Keep the first refusal as a sentence for the user."""
        reason = "no space is left" if error.errno == errno.ENOSPC else error.strerror or str(error)
        self.problem = self.problem or (
            f"{self.folder}: the cache cannot be written ({reason}): the next start will pack the weights again"
        )


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
