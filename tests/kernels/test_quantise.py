"""Quantisers: the native one against its definition bit for bit, and both against llama.cpp's for what they lose."""

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize
from numpy.typing import NDArray

from benchmarks.ggml_quantiser import ggml_quantise
from samovar.kernels.dequantise import dequantise
from samovar.kernels.native import available_isas, native_ops
from samovar.kernels.quantise import LARGEST, QUANTISED_TYPES, quantise
from samovar.kernels.quantise_search import search_weights
from samovar.kernels.reference import ReferenceOps
from samovar.tensors.dtypes import Q4_1, Q5_1, Q6_K, Q8_0, TensorType
from tests.packages import needs_llama_cpp

F32 = NDArray[np.float32]
TYPES = pytest.mark.parametrize("type_", QUANTISED_TYPES, ids=lambda t: t.name)


def heavy_tailed(n_rows: int, width: int, seed: int = 0) -> tuple[F32, F32]:
    """Student's t with scales of rows and columns, and an importance of columns."""
    rng = np.random.default_rng(seed)
    scales_N1, scales_K = np.exp(rng.normal(0, 0.5, (n_rows, 1))), np.exp(rng.normal(0, 0.5, width))
    x_NK = 0.02 * rng.standard_t(4, (n_rows, width)) * scales_N1 * scales_K
    importance_K = np.exp(rng.normal(0, 1.5, width))
    return x_NK.astype(np.float32), (importance_K / importance_K.mean()).astype(np.float32)


def awkward_rows() -> F32:
    """Zeros, constants, one sign only, single spikes, tiny and large values beside ordinary rows."""
    x_NK, _ = heavy_tailed(17, 512, seed=1)
    x_NK[0] = 0
    x_NK[1] = 0.01
    x_NK[2] = np.abs(x_NK[2])
    x_NK[3] = -np.abs(x_NK[3])
    x_NK[4] = 0
    x_NK[4, 5] = -1
    x_NK[5] = 1e-41
    x_NK[6] *= 1e-30
    x_NK[7] *= 1e-6
    x_NK[8] = LARGEST
    x_NK[9] *= LARGEST / np.abs(x_NK[9]).max()
    x_NK[10, ::2] = 0
    x_NK[11, :32] = -0.0
    x_NK[12] = np.tile([1, -1], 256)
    return x_NK


def stored(type_: TensorType, blocks: NDArray[np.uint8], shape: tuple[int, ...]) -> F32:
    return dequantise(type_, blocks.reshape(-1)).reshape(shape)


def error(x_NK: F32, found_NK: F32, w_K: F32) -> float:
    return float((((found_NK - x_NK.astype(np.float64)) ** 2) * w_K).sum() ** 0.5)


@TYPES
@pytest.mark.parametrize("isa", available_isas())
def test_every_instruction_set_finds_the_blocks_of_the_definition(isa: str, type_: TensorType) -> None:
    x_NK = awkward_rows()
    _, w_K = heavy_tailed(1, x_NK.shape[1])
    for weights_K in (np.ones_like(w_K), w_K):
        np.testing.assert_array_equal(
            native_ops(isa, n_threads=2).quantise(type_, x_NK, weights_K), quantise(type_, x_NK, weights_K)
        )


@pytest.mark.parametrize("size", [32, 256])
@pytest.mark.parametrize("scale", [1e-25, 1.0, 60000.0])
@pytest.mark.parametrize("power", [1.0, 1.5])
def test_errors_are_weighed_by_importance_and_by_size(size: int, scale: float, power: float) -> None:
    x_NK, w_K = heavy_tailed(3, size)
    x_NK[2] = 0
    weights_NK = search_weights(x_NK * np.float32(scale), np.tile(w_K, (3, 1)), is_steep=power > 1)
    wide_NK = x_NK[:2].astype(np.float64)
    wide_NK /= np.abs(wide_NK).max(axis=1, keepdims=True)
    expected_NK = w_K * np.sqrt((wide_NK**2).mean(axis=1, keepdims=True) + wide_NK**2) ** power
    np.testing.assert_allclose(weights_NK[:2], expected_NK, rtol=1e-5)
    assert not weights_NK[2].any()


@TYPES
def test_a_row_is_quantised_alone_as_in_company(type_: TensorType) -> None:
    x_NK, w_K = heavy_tailed(33, 512)
    together = native_ops(n_threads=2).quantise(type_, x_NK, w_K)
    alone = [native_ops(n_threads=1).quantise(type_, x_NK[i : i + 1], w_K)[0] for i in (0, 7, 32)]
    np.testing.assert_array_equal(together[[0, 7, 32]], alone)


@TYPES
@pytest.mark.parametrize("is_weighted", [False, True], ids=["plain", "importance"])
def test_no_more_is_lost_than_by_the_quantiser_of_llama_cpp(type_: TensorType, is_weighted: bool) -> None:
    needs_llama_cpp()
    x_NK, w_K = heavy_tailed(64, 1024)
    weights_K = w_K if is_weighted else np.ones_like(w_K)
    ours = native_ops().quantise(type_, x_NK, weights_K)
    theirs = ggml_quantise(type_.ggml_id, ours.shape[1], x_NK, w_K if is_weighted else None)
    lost = [error(x_NK, stored(type_, blocks, x_NK.shape), weights_K) for blocks in (ours, theirs)]
    assert lost[0] <= 1.02 * lost[1]


@TYPES
def test_the_blocks_are_those_that_the_gguf_package_reads(type_: TensorType) -> None:
    x_NK, w_K = heavy_tailed(9, 512)
    blocks = quantise(type_, x_NK, w_K)
    theirs = dequantize(blocks, gguf.GGMLQuantizationType(type_.ggml_id))
    np.testing.assert_array_equal(theirs, stored(type_, blocks, x_NK.shape))
    steps = {"8": 0.01, "6": 0.03, "5": 0.08, "4": 0.16}[type_.name.strip("IQ")[0]]
    assert error(x_NK, theirs, np.ones_like(w_K)) < steps * float((x_NK**2).sum() ** 0.5)


@TYPES
def test_importance_is_spent_where_it_lies(type_: TensorType) -> None:
    x_NK, _ = heavy_tailed(32, 512)
    w_K = np.where(np.arange(512) % 4 == 0, np.float32(3.97), np.float32(0.01))
    plain, weighted = (stored(type_, quantise(type_, x_NK, w), x_NK.shape) for w in (None, w_K))
    counts = np.arange(512) % 4 == 0
    assert error(x_NK[:, counts], weighted[:, counts], np.float32(1)) < 0.97 * error(
        x_NK[:, counts], plain[:, counts], np.float32(1)
    )


@pytest.mark.parametrize("type_", [Q4_1, Q5_1], ids=lambda t: t.name)
def test_values_on_sixteen_even_steps_are_found_again(type_: TensorType) -> None:
    rng = np.random.default_rng(4)
    q_NK = rng.integers(0, 16, (20, 64))
    q_NK[:, ::32], q_NK[:, 1::32] = 0, 15
    x_NK = (q_NK * np.float32(0.0625) - np.float32(0.5)).astype(np.float32)
    np.testing.assert_array_equal(stored(type_, quantise(type_, x_NK), x_NK.shape), x_NK)


@TYPES
def test_zeros_stay_zeros_and_large_values_finite(type_: TensorType) -> None:
    x_NK = awkward_rows()
    found_NK = stored(type_, ReferenceOps().quantise(type_, x_NK, np.ones(512, np.float32)), x_NK.shape)
    assert not found_NK[0].any()
    assert np.isfinite(found_NK).all()
    np.testing.assert_allclose(found_NK[8], LARGEST, rtol=0.1)
    assert np.abs(found_NK - x_NK).max() <= 0.3 * LARGEST
    assert not np.any(found_NK[4, 64:])


def test_finer_types_lose_less() -> None:
    x_NK, w_K = heavy_tailed(16, 512)
    lost = {t.name: error(x_NK, stored(t, quantise(t, x_NK), x_NK.shape), np.ones_like(w_K)) for t in QUANTISED_TYPES}
    assert lost[Q8_0.name] < lost[Q6_K.name] < lost["Q5_K"] < lost["Q4_K"] < lost["Q4_0"]
