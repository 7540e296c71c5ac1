"""Folders of the compressed-tensors library (`quant_method: compressed-tensors`) to grouped weights.

`config_groups` give schemes to modules by class, name or pattern ("re:..."); those in `ignore` have none. Formats read:
- pack-quantized: `weight_packed` int32 [N, K bits / 32] of 4 or 8 bits, low bits first, each number less 2^(bits - 1);
  `weight_shape` [2]; `weight_zero_point` packed along N in the same way, or int8; `weight_g_idx` [K] with dynamic ordering;
- int-quantized and naive-quantized: `weight` int8 [N, K], `weight_zero_point` int8;
- float-quantized (and naive-quantized): `weight` 8-bit floats [N, K];
each with `weight_scale` by strategy: tensor [1], channel [N, 1], group [N, G], block [N / rows, K / columns], rounded up.
A weight is (code - zero) * scale. Activations are not rounded as a scheme may ask; their scales are not needed.
Source: the `compressed_tensors` package (quantization/quant_args.py, compressors). Shape letters: see `formats.grouped`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from samovar.errors import FormatError, UnsupportedModel
from samovar.formats.fp8 import FLOAT8, float8_weight
from samovar.formats.gptq import order_of
from samovar.formats.grouped import I16, U8, GroupedWeight, Scales, unpack_words
from samovar.formats.quantisation_keys import FLOATS, Keys, Parts, floats, integers, n_groups, whole_groups
from samovar.formats.safe_pattern import SafePattern
from samovar.tensors.dtypes import F8_E4M3, F8_E5M2, I8, I32, I64
from samovar.tensors.stored import StoredTensor

_FORMATS: Final = ("pack-quantized", "int-quantized", "naive-quantized", "float-quantized")
_MIXED: Final = "mixed-precision"  # each group names its own
_STRATEGIES: Final = ("tensor", "channel", "group", "block")
_CLASSES: Final = ("Linear",)
_ACTIVATIONS: Final = ("input_scale", "input_zero_point", "input_global_scale")
_HARMLESS: Final = {"quant_method", "quantization_status", "global_compression_ratio", "version"}
_HARMLESS_OF_WEIGHTS: Final = {"observer", "observer_kwargs", "scale_dtype", "zp_dtype"}  # the tensors tell their types


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scheme:
    """How the weights of some modules are stored. `group` is the group size, or the block's rows and columns."""

    targets: tuple[str, ...]
    format: str
    is_float: bool
    bits: int
    is_symmetric: bool
    strategy: str
    group_size: int
    block: tuple[int, int]
    is_ordered: bool


def read_compressed_tensors(keys: Keys, parts: Parts) -> tuple[list[GroupedWeight], str]:
    """The quantised weights, and a line about them. Raises FormatError and UnsupportedModel."""
    format_ = str(keys.want("format", *_FORMATS, _MIXED))
    groups = keys.inner("config_groups")
    if groups is None:
        raise FormatError(f"{keys.where}: config_groups is missing")
    schemes = [_read_scheme(groups.inner(name), groups.where, format_) for name in groups.left()]
    ignored = keys.names("ignore")
    if (sparsity := keys.inner("sparsity_config")) is not None and sparsity.left():
        sparsity.want("format", "dense")  # and so of no effect
    keys.finish(_HARMLESS)
    modules = sorted({*parts.modules("weight_packed"), *parts.modules("weight_scale")})
    weights = []
    for module in modules:
        if any(_matches(pattern, module, keys.where) for pattern in ignored):
            raise FormatError(f"{keys.where}.ignore lists {module!r}, and its tensors are quantised; one of them is wrong")
        scheme = next((s for s in schemes if any(_matches(target, module, keys.where) for target in s.targets)), None)
        if scheme is None:
            raise FormatError(f"{keys.where}: no group of config_groups is for {module!r}, whose tensors are quantised")
        for name in _ACTIVATIONS:
            parts.drop(f"{module}.{name}")
        weights.append(_read_module(keys, parts, module, scheme))
    kinds = dict.fromkeys(f"{s.bits}-bit {'floats' if s.is_float else 'integers'} by {s.strategy}" for s in schemes)
    return weights, f"compressed-tensors, {format_}, {', '.join(kinds)}"


def _read_scheme(keys: Keys | None, where: str, outer_format: str) -> _Scheme:
    weights = None if keys is None else keys.inner("weights")
    if keys is None or weights is None:
        raise UnsupportedModel(f"{where}: a group without weights, which is not read")
    targets = keys.names("targets")
    for target in targets:
        if target[:1].isupper() and target not in _CLASSES:
            raise UnsupportedModel(
                f"{keys.where}.targets names class {target[:60]!r}; quantised are read {', '.join(_CLASSES)}"
            )
    keys.pop("input_activations")  # see the module's docstring
    format_ = keys.pop("format") or outer_format
    keys.finish()
    if format_ not in _FORMATS:
        raise UnsupportedModel(f"{keys.where}.format is {str(format_)[:60]!r}; readable: {', '.join(_FORMATS)}")
    is_float = weights.want("type", "int", "float") == "float"
    bits = int(str(weights.want("num_bits", *((8,) if is_float else (8, 4)))))
    strategy = str(weights.want("strategy", *_STRATEGIES))
    weights.want("dynamic", False)
    scheme = _Scheme(
        targets=targets,
        format=str(format_),
        is_float=is_float,
        bits=bits,
        is_symmetric=weights.flag("symmetric", True),
        strategy=strategy,
        group_size=weights.whole("group_size", -1),
        block=_block(weights) if strategy == "block" else (1, 1),
        is_ordered=weights.want("actorder", "weight", "static", "group", "dynamic") in ("group", "dynamic"),
    )
    if strategy != "block":
        weights.want("block_structure", None)
    weights.finish(_HARMLESS_OF_WEIGHTS)
    return scheme


def _block(keys: Keys) -> tuple[int, int]:
    value = keys.pop("block_structure")
    if isinstance(value, str) and value.replace("x", "", 1).isdigit():  # an older spelling: "128x128"
        value = [int(part) for part in value.split("x")]
    if not isinstance(value, list) or len(value) != 2 or not all(type(n) is int and n > 0 for n in value):
        raise FormatError(f"{keys.where}.block_structure is {str(value)[:60]!r}; two whole numbers above 0 are expected")
    return value[0], value[1]


def _matches(target: str, module: str, where: str) -> bool:
    """A class stands for all modules here; patterns hold from the start of a name on."""
    if target.startswith("re:"):
        return SafePattern(f"(?:{target[3:]}).*", where).matches(module)
    return target in _CLASSES or target == module


def _read_module(keys: Keys, parts: Parts, module: str, scheme: _Scheme) -> GroupedWeight:
    if scheme.format == "pack-quantized":
        codes, shape, read = _packed(parts, module, scheme.bits)
    else:
        types = (F8_E4M3, F8_E5M2) if scheme.is_float else (I8,)
        codes = parts.take(f"{module}.weight", types, (None, None))
        shape = codes.shape[0], codes.shape[1]
        read = partial(_bytes, codes, 0 if scheme.is_float else 0x80)
    n_out, n_in = shape
    block = _block_of(keys, module, shape, scheme)
    n_scales = n_groups(n_out, block[0]), n_groups(n_in, block[1])
    name = f"{module}.weight_scale"
    scale = parts.take(name, FLOATS, _single_or(n_scales, parts, name))
    if scheme.is_float:
        if codes.type.name not in FLOAT8:
            raise UnsupportedModel(f"{keys.where}: floats of type {codes.type.name} in {codes.name!r}, which is not read")
        return float8_weight(codes, scale, block)
    zeros = _zeros(parts, module, scheme, n_scales)
    g_idx = parts.take(f"{module}.weight_g_idx", (I32,), (n_in,)) if scheme.is_ordered else None

    def read_scales(first: int, last: int) -> Scales:
        return floats(scale, n_scales, np.arange(first, last) // block[0], slice(None))

    return GroupedWeight(
        name=f"{module}.weight",
        kind="U4" if scheme.format == "pack-quantized" and scheme.bits == 4 else "U8",
        bits=scheme.bits if scheme.format == "pack-quantized" else 8,
        shape=shape,
        group=block[1],
        parts=(codes, scale),
        codes=read,
        scales=read_scales,
        zeros=partial(_zeros_of_rows, zeros, block[0]),
        input_order=None if g_idx is None else partial(order_of, g_idx, block[1]),
    )


def _single_or(shape: tuple[int, int], parts: Parts, name: str) -> tuple[int, ...]:
    """The shape to ask for: one number for the whole weight may have one axis or two."""
    tensor = parts.rest.get(name)
    return (1,) if shape == (1, 1) and tensor is not None and tensor.shape == (1,) else shape


def _block_of(keys: Keys, module: str, shape: tuple[int, int], scheme: _Scheme) -> tuple[int, int]:
    """Rows and columns that share a scale."""
    if scheme.strategy == "group":
        return 1, whole_groups(keys, module, shape[1], scheme.group_size)
    return {"tensor": shape, "channel": (1, shape[1]), "block": scheme.block}[scheme.strategy]


def _packed(parts: Parts, module: str, bits: int) -> tuple[StoredTensor, tuple[int, int], Callable[[int, int], U8]]:
    """The packed codes, the weight's shape, and what reads rows of them."""
    packed = parts.take(f"{module}.weight_packed", (I32,), (None, None))
    stated = parts.take(f"{module}.weight_shape", (I64, I32), (2,))
    n_out, n_in = (int(n) for n in integers(stated).tolist())
    if packed.shape != (n_out, -(-n_in * bits // 32)) or n_in < 1:
        raise FormatError(
            f"{packed.source}: tensor {packed.name!r} has shape {list(packed.shape)}; a weight of {n_out} x {n_in}, as "
            f"{stated.name!r} says, takes another with {bits} bits"
        )

    def read(first: int, last: int) -> U8:
        return unpack_words(integers(packed)[first:last], bits)[:, :n_in]

    return packed, (n_out, n_in), read


def _bytes(codes: StoredTensor, flip: int, first: int, last: int) -> U8:
    """Rows of bytes, signed ones raised by 128."""
    return codes.rows()[first:last] ^ np.uint8(flip)


def _zeros(parts: Parts, module: str, scheme: _Scheme, shape: tuple[int, int]) -> Callable[[], I16]:
    """What gives the zero points as they belong to the codes: raised by half of their range."""
    is_packed = scheme.format == "pack-quantized"
    middle = 1 << (scheme.bits - 1) if is_packed else 128
    name = f"{module}.weight_zero_point"
    stored = parts.rest.get(name)
    if scheme.is_symmetric and stored is None:
        return lambda: np.full(shape, middle, np.int16)
    if is_packed and stored is not None and stored.type is I32:
        per_word = 32 // scheme.bits
        words = parts.take(name, (I32,), (n_groups(shape[0], per_word), shape[1]))
        return lambda: unpack_words(integers(words).T, scheme.bits)[:, : shape[0]].T.astype(np.int16)
    numbers = parts.take(name, (I8,), _single_or(shape, parts, name))
    return lambda: integers(numbers).astype(np.int16).reshape(shape) + np.int16(middle)


def _zeros_of_rows(read: Callable[[], I16], rows: int, first: int, last: int) -> I16:
    """[M, G]: the zero points of the rows [first, last), where `rows` rows share them."""
    return np.take(read(), np.arange(first, last) // rows, axis=0)
