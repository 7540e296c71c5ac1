"""Native linear layers against exact products in float64, for every storage type and instruction set."""

from dataclasses import replace

import numpy as np
import pytest

from samovar.kernels.dequantise import dequantise
from samovar.kernels.reference import ReferenceOps
from samovar.tensors.dtypes import F32, GROUPED_TYPES, Q4_K, Q8_0, TENSOR_TYPES, TensorType
from samovar.tensors.stored import StoredTensor
from tests.kernels.native_cases import ISAS, PACKED_BITS, ops_on, random_weight

pytestmark = pytest.mark.skipif(not ISAS, reason="the native kernels are not built")
TYPES = TENSOR_TYPES + GROUPED_TYPES
BY_NAME = {"argvalues": TYPES, "ids": lambda t: t.name}
ROWS = (1, 2, 7, 16, 33)
LARGEST_CODE = np.float32(127)


def exact_weight(weight: StoredTensor) -> np.ndarray:
    return dequantise(weight.type, weight.data).reshape(weight.shape).astype(np.float64)


def rounded_input(x: np.ndarray) -> np.ndarray:
    """x as the quantised layers see it: in each 32 values, multiples of 1/127 of the largest that is no outlier of the row."""
    groups = x.reshape(len(x), -1, 32)
    size = np.abs(groups)
    limit = 4 * np.sqrt(np.mean(np.square(x, dtype=np.float64), axis=1))[:, None, None]
    ordinary = np.where(size <= limit, size, 0).max(-1, keepdims=True)
    reach = np.maximum(ordinary, np.where(size > limit, size / 128, 0).max(-1, keepdims=True)).astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        codes = np.where(reach > 0, np.rint(groups * (LARGEST_CODE / reach)), 0)
    return (codes.astype(np.float64) * (reach / LARGEST_CODE).astype(np.float64)).reshape(x.shape)


def takes_floats(type_: TensorType) -> bool:
    """Whether inputs enter the product as they are: beside floats of 8 bits and more."""
    return type_.is_float or type_.name.startswith("E")


def inputs(n_rows: int, n_in: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n_rows, n_in)).astype(np.float32)
    x[:, : n_in // 3] *= 30  # groups of different size, so that a scale taken from a neighbour shows
    x[rng.random(x.shape) < 0.01] *= 300  # outliers, in other groups of each row
    return x


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type_", **BY_NAME)
def test_linear_is_the_product_of_the_rounded_input(type_: TensorType, isa: str) -> None:
    ops = ops_on(isa)
    for n_out, n_blocks in ((1, 1), (15, 3), (16, 2), (17, 1), (33, 5)):
        n_in = n_blocks * type_.block_elements if type_.block_elements > 1 else 37 * n_blocks
        weight = random_weight(type_, n_out, n_in)
        x = inputs(7, n_in)
        out = ops.linear(x, ops.pack(weight))
        seen = x.astype(np.float64) if takes_floats(type_) else rounded_input(x)
        wanted = seen @ exact_weight(weight).T
        size = np.abs(seen) @ np.abs(exact_weight(weight)).T
        assert np.all(np.abs(out - wanted) <= 1e-6 * size + 1e-30), (n_out, n_in)
        assert out.shape == (7, n_out)


@pytest.mark.parametrize("type_", **BY_NAME)
def test_linear_is_close_to_the_reference(type_: TensorType) -> None:
    n_in = max(256, type_.block_elements * 2)
    weight, x = random_weight(type_, 33, n_in), inputs(5, n_in)
    reference = ReferenceOps()
    wanted = reference.linear(x, reference.pack(weight))
    out = ops_on(ISAS[-1]).linear(x, ops_on(ISAS[-1]).pack(weight))
    tolerance = 1e-5 if takes_floats(type_) else 1e-2
    assert np.abs(out - wanted).max() <= tolerance * np.abs(wanted).max()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type_", **BY_NAME)
def test_a_row_has_the_same_bits_in_any_company_and_on_any_threads(type_: TensorType, isa: str) -> None:
    n_in = -(-192 // type_.block_elements) * type_.block_elements
    weight, x = random_weight(type_, 100, n_in), inputs(33, n_in)
    alone, pair = ops_on(isa), ops_on(isa, 2)
    packed = alone.pack(weight)
    packed_by_two = pair.pack(weight)
    whole = alone.linear(x, packed)
    for n_rows in ROWS:
        assert np.array_equal(alone.linear(x[:n_rows], packed), whole[:n_rows])
        assert np.array_equal(pair.linear(x[-n_rows:], packed_by_two), whole[-n_rows:])


@pytest.mark.parametrize("type_", **BY_NAME)
def test_every_instruction_set_gives_the_same_bits(type_: TensorType) -> None:
    n_in = -(-192 // type_.block_elements) * type_.block_elements
    weight, x = random_weight(type_, 40, n_in), inputs(9, n_in)
    results = [ops.linear(x, ops.pack(weight)).tobytes() for ops in map(ops_on, ISAS)]
    assert len(set(results)) == 1


def test_many_rows_agree_with_one_row_over_several_blocks_of_rows() -> None:
    weight, x = random_weight(Q4_K, 48, 4096), inputs(150, 4096)
    ops = ops_on(ISAS[-1], 2)
    packed = ops.pack(weight)
    whole = ops.linear(x, packed)
    for row in (0, 1, 63, 64, 71, 72, 128, 149):
        assert np.array_equal(ops.linear(x[row : row + 1], packed)[0], whole[row])


@pytest.mark.parametrize("isa", ISAS)
def test_linears_is_linear_for_each_weight(isa: str) -> None:
    ops = ops_on(isa, 2)
    weights = tuple(ops.pack(random_weight(t, n, 256, seed=n)) for t, n in ((Q8_0, 7), (F32, 16), (Q4_K, 200), (Q8_0, 1)))
    for n_rows in (1, 20):
        x = inputs(n_rows, 256)
        for out, weight in zip(ops.linears(x, weights), weights, strict=True):
            assert np.array_equal(out, ops.linear(x, weight))


@pytest.mark.parametrize("isa", ISAS)
def test_norm_gate_bias_and_residual_have_the_bits_of_separate_steps(isa: str) -> None:
    ops = ops_on(isa, 2)
    weights = tuple(ops.pack(random_weight(t, n, 256, seed=n)) for t, n in ((Q8_0, 37), (F32, 16), (Q4_K, 200)))
    biases = (inputs(1, 37)[0], None, inputs(1, 200)[0])
    norm_D = inputs(1, 256)[0]
    for n_rows in (1, 20, 70):
        x, gate = inputs(n_rows, 256), 2 * inputs(n_rows, 256)[::-1].copy()
        normed = ops.rms_norm(x, norm_D, 1e-5)
        for out, weight, bias in zip(ops.linears(x, weights, biases, norm=(norm_D, 1e-5)), weights, biases, strict=True):
            assert np.array_equal(out, ops.linear(normed, weight) + (0 if bias is None else bias))
        residual = inputs(n_rows, 200)
        wanted = residual + (ops.linear(ops.silu_gate(gate, x), weights[2]) + biases[2])
        assert np.array_equal(ops.linear(x, weights[2], biases[2], gate_TD=gate, residual_TN=residual), wanted)


def test_the_definition_adds_bias_and_residual_to_the_product_of_the_gated_or_normalised_input() -> None:
    ops = ReferenceOps()
    weight = ops.pack(random_weight(F32, 5, 8))
    values = weight.tensor.data.view(np.float32).reshape(5, 8)
    x, gate, bias, residual = inputs(3, 8), inputs(3, 8)[::-1].copy(), inputs(1, 5)[0], inputs(3, 5)
    gated = gate / (1 + np.exp(-gate)) * x
    out = ops.linear(x, weight, bias, gate_TD=gate, residual_TN=residual)
    np.testing.assert_allclose(out, residual + (gated @ values.T + bias), rtol=1e-5, atol=1e-5)
    (out,) = ops.linears(x, (weight,), norm=(gate[0], 1e-2))
    normed = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-2) * gate[0]
    np.testing.assert_allclose(out, normed @ values.T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
def test_largest_codes_do_not_overflow(isa: str) -> None:
    ops = ops_on(isa)
    for codes in (0x80, 0x7F, 0x81):
        block = np.full(34, codes, np.uint8)
        block[:2] = np.array([1.0], np.float16).view(np.uint8)
        weight = StoredTensor(name="w", type=Q8_0, shape=(1, 32), data=block, source="test")
        for sign in (1, -1):
            x = np.full((1, 32), sign * 127, np.float32)
            assert ops.linear(x, ops.pack(weight))[0, 0] == sign * 32 * 127 * float(
                np.int8(codes - 256 if codes > 127 else codes)
            )


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type_", **BY_NAME)
def test_the_largest_codes_of_each_type_times_the_largest_inputs_are_exact(type_: TensorType, isa: str) -> None:
    ops, n_in = ops_on(isa), max(type_.block_elements, 32)
    for byte in (0x00, 0x7F, 0xF0, 0xFF):
        weight = random_weight(type_, 64, n_in, byte=byte)
        for n_rows in ROWS:
            x = np.repeat(np.where(np.arange(n_rows) % 2, -1, 1).astype(np.float32)[:, None], n_in, axis=1)
            wanted = x.astype(np.float64) @ exact_weight(weight).T
            size = np.abs(x) @ np.abs(exact_weight(weight)).T
            out = ops.linear(x, ops.pack(weight))
            assert np.all(np.abs(out - wanted) <= 1e-6 * size + 1e-30), (byte, n_rows)


@pytest.mark.parametrize("isa", ISAS)
def test_zero_tiny_and_infinite_inputs_end_in_zero_or_no_number(isa: str) -> None:
    ops = ops_on(isa)
    weight = ops.pack(random_weight(Q8_0, 16, 64))
    x = np.zeros((3, 64), np.float32)
    x[1, 5], x[2, 40] = 1e-38, np.inf
    out = ops.linear(x, weight)
    assert np.all(out[0] == 0)
    assert np.all(np.abs(out[1]) < 1e-30)
    assert not np.isfinite(out[2]).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type_", **BY_NAME)
def test_embed_has_the_bits_of_the_reference(type_: TensorType, isa: str) -> None:
    table = random_weight(type_, 50, -(-192 // type_.block_elements) * type_.block_elements)
    ids = np.array([49, 0, 7, 7], np.int64)
    assert np.array_equal(ops_on(isa, 2).embed(table, ids), ReferenceOps().embed(table, ids))


def test_packed_size_stays_near_the_stored_size() -> None:
    ops = ops_on(ISAS[0])
    for type_ in (t for t in TYPES if t.name not in PACKED_BITS):  # those have a test of their own
        weight = random_weight(type_, 64, 1024)
        assert ops.pack(weight).size_bytes <= 1.05 * weight.size_bytes, type_.name


def test_pack_releases_the_mapped_pages() -> None:
    released = []
    weight = replace(random_weight(Q8_0, 3, 32), release=lambda: released.append(True))
    packed = ops_on(ISAS[0]).pack(weight)
    assert released == [True]
    assert (packed.n_out, packed.n_in) == (3, 32)


def test_weights_outlive_their_operations() -> None:
    packed = ops_on(ISAS[-1]).pack(random_weight(Q8_0, 16, 64))
    x = inputs(1, 64)
    first = ops_on(ISAS[-1]).linear(x, packed)
    assert np.array_equal(first, ops_on(ISAS[0]).linear(x, packed))
