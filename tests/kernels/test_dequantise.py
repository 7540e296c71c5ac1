"""Dequantisation against the `gguf` package, bit for bit."""

import warnings

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from samovar.kernels.dequantise import dequantise
from samovar.tensors.dtypes import F16, F32, Q4_K, Q8_0, TENSOR_TYPES, TensorType


def reference(stored: TensorType, data: NDArray[np.uint8]) -> NDArray[np.float32]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the reference warns where a scale is infinite
        rows = data.reshape(-1, stored.block_bytes)
        return gguf.quants.dequantize(rows, gguf.GGMLQuantizationType(stored.ggml_id)).reshape(-1)


def same_bits(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> bool:
    """Equal bits; a NaN equals a NaN, whose payload no processor promises."""
    nan = np.isnan(theirs)
    return bool(
        np.array_equal(nan, np.isnan(ours)) and np.array_equal(ours.view(np.uint32)[~nan], theirs.view(np.uint32)[~nan])
    )


# `gguf` does not decode these; tests.kernels.test_codebook_types holds them against ggml.
KNOWN = [t for t in TENSOR_TYPES if t.name not in ("Q1_0", "Q2_0")]


@pytest.mark.parametrize("stored", KNOWN, ids=lambda t: t.name)
@pytest.mark.parametrize("n_blocks", [1, 3, 2500])
def test_random_bytes_decode_to_the_bits_of_the_reference(stored: TensorType, n_blocks: int) -> None:
    data = np.random.default_rng(n_blocks).integers(0, 256, n_blocks * stored.block_bytes, np.uint8)
    ours = dequantise(stored, data)
    assert ours.dtype == np.float32
    assert ours.shape == (n_blocks * stored.block_elements,)
    assert same_bits(ours, reference(stored, data))


# Where the 16-bit scales of a block start; the types that are not here have none.
SCALES = {
    "F16": (0,), "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q2_K": (80, 82), "Q3_K": (108,),
    "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,), "IQ1_S": (0,), "IQ2_XXS": (0,),
    "IQ2_XS": (0,), "IQ2_S": (0,), "IQ3_XXS": (0,), "IQ3_S": (0,), "TQ1_0": (52,), "TQ2_0": (64,),
}  # fmt: skip
ODD_HALVES = (0x0000, 0x8000, 0x0001, 0x83FF, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00, 0xFE00, 0x7C01, 0x3C00)


@pytest.mark.parametrize("name", SCALES)
@pytest.mark.parametrize("half", ODD_HALVES, ids=hex)
def test_zero_subnormal_infinite_and_nan_scales_decode_like_the_reference(name: str, half: int) -> None:
    stored = next(t for t in TENSOR_TYPES if t.name == name)
    blocks = np.random.default_rng(half).integers(0, 256, (16, stored.block_bytes), np.uint8)
    for start in SCALES[name]:
        blocks[:, start : start + 2] = np.array([half], "<u2").view(np.uint8)
    assert same_bits(dequantise(stored, blocks.reshape(-1)), reference(stored, blocks.reshape(-1)))


@pytest.mark.parametrize(("name", "n_scales"), [("MXFP4", 1), ("NVFP4", 4)])
def test_every_eight_bit_scale_decodes_like_the_reference(name: str, n_scales: int) -> None:
    stored = next(t for t in TENSOR_TYPES if t.name == name)
    blocks = np.random.default_rng(1).integers(0, 256, (256, stored.block_bytes), np.uint8)
    blocks[:, :n_scales] = np.arange(256, dtype=np.uint8)[:, None]
    assert same_bits(dequantise(stored, blocks.reshape(-1)), reference(stored, blocks.reshape(-1)))


@pytest.mark.parametrize("stored", KNOWN, ids=lambda t: t.name)
def test_read_only_unaligned_input_gives_an_owned_writable_result(stored: TensorType) -> None:
    raw = np.random.default_rng(7).integers(0, 256, 9 * stored.block_bytes + 1, np.uint8)
    raw.flags.writeable = False
    ours = dequantise(stored, raw[1:])
    assert ours.flags.writeable
    assert ours.flags.aligned
    assert not np.shares_memory(ours, raw)
    assert same_bits(ours, reference(stored, raw[1:].copy()))


@pytest.mark.parametrize("stored", [F32, F16, Q8_0, Q4_K], ids=lambda t: t.name)
def test_no_blocks_give_no_values(stored: TensorType) -> None:
    assert dequantise(stored, np.empty(0, np.uint8)).shape == (0,)
