"""Samovar's own int4 in GGUF files, which only Samovar reads.

No block type of GGUF says what int4 says exactly, so a matrix [N, K] is kept as a tensor of bytes (I8) [N, 4 + 17 K / 32]: of
each row its float32 scale, and for each 32 values the byte multiplier + 16 zero code and 16 bytes of nibbles, the first 16
values in the low ones. The architecture's name has the prefix INT4_PREFIX, so that other programs refuse the file by that name.

Shape letters: N rows, K values of a row, G groups of a row.
"""

from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from samovar.errors import FormatError
from samovar.tensors.dtypes import I8, INT4_ROWS
from samovar.tensors.stored import AssembledTensor, StoredTensor, Tensor

INT4_PREFIX: Final = "samovar-int4-"
_SCALE_BYTES: Final = 4
_GROUP_BYTES: Final = INT4_ROWS.block_bytes - _SCALE_BYTES
_CHUNK_ROWS: Final = 1024


def int4_row_bytes(width: int) -> int:
    """Bytes of a row of `width` values in a file."""
    return _SCALE_BYTES + width // INT4_ROWS.block_elements * _GROUP_BYTES


def without_scales(blocks_NB: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[N, row bytes of a file]: rows of INT4_ROWS blocks with one scale each."""
    groups_NGB = blocks_NB.reshape(len(blocks_NB), -1, INT4_ROWS.block_bytes)
    rest_NB = groups_NGB[:, :, _SCALE_BYTES:].reshape(len(blocks_NB), -1)
    return np.concatenate([groups_NGB[:, 0, :_SCALE_BYTES], rest_NB], axis=1)


def int4_tensors(tensors: dict[str, StoredTensor]) -> dict[str, Tensor]:
    """The tensors of a file whose architecture has the prefix: bytes become weights. Raises FormatError for a wrong width."""
    return {name: _weight(tensor) if tensor.type is I8 else tensor for name, tensor in tensors.items()}


def _weight(tensor: StoredTensor) -> AssembledTensor:
    n_bytes = tensor.shape[-1] - _SCALE_BYTES
    if len(tensor.shape) < 2 or n_bytes < _GROUP_BYTES or n_bytes % _GROUP_BYTES:
        raise FormatError(
            f"{tensor.source}: tensor {tensor.name!r} has shape {list(tensor.shape)}; int4 weights have rows of "
            f"{_SCALE_BYTES} + a multiple of {_GROUP_BYTES} bytes: the file is damaged"
        )
    shape = (*tensor.shape[:-1], n_bytes // _GROUP_BYTES * INT4_ROWS.block_elements)
    make = partial(_blocks, tensor)
    return AssembledTensor(
        name=tensor.name, type=INT4_ROWS, shape=shape, source=tensor.source, make=make, release=tensor.release
    )


def _blocks(tensor: StoredTensor) -> tuple[NDArray[np.uint8], None]:
    """The blocks, with the row's scale in each. Raises FormatError for a scale that is negative, infinite or no number."""
    rows_NB = tensor.rows()
    n_groups = (rows_NB.shape[1] - _SCALE_BYTES) // _GROUP_BYTES
    out_NGB = np.empty((len(rows_NB), n_groups, INT4_ROWS.block_bytes), np.uint8)
    for start in range(0, len(rows_NB), _CHUNK_ROWS):
        part_NB = rows_NB[start : start + _CHUNK_ROWS]
        scales_N = np.ascontiguousarray(part_NB[:, :_SCALE_BYTES]).view("<f4")
        multipliers_NG = part_NB[:, _SCALE_BYTES::_GROUP_BYTES] & np.uint8(15)
        zeros_NG = (part_NB[:, _SCALE_BYTES::_GROUP_BYTES] >> np.uint8(4)).astype(np.int16)
        if not (np.isfinite(scales_N).all() and (scales_N >= 0).all() and (multipliers_NG > 0).all()):
            raise FormatError(f"{tensor.source}: tensor {tensor.name!r} holds a scale that int4 has not: the file is damaged")
        if (multipliers_NG * np.maximum(zeros_NG, 15 - zeros_NG) > 127).any():
            raise FormatError(f"{tensor.source}: tensor {tensor.name!r} holds a multiplier too large for its zero code")
        out_NGB[start : start + _CHUNK_ROWS, :, :_SCALE_BYTES] = part_NB[:, None, :_SCALE_BYTES]
        rest_NGB = part_NB[:, _SCALE_BYTES:].reshape(len(part_NB), n_groups, _GROUP_BYTES)
        out_NGB[start : start + _CHUNK_ROWS, :, _SCALE_BYTES:] = rest_NGB
    return out_NGB.reshape(-1), None
