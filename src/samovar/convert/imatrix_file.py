"""Importance from a file of llama.cpp's `llama-imatrix`: the GGUF form, or the older `.dat`.

Source: llama.cpp, `tools/imatrix/imatrix.cpp`. GGUF: for each matrix NAME the tensors `NAME.in_sum2` [E, K], sums of squares,
and `NAME.counts` [E, 1], over how many rows. `.dat`: the number of entries, and for each a name, the number of passes, and sums
that were divided by rows and multiplied by passes; of experts one behind the other.
"""

import struct
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np

from samovar.convert.importance import Importance
from samovar.errors import FormatError
from samovar.formats.gguf import MAGIC, read_gguf
from samovar.formats.mapped_file import open_plain, unreadable
from samovar.kernels import F32
from samovar.kernels.dequantise import dequantise

_SUMS, _COUNTS = ".in_sum2", ".counts"
_MOST_ENTRIES: Final = 1 << 17
_MOST_VALUES: Final = 1 << 26
_MOST_NAME_BYTES: Final = 1 << 16


def read_imatrix(path: Path) -> Importance:
    """The mean squares in a file.

    Raises FormatError for what is no such file, ModelNotFound or StoreError where it cannot be read. A `.dat` file does not
    say how many experts an entry is of: the entry has one row, which `Importance.of` cuts.
    """
    try:
        with open_plain(path) as file:
            is_gguf = file.read(4) == MAGIC
            file.seek(0)
            found = _read_dat(path, file, path.stat().st_size) if not is_gguf else {}
    except OSError as error:
        raise unreadable(path, error) from None
    return Importance(mean_squares=_read_gguf(path) if is_gguf else found, origin=str(path))


def _read_gguf(path: Path) -> dict[str, F32]:
    tensors = read_gguf(path).tensors
    found: dict[str, F32] = {}
    for name, sums in tensors.items():
        if not name.endswith(_SUMS):
            continue
        matrix = name.removesuffix(_SUMS)
        counts = tensors.get(matrix + _COUNTS)
        if counts is None or counts.n_elements * sums.shape[-1] != sums.n_elements:
            raise FormatError(f"{path}: tensor {matrix + _COUNTS!r} does not give a count for each row of {name!r}")
        sums_EK = dequantise(sums.type, sums.stored().data).reshape(-1, sums.shape[-1])
        counts_E1 = dequantise(counts.type, counts.stored().data).reshape(-1, 1)
        found[matrix] = np.where(counts_E1 > 0, sums_EK / np.maximum(counts_E1, 1), 0).astype(np.float32)
    if not found:
        raise FormatError(f"{path}: a GGUF file without tensors named *{_SUMS}; one of llama-imatrix is expected")
    return found


def _read_dat(path: Path, file: BinaryIO, size: int) -> dict[str, F32]:
    found: dict[str, F32] = {}
    for _ in range(_number(path, file, _MOST_ENTRIES)):
        name = _bytes(path, file, _number(path, file, _MOST_NAME_BYTES)).decode("utf-8", "replace")
        n_passes, n_values = _number(path, file, 1 << 30), _number(path, file, min(_MOST_VALUES, size // 4))
        values = np.frombuffer(_bytes(path, file, 4 * n_values), "<f4")
        found[name] = (values / max(1, n_passes))[None].astype(np.float32)
    return found


def _number(path: Path, file: BinaryIO, most: int) -> int:
    number: int = struct.unpack("<i", _bytes(path, file, 4))[0]
    if not 0 <= number <= most:
        raise FormatError(f"{path}: no importance matrix: a count is {number}; expected 0 to {most}")
    return number


def _bytes(path: Path, file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise FormatError(f"{path}: the file is cut short; copy it again")
    return data
