"""The header of a GGUF file, versions 2 and 3, little-endian: metadata and the list of tensors. Reads no tensor data.

A header may be hostile. Each count and length is held against the bytes that are left before anything is allocated for
it, and a header as a whole against fixed limits, so that time and memory stay in proportion to the file.
Source: the GGUF specification (docs/gguf.md of ggml).
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np

from samovar.errors import FormatError, UnsupportedModel

MetadataValue: TypeAlias = "int | float | bool | str | list[MetadataValue]"

MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_DEFAULT_ALIGNMENT: Final = 32
_MAX_ALIGNMENT: Final = 1 << 20
# Far above any real model: the largest vocabularies fill about 20 MiB and 2 million elements, and have some 5,000 tensors.
_MAX_HEADER_BYTES: Final = 128 << 20
_MAX_ELEMENTS: Final = 1 << 22
_MAX_KEYS: Final = 1 << 16
_MAX_TENSORS: Final = 1 << 17
_MAX_NAME_BYTES: Final = 65_535  # of a key, by the specification; tensor names are held to the same
_MAX_DEPTH: Final = 4

_BOOL, _STRING, _ARRAY = 7, 8, 9
_NUMBERS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d"}
_MIN_BYTES: Final = {_BOOL: 1, _STRING: 8, _ARRAY: 12}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """One line of the list of tensors. `shape` is row-major; `offset` counts from the start of the data."""

    name: str
    shape: tuple[int, ...]
    ggml_type: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufHeader:
    """What stands before the tensor data, which begins at byte `data_start`."""

    version: int
    metadata: Mapping[str, MetadataValue]
    tensors: tuple[TensorEntry, ...]
    alignment: int
    data_start: int


def read_header(path: Path, memory: mmap) -> GgufHeader:
    """Parse the header at the start of `memory`, the bytes of the whole file. `path` is for messages.

    Raises FormatError where it is damaged and UnsupportedModel for versions and byte orders that are not read. Offsets and
    sizes of tensors are left for the caller to check.
    """
    cursor = _Cursor(path, memory)
    version, n_tensors, n_metadata = _counts(path, cursor, memory)
    metadata = _metadata(cursor, n_metadata)
    tensors = tuple(_tensor_entry(cursor) for _ in range(n_tensors))
    alignment = _alignment(path, metadata)
    data_start = -(-cursor.position // alignment) * alignment
    return GgufHeader(version=version, metadata=metadata, tensors=tensors, alignment=alignment, data_start=data_start)


def read_encoded_metadata(path: Path, memory: mmap) -> dict[str, bytes]:
    """The metadata as it stands in the file: of each key the type number of its value, and the value's bytes.

    They are the same in versions 2 and 3. Raises as `read_header`.
    """
    cursor = _Cursor(path, memory)
    _, _, n_metadata = _counts(path, cursor, memory)
    encoded: dict[str, bytes] = {}
    for _ in range(n_metadata):
        key, start = cursor.string("a metadata key", _MAX_NAME_BYTES), cursor.position
        what = f"the value of {key!r}"
        cursor.value(cursor.number("I", what), what, _MAX_DEPTH)
        encoded[key] = memory[start : cursor.position]
    return encoded


def _counts(path: Path, cursor: "_Cursor", memory: mmap) -> tuple[int, int, int]:
    """The version, the number of tensors and that of metadata keys, held against limits and the bytes that are there."""
    magic = memory[:4]
    if magic != MAGIC:
        raise FormatError(f"{path}: not a GGUF file: it starts with {magic!r}, {MAGIC!r} is expected")
    cursor.skip(4, "the magic")
    version = _version(path, cursor.number("I", "the version"))
    n_tensors, n_metadata = cursor.number("Q", "the number of tensors"), cursor.number("Q", "the number of metadata keys")
    if n_metadata > _MAX_KEYS or n_tensors > _MAX_TENSORS:
        raise FormatError(
            f"{path}: the header promises {n_metadata} metadata keys and {n_tensors} tensors; at most {_MAX_KEYS} and "
            f"{_MAX_TENSORS} are read: the file is damaged"
        )
    cursor.expect_room(n_metadata, 8 + 4 + 1, "metadata keys")
    cursor.expect_room(n_tensors, 8 + 4 + 8 + 4 + 8, "tensors")
    return version, n_tensors, n_metadata


def _version(path: Path, version: int) -> int:
    """Pass on a version that is read."""
    if version not in _VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        if 0 < swapped < 100:
            raise UnsupportedModel(f"{path}: a big-endian GGUF file; only little-endian ones are read: convert it again")
        raise UnsupportedModel(f"{path}: GGUF version {version}; versions 2 and 3 are read: convert the model again")
    return version


def _metadata(cursor: "_Cursor", count: int) -> dict[str, MetadataValue]:
    """Read `count` keys with their values."""
    metadata: dict[str, MetadataValue] = {}
    for _ in range(count):
        key = cursor.string("a metadata key", _MAX_NAME_BYTES)
        if key in metadata:
            raise FormatError(f"{cursor.path}: metadata key {key!r} appears twice")
        what = f"the value of {key!r}"
        metadata[key] = cursor.value(cursor.number("I", what), what, _MAX_DEPTH)
    return metadata


def _tensor_entry(cursor: "_Cursor") -> TensorEntry:
    """Read one line of the list of tensors."""
    name = cursor.string("a tensor's name", _MAX_NAME_BYTES)
    what = f"the entry of tensor {name!r}"
    n_dims = cursor.number("I", what)
    if not 1 <= n_dims <= 4:
        raise FormatError(f"{cursor.path}: tensor {name!r} has {n_dims} axes; 1 to 4 are expected")
    dims = [cursor.number("Q", what) for _ in range(n_dims)]
    ggml_type, offset = cursor.number("I", what), cursor.number("Q", what)
    return TensorEntry(name=name, shape=tuple(reversed(dims)), ggml_type=ggml_type, offset=offset)


def _alignment(path: Path, metadata: dict[str, MetadataValue]) -> int:
    """The alignment of tensor data, in bytes."""
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    # bool is an int in Python, and a list or a string has no bits
    if type(alignment) is not int or not 0 < alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
        raise FormatError(
            f"{path}: general.alignment is {str(alignment)[:40]}; a power of two up to {_MAX_ALIGNMENT} is expected"
        )
    return alignment


class _Cursor:
    """A position in the header. Every read is checked against the end first."""

    def __init__(self, path: Path, memory: mmap) -> None:
        self.path, self.position = path, 0
        self._memory = memory
        self._end = min(len(memory), _MAX_HEADER_BYTES)
        self._n_elements_left = _MAX_ELEMENTS

    def skip(self, size: int, what: str) -> int:
        """Advance by `size` bytes and return where they begin."""
        start = self.position
        if size > self._end - start:
            raise self._too_short(start, size, what)
        self.position = start + size
        return start

    def expect_room(self, count: int, min_bytes: int, what: str) -> None:
        """Raise unless `count` items of at least `min_bytes` fit into the bytes that are left."""
        left = self._end - self.position
        if count * min_bytes > left:
            raise FormatError(
                f"{self.path}: the header promises {count} {what}, and the {left} bytes after it cannot hold them: "
                "the file is damaged or cut short; copy or download it again"
            )

    def number(self, code: str, what: str) -> int:
        """One integer of struct format `code`."""
        start = self.skip(struct.calcsize("<" + code), what)
        number: int = struct.unpack_from("<" + code, self._memory, start)[0]
        return number

    def string(self, what: str, max_bytes: int | None = None) -> str:
        """One string: a 64-bit length and as many bytes of UTF-8."""
        size = self.number("Q", what)
        if max_bytes is not None and size > max_bytes:
            raise FormatError(f"{self.path}: {what} is {size} bytes long; at most {max_bytes} are expected")
        start = self.skip(size, what)
        try:
            return self._memory[start : start + size].decode()
        except UnicodeDecodeError as error:
            raise self._not_text(start, what, error) from None

    def value(self, kind: int, what: str, depth: int) -> MetadataValue:
        """One metadata value of type number `kind`; arrays nest at most `depth` deep."""
        if kind == _STRING:
            return self.string(what)
        if kind == _ARRAY:
            return self._array(what, depth)
        return self._scalars(kind, 1, what)[0]

    def _array(self, what: str, depth: int) -> list[MetadataValue]:
        """An element type, a count, and the elements."""
        if depth == 0:
            raise FormatError(f"{self.path}: {what} nests arrays more than {_MAX_DEPTH} deep")
        kind, count = self.number("I", what), self.number("Q", what)
        self.expect_room(count, _MIN_BYTES.get(kind, 1), f"elements in {what}")
        self._n_elements_left -= count
        if self._n_elements_left < 0:
            raise FormatError(f"{self.path}: the metadata arrays have more than {_MAX_ELEMENTS} elements, up to {what}")
        if kind == _STRING:
            return self._strings(count, what)
        if kind == _ARRAY:
            return [self._array(what, depth - 1) for _ in range(count)]
        return self._scalars(kind, count, what)

    def _scalars(self, kind: int, count: int, what: str) -> list[MetadataValue]:
        """`count` numbers or booleans."""
        if kind == _BOOL:
            start = self.skip(count, what)
            raw = self._memory[start : start + count]
            if raw.strip(b"\0\1"):
                raise FormatError(f"{self.path}: {what} is a boolean that is neither 0 nor 1")
            return [byte == 1 for byte in raw]
        if kind not in _NUMBERS:
            raise FormatError(f"{self.path}: {what} has type number {kind}; the format has 0 to 12: the file is damaged")
        dtype = np.dtype("<" + _NUMBERS[kind])
        start = self.skip(count * dtype.itemsize, what)
        numbers: list[MetadataValue] = np.frombuffer(self._memory, dtype, count, start).tolist() if count else []
        return numbers

    def _strings(self, count: int, what: str) -> list[MetadataValue]:
        """`count` strings. Written as one flat loop: vocabularies have some 300,000, and start-up waits for them."""
        unpack = struct.Struct("<Q").unpack_from
        memory, end, position = self._memory, self._end, self.position
        strings: list[MetadataValue] = []
        for _ in range(count):
            start = position + 8
            if start > end:
                raise self._too_short(position, 8, what)
            position = start + unpack(memory, position)[0]
            if position > end:
                raise self._too_short(start, position - start, what)
            try:
                strings.append(memory[start:position].decode())
            except UnicodeDecodeError as error:
                raise self._not_text(start, f"{what}, element {len(strings)},", error) from None
        self.position = position
        return strings

    def _too_short(self, start: int, size: int, what: str) -> FormatError:
        if start + size > len(self._memory):
            return FormatError(
                f"{self.path}: the file ends inside its header: {what} needs {size} bytes at offset {start}, "
                f"{len(self._memory) - start} are there; copy or download it again"
            )
        return FormatError(f"{self.path}: the header is larger than {_MAX_HEADER_BYTES >> 20} MiB, up to {what}")

    def _not_text(self, start: int, what: str, error: UnicodeDecodeError) -> FormatError:
        return FormatError(
            f"{self.path}: {what} is no UTF-8 text: byte 0x{error.object[error.start]:02x} at offset {start + error.start}"
        )
