"""Weights of every storage type and the instruction sets to try them on, for the tests of the native kernels."""

import numpy as np

from samovar.kernels.native import NativeOps, available_isas, native_ops
from samovar.tensors.dtypes import GROUPED_TYPES, TensorType
from samovar.tensors.stored import StoredTensor

ISAS = available_isas()
# Where a block's float16 numbers stand; everything else in a block may be any bytes.
_F16_AT = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2),
    "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,), "MXFP4": (), "NVFP4": (), "IQ1_S": (0,), "IQ2_XXS": (0,),
    "IQ2_XS": (0,), "IQ2_S": (0,), "IQ3_XXS": (0,), "IQ3_S": (0,), "TQ1_0": (52,), "TQ2_0": (64,), "Q1_0": (0,), "Q2_0": (0,),
}  # fmt: skip
# Bits a weight once packed, which is what decoding reads.
PACKED_BITS = {
    "IQ1_S": 2.3125, "IQ1_M": 2.5625, "IQ2_XXS": 3.3125, "IQ2_XS": 3.3125, "IQ2_S": 3.3125, "IQ3_XXS": 4.3125, "IQ3_S": 4.3125,
    "TQ1_0": 2.0625, "TQ2_0": 2.0625, "Q1_0": 1.125, "Q2_0": 2.25,
}  # fmt: skip


def ops_on(isa: str, n_threads: int = 1) -> NativeOps:
    """Native operations on one instruction set."""
    return native_ops(isa, n_threads)


def random_weight(type_: TensorType, n_out: int, n_in: int, seed: int = 0, byte: int | None = None) -> StoredTensor:
    """A weight [n_out, n_in] whose codes and scales take all values that the type has (scales finite and moderate).

    With `byte` all codes of a quantised type are made of that one.
    """
    rng = np.random.default_rng(seed)
    if type_.is_float:
        values = rng.standard_normal((n_out, n_in)).astype(np.float32)
        if type_.name == "F16":
            data = values.astype(np.float16).view(np.uint8)
        else:
            data = (
                values.view(np.uint8)
                if type_.name == "F32"
                else (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
            )
    else:
        n_blocks = n_out * n_in // type_.block_elements
        data = rng.integers(0, 256, (n_blocks, type_.block_bytes), dtype=np.uint8)
        if byte is not None:
            data[:] = byte
        for at in _F16_AT.get(type_.name, ()):
            data[:, at : at + 2] = (0.01 * rng.standard_normal((n_blocks, 1))).astype(np.float16).view(np.uint8)
        if type_.name == "IQ1_M":
            spread_scale(data, (0.01 * rng.standard_normal(n_blocks)).astype(np.float16))
        if type_.name == "MXFP4":
            data[:, 0] = rng.integers(110, 125, n_blocks)
        if type_.name == "NVFP4":
            data[:, :4] = rng.integers(0, 128, (n_blocks, 4))
    if type_ in GROUPED_TYPES:
        fill_grouped(type_, data, rng)
    data = np.ascontiguousarray(data).reshape(-1)
    return StoredTensor(name="w", type=type_, shape=(n_out, n_in), data=data, source="test")


def spread_scale(blocks: np.ndarray, d: np.ndarray) -> None:
    """Write the float16 scales of IQ1_M blocks, which lie in the uppermost bits of four numbers."""
    words = blocks[:, 48:].copy().view("<u2") & 0x0FFF
    words |= (d.view(np.uint16)[:, None] >> np.array([0, 4, 8, 12], np.uint16)) << 12
    blocks[:, 48:] = words.astype("<u2").view(np.uint8)


def fill_grouped(type_: TensorType, blocks: np.ndarray, rng: np.random.Generator) -> None:
    """Scales and zero points for random codes; and no codes that are infinite or no number."""
    n_blocks = len(blocks)
    blocks[:, :4] = (0.01 * rng.standard_normal((n_blocks, 1))).astype("<f4").view(np.uint8)
    if type_.name.startswith("U4"):
        blocks[:, 4] = rng.integers(0, 17, n_blocks)
    elif type_.name.startswith("U8"):
        blocks[:, 4:6] = rng.integers(0, 257, (n_blocks, 1)).astype("<f2").view(np.uint8)
    else:
        mask = 0x7F if type_.name.startswith("E4M3") else 0x7C
        blocks[:, 4:][(blocks[:, 4:] & mask) == mask] = 0
