"""What the quantised formats of Hugging Face folders have in common: codes or 8-bit floats, and scales for groups of a row.

A reader of a format describes each weight as a `GroupedWeight`; `assembled` makes a tensor of it that computes without knowing
the format. Values do not change: scales become float32, which holds float16 and bfloat16 exactly, and a group that is longer
than a block repeats its scale. Where no block divides the groups, the values themselves are kept, in float32.

Shape letters: N outputs, K inputs of a weight, G groups of a row, M rows of a part of it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from samovar.errors import FormatError
from samovar.kernels.dequantise import float8_values
from samovar.tensors.dtypes import F32, GROUPED_TYPES, TensorType
from samovar.tensors.stored import AssembledTensor, StoredTensor

U8 = NDArray[np.uint8]
I16 = NDArray[np.int16]
Scales = NDArray[np.float32]
Kind = Literal["U4", "U8", "E4M3", "E5M2"]

_BLOCKS: Final = (128, 64, 32)
_BY_NAME: Final = {type_.name: type_ for type_ in GROUPED_TYPES}
_CHUNK_VALUES: Final = 1 << 19  # of a weight at a time: temporaries stay in the last-level cache
_CHUNK_ROWS: Final = 32  # a multiple of the rows that any format packs into whole words


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedWeight:
    """One weight [N, K]: scale * (code - zero) by kind U4 or U8, scale * value of the code by kind E4M3 or E5M2.

    `bits` are those of a code in the file.

    Scales and zero points belong to `group` consecutive columns. `codes`, `scales` and `zeros` read the rows [first, last),
    where first is a multiple of 32: [M, K], [M, G] and [M, G]. Where there is an `input_order` [K], columns are brought into it
    first: column j of what is grouped is column input_order[j] of `codes`. `parts` are the tensors that are read: the codes,
    the scales and the others, for messages and to be released.
    """

    name: str
    kind: Kind
    bits: int
    shape: tuple[int, int]
    group: int
    parts: tuple[StoredTensor, ...]
    codes: Callable[[int, int], U8]
    scales: Callable[[int, int], Scales]
    zeros: Callable[[int, int], I16] | None = None
    input_order: Callable[[], NDArray[np.int32]] | None = None

    @property
    def type(self) -> TensorType:
        """The storage type that holds it exactly, with the largest blocks that divide its groups and rows."""
        for size in _BLOCKS:
            if self.group % size == 0 and self.shape[1] % size == 0:
                return _BY_NAME[f"{self.kind}_G{size}"]
        return F32


def assembled(weight: GroupedWeight) -> AssembledTensor:
    """The tensor of a weight, made when it is asked for."""
    parts = weight.parts

    def release() -> None:
        for part in parts:
            part.release()

    return AssembledTensor(
        name=weight.name,
        type=weight.type,
        shape=weight.shape,
        source=parts[0].source,
        make=partial(_make, weight),
        has_input_order=weight.input_order is not None,
        release=release,
    )


def _make(weight: GroupedWeight) -> tuple[U8, NDArray[np.int32] | None]:
    """All rows. Raises FormatError for scales and codes that are no numbers, and what the readers raise."""
    n_out, n_in = weight.shape
    type_ = weight.type
    order = None if weight.input_order is None else weight.input_order()
    out_NB = np.empty((n_out, n_in // type_.block_elements * type_.block_bytes), np.uint8)
    step = max(1, _CHUNK_VALUES // n_in // _CHUNK_ROWS) * _CHUNK_ROWS
    for first in range(0, n_out, step):
        last = min(n_out, first + step)
        codes_MK = weight.codes(first, last)
        if order is not None:
            codes_MK = np.take(codes_MK, order, axis=1)
        scales_MG = weight.scales(first, last)
        zeros_MG = None if weight.zeros is None else weight.zeros(first, last)
        _check_numbers(weight, codes_MK, scales_MG)
        if type_ is F32:
            values_MK = _values(weight, codes_MK, scales_MG, zeros_MG)
            out_NB[first:last] = values_MK.view(np.uint8).reshape(last - first, -1)
        else:
            _write_blocks(type_, weight.group, codes_MK, scales_MG, zeros_MG, out_NB[first:last])
    return out_NB.reshape(-1), order


def _check_numbers(weight: GroupedWeight, codes_MK: U8, scales_MG: Scales) -> None:
    codes, scales = weight.parts[:2]
    if not np.isfinite(scales_MG).all():
        raise FormatError(
            f"{scales.source}: tensor {scales.name!r} holds an infinity or no number as a scale: the file is damaged; "
            "copy or download it again"
        )
    mask = {"E4M3": 0x7F, "E5M2": 0x7C}.get(weight.kind)
    if mask is not None and ((codes_MK & np.uint8(mask)) == mask).any():
        raise FormatError(
            f"{codes.source}: tensor {codes.name!r} holds an infinity or no number: the file is damaged; "
            "copy or download it again"
        )


def _values(weight: GroupedWeight, codes_MK: U8, scales_MG: Scales, zeros_MG: I16 | None) -> Scales:
    """[M, K] in float32, each rounded once."""
    group_K = np.arange(weight.shape[1]) // weight.group
    values_MK = codes_MK.astype(np.float32) if zeros_MG is not None else float8_values(weight.kind)[codes_MK]
    if zeros_MG is not None:
        values_MK -= zeros_MG[:, group_K].astype(np.float32)
    values_MK *= scales_MG[:, group_K]
    return values_MK


def _write_blocks(type_: TensorType, group: int, codes_MK: U8, scales_MG: Scales, zeros_MG: I16 | None, out_MB: U8) -> None:
    """The blocks of some rows, as `kernels.dequantise` reads them."""
    n_rows, n_in = codes_MK.shape
    size = type_.block_elements
    n_blocks = n_in // size
    group_of = np.arange(n_blocks) * size // group
    out = out_MB.reshape(n_rows, n_blocks, type_.block_bytes)
    out[:, :, :4] = scales_MG[:, group_of].astype("<f4")[:, :, None].view(np.uint8)
    if type_.name.startswith("U4"):
        assert zeros_MG is not None
        out[:, :, 4] = zeros_MG[:, group_of]
        out[:, :, 5:] = _nibbles(codes_MK).reshape(n_rows, n_blocks, size // 2)
        return
    codes_at = 4
    if zeros_MG is not None:
        out[:, :, 4:6] = zeros_MG[:, group_of].astype("<f2")[:, :, None].view(np.uint8)
        codes_at = 6
    out[:, :, codes_at:] = codes_MK.reshape(n_rows, n_blocks, size)


def _nibbles(codes_MK: U8) -> U8:
    """Of each 32 codes 16 bytes, whose low nibbles are the first 16; eight codes at a time."""
    eights = np.ascontiguousarray(codes_MK).reshape(-1).view(np.uint64).reshape(-1, 4)
    out = np.empty((len(eights), 2), np.uint64)
    for half in range(2):
        out[:, half] = eights[:, half] | eights[:, half + 2] << np.uint64(4)
    return out.view(np.uint8)


def unpack_words(words_MW: NDArray[np.signedinteger], bits: int) -> U8:
    """[M, 32 W / bits]: numbers of 2, 3, 4 or 8 bits, packed one after the other from the low bits of the first word on."""
    bytes_MB = np.ascontiguousarray(words_MW, "<i4").view(np.uint8)
    if bits == 8:
        return bytes_MB
    if bits == 4:  # a byte in 16 bits, then its high nibble in the upper eight
        pairs = bytes_MB.astype("<u2")
        pairs |= pairs << 4
        pairs &= 0x0F0F
        return pairs.view(np.uint8)
    bits_MKB = np.unpackbits(bytes_MB, axis=1, bitorder="little").reshape(len(bytes_MB), -1, bits)
    codes_MK = bits_MKB[:, :, 0]
    for bit in range(1, bits):
        codes_MK = codes_MK | bits_MKB[:, :, bit] << np.uint8(bit)
    return codes_MK
