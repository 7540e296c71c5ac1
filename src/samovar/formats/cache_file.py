"""One file of the cache: named byte sections behind a checked header, mapped when read.

Layout, little-endian: a preface of 64 bytes (magic, layout version u32, zero u32, header size u64, sha256 of the header,
zeros), the header (JSON: kind, key, meta, sections with offset, size and checksum, file size), then the sections at multiples
of 4096 bytes. One more page follows the last section, since kernels may read a little past the end of a weight.

The header is checked when a file is opened, a section by `CacheFile.is_sound`. A file that does not hold is unusable, which is
never an error: what it held is made again.
"""

import contextlib
import hashlib
import json
import mmap
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from samovar.kernels.checksum import checksum, start_checks

if TYPE_CHECKING:
    from samovar._native import Checker

LAYOUT_VERSION: Final = 1
PAGE: Final = 4096
HUGE_PAGE: Final = 2 << 20

_MAGIC: Final = b"SAMOCACH"
_PREFACE: Final = struct.Struct("<8sIIQ32s8x")
_MAX_HEADER_BYTES: Final = 64 << 20


class UnusableCache(Exception):
    """A cache file is damaged, cut short, or of another version. Caught inside `formats.cache`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Where a section lies in its file, and what its bytes must sum to."""

    offset: int
    size: int
    checksum: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheHeader:
    """What a cache file says of itself."""

    kind: str
    key: str
    meta: dict[str, object]
    sections: dict[str, Section]
    file_size: int

    def to_bytes(self) -> bytes:
        """As it is written. Its length does not depend on the checksums."""
        table = {name: [s.offset, s.size, f"{s.checksum:016x}"] for name, s in self.sections.items()}
        fields = {"kind": self.kind, "key": self.key, "meta": self.meta, "sections": table, "file_size": self.file_size}
        return json.dumps(fields, separators=(",", ":")).encode()


class CacheFile:
    """A cache file, mapped read-only. The mapping lives as long as any array made from it."""

    def __init__(self, path: Path, header: CacheHeader, memory: mmap.mmap) -> None:
        self.path, self.kind, self.key, self.meta = path, header.kind, header.key, header.meta
        data: NDArray[np.uint8] = np.frombuffer(memory, np.uint8)
        self.sections: Mapping[str, NDArray[np.uint8]] = {
            name: data[s.offset : s.offset + s.size] for name, s in header.sections.items()
        }
        self._checksums = {name: s.checksum for name, s in header.sections.items()}

    def discard(self) -> None:
        """Delete the file, which does not hold what it should; what is mapped stays mapped."""
        with contextlib.suppress(OSError):
            self.path.unlink()

    def is_sound(self, name: str) -> bool:
        """Whether a section's bytes are those that were written. Reads all of them."""
        return checksum(self.sections[name]) == self._checksums[name]

    def start_checks(self, names: list[str], n_threads: int) -> "Checker":
        """Begin to see whether sections are sound, in this order, see `kernels.checksum.start_checks`."""
        return start_checks([self.sections[n] for n in names], [self._checksums[n] for n in names], n_threads)


def layout(kind: str, key: str, meta: dict[str, object], sizes: Mapping[str, int]) -> CacheHeader:
    """The header of a file with sections of these sizes, its checksums still 0."""
    empty = {name: Section(offset=0, size=size, checksum=0) for name, size in sizes.items()}
    # Numbers may grow longer than the zeros that stand for them here.
    room = len(CacheHeader(kind=kind, key=key, meta=meta, sections=empty, file_size=0).to_bytes()) + 20 * (len(sizes) + 1)
    offset = _page_end(_PREFACE.size + room)
    sections = {}
    for name, size in sizes.items():
        sections[name] = Section(offset=offset, size=size, checksum=0)
        offset = _page_end(offset + size)
    return CacheHeader(kind=kind, key=key, meta=meta, sections=sections, file_size=offset + PAGE)


def preface_and_header(header: CacheHeader) -> bytes:
    """The first bytes of a finished file."""
    body = header.to_bytes()
    return _PREFACE.pack(_MAGIC, LAYOUT_VERSION, 0, len(body), hashlib.sha256(body).digest()) + body


def read_cache_header(fd: int) -> CacheHeader:
    """The header of an open file, its own digest and all its offsets checked. Raises UnusableCache or OSError."""
    preface = os.pread(fd, _PREFACE.size, 0)
    if len(preface) != _PREFACE.size:
        raise UnusableCache("cut short")
    magic, version, _, size, digest = _PREFACE.unpack(preface)
    if magic != _MAGIC or version != LAYOUT_VERSION or size > _MAX_HEADER_BYTES:
        raise UnusableCache("another version, or no cache file")
    body = os.pread(fd, size, _PREFACE.size)
    if hashlib.sha256(body).digest() != digest:
        raise UnusableCache("a damaged header")
    try:
        return _checked(json.loads(body), os.fstat(fd).st_size)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnusableCache("no such header is written") from error


def _checked(fields: dict[str, Any], file_size: int) -> CacheHeader:
    table = {name: Section(offset=o, size=n, checksum=int(c, 16)) for name, (o, n, c) in fields["sections"].items()}
    header = CacheHeader(**{**fields, "sections": table})
    if file_size != header.file_size:
        raise UnusableCache("cut short")
    end = file_size - PAGE
    if any(s.offset % PAGE or not 0 < s.offset <= end or not 0 <= s.size <= end - s.offset for s in table.values()):
        raise UnusableCache("a section outside the file")
    return header


def open_cache_file(path: Path) -> CacheFile:
    """Map a cache file. Raises UnusableCache or OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        header = read_cache_header(fd)
        memory = mmap.mmap(fd, header.file_size, access=mmap.ACCESS_READ)
        with contextlib.suppress(OSError):  # kernels without huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)  # a file that is not in memory is read in huge pages then
    finally:
        os.close(fd)
    return CacheFile(path, header, memory)


def _page_end(n: int) -> int:
    return -(-n // PAGE) * PAGE
