"""AWQ folders (`quant_method: awq`, version gemm) to grouped weights.

A module holds `qweight` int32 [K, N / 8], `qzeros` int32 [G, N / 8] and `scales` float16 [G, N]; w = (code - zero) * scale.
Field i of a word (from the low bits on) is column 0, 2, 4, 6, 1, 3, 5, 7 of its eight. Source: Lin et al., 2023, arXiv
2306.00978, and the layout that AutoAWQ writes and vLLM and SGLang read. Shape letters: see `formats.grouped`.
"""

from typing import Final

import numpy as np

from samovar.formats.grouped import I16, U8, GroupedWeight, Scales
from samovar.formats.quantisation_keys import FLOATS, Keys, Parts, floats, integers, n_groups, refuse_listed, whole_groups
from samovar.tensors.dtypes import I32
from samovar.tensors.stored import StoredTensor

_COLUMN_OF_FIELD: Final = (0, 2, 4, 6, 1, 3, 5, 7)
_ALL: Final = slice(None)
_HARMLESS: Final = {"quant_method", "exllama_config", "fuse_max_seq_len", "modules_to_fuse", "do_fuse"}


def read_awq(keys: Keys, parts: Parts) -> tuple[list[GroupedWeight], str]:
    """The quantised weights, and a line about them. Raises FormatError and UnsupportedModel."""
    keys.want("bits", 4)
    keys.want("zero_point", True)
    keys.want("version", "gemm")
    keys.want("backend", "autoawq", "auto")
    group_size = keys.whole("group_size", 128)
    listed = keys.names("modules_to_not_convert")
    keys.finish(_HARMLESS)
    modules = parts.modules("qweight")
    refuse_listed(modules, listed, keys.where)
    weights = [_read_module(keys, parts, module, group_size) for module in modules]
    return weights, f"AWQ, 4 bits, {'one group a row' if group_size == -1 else f'groups of {group_size}'}"


def _read_module(keys: Keys, parts: Parts, module: str, group_size: int) -> GroupedWeight:
    qweight = parts.take(f"{module}.qweight", (I32,), (None, None))
    n_in, n_out = qweight.shape[0], 8 * qweight.shape[1]
    group = whole_groups(keys, module, n_in, group_size)
    qzeros = parts.take(f"{module}.qzeros", (I32,), (n_groups(n_in, group), n_out // 8))
    scales = parts.take(f"{module}.scales", FLOATS, (n_groups(n_in, group), n_out))

    def read_codes(first: int, last: int) -> U8:
        return _columns(qweight, first, last)

    def read_zeros(first: int, last: int) -> I16:
        return _columns(qzeros, first, last).astype(np.int16)

    def read_scales(first: int, last: int) -> Scales:
        return floats(scales, (n_groups(n_in, group), n_out), _ALL, slice(first, last)).T

    return GroupedWeight(
        name=f"{module}.weight",
        kind="U4",
        bits=4,
        shape=(n_out, n_in),
        group=group,
        parts=(qweight, scales, qzeros),
        codes=read_codes,
        scales=read_scales,
        zeros=read_zeros,
    )


def _columns(packed: StoredTensor, first: int, last: int) -> U8:
    """[last - first, rows]: the numbers of some columns; `first` and `last` are multiples of 8."""
    words_WR = np.ascontiguousarray(integers(packed)[:, first // 8 : last // 8].T)
    out_NR = np.empty((last - first, words_WR.shape[1]), np.uint8)
    for field, column in enumerate(_COLUMN_OF_FIELD):
        out_NR[column::8] = words_WR >> (4 * field) & 15
    return out_NR
