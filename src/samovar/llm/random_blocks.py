"""Random weights in the storage types, for measuring speed: any bytes would do as codes, only the scales must be sane.

Values have a mean of 0 and the standard deviation asked for, so that activations stay finite through any number of layers, and
depend on the prompt. Codes of symmetric types run from -8 to 7 and the like; half of their scales are negative, as those of
quantised models are, or all rows would have a direction in common, and all prompts the same answer and the same experts.
"""

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from samovar.kernels.dequantise import dequantise
from samovar.tensors.dtypes import BF16, F16, F32, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0, TensorType

_K_SCALE: Final = 40  # the middle of what quantised models have in the scales of their K types
_GROUP_SCALE: Final = (_K_SCALE & 63) | (_K_SCALE >> 4 << 6)
_K_SCALES: Final = bytes([_GROUP_SCALE] * 8 + [(_K_SCALE & 15) * 17] * 4)  # all eight scales and minima of Q4_K and Q5_K


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where a block's float16 scale stands, the standard deviation of the values under a scale of 1, and what else is set.

    `offset_at` is where a second float16 stands, `offset` times the scale. `fixed` bytes stand at `fixed_at`.
    """

    scale_at: int
    unit_deviation: float
    offset_at: int | None = None
    offset: float = 0.0
    fixed_at: int = 0
    fixed: bytes = b""


def _uniform(n: int) -> float:
    """Standard deviation of the whole numbers below n."""
    return float(np.sqrt((n * n - 1) / 12))


_LAYOUTS: Final = {
    Q4_0: _Layout(0, _uniform(16)),
    Q4_1: _Layout(0, _uniform(16), 2, -7.5),
    Q5_0: _Layout(0, _uniform(32)),
    Q5_1: _Layout(0, _uniform(32), 2, -15.5),
    Q8_0: _Layout(0, _uniform(256)),
    Q4_K: _Layout(0, _K_SCALE * _uniform(16), 2, 7.5, 4, _K_SCALES),
    Q5_K: _Layout(0, _K_SCALE * _uniform(32), 2, 15.5, 4, _K_SCALES),
    Q6_K: _Layout(208, _K_SCALE * _uniform(64), fixed_at=192, fixed=bytes([_K_SCALE] * 16)),
}


# Where the scale stands in blocks whose other bytes may all be random; the deviation under a scale of 1 is measured.
_SCALE_AT: Final = {
    "IQ1_S": 0, "IQ1_M": 48, "IQ2_XXS": 0, "IQ2_XS": 0, "IQ2_S": 0, "IQ3_XXS": 0, "IQ3_S": 0, "TQ1_0": 52, "TQ2_0": 64,
    "Q1_0": 0, "Q2_0": 0,
}  # fmt: skip
_SAMPLE_BLOCKS: Final = 512


@cache
def _measured_layout(type_: TensorType) -> _Layout:
    random = np.random.default_rng(0)
    blocks = random.integers(0, 256, (_SAMPLE_BLOCKS, type_.block_bytes), np.uint8)
    _no_twos(type_, blocks)
    _put_scales(type_, blocks, _SCALE_AT[type_.name], np.ones(_SAMPLE_BLOCKS))
    return _Layout(_SCALE_AT[type_.name], float(dequantise(type_, blocks.reshape(-1)).std()))


def _no_twos(type_: TensorType, blocks: NDArray[np.uint8]) -> None:
    """Of the types that stand for -1, 0, 1 and a 2 which nothing uses: leave that out, in favour of 0."""
    if type_.name in ("Q2_0", "TQ2_0"):
        blocks &= ~((blocks & 0x55) << 1)


def _put_scales(type_: TensorType, blocks: NDArray[np.uint8], at: int, scales: NDArray[np.float64]) -> None:
    """Write the float16 scales; IQ1_M has a quarter of them in the uppermost bits of each of four numbers."""
    if type_.name != "IQ1_M":
        return _put_halves(blocks, at, scales)
    quarters = scales.astype("<f2").view("<u2")[:, None] >> np.array([0, 4, 8, 12], np.uint16)
    words = (blocks[:, at:].copy().view("<u2") & 0x0FFF) | (quarters << 12)
    blocks[:, at:] = words.astype("<u2").view(np.uint8)
    return None


def random_blocks(type_: TensorType, n_elements: int, deviation: float, seed: int) -> NDArray[np.uint8]:
    """`n_elements` random values of a storage type, as the flat bytes of their blocks; the same seed gives the same bytes."""
    random = np.random.Generator(np.random.SFC64(seed))
    if type_.is_float:
        values = random.standard_normal(n_elements, np.float32) * np.float32(deviation)
        if type_ is BF16:
            return (values.view(np.uint32) >> 16).astype("<u2").view(np.uint8)
        assert type_ in (F16, F32), type_.name
        return values.astype("<f2" if type_ is F16 else "<f4").view(np.uint8)
    layout = _LAYOUTS[type_] if type_ in _LAYOUTS else _measured_layout(type_)
    n = n_elements // type_.block_elements
    n_words = -(-n * type_.block_bytes // 8)
    blocks = random.integers(0, 1 << 64, n_words, np.uint64).view(np.uint8)[: n * type_.block_bytes].reshape(n, -1)
    scales = random.uniform(0.75, 1.25, n) * (deviation / layout.unit_deviation)
    _no_twos(type_, blocks)
    if layout.offset_at is None and type_ in _LAYOUTS:
        scales *= random.choice((-1.0, 1.0), n)
    _put_scales(type_, blocks, layout.scale_at, scales)
    if layout.offset_at is not None:
        _put_halves(blocks, layout.offset_at, scales * layout.offset)
    if layout.fixed:
        blocks[:, layout.fixed_at : layout.fixed_at + len(layout.fixed)] = np.frombuffer(layout.fixed, np.uint8)
    return blocks.reshape(-1)


def _put_halves(blocks: NDArray[np.uint8], at: int, values: NDArray[np.float64]) -> None:
    """Write a float16 into each block."""
    blocks[:, at : at + 2] = values.astype("<f2").view(np.uint8).reshape(-1, 2)
