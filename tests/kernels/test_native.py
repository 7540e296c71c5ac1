"""Native norm, rope and gate against the NumPy definition; threads, instruction sets and errors."""

import multiprocessing
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from samovar.errors import SamovarError
from samovar.kernels import PAGE_TOKENS
from samovar.kernels.native import NativeOps, available_isas, native_missing_reason, native_ops
from samovar.kernels.reference import ReferenceOps
from samovar.tensors.dtypes import F32, Q8_0, TensorType
from tests.kernels.kv_cases import cache_of, randn, spans_of
from tests.kernels.native_cases import ISAS, ops_on, random_weight

pytestmark = pytest.mark.skipif(not ISAS, reason="the native kernels are not built")
NO_SCALES = np.empty((0, 0, 0), np.float32)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", [(1, 576), (33, 64), (3, 7), (2, 5, 80), (300, 129)])
def test_rms_norm_matches_the_reference(isa: str, shape: tuple[int, ...]) -> None:
    x, weight = 3 * randn(*shape), randn(shape[-1], seed=1)
    wanted = ReferenceOps().rms_norm(x, weight, 1e-5)
    out = ops_on(isa, 2).rms_norm(x, weight, 1e-5)
    np.testing.assert_allclose(out, wanted, rtol=2e-6, atol=1e-7)
    assert np.array_equal(ops_on(isa).rms_norm(x[-1:], weight, 1e-5), out[-1:])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("n_tokens", "n_heads", "d_head", "n_pairs"), [(1, 3, 64, 32), (70, 14, 128, 64), (5, 2, 36, 9), (2, 1, 80, 20)]
)
def test_rope_matches_the_reference(isa: str, n_tokens: int, n_heads: int, d_head: int, n_pairs: int) -> None:
    x, angle = randn(n_tokens, n_heads, d_head), 50 * randn(n_tokens, n_pairs, seed=1)
    wanted = ReferenceOps().rope(x, np.cos(angle), np.sin(angle))
    np.testing.assert_allclose(ops_on(isa, 2).rope(x, np.cos(angle), np.sin(angle)), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("isa", ISAS)
def test_silu_gate_matches_the_reference_to_a_few_units_in_the_last_place(isa: str) -> None:
    gate = np.concatenate([np.linspace(-120, 120, 20001), [0, -0.0, 1e-30, 1e30, -1e30, 88.8, -88.8]]).astype(np.float32)[None]
    up = np.ones_like(gate)
    exact = gate.astype(np.float64) / (1 + np.exp(-gate.astype(np.float64).clip(-700, 700)))
    out = ops_on(isa, 2).silu_gate(gate, up)
    np.testing.assert_allclose(out, exact, rtol=5e-7, atol=1e-36)  # float32 ends there
    assert np.array_equal(ops_on(isa).silu_gate(gate[:, 7:8], 2 * up[:, 7:8]), 2 * out[:, 7:8])


@pytest.mark.parametrize("isa", ISAS)
def test_gelu_gate_is_the_tanh_formula(isa: str) -> None:
    gate = np.concatenate([np.linspace(-12, 12, 20001), [0, -0.0, 1e-30, 1e30, -1e30, 2e19, -2e19]]).astype(np.float32)[None]
    up = np.ones_like(gate)
    x = gate.astype(np.float64)
    exact = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    for ops in (ops_on(isa, 2), ReferenceOps()):
        out = ops.gelu_gate(gate, up)
        np.testing.assert_allclose(out, exact, rtol=2e-6, atol=1e-7)
        assert np.array_equal(ops.gelu_gate(gate[:, 7:8], 2 * up[:, 7:8]), 2 * out[:, 7:8])
    theirs = torch.nn.functional.gelu(torch.from_numpy(gate), approximate="tanh").numpy()
    np.testing.assert_allclose(out, theirs, rtol=2e-5, atol=1e-6)


def test_gates_have_the_same_bits_in_every_instruction_set() -> None:
    gate, up = 4 * randn(3, 1001), randn(3, 1001, seed=1)
    assert len({ops_on(isa).gelu_gate(gate, up).tobytes() for isa in ISAS}) == 1


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type_", [F32, Q8_0])
def test_a_gelu_gate_within_a_product_is_the_one_beside_it(isa: str, type_: TensorType) -> None:
    ops, gate, x = ops_on(isa, 2), randn(5, 64), randn(5, 64, seed=1)
    packed = ops.pack(random_weight(type_, 48, 64))
    inside = ops.linear(x, packed, gate_TD=gate, activation="gelu_tanh")
    assert np.array_equal(inside, ops.linear(ops.gelu_gate(gate, x), packed))
    assert not np.array_equal(inside, ops.linear(x, packed, gate_TD=gate))


@pytest.mark.parametrize("type_", [F32, Q8_0])
def test_embeddings_are_multiplied_by_their_scale(type_: TensorType) -> None:
    table, ids = random_weight(type_, 9, 64), np.array([3, 0, 3], np.int64)
    for ops in (ops_on(ISAS[-1]), ReferenceOps()):
        assert np.array_equal(ops.embed(table, ids, 25.25), ops.embed(table, ids) * np.float32(25.25))


@pytest.mark.parametrize("width", [1, 7, 1024])
@pytest.mark.parametrize("rows", [[], [4], [40, 0, 3, 3], range(41)])
def test_rows_taken_are_copies_with_the_same_bits(rows, width: int) -> None:
    x, index = randn(41, width), np.array(rows, np.int64)
    x[3] = np.nan
    taken = ops_on(ISAS[-1], 2).take_rows(x, index)
    assert taken.tobytes() == ReferenceOps().take_rows(x, index).tobytes()
    assert taken.shape == (len(rows), width)
    assert not np.shares_memory(taken, x)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", [(1, 1), (2, 17), (3, 16384), (40, 1030)])
def test_accumulate_changes_the_rows_it_is_given_and_no_others(isa: str, shape: tuple[int, int]) -> None:
    whole, x = randn(shape[0] + 2, shape[1], seed=1), randn(*shape)
    wanted = np.concatenate([whole[:1], whole[1:-1] + x, whole[-1:]])
    by_definition = whole.copy()
    ReferenceOps().accumulate(x, by_definition[1:-1])
    ops_on(isa, 2).accumulate(x, whole[1:-1])
    assert whole.tobytes() == by_definition.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("isa", ISAS)
def test_no_number_in_is_no_number_out(isa: str) -> None:
    x = np.full((1, 5), np.nan, np.float32)
    ops = ops_on(isa)
    assert np.isnan(ops.silu_gate(x, np.ones_like(x))).all()
    assert np.isnan(ops.rms_norm(x, x[0], 1e-5)).all()


def test_every_instruction_set_gives_the_same_bits() -> None:
    x, weight, angle = randn(3, 4, 72), randn(72, seed=1), randn(3, 36, seed=2)
    results = set()
    for ops in map(ops_on, ISAS):
        outs = [
            ops.rms_norm(x, weight, 1e-6),
            ops.rope(x, np.cos(angle), np.sin(angle)),
            ops.silu_gate(x, x),
        ]
        results.add(b"".join(out.tobytes() for out in outs))
    assert len(results) == 1


def test_calls_from_several_threads_do_not_disturb_each_other() -> None:
    ops = ops_on(ISAS[-1], 2)
    packed = ops.pack(random_weight(Q8_0, 500, 256))
    inputs = [randn(6, 256, seed=i) for i in range(4)]
    wanted = [ops.linear(x, packed) for x in inputs]
    failures: list[int] = []

    def repeat(i: int) -> None:
        failures.extend(i for _ in range(50) if not np.array_equal(ops.linear(inputs[i], packed), wanted[i]))

    threads = [threading.Thread(target=repeat, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def _child(ops: NativeOps, x: np.ndarray, expected: bytes, weight_name: str) -> None:
    out = ops.rms_norm(x, np.ones(x.shape[1], np.float32), 1e-5)
    raise SystemExit(0 if out.tobytes() == expected and weight_name == "w" else 1)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_can_compute() -> None:
    ops = ops_on(ISAS[-1], 2)
    x = randn(500, 256)
    expected = ops.rms_norm(x, np.ones(256, np.float32), 1e-5).tobytes()
    child = multiprocessing.get_context("fork").Process(target=_child, args=(ops, x, expected, "w"))
    child.start()
    child.join(20)
    assert child.exitcode == 0


def test_arrays_that_do_not_fit_are_refused_before_any_memory_is_touched() -> None:
    ops = ops_on(ISAS[0])
    packed = ops.pack(random_weight(Q8_0, 16, 64))
    pages, tables = cache_of(ops, "f16", [40], 2, 8)
    int8_pages, _ = cache_of(ops, "int8", [40], 2, 8)
    x, q = randn(2, 64), randn(1, 4, 8)
    wrong_page, short_table = np.array([[0, 99]], np.int32), tables[:, :1].copy()
    calls = [
        lambda: ops.linear(x[:, :32].copy(), packed),
        lambda: ops.rms_norm(x, x[0, :5].copy(), 1e-5),
        lambda: ops.rope(q, x[:, :8].copy(), x[:, :8].copy()),
        lambda: ops.silu_gate(x, x[:1]),
        lambda: ops.gelu_gate(x, x[:1]),
        lambda: ops.attention(q, pages, spans_of([1], [3], tables), 1.0, 0),
        lambda: ops.accumulate(x, x[:1].copy()),
        lambda: ops.embed(random_weight(Q8_0, 4, 64), np.array([4], np.int64)),
        lambda: ops.take_rows(x, np.array([len(x)], np.int64)),
        lambda: ops.take_rows(x, np.array([-1], np.int64)),
        lambda: ops.write_kv(randn(1, 2, 8), randn(1, 2, 8), pages, np.array([3 * PAGE_TOKENS], np.int64)),
        lambda: ops.write_kv(randn(1, 2, 8), randn(1, 1, 8), pages, np.array([0], np.int64)),
        lambda: ops.attention(q, pages, spans_of([1], [39], wrong_page), 1.0),
        lambda: ops.attention(q, pages, spans_of([1], [39], short_table), 1.0),
        lambda: ops.attention(q, pages, spans_of([2], [3], tables), 1.0),
        lambda: ops.attention(randn(1, 3, 8), pages, spans_of([1], [3], tables), 1.0),
        lambda: ops.attention(q, replace(pages, type="f32"), spans_of([1], [3], tables), 1.0),
        lambda: ops.attention(q, replace(int8_pages, k_scale_PGB=NO_SCALES), spans_of([1], [3], tables), 1.0),
        lambda: ops.write_kv(randn(1, 2, 8), randn(1, 2, 8), replace(int8_pages, v_scale_PGB=NO_SCALES), np.array([0])),
        lambda: ops.attention(q, replace(pages, k_scale_PGB=int8_pages.k_scale_PGB), spans_of([1], [3], tables), 1.0),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"\w"):
            call()
    for strided in (x[:, ::2], x.astype(np.float64)):
        with pytest.raises(TypeError):
            ops.linear(strided, packed)
        with pytest.raises(TypeError):
            ops.accumulate(x, strided)


def test_an_unknown_instruction_set_is_refused_with_those_available() -> None:
    with pytest.raises(SamovarError, match=r"'sse9' is not available here: choose one of scalar"):
        native_ops("sse9")
    with pytest.raises(SamovarError, match="give 1 or more"):
        native_ops(n_threads=0)


def test_the_best_instruction_set_and_all_cores_are_the_default() -> None:
    ops = native_ops()
    assert ops.isa == available_isas()[-1]
    assert ops.n_threads >= 1
    assert native_missing_reason() is None


def test_a_missing_build_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "samovar._native", None)
    assert "install a C++ compiler" in str(native_missing_reason())
    assert available_isas() == ()
    with pytest.raises(SamovarError, match="native kernels are not installed"):
        native_ops()
