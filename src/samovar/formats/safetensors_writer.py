"""Named tensors to a safetensors file, a run of bytes at a time: no tensor is in memory as a whole.

Source: the format's description in the `safetensors` package: eight bytes of header length, a JSON header, and the data of all
tensors without a gap.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from samovar.errors import StoreError
from samovar.formats.part_file import disk_reason
from samovar.formats.safetensors import METADATA
from samovar.tensors.dtypes import BF16, F16, F32, TensorType

_NAMES: Final = {F32: "F32", F16: "F16", BF16: "BF16"}
_HEADER_UNIT: Final = 8  # bytes that a header is padded to a multiple of

Written = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatTensorPlan:
    """A tensor to be written. `chunks` makes its bytes, in order, as often as it is called; `type` is F32, F16 or BF16.

    `metadata` goes to the `__metadata__` of the tensor's file.
    """

    name: str
    type: TensorType
    shape: tuple[int, ...]
    chunks: Callable[[], Iterator[bytes]]
    size_bytes: int
    metadata: Mapping[str, str] = field(default_factory=dict)


def write_safetensors(path: Path, tensors: Sequence[FloatTensorPlan], written: Written) -> None:
    """Write the file beside `path`, and put it in its place when it is whole and on disk.

    `written(n_bytes)` is called as data is written. Raises StoreError where the disk refuses; nothing is left then.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(_header(tensors))
            for tensor in tensors:
                n_bytes = 0
                for chunk in tensor.chunks():
                    file.write(chunk)
                    n_bytes += len(chunk)
                    written(len(chunk))
                assert n_bytes == tensor.size_bytes, tensor.name
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise StoreError(f"{path}: cannot be written: {disk_reason(error, path.parent)}") from None


def _header(tensors: Sequence[FloatTensorPlan]) -> bytes:
    metadata = {key: text for tensor in tensors for key, text in tensor.metadata.items()}
    entries: dict[str, object] = {METADATA: {"format": "pt", **metadata}}
    offset = 0
    for tensor in tensors:
        end = offset + tensor.size_bytes
        entries[tensor.name] = {"dtype": _NAMES[tensor.type], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _HEADER_UNIT)
    return len(text).to_bytes(8, "little") + text
