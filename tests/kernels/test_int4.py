"""Samovar's 4-bit rows: exact int8, no worse than Q4_0, and every rounding where the definition says it is."""

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from samovar.errors import FormatError
from samovar.kernels.dequantise import dequantise
from samovar.kernels.int4 import GROUP, Int4Rows, dequantise_int4, int8_rows, quantise_int4
from samovar.kernels.reference import ReferenceOps
from samovar.tensors import dtypes
from samovar.tensors.dtypes import TensorType
from samovar.tensors.stored import StoredTensor
from tests.kernels.native_cases import ISAS, ops_on, random_weight

F32 = NDArray[np.float32]
Q4_0 = gguf.GGMLQuantizationType.Q4_0


def student_t(rng: np.random.Generator, shape: tuple[int, int]) -> F32:
    return rng.standard_t(4, shape).astype(np.float32)


def laplace(rng: np.random.Generator, shape: tuple[int, int]) -> F32:
    return rng.laplace(size=shape).astype(np.float32)


def gaussian(rng: np.random.Generator, shape: tuple[int, int]) -> F32:
    return rng.normal(size=shape).astype(np.float32)


def gaussian_with_outliers(rng: np.random.Generator, shape: tuple[int, int]) -> F32:
    w_NK = gaussian(rng, shape)
    w_NK[rng.random(shape) < 0.001] *= 10
    return w_NK


DISTRIBUTIONS = (student_t, laplace, gaussian, gaussian_with_outliers)


def error(w_NK: F32, found_NK: F32, power: int) -> float:
    """Relative squared error, weighted by |w|^power."""
    exact = w_NK.astype(np.float64)
    weight = np.abs(exact) ** power
    return float((weight * (exact - found_NK) ** 2).sum() / (weight * exact**2).sum())


def same(left: Int4Rows, right: Int4Rows) -> bool:
    return all(
        np.array_equal(getattr(left, name), getattr(right, name))
        for name in ("codes_NK", "multipliers_NG", "zeros_NG", "scales_N")
    )


def scalar_group(u: list[np.float32]) -> tuple[int, int, list[int]]:
    """(m, z, codes) of a group of scaled values, one operation after the other as the docstring of the module has them."""
    f = np.float32
    reciprocal = [f(0)] + [f(1) / f(m) for m in range(1, 16)]
    low, high = min(f(0), *u), max(f(0), *u)
    middle = f(high + low) * f(0.5)
    near = int(np.rint(f(high - low) * reciprocal[15]))
    least, kept = f(np.inf), (0, 0, [0])
    for d in (-1, 0, 1, 2):
        m = min(max(near + d, 1), 15)
        z = min(max(int(np.rint(f(7.5) - middle * reciprocal[m])), 0), 15)
        m = min(m, 127 // max(z, 15 - z))
        q = [min(max(int(np.rint(x * reciprocal[m])), -z), 15 - z) for x in u]
        e = [x - f(n * m) for x, n in zip(u, q, strict=True)]
        lanes = [(a * a) * abs(x) for a, x in zip(e, u, strict=True)]
        while len(lanes) > 1:
            half = len(lanes) // 2
            lanes = [a + b for a, b in zip(lanes[:half], lanes[half:], strict=True)]
        if lanes[0] < least:
            least, kept = lanes[0], (m, z, [n + z for n in q])
    return kept


@pytest.mark.parametrize("draw", DISTRIBUTIONS)
def test_a_row_is_int8_times_its_scale(draw) -> None:
    rows = quantise_int4(draw(np.random.default_rng(1), (50, 1024)))
    c = rows.codes_NK.reshape(50, -1, GROUP).astype(np.int64)
    m, z = (part.astype(np.int64)[:, :, None] for part in (rows.multipliers_NG, rows.zeros_NG))
    assert c.max() == 15
    assert m.min() >= 1
    assert m.max() <= 15
    assert z.max() <= 15
    product = (m * (c - z)).reshape(50, -1)
    assert np.abs(product).max() <= 127
    np.testing.assert_array_equal(int8_rows(rows), product)
    np.testing.assert_array_equal(dequantise_int4(rows), product.astype(np.float32) * rows.scales_N[:, None])


@pytest.mark.parametrize("draw", DISTRIBUTIONS)
@pytest.mark.parametrize("width", [1024, 2048, 4096])
@pytest.mark.parametrize("power", [0, 1])
def test_the_error_is_below_that_of_q4_0(draw, width: int, power: int) -> None:
    w_NK = draw(np.random.default_rng(width), (128, width))
    theirs = gguf.quants.dequantize(gguf.quants.quantize(w_NK, Q4_0), Q4_0)
    ours = dequantise_int4(quantise_int4(w_NK))
    assert error(w_NK, ours, power) < 0.95 * error(w_NK, theirs, power)


@pytest.mark.parametrize("draw", DISTRIBUTIONS)
def test_each_group_is_what_scalar_arithmetic_finds(draw) -> None:
    w_NK = draw(np.random.default_rng(3), (4, 256))
    w_NK[0, :GROUP] = np.abs(w_NK[0, :GROUP])
    w_NK[1, :GROUP] = -np.abs(w_NK[1, :GROUP])
    w_NK[2, :GROUP] *= 1e-3
    rows = quantise_int4(w_NK)
    for n, row in enumerate(w_NK):
        inverse = np.float32(120) / np.abs(row).max()
        for g in range(256 // GROUP):
            span = slice(g * GROUP, (g + 1) * GROUP)
            found = (int(rows.multipliers_NG[n, g]), int(rows.zeros_NG[n, g]), rows.codes_NK[n, span].tolist())
            assert found == scalar_group([x * inverse for x in row[span]])


def test_rows_do_not_depend_on_their_neighbours() -> None:
    w_NK = student_t(np.random.default_rng(4), (300, 1024))
    rows = quantise_int4(w_NK)
    for n in (0, 63, 64, 299):
        alone = quantise_int4(w_NK[n : n + 1])
        np.testing.assert_array_equal(alone.codes_NK[0], rows.codes_NK[n])
        np.testing.assert_array_equal(alone.multipliers_NG[0], rows.multipliers_NG[n])
        np.testing.assert_array_equal(alone.zeros_NG[0], rows.zeros_NG[n])
        assert alone.scales_N[0] == rows.scales_N[n]


def test_zeros_stay_zeros() -> None:
    w_NK = gaussian(np.random.default_rng(5), (3, 128))
    w_NK[1] = 0
    w_NK[2, 32:64] = 0
    w_NK[2, 33] = -0.0
    rows = quantise_int4(w_NK)
    assert rows.scales_N[1] == 0
    for m, z, c in (
        (rows.multipliers_NG[1], rows.zeros_NG[1], rows.codes_NK[1]),
        (rows.multipliers_NG[2, 1], rows.zeros_NG[2, 1], rows.codes_NK[2, 32:64]),
    ):
        assert np.all(m == 1)
        assert np.all(z == 8)
        assert np.all(c == 8)
    values = dequantise_int4(rows)
    assert not values[1].any()
    assert not values[2, 32:64].any()


def test_zeros_among_other_values_stay_zeros() -> None:
    w_NK = student_t(np.random.default_rng(6), (20, 512))
    w_NK[:, ::3] = 0
    assert not dequantise_int4(quantise_int4(w_NK))[:, ::3].any()


@pytest.mark.parametrize("draw", DISTRIBUTIONS)
def test_negated_rows_give_negated_values(draw) -> None:
    w_NK = draw(np.random.default_rng(7), (20, 512))
    positive, negative = quantise_int4(w_NK), quantise_int4(-w_NK)
    np.testing.assert_array_equal(positive.multipliers_NG, negative.multipliers_NG)
    np.testing.assert_array_equal(positive.zeros_NG, 15 - negative.zeros_NG)
    np.testing.assert_array_equal(dequantise_int4(positive), -dequantise_int4(negative))


def test_rows_that_use_every_code_come_back_as_they_were() -> None:
    rng = np.random.default_rng(8)
    n, n_groups = 40, 16
    z_NG = rng.integers(0, 16, (n, n_groups))
    m_NG = rng.integers(1, 1 + np.minimum(15, 127 // np.maximum(z_NG, 15 - z_NG)))
    z_NG[:, 0], m_NG[:, 0] = 8, 15  # the extremum is 120
    m_NG[m_NG * np.maximum(z_NG, 15 - z_NG) > 120] = 7
    c_NGL = rng.permuted(np.tile(np.arange(16), (n, n_groups, 2)), axis=2)
    integers_NK = (m_NG[:, :, None] * (c_NGL - z_NG[:, :, None])).reshape(n, -1)
    scales_N = np.exp(rng.normal(size=n)).astype(np.float32)
    rows = quantise_int4(integers_NK.astype(np.float32) * scales_N[:, None])
    np.testing.assert_array_equal(int8_rows(rows), integers_NK)
    np.testing.assert_array_equal(rows.multipliers_NG, m_NG)
    np.testing.assert_array_equal(rows.zeros_NG, z_NG)
    np.testing.assert_allclose(rows.scales_N, scales_N, rtol=3e-7)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_group_on_one_side_of_zero_uses_its_codes_there(sign: int) -> None:
    w_NK = sign * np.linspace(0, 1, 32, dtype=np.float32)[None]
    rows = quantise_int4(w_NK)
    assert rows.zeros_NG[0, 0] == (0 if sign > 0 else 15)
    assert np.abs(dequantise_int4(rows) - w_NK).max() <= 0.51 / 15


@pytest.mark.parametrize("exponent", [-100, -60, 60, 100])
def test_powers_of_two_change_the_scale_alone(exponent: int) -> None:
    w_NK = student_t(np.random.default_rng(9), (5, 256))
    plain, scaled = quantise_int4(w_NK), quantise_int4(np.ldexp(w_NK, exponent))
    np.testing.assert_array_equal(scaled.scales_N, np.ldexp(plain.scales_N, exponent))
    assert same(
        plain,
        Int4Rows(
            codes_NK=scaled.codes_NK,
            multipliers_NG=scaled.multipliers_NG,
            zeros_NG=scaled.zeros_NG,
            scales_N=plain.scales_N,
        ),
    )


@pytest.mark.parametrize("largest", [1e-30, 1e30, float(np.finfo(np.float32).max)])
def test_extreme_rows_keep_their_accuracy(largest: float) -> None:
    w_NK = gaussian(np.random.default_rng(10), (8, 256))
    w_NK *= np.float32(largest) / np.abs(w_NK).max(axis=1, keepdims=True) * np.float32(1 - 1e-6)
    assert error(w_NK, dequantise_int4(quantise_int4(w_NK)), 0) < 0.01


@pytest.mark.parametrize("tiny", [1e-34, 1e-38, 1e-45])
def test_rows_too_small_for_a_scale_become_zeros(tiny: float) -> None:
    w_NK = np.full((1, 64), tiny, np.float32)
    assert w_NK.all()
    rows = quantise_int4(w_NK)
    assert rows.scales_N[0] == 0
    assert np.all(rows.multipliers_NG == 1)
    assert np.all(rows.zeros_NG == 8)
    assert np.all(rows.codes_NK == 8)


@pytest.mark.parametrize("shape", [(0, 64), (1, 32), (3, 32), (1, 65536 + 32)])
def test_shapes_follow_from_the_rows(shape: tuple[int, int]) -> None:
    w_NK = gaussian(np.random.default_rng(11), shape)
    rows = quantise_int4(w_NK)
    assert rows.codes_NK.shape == shape
    assert rows.multipliers_NG.shape == rows.zeros_NG.shape == (shape[0], shape[1] // GROUP)
    assert rows.scales_N.shape == shape[:1]
    assert {a.dtype for a in (rows.codes_NK, rows.multipliers_NG, rows.zeros_NG)} == {np.dtype(np.uint8)}
    assert rows.scales_N.dtype == dequantise_int4(rows).dtype == np.float32


def test_the_source_is_left_as_it_was_and_may_be_a_view() -> None:
    base = student_t(np.random.default_rng(12), (20, 512))
    kept = base.copy()
    base.flags.writeable = False
    assert same(quantise_int4(base[::2, 64:256]), quantise_int4(kept[::2, 64:256].copy()))
    np.testing.assert_array_equal(base, kept)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type_", [dtypes.F32, dtypes.BF16, dtypes.Q8_0, dtypes.Q6_K], ids=lambda t: t.name)
def test_native_weights_are_those_of_the_definition(type_: TensorType, isa: str) -> None:
    for n_out, n_in in ((1, 256), (17, 512), (48, 768)):
        weight = random_weight(type_, n_out, n_in)
        ops = ops_on(isa, 2)
        # Rounding leaves a row of 1 and -1 as it is; a code off by one would change its products by 1 part in 50,000.
        x = np.random.default_rng(1).choice(np.array([-1, 1], np.float32), (20, n_in))
        out = ops.linear(x, ops.pack(weight, "int4"))
        w_NK = dequantise_int4(quantise_int4(dequantise(weight.type, weight.data).reshape(weight.shape)))
        assert np.all(np.abs(out - x.astype(np.float64) @ w_NK.T) <= 1e-6 * np.abs(w_NK).sum(1))


@pytest.mark.parametrize("isa", ISAS)
def test_products_are_those_of_the_rounded_weights(isa: str) -> None:
    rng = np.random.default_rng(5)
    ops, reference = ops_on(isa), ReferenceOps()
    for n_rows, n_out, n_in in ((1, 5, 64), (7, 33, 192), (33, 40, 1024)):
        weight = random_weight(dtypes.F32, n_out, n_in)
        x = rng.standard_normal((n_rows, n_in)).astype(np.float32)
        x[rng.random(x.shape) < 0.01] *= 40  # outliers
        wanted = reference.linear(x, reference.pack(weight, "int4"))
        w_NK = np.abs(dequantise_int4(quantise_int4(dequantise(dtypes.F32, weight.data).reshape(n_out, n_in))))
        step = np.minimum(np.abs(x).max(1), 4 * np.sqrt(np.mean(x * x, axis=1))) / 127
        assert np.all(
            np.abs(ops.linear(x, ops.pack(weight, "int4")) - wanted) <= 0.51 * step[:, None] * w_NK.sum(1)[None] + 1e-5
        )


def test_a_row_of_int4_products_has_the_same_bits_in_any_company() -> None:
    rng = np.random.default_rng(6)
    x = rng.standard_normal((33, 320)).astype(np.float32)
    x[rng.random(x.shape) < 0.01] *= 40
    weight = random_weight(dtypes.Q8_0, 70, 320)
    results = []
    for isa in ISAS:
        for n_threads in (1, 2):
            ops = ops_on(isa, n_threads)
            packed = ops.pack(weight, "int4")
            whole = ops.linear(x, packed)
            for n_rows in (1, 2, 7, 16, 33):
                assert np.array_equal(ops.linear(np.ascontiguousarray(x[:n_rows]), packed), whole[:n_rows]), (isa, n_rows)
            results.append(whole.tobytes())
    assert len(set(results)) == 1


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_weights_that_are_not_finite_are_refused_by_name(bad: float) -> None:
    data = np.ones((3, 64), np.float32)
    data[1, 5] = bad
    weight = StoredTensor(name="blk.0.w", type=dtypes.F32, shape=(3, 64), data=data.reshape(-1).view(np.uint8), source="m.gguf")
    for ops in (ReferenceOps(), ops_on(ISAS[-1])):
        with pytest.raises(FormatError, match=r"m\.gguf: tensor 'blk\.0\.w' .* infinity"):
            ops.pack(weight, "int4")


def test_inputs_that_are_not_finite_give_no_number() -> None:
    ops = ops_on(ISAS[-1])
    packed = ops.pack(random_weight(dtypes.F32, 16, 64), "int4")
    for bad in (np.inf, -np.inf, np.nan):
        x = np.ones((2, 64), np.float32)
        x[0, 3] = bad
        out = ops.linear(x, packed)
        assert not np.isfinite(out[0]).any()
        assert np.isfinite(out[1]).all()
