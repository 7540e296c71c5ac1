"""Named tensors and metadata to a GGUF file, version 3, in pieces: no more than one piece of one tensor is in memory at a time.

The layout is known before the first tensor is made. `write_gguf` writes a file in place; `write_gguf_part` writes one that
shows only when it is whole, and goes on where an earlier run of the same job stopped (`part_file`).

Source: the GGUF specification (docs/gguf.md of ggml). Types of metadata: see `gguf_values`.
"""

import math
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from samovar.formats.gguf_header import MAGIC, MetadataValue
from samovar.formats.gguf_values import EncodedValue, encode, encode_text
from samovar.formats.part_file import open_part
from samovar.tensors.dtypes import TensorType

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

Metadata = Mapping[str, "MetadataValue | EncodedValue"]
Progress = Callable[[int, int, str], None]

_ALIGNMENT: Final = 32


def _no_note() -> str:
    return ""


def _no_progress(done: int, total: int, what: str) -> None:
    """Nobody looks on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPlan:
    """A tensor to be written. `shape` is row-major; the last axis holds whole blocks.

    `fill` makes its bytes, in order, in pieces of any size. `note` is asked for after the last of them: a line that a later
    run is given back for a tensor that is done.
    """

    name: str
    type: TensorType
    shape: tuple[int, ...]
    fill: Callable[[], Iterable[NDArray[np.uint8]]]
    note: Callable[[], str] = _no_note

    @property
    def size_bytes(self) -> int:
        """Bytes on disk."""
        return math.prod(self.shape) // self.type.block_elements * self.type.block_bytes


def write_gguf(path: Path, metadata: Metadata, tensors: Sequence[TensorPlan], progress: Progress = _no_progress) -> None:
    """Write the file, over one that may be there. `progress` counts bytes of tensors. Raises OSError."""
    with path.open("wb") as file:
        file.write(_head(metadata, tensors))
        done, total = 0, sum(tensor.size_bytes for tensor in tensors)
        for tensor in tensors:
            done = _write_tensor(tensor, file.write, done, total, progress)
        progress(total, total, "")


def write_gguf_part(
    target: Path,
    metadata: Metadata,
    tensors: Sequence[TensorPlan],
    *,
    job: str,
    replace: bool = False,
    progress: Progress = _no_progress,
) -> list[str]:
    """Write the file `target` as a whole or not at all, and return the note of each tensor.

    `job` stands for the bytes of the source and every choice that the tensors' bytes depend on: tensors that an earlier run
    of the same job, metadata and layout has finished are not made again. Raises StoreError, see `open_part`; what `fill`
    raises leaves what is done for a later run.
    """
    head, total = _head(metadata, tensors), sum(tensor.size_bytes for tensor in tensors)
    size = len(head) + sum(_aligned(tensor.size_bytes) for tensor in tensors)
    with open_part(target, job.encode() + b"\n" + head, size, replace=replace) as part:
        if not part.notes:
            part.write(head)
            part.end_piece("")
        n_done = len(part.notes) - 1
        done = sum(tensor.size_bytes for tensor in tensors[:n_done])
        for tensor in tensors[n_done:]:
            done = _write_tensor(tensor, part.write, done, total, progress)
            part.end_piece(tensor.note())
        part.finish()
        progress(total, total, "")
        return part.notes[1:]


def _head(metadata: Metadata, tensors: Sequence[TensorPlan]) -> bytes:
    """Everything before the tensors' bytes."""
    assert "general.alignment" not in metadata, "the alignment is the writer's"
    head, offset = [MAGIC, struct.pack("<IQQ", 3, len(tensors), len(metadata))], 0
    head += [encode_text(key) + encode(value).raw for key, value in metadata.items()]
    for tensor in tensors:
        dims = tuple(reversed(tensor.shape))
        head.append(encode_text(tensor.name))
        head.append(struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, tensor.type.ggml_id, offset))
        offset += _aligned(tensor.size_bytes)
    whole = b"".join(head)
    return whole + bytes(_aligned(len(whole)) - len(whole))


def _write_tensor(tensor: TensorPlan, write: Callable[["Buffer"], object], done: int, total: int, progress: Progress) -> int:
    """Write one tensor; the bytes that are done after it."""
    start = done
    progress(done, total, tensor.name)
    for piece in tensor.fill():
        write(piece.data)
        done += piece.nbytes
        progress(done, total, tensor.name)
    assert done - start == tensor.size_bytes, f"{tensor.name}: {done - start} bytes; expected {tensor.size_bytes}"
    write(bytes(_aligned(tensor.size_bytes) - tensor.size_bytes))
    return done


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // _ALIGNMENT) * _ALIGNMENT
