"""Weights whose columns are in an order of their own: the products are those of the same weights in the order of the inputs."""

from dataclasses import replace

import numpy as np
import pytest

from samovar.kernels.dequantise import dequantise_matrix
from samovar.kernels.reference import ReferenceOps
from samovar.tensors.dtypes import F32, GROUPED_TYPES, Q4_0, TensorType
from samovar.tensors.stored import StoredTensor
from tests.kernels.native_cases import ISAS, ops_on, random_weight

pytestmark = pytest.mark.skipif(not ISAS, reason="the native kernels are not built")
TYPES = [F32, Q4_0, *(t for t in GROUPED_TYPES if t.name in ("U4_G64", "U8_G32", "E4M3_G64"))]
N_IN = 192


def ordered(type_: TensorType, n_out: int, seed: int) -> StoredTensor:
    order = np.random.default_rng(seed).permutation(N_IN).astype(np.int32)
    return replace(random_weight(type_, n_out, N_IN, seed), input_order=order)


def inputs(n_rows: int) -> np.ndarray:
    return np.random.default_rng(n_rows).standard_normal((n_rows, N_IN)).astype(np.float32)


@pytest.mark.parametrize("type_", TYPES, ids=lambda t: t.name)
def test_the_definition_multiplies_each_column_with_its_input(type_: TensorType) -> None:
    weight, x, ops = ordered(type_, 21, 3), inputs(4), ReferenceOps()
    out = ops.linear(x, ops.pack(weight))
    np.testing.assert_allclose(out, x @ dequantise_matrix(weight).T, rtol=1e-4, atol=1e-4)
    columns = dequantise_matrix(replace(weight, input_order=None))
    assert np.array_equal(dequantise_matrix(weight)[:, weight.input_order], columns)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type_", TYPES, ids=lambda t: t.name)
def test_native_products_have_the_bits_of_ordered_inputs(type_: TensorType, isa: str) -> None:
    ops, weight = ops_on(isa, 2), ordered(type_, 37, 5)
    plain = ops.pack(replace(weight, input_order=None))
    packed = ops.pack(weight)
    assert packed.size_bytes == plain.size_bytes + 4 * N_IN
    for n_rows in (1, 2, 33):
        x = inputs(n_rows)
        wanted = ops.linear(np.ascontiguousarray(x[:, weight.input_order]), plain)
        assert np.array_equal(ops.linear(x, packed), wanted)


@pytest.mark.parametrize("isa", ISAS)
def test_weights_with_and_without_an_order_share_a_call(isa: str) -> None:
    ops = ops_on(isa, 2)
    stored = (ordered(Q4_0, 33, 1), random_weight(Q4_0, 16, N_IN), ordered(F32, 7, 2))
    weights = tuple(ops.pack(weight) for weight in stored)
    norm, bias, residual = inputs(1)[0], np.ones(33, np.float32), np.full((5, 33), 2, np.float32)
    x, gate = inputs(5), 2 * inputs(5)[::-1].copy()
    normed = ops.rms_norm(x, norm, 1e-5)
    for out, weight in zip(ops.linears(x, weights, norm=(norm, 1e-5)), weights, strict=True):
        assert np.array_equal(out, ops.linear(normed, weight))
    wanted = residual + (ops.linear(ops.silu_gate(gate, x), weights[0]) + bias)
    assert np.array_equal(ops.linear(x, weights[0], bias, gate_TD=gate, residual_TN=residual), wanted)


@pytest.mark.parametrize("isa", ISAS)
def test_int4_keeps_the_order(isa: str) -> None:
    weight, x = ordered(F32, 20, 7), inputs(3)
    ops, reference = ops_on(isa), ReferenceOps()
    wanted = reference.linear(x, reference.pack(weight, "int4"))
    out = ops.linear(x, ops.pack(weight, "int4"))
    assert np.abs(out - wanted).max() <= 2e-2 * np.abs(wanted).max()
    assert np.abs(out - x @ dequantise_matrix(weight).T).max() <= 0.3 * np.abs(wanted).max()


def test_adopted_bytes_bring_their_order_and_a_wrong_one_is_refused() -> None:
    ops, weight, x = ops_on(ISAS[-1]), ordered(Q4_0, 16, 9), inputs(2)
    packed = ops.pack(weight)
    memory = np.zeros(packed.size_bytes + 8192, np.uint8)
    start = -memory.ctypes.data % 64
    bytes_ = memory[start : start + packed.size_bytes]
    bytes_[:] = packed.packed_bytes()
    again = ops.empty_linear(weight)
    again.adopt(bytes_)
    assert np.array_equal(ops.linear(x, again), ops.linear(x, packed))
    bytes_[-4 * N_IN :].view(np.int32)[3] = N_IN
    with pytest.raises(ValueError, match="order of inputs"):
        ops.empty_linear(weight).adopt(bytes_)


@pytest.mark.parametrize("spoilt", [N_IN, -1])
def test_an_order_that_names_no_input_is_not_packed(spoilt: int) -> None:
    weight = ordered(Q4_0, 16, 9)
    order = weight.input_order.copy()
    order[5] = spoilt
    with pytest.raises(ValueError, match="order of inputs"):
        ops_on(ISAS[0]).pack(replace(weight, input_order=order))
    with pytest.raises(ValueError, match="order of inputs"):
        ops_on(ISAS[0]).pack(replace(weight, input_order=order[:-1]))
