"""A file mapped read-only into memory, and the errors of opening one. It knows no format."""

import hashlib
import mmap
import os
import stat
import sys
from collections.abc import Iterable
from functools import cached_property, partial
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from samovar.errors import FormatError, ModelNotFound, StoreError, UnsupportedModel
from samovar.tensors.dtypes import TensorType
from samovar.tensors.stored import StoredTensor

_IDENTITY_HEAD: Final = 1 << 20
_SAMPLE_BYTES: Final = 4096
_N_SAMPLES: Final = 256


class MappedFile:
    """The bytes of one file. The mapping lives as long as any array made from it.

    Raises ModelNotFound where there is no file, StoreError where it cannot be read, FormatError where it is no plain file
    or empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open_plain(path) as file:
                status = os.fstat(file.fileno())
                if status.st_size == 0:
                    raise FormatError(f"{path}: the file is empty; copy or download it again")
                self.memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise unreadable(path, error) from None
        self.size_bytes = len(self.memory)
        self._changed_ns = status.st_mtime_ns
        self._bytes: NDArray[np.uint8] = np.frombuffer(self.memory, np.uint8)

    def tensor(self, name: str, type: TensorType, shape: tuple[int, ...], start: int, size_bytes: int) -> StoredTensor:  # noqa: A002
        """The tensor whose bytes begin at `start` of the file. The caller has checked that they lie inside it."""
        data = self._bytes[start : start + size_bytes]
        release = partial(self._release, start, size_bytes)
        return StoredTensor(name=name, type=type, shape=shape, data=data, source=str(self.path), release=release)

    @property
    def changed_s(self) -> float:
        """When the file was last written (time.time)."""
        return self._changed_ns / 1e9

    @cached_property
    def identity(self) -> str:
        """Hexadecimal digits that stand for this file's bytes, wherever it lies.

        A digest of its size, its time of change (ns), its first MiB and 256 samples of 4 KiB spread evenly over it, the last
        bytes among them. A file that was edited elsewhere, and its time of change set back, is not told apart.
        """
        digest = hashlib.sha256(f"{self.size_bytes} {self._changed_ns} ".encode())
        last = max(0, self.size_bytes - _SAMPLE_BYTES)
        samples = [(last * (n + 1) // _N_SAMPLES, _SAMPLE_BYTES) for n in range(_N_SAMPLES)]
        try:
            # Read, since a sample from the mapping would bring in all pages around it, which take longer than the digest.
            with open_plain(self.path) as file:
                status = os.fstat(file.fileno())
                if (status.st_size, status.st_mtime_ns) != (self.size_bytes, self._changed_ns):
                    raise FormatError(f"{self.path}: the file was changed while it was being opened; open it again")
                for start, size in [(0, _IDENTITY_HEAD), *samples]:
                    digest.update(os.pread(file.fileno(), size, start))
        except OSError as error:
            raise unreadable(self.path, error) from None
        return digest.hexdigest()

    def _release(self, start: int, size_bytes: int) -> None:
        """Let go of the pages that lie wholly inside the range; they are read from the file again when touched."""
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        last = (start + size_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if sys.platform != "win32" and first < last:
            self.memory.madvise(mmap.MADV_DONTNEED, first, last - first)


def identity_of(files: Iterable[MappedFile]) -> str:
    """Stands for the bytes of several files, in this order."""
    return hashlib.sha256(" ".join(file.identity for file in files).encode()).hexdigest()


def open_plain(path: Path) -> BinaryIO:
    """Open a file for reading. Raises FormatError for what is no plain file: to open a pipe would wait for a writer."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(path)
    if not stat.S_ISREG(mode):
        raise FormatError(f"{path}: not a plain file; a file of a model is expected here")
    return path.open("rb")


def unreadable(path: Path, error: OSError) -> ModelNotFound | StoreError | FormatError:
    """The error to raise when the system refuses to read `path`."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return ModelNotFound(f"{path}: no such file or folder; check the path")
    if isinstance(error, IsADirectoryError):
        return FormatError(f"{path}: a folder, where a file was expected")
    if isinstance(error, PermissionError):
        return StoreError(
            f"{path}: permission denied; make it readable for this user "
            "(chmod u+r; u+rx for a folder, and for those that hold it)"
        )
    return StoreError(f"{path}: cannot be read: {error.strerror or error}")


def stored_size(name: str, type: TensorType, shape: tuple[int, ...], source: str) -> int:  # noqa: A002
    """Bytes that a tensor of this shape takes on disk; raises where the shape or the block size does not allow one."""
    if not 1 <= len(shape) <= 4 or any(extent < 1 for extent in shape):
        raise UnsupportedModel(
            f"{source}: tensor {name!r} has shape {list(shape)}; 1 to 4 axes, none of them empty, are expected"
        )
    if shape[-1] % type.block_elements:
        raise FormatError(
            f"{source}: tensor {name!r} has rows of {shape[-1]} values; {type.name} needs a multiple of {type.block_elements}"
        )
    n_bytes = type.block_bytes
    for extent in (*shape[:-1], shape[-1] // type.block_elements):
        n_bytes *= extent
    return n_bytes
