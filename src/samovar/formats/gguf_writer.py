"""Named tensors and metadata to a GGUF file, version 3, one tensor after the other: no more than one is in memory at a time.

Source: the GGUF specification (docs/gguf.md of ggml). Whole numbers are written as 32 bits, unsigned where they are not
negative, and fractions as 32-bit floats, as llama.cpp expects of its own keys.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from samovar.formats.gguf_header import MAGIC, MetadataValue
from samovar.tensors.dtypes import TensorType

_ALIGNMENT: Final = 32
_U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPlan:
    """A tensor to be written. `shape` is row-major; the last axis holds whole blocks. `fill` makes its bytes."""

    name: str
    type: TensorType
    shape: tuple[int, ...]
    fill: Callable[[], NDArray[np.uint8]]

    @property
    def size_bytes(self) -> int:
        """Bytes on disk."""
        return int(np.prod(self.shape)) // self.type.block_elements * self.type.block_bytes


def write_gguf(
    path: Path,
    metadata: Mapping[str, MetadataValue],
    tensors: Sequence[TensorPlan],
    progress: Callable[[int, int, str], None] = lambda _done, _total, _what: None,
) -> None:
    """Write the file, over one that may be there. Raises OSError where the disk refuses."""
    total, offset = sum(t.size_bytes for t in tensors), 0
    head = [MAGIC, struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    head += [_text(key) + struct.pack("<I", _kind(value)) + _value(value) for key, value in metadata.items()]
    for tensor in tensors:
        dims = tuple(reversed(tensor.shape))
        head.append(_text(tensor.name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, tensor.type.ggml_id, offset))
        offset += _aligned(tensor.size_bytes)
    with path.open("wb") as file:
        file.write(b"".join(head))
        file.write(bytes(-file.tell() % _ALIGNMENT))
        done = 0
        for tensor in tensors:
            progress(done, total, tensor.name)
            data = tensor.fill()
            assert data.nbytes == tensor.size_bytes, tensor.name
            file.write(data.data)
            file.write(bytes(_aligned(data.nbytes) - data.nbytes))
            done += data.nbytes
        progress(total, total, "")


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // _ALIGNMENT) * _ALIGNMENT


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _kind(value: MetadataValue) -> int:
    """The number of the value's type in GGUF."""
    if isinstance(value, bool):
        return _BOOL
    if isinstance(value, int):
        return _I32 if value < 0 else _U32
    if isinstance(value, float):
        return _F32
    return _STRING if isinstance(value, str) else _ARRAY


def _value(value: MetadataValue) -> bytes:
    """The value's bytes. Lists hold values of one kind, and are not empty; whole numbers in them are signed."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list):
        kind = _I32 if _kind(value[0]) == _U32 else _kind(value[0])
        body = np.array(value, "<i4").tobytes() if kind == _I32 else b"".join(map(_value, value))
        return struct.pack("<IQ", kind, len(value)) + body
    return struct.pack({_BOOL: "<?", _U32: "<I", _I32: "<i", _F32: "<f"}[_kind(value)], value)
