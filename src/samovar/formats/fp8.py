"""FP8 folders (`quant_method: fp8`, as the releases named *-FP8 are) to grouped weights.

A module holds `weight`, 8-bit floats [N, K], and `weight_scale_inv` [N / 128, K / 128] (rounded up) for blocks of
`weight_block_size`; without that key, `weight_scale` with one number for all, or one for each output. A weight is the float
times its scale.
Activations are rounded to 8 bits by programs that compute on FP8; here they stay as they are, and the `input_scale` of the
static scheme is not needed. Source: the model cards of the Qwen3 FP8 releases, and `transformers`' finegrained_fp8.
Shape letters: see `formats.grouped`.
"""

import numpy as np

from samovar.errors import FormatError
from samovar.formats.grouped import U8, GroupedWeight, Kind, Scales
from samovar.formats.quantisation_keys import FLOATS, Keys, Parts, floats, n_groups, refuse_listed
from samovar.tensors.dtypes import F8_E4M3, F8_E5M2
from samovar.tensors.stored import StoredTensor

FLOAT8: dict[str, Kind] = {F8_E4M3.name: "E4M3", F8_E5M2.name: "E5M2"}
_SCALES = ("weight_scale_inv", "weight_scale")


def read_fp8(keys: Keys, parts: Parts) -> tuple[list[GroupedWeight], str]:
    """The quantised weights, and a line about them. Raises FormatError and UnsupportedModel."""
    fmt = keys.want("fmt", "e4m3", "e5m2")
    keys.want("activation_scheme", "dynamic", "static")
    block = _block_size(keys)
    listed = keys.names("modules_to_not_convert") + keys.names("ignored_layers")
    keys.finish({"quant_method", "dequantize"})
    type_ = F8_E4M3 if fmt == "e4m3" else F8_E5M2
    for scale in _SCALES:
        for module in parts.modules(scale):
            weight = parts.rest.get(f"{module}.weight")
            if weight is not None and weight.type.name in FLOAT8 and weight.type is not type_:
                raise FormatError(
                    f"{weight.source}: tensor {weight.name!r} has type {weight.type.name}, and fmt in {keys.where} is {fmt!r}"
                )
    modules = [name.removesuffix(".weight") for name, tensor in parts.rest.items() if tensor.type is type_]
    refuse_listed(modules, listed, keys.where)
    weights = [_read_module(parts, module, block) for module in modules]
    scales = "a scale for each tensor or output" if block is None else f"blocks of {block[0]} x {block[1]}"
    return weights, f"FP8 {fmt}, {scales}"


def _block_size(keys: Keys) -> tuple[int, int] | None:
    value = keys.pop("weight_block_size")
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or not all(type(n) is int and n > 0 for n in value):
        raise FormatError(f"{keys.where}.weight_block_size is {str(value)[:60]!r}; two whole numbers above 0 are expected")
    return value[0], value[1]


def _read_module(parts: Parts, module: str, block: tuple[int, int] | None) -> GroupedWeight:
    weight = parts.take(f"{module}.weight", (F8_E4M3, F8_E5M2), (None, None))
    n_out, n_in = weight.shape
    parts.drop(f"{module}.input_scale")
    parts.drop(f"{module}.activation_scale")
    if block is not None:
        shape = (n_groups(n_out, block[0]), n_groups(n_in, block[1]))
        return float8_weight(weight, parts.take(f"{module}.weight_scale_inv", FLOATS, shape), block)
    name = next((name for name in (f"{module}.{part}" for part in _SCALES) if name in parts.rest), f"{module}.weight_scale")
    scale = parts.rest.get(name)
    shape_of_one: tuple[int | None, ...] = (
        (1,) * len(scale.shape) if scale is not None and scale.n_elements == 1 else (n_out, 1)
    )
    return float8_weight(weight, parts.take(name, FLOATS, shape_of_one), (n_out if shape_of_one[0] == 1 else 1, n_in))


def float8_weight(weight: StoredTensor, scale: StoredTensor, block: tuple[int, int]) -> GroupedWeight:
    """8-bit floats [N, K] with a scale for each block of so many rows and columns."""
    n_out, n_in = weight.shape
    rows = min(block[0], n_out)

    def read_codes(first: int, last: int) -> U8:
        return weight.rows()[first:last]

    def read_scales(first: int, last: int) -> Scales:
        shape = n_groups(n_out, rows), n_groups(n_in, block[1])
        return floats(scale, shape, np.arange(first, last) // rows, slice(None))

    return GroupedWeight(
        name=weight.name,
        kind=FLOAT8[weight.type.name],
        bits=8,
        shape=(n_out, n_in),
        group=block[1],
        parts=(weight, scale),
        codes=read_codes,
        scales=read_scales,
    )
