"""GPTQ folders (`quant_method: gptq`, checkpoint formats gptq and gptq_v2) to grouped weights.

A module holds `qweight` int32 [K bits / 32, N], packed along K, `qzeros` int32 [G, N bits / 32], packed along N, `scales`
[G, N] and `g_idx` int32 [K], the group of each input; w = (code - zero) * scale. The format gptq stores zero - 1, so that a
zero point is 1 to 2^bits; gptq_v2 stores it as it is. With `desc_act` the inputs of a group lie apart: columns are
brought together by group, and the inputs into the same order when the weight is computed on. Source: Frantar et al., 2022,
arXiv 2210.17323, and the layout that AutoGPTQ and GPTQModel write. Shape letters: see `formats.grouped`.
"""

from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from samovar.errors import FormatError, UnsupportedModel
from samovar.formats.grouped import I16, U8, GroupedWeight, Kind, Scales, unpack_words
from samovar.formats.quantisation_keys import FLOATS, Keys, Parts, floats, integers, n_groups, refuse_listed, whole_groups
from samovar.formats.safe_pattern import SafePattern
from samovar.tensors.dtypes import I32, TensorType
from samovar.tensors.stored import StoredTensor

_BITS: Final = (4, 8, 2, 3)
# how the weights were found, or how other programs compute on them
_HARMLESS: Final = {
    "quant_method", "damp_percent", "damp_auto_increment", "static_groups", "true_sequential", "model_name_or_path",
    "model_file_base_name", "lm_head", "meta", "batch_size", "dataset", "tokenizer", "cache_block_outputs", "model_seqlen",
    "module_name_preceding_first_block", "block_name_to_quantize", "pad_token_id", "max_input_length", "use_cuda_fp16",
    "use_exllama", "disable_exllama", "exllama_config", "quantizer", "version", "mse", "modules_in_block_to_quantize",
    "backend", "act_group_aware", "hyb_act",
}  # fmt: skip


def read_gptq(keys: Keys, parts: Parts) -> tuple[list[GroupedWeight], str]:
    """The quantised weights, and a line about them. Raises FormatError and UnsupportedModel."""
    bits = keys.need("bits", *_BITS)
    assert isinstance(bits, int)
    keys.want("is_marlin_format", False)
    keys.want("pack_dtype", "int32")
    zero_offset = 1 if keys.want("checkpoint_format", "gptq", "gptq_v2") == "gptq" else 0
    group_size, is_ordered = keys.whole("group_size", 128), keys.flag("desc_act", False)
    keys.flag("sym", True)  # the zero points are in the file either way
    listed = keys.names("modules_to_not_convert")
    left_out = _left_out(keys)
    keys.finish(_HARMLESS)
    modules = parts.modules("qweight")
    refuse_listed(modules, listed, keys.where)
    if wrong := [module for module in modules if any(pattern.matches(module) for pattern in left_out)]:
        raise FormatError(f"{keys.where}.dynamic leaves {wrong[0]!r} out, and its tensors are quantised; one of them is wrong")
    weights = [_read_module(keys, parts, module, bits, group_size, zero_offset, is_ordered) for module in modules]
    groups = "one group a row" if group_size == -1 else f"groups of {group_size}"
    return weights, f"GPTQ, {bits} bits, {groups}{', ordered by activation' if is_ordered else ''}"


def _left_out(keys: Keys) -> list[SafePattern]:
    """What `dynamic` leaves out: "-:pattern", from the start of a name on. It may not give modules other bits or groups."""
    dynamic = keys.pop("dynamic")
    if dynamic is None:
        return []
    if not isinstance(dynamic, dict) or not all(isinstance(name, str) and name.startswith("-:") for name in dynamic):
        raise UnsupportedModel(f"{keys.where}.dynamic gives modules settings of their own, which is not read")
    return [SafePattern(f"(?:{name.removeprefix('-:')}).*", keys.where) for name in dynamic]


def _read_module(
    keys: Keys, parts: Parts, module: str, bits: int, group_size: int, zero_offset: int, is_ordered: bool
) -> GroupedWeight:
    qweight = parts.take(f"{module}.qweight", (I32,), (None, None))
    n_in, n_out = qweight.shape[0] * 32 // bits, qweight.shape[1]
    if qweight.shape[0] % (bits if bits == 3 else 1) or n_out * bits % 32:
        raise FormatError(
            f"{qweight.source}: tensor {qweight.name!r} has shape {list(qweight.shape)}, which holds no whole rows and columns "
            f"of {bits}-bit numbers"
        )
    group = whole_groups(keys, module, n_in, group_size)
    shape = n_groups(n_in, group), n_out
    qzeros = parts.take(f"{module}.qzeros", (I32,), (shape[0], n_out * bits // 32))
    scales = parts.take(f"{module}.scales", FLOATS, shape)
    g_idx = _g_idx(parts, module, n_in, is_ordered)

    def read_codes(first: int, last: int) -> U8:
        if g_idx is not None and not is_ordered:
            _refuse_order(g_idx, group)
        return unpack_words(integers(qweight)[:, first:last].T, bits)

    def read_zeros(first: int, last: int) -> I16:
        words = integers(qzeros)[:, first * bits // 32 : last * bits // 32]
        return unpack_words(words, bits).T.astype(np.int16) + np.int16(zero_offset)

    def read_scales(first: int, last: int) -> Scales:
        return floats(scales, shape, slice(None), slice(first, last)).T

    kind: Kind = "U8" if bits == 8 else "U4"
    return GroupedWeight(
        name=f"{module}.weight",
        kind=kind,
        bits=bits,
        shape=(n_out, n_in),
        group=group,
        parts=(qweight, scales, qzeros) if g_idx is None else (qweight, scales, qzeros, g_idx),
        codes=read_codes,
        scales=read_scales,
        zeros=read_zeros,
        input_order=partial(order_of, g_idx, group) if g_idx is not None and is_ordered else None,
    )


def _g_idx(parts: Parts, module: str, n_in: int, is_needed: bool) -> StoredTensor | None:
    """Without an order it may be missing."""
    types: tuple[TensorType, ...] = (I32,)
    name, shape = f"{module}.g_idx", (n_in,)
    return parts.take(name, types, shape) if is_needed else parts.optional(name, types, shape)


def _refuse_order(g_idx: StoredTensor, group: int) -> None:
    """Hold a `g_idx` to groups of consecutive inputs."""
    found = integers(g_idx)
    if not np.array_equal(found, np.arange(len(found)) // group):
        raise FormatError(
            f"{g_idx.source}: tensor {g_idx.name!r} puts inputs into groups that are not {group} consecutive ones, and "
            "desc_act in the quantisation config is false; one of them is wrong"
        )


def order_of(g_idx: StoredTensor, group: int) -> NDArray[np.int32]:
    """[K]: the inputs by group. Raises FormatError where a group is not there, or has more or fewer than `group` inputs."""
    found = integers(g_idx)
    n = len(found) // group
    outside = (found < 0) | (found >= n)
    if outside.any():
        raise FormatError(
            f"{g_idx.source}: tensor {g_idx.name!r} names group {int(found[outside][0])}; there are {n} groups, from 0 on"
        )
    counts = np.bincount(found, minlength=n)
    if (counts != group).any():
        odd = int(np.flatnonzero(counts != group)[0])
        raise FormatError(
            f"{g_idx.source}: tensor {g_idx.name!r} puts {int(counts[odd])} inputs into group {odd}; each group has {group}"
        )
    return np.argsort(found, kind="stable").astype(np.int32)
