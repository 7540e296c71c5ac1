"""One safetensors file to named tensors: memory-mapped, in float32, float16 or bfloat16, and in the types of which quantised
weights are made for callers that ask for them.

The whole data section must belong to exactly one tensor each, as the specification demands. The `__metadata__` entry is
free text by the specification and has no effect on them.
"""

from pathlib import Path
from typing import Final

from samovar.errors import FormatError, UnsupportedModel
from samovar.formats.json_object import parse_json_object
from samovar.formats.mapped_file import MappedFile, stored_size
from samovar.tensors.dtypes import BF16, F16, F32, PART_TYPES
from samovar.tensors.stored import StoredTensor

_TYPES: Final = {"F32": F32, "F16": F16, "BF16": BF16}
_TYPES_WITH_PARTS: Final = _TYPES | {part.name: part for part in PART_TYPES}
_MAX_HEADER_BYTES: Final = 100_000_000  # the limit of the reference implementation
METADATA: Final = "__metadata__"
_AGAIN: Final = "; copy or download it again (a page of text may have come in its place, or a pointer of git-lfs)"
_ENTRY_KEYS: Final = {"dtype", "shape", "data_offsets"}


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file by name, in the order of their data.

    Raises FormatError for damage, UnsupportedModel for other element types and for tensors without axes or values.
    """
    return tensors_of(MappedFile(path))


def tensors_of(file: MappedFile, *, with_parts: bool = False) -> dict[str, StoredTensor]:
    """As `read_safetensors`, of a file that is open.

    `with_parts` takes the types of `PART_TYPES` too, and a tensor without axes as one of a single value.
    """
    types = _TYPES_WITH_PARTS if with_parts else _TYPES
    path = file.path
    data_start, header = _read_header(file)
    _metadata(path, header)
    found: list[tuple[int, int, StoredTensor]] = []
    for name, entry in header.items():
        dtype, shape, begin, end = _read_entry(path, name, entry)
        if dtype not in types:
            raise UnsupportedModel(f"{path}: tensor {name!r} has type {dtype}, which is not read; readable: {', '.join(types)}")
        if with_parts and not shape:
            shape = (1,)
        size = stored_size(name, types[dtype], shape, str(path))
        if end - begin != size:
            raise FormatError(f"{path}: tensor {name!r} has {end - begin} bytes; {dtype} {list(shape)} takes {size}")
        if data_start + end > file.size_bytes:
            raise FormatError(
                f"{path}: the file is cut short: tensor {name!r} ends at byte {data_start + end}, the file has "
                f"{file.size_bytes}; copy or download it again"
            )
        found.append((begin, end, file.tensor(name, types[dtype], shape, data_start + begin, size)))
    found.sort(key=lambda item: item[0])
    _check_cover(file, data_start, found)
    return {tensor.name: tensor for _, _, tensor in found}


def read_metadata(file: MappedFile) -> dict[str, str]:
    """The `__metadata__` of a file, by key."""
    return _metadata(file.path, _read_header(file)[1])


def _read_header(file: MappedFile) -> tuple[int, dict[str, object]]:
    """Where the data starts, and the parsed header."""
    path, left = file.path, file.size_bytes - 8
    size = int.from_bytes(file.memory[:8], "little")
    if left < 2 or size > min(left, _MAX_HEADER_BYTES):
        raise FormatError(
            f"{path}: no safetensors file, or cut short: its header of {size} bytes has to fit into the {max(left, 0)} that "
            f"follow and be at most {_MAX_HEADER_BYTES}{_AGAIN}"
        )
    raw = file.memory[8 : 8 + size]
    if not raw.startswith(b"{"):
        raise FormatError(f"{path}: no safetensors file: its header starts with {raw[:4]!r}, not with {{{_AGAIN}")
    return 8 + size, parse_json_object(raw, f"{path}: header")


def _metadata(path: Path, header: dict[str, object]) -> dict[str, str]:
    """Take `__metadata__` out of a header, and hold it to the specification: text to text."""
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FormatError(f"{path}: {METADATA} has to map text to text")
    return metadata


def _read_entry(path: Path, name: str, entry: object) -> tuple[str, tuple[int, ...], int, int]:
    """Element type, shape, and where the data begins and ends."""
    if not isinstance(entry, dict) or entry.keys() != _ENTRY_KEYS:
        raise FormatError(f"{path}: the entry of tensor {name!r} has to hold dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or not _are_counts(shape) or not _are_counts(offsets):
        raise FormatError(f"{path}: the entry of tensor {name!r} is not a type name with lists of whole numbers")
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise FormatError(f"{path}: tensor {name!r} has data_offsets {str(offsets)[:60]}; a begin and an end are expected")
    return dtype, tuple(shape), offsets[0], offsets[1]


def _are_counts(value: object) -> bool:
    """Whether this is a list of whole numbers, none negative. A bool is no number here."""
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_cover(file: MappedFile, data_start: int, found: list[tuple[int, int, StoredTensor]]) -> None:
    """Raise where tensors overlap or bytes belong to none."""
    expected = 0
    for begin, end, tensor in found:
        if begin != expected:
            problem = (
                "overlaps the tensor before it" if begin < expected else f"leaves {begin - expected} bytes unused before it"
            )
            raise FormatError(f"{file.path}: tensor {tensor.name!r} at data offset {begin} {problem}: the file is damaged")
        expected = end
    if data_start + expected != file.size_bytes:
        extra = file.size_bytes - data_start - expected
        raise FormatError(f"{file.path}: {extra} bytes follow the last tensor: the file is damaged")
