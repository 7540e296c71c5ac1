"""The choice of experts and their products: against plain sums in float64, against each other, and row by row."""

from dataclasses import replace

import numpy as np
import pytest

from samovar.kernels import Experts, Ops
from samovar.kernels.dequantise import dequantise
from samovar.kernels.native import native_ops
from samovar.kernels.recorder import RecordingOps
from samovar.kernels.reference import ReferenceOps
from samovar.kernels.slabs import Slabs
from samovar.tensors.dtypes import BF16, F16, F32, GROUPED_TYPES, IQ4_NL, Q4_0, Q4_K, Q6_K, Q8_0, TENSOR_TYPES, TensorType
from samovar.tensors.stored import StoredTensor
from tests.kernels.native_cases import ISAS, ops_on, random_weight
from tests.matrices import slow_but

pytestmark = pytest.mark.skipif(not ISAS, reason="the native kernels are not built")
N_EXPERTS = 7


def stacked(type_: TensorType, n_out: int, n_in: int, seed: int) -> StoredTensor:
    flat = random_weight(type_, N_EXPERTS * n_out, n_in, seed)
    return StoredTensor(name="w", type=type_, shape=(N_EXPERTS, n_out, n_in), data=flat.data, source="test")


def tensors(types: tuple[TensorType, TensorType, TensorType], d_model: int, d_ffn: int) -> list[StoredTensor]:
    gate, up, down = types
    return [stacked(gate, d_ffn, d_model, 1), stacked(up, d_ffn, d_model, 2), stacked(down, d_model, d_ffn, 3)]


def packed(ops: Ops, parts: list[StoredTensor]) -> Experts:
    gate, up, down = (ops.pack_stack((part,)) for part in parts)
    return Experts(gate=gate, up=up, down=down)


def inputs(n_rows: int, n_chosen: int, d_model: int, seed: int = 5) -> tuple[np.ndarray, ...]:
    """x [T, D], ids [T, C], weights [T, C] and residual [T, D]; no token chooses expert 4."""
    rng = np.random.default_rng(seed)
    x, residual = rng.standard_normal((2, n_rows, d_model)).astype(np.float32)
    others = np.array([0, 1, 2, 3, 5, 6])
    ids = np.array([rng.permutation(others)[:n_chosen] for _ in range(n_rows)], np.int32)
    return x, ids, rng.random((n_rows, n_chosen)).astype(np.float32), residual


def exact(parts: list[StoredTensor], x, ids, weights, residual) -> np.ndarray:
    """The definition, in float64."""
    gate, up, down = (dequantise(p.type, p.data).reshape(p.shape).astype(np.float64) for p in parts)
    out = residual.astype(np.float64)
    for t, (row, chosen) in enumerate(zip(x.astype(np.float64), ids, strict=True)):
        for weight, expert in zip(weights[t], chosen, strict=True):
            opened = gate[expert] @ row
            out[t] += weight * (down[expert] @ (opened / (1 + np.exp(-opened)) * (up[expert] @ row)))
    return out


def test_the_definition_sums_gated_experts_by_their_weights() -> None:
    ops, parts = ReferenceOps(), tensors((F32, F16, BF16), 24, 10)
    given = inputs(9, 3, 24)
    x, ids, weights, residual = given
    out = ops.experts(x, packed(ops, parts), ids, weights, residual)
    np.testing.assert_allclose(out, exact(parts, *given), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("n_rows", [1, 2, 33])
def test_float_experts_are_the_definition_at_awkward_widths(n_rows: int, isa: str) -> None:
    ops, parts = ops_on(isa, 2), tensors((F32, F16, BF16), 37, 19)
    x, ids, weights, residual = given = inputs(n_rows, 3, 37)
    out = ops.experts(x, packed(ops, parts), ids, weights, residual)
    np.testing.assert_allclose(out, exact(parts, *given), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type_", TENSOR_TYPES + GROUPED_TYPES, ids=lambda t: t.name)
def test_experts_have_the_bits_of_their_linear_layers_added_in_order(type_: TensorType, isa: str) -> None:
    ops, d_ffn = ops_on(isa, 2), 256
    parts = tensors((type_, Q8_0, type_), 256, d_ffn)
    x, ids, weights, residual = inputs(21, 3, 256)
    out = ops.experts(x, packed(ops, parts), ids, weights, residual)
    wanted = residual.copy()
    for expert in range(N_EXPERTS):
        gate, up, down = (ops.pack(part.entry(expert)) for part in parts)
        tokens, choices = np.nonzero(ids == expert)
        if len(tokens):
            opened, wide = ops.linears(x[tokens], (gate, up))
            wanted[tokens] += weights[tokens, choices][:, None] * ops.linear(wide, down, gate_TD=opened)
    assert np.array_equal(out, wanted)


def ordered(part: StoredTensor, seed: int) -> tuple[StoredTensor, ...]:
    """The experts one by one, each with an order of inputs of its own."""
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(part.shape[2]).astype(np.int32) for _ in range(N_EXPERTS)]
    return tuple(replace(part.entry(i), input_order=order) for i, order in enumerate(orders))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("form", ["stored", "int4"])
@pytest.mark.parametrize("which", [(0, 1, 2), (0,), (1,), (2,)], ids=["all", "gate", "up", "down"])
def test_experts_take_their_inputs_in_the_order_of_each_weight(which, form, isa: str) -> None:
    ops = ops_on(isa, 2)
    whole = tensors((GROUPED_TYPES[1], Q4_0, F32), 192, 128)
    parts = [ordered(part, i) if i in which else tuple(part.entry(e) for e in range(N_EXPERTS)) for i, part in enumerate(whole)]
    x, ids, weights, residual = inputs(600, 3, 192)  # more rows than are computed together
    gate, up, down = (ops.pack_stack(part, form) for part in parts)
    out = ops.experts(x, Experts(gate=gate, up=up, down=down), ids, weights, residual)
    wanted = residual.copy()
    for expert in range(N_EXPERTS):
        one_gate, one_up, one_down = (ops.pack(part[expert], form) for part in parts)
        tokens, choices = np.nonzero(ids == expert)
        if len(tokens):
            opened, wide = ops.linears(x[tokens], (one_gate, one_up))
            wanted[tokens] += weights[tokens, choices][:, None] * ops.linear(wide, one_down, gate_TD=opened)
    assert np.array_equal(out, wanted)
    if form == "stored":
        reference = ReferenceOps()
        gate, up, down = (reference.pack_stack(part) for part in parts)
        defined = reference.experts(x, Experts(gate=gate, up=up, down=down), ids, weights, residual)
        assert np.abs(out - defined).max() < 0.02 * np.abs(defined).max()


def test_adopted_stacks_bring_the_order_of_each_expert_and_a_wrong_one_is_refused() -> None:
    ops, part = native_ops(n_threads=1), ordered(stacked(Q4_0, 32, 64, 1), 3)
    packed_bytes = ops.pack_stack(part).packed_bytes()
    memory = np.zeros(len(packed_bytes) + 8192, np.uint8)
    start = -memory.ctypes.data % 64
    held = memory[start : start + len(packed_bytes)]
    held[:] = packed_bytes
    again = ops.empty_stack(part)
    again.adopt(held)
    assert np.array_equal(again.packed_bytes(), packed_bytes)
    orders = held[len(held) - N_EXPERTS * 64 * 4 :].view(np.int32).reshape(N_EXPERTS, 64)
    assert np.array_equal(orders, [tensor.input_order for tensor in part])
    orders[N_EXPERTS - 1, 5] = 64
    with pytest.raises(ValueError, match="an order of inputs that a weight does not have"):
        ops.empty_stack(part).adopt(held)


@pytest.mark.parametrize("isa", slow_but(ISAS[-1:], ISAS))
@pytest.mark.parametrize("types", [(Q4_0, Q4_0, Q6_K), (Q4_K, IQ4_NL, Q8_0), (F32, BF16, F16)], ids=str)
def test_a_row_has_the_same_bits_in_any_company_and_on_any_threads(types, isa: str) -> None:
    alone, pair = ops_on(isa), ops_on(isa, 2)
    parts = tensors(types, 256, 256)
    first, second = packed(alone, parts), packed(pair, parts)
    x, ids, weights, residual = inputs(1300, 2, 256)  # more rows than are computed together
    whole = pair.experts(x, second, ids, weights, residual)
    for rows in (slice(0, 1), slice(3, 5), slice(10, 43), slice(1299, 1300), slice(700, 1300)):
        some = alone.experts(x[rows], first, ids[rows], weights[rows], residual[rows])
        assert np.array_equal(some, whole[rows]), rows


@pytest.mark.parametrize("form", ["stored", "int4"])
def test_every_instruction_set_gives_the_same_bits_and_int4_is_near_its_definition(form) -> None:
    parts, (x, ids, weights, residual) = tensors((Q4_0, Q8_0, Q4_0), 192, 128), inputs(9, 3, 192)
    found = []
    for ops in (*map(ops_on, ISAS), ReferenceOps()):
        gate, up, down = (ops.pack_stack((part,), form) for part in parts)
        found.append(ops.experts(x, Experts(gate=gate, up=up, down=down), ids, weights, residual))
    assert len({out.tobytes() for out in found[:-1]}) == 1
    assert np.abs(found[0] - found[-1]).max() < 0.02 * np.abs(found[-1]).max()


def test_a_stack_of_single_tensors_is_the_stack_of_all() -> None:
    ops, parts = native_ops(n_threads=2), tensors((Q4_0, Q4_0, Q8_0), 96, 64)
    x, ids, weights, residual = inputs(5, 2, 96)
    apart = [ops.pack_stack((*(part.entry(i) for i in range(3)), part.part(3, N_EXPERTS))) for part in parts]
    assert [stack.n_stacked for stack in apart] == [N_EXPERTS] * 3
    together = packed(ops, parts)
    assert np.array_equal(apart[0].packed_bytes(), together.gate.packed_bytes())
    out = ops.experts(x, Experts(gate=apart[0], up=apart[1], down=apart[2]), ids, weights, residual)
    assert np.array_equal(out, ops.experts(x, together, ids, weights, residual))


def test_experts_that_no_token_chose_are_not_read() -> None:
    ops, parts = ops_on(ISAS[-1], 2), tensors((F32, F32, F32), 32, 16)
    for part in parts:
        part.data.view(np.float32).reshape(N_EXPERTS, -1)[4] = np.nan
    x, ids, weights, residual = inputs(6, 2, 32)
    assert np.isfinite(ops.experts(x, packed(ops, parts), ids, weights, residual)).all()


@pytest.mark.parametrize("isa", [*ISAS, "numpy"])
@pytest.mark.parametrize(("n_experts", "n_chosen"), [(1, 1), (5, 1), (16, 16), (17, 2), (128, 8), (133, 33)])
def test_the_router_takes_the_largest_shares_of_a_softmax(n_experts: int, n_chosen: int, isa: str) -> None:
    ops: Ops = ReferenceOps() if isa == "numpy" else ops_on(isa, 2)
    logits = (3 * np.random.default_rng(n_experts).standard_normal((200, n_experts))).astype(np.float32)
    shares = np.exp(logits.astype(np.float64))
    shares /= shares.sum(axis=1, keepdims=True)
    order = np.argsort(-logits, axis=1, kind="stable")[:, :n_chosen]
    wanted = np.take_along_axis(shares, order, axis=1)
    ids, weights = ops.route(logits, n_chosen, is_renormalised=False)
    assert np.array_equal(ids, order)
    np.testing.assert_allclose(weights, wanted, rtol=2e-6)
    ids, weights = ops.route(logits, n_chosen, is_renormalised=True)
    assert np.array_equal(ids, order)
    np.testing.assert_allclose(weights, wanted / wanted.sum(axis=1, keepdims=True), rtol=2e-6)


@pytest.mark.parametrize("isa", [*ISAS, "numpy"])
def test_of_equal_logits_the_first_experts_are_taken(isa: str) -> None:
    ops: Ops = ReferenceOps() if isa == "numpy" else ops_on(isa)
    logits = np.array([[1, 2, 2, 1, 2, 0], [0, 0, 0, 0, 0, 0], [-0.0, 0, 5, 0, 5, 5]], np.float32)
    ids, _ = ops.route(logits, 4, is_renormalised=True)
    assert ids.tolist() == [[1, 2, 4, 0], [0, 1, 2, 3], [2, 4, 5, 0]]


@pytest.mark.parametrize("isa", [*ISAS, "numpy"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_logit_that_is_no_number_makes_all_weights_no_number_and_no_expert_twice(bad: float, isa: str) -> None:
    ops: Ops = ReferenceOps() if isa == "numpy" else ops_on(isa)
    logits = np.zeros((6, 6), np.float32)
    np.fill_diagonal(logits, bad)
    with np.errstate(invalid="ignore"):
        ids, weights = ops.route(logits, 3, is_renormalised=True)
    assert np.isnan(weights).any(axis=1).all()
    assert all(len(set(row)) == 3 and min(row) >= 0 and max(row) < 6 for row in ids.tolist())


def test_a_recorded_call_follows_the_choice_of_each_run() -> None:
    ops, parts = ops_on(ISAS[-1], 2), tensors((Q4_0, Q4_0, Q8_0), 64, 32)
    weights = packed(ops, parts)
    recording = RecordingOps(ops, Slabs())
    x, logits = np.zeros((3, 64), np.float32), np.zeros((3, N_EXPERTS), np.float32)
    ids, shares = recording.route(logits, 2, is_renormalised=True)
    out = recording.experts(x, weights, ids, shares, x)
    for seed in (1, 2):
        rng = np.random.default_rng(seed)
        x[:], logits[:] = rng.standard_normal(x.shape), rng.standard_normal(logits.shape)
        recording.run()
        now = ops.route(logits, 2, is_renormalised=True)
        assert np.array_equal(ids, now[0])
        assert np.array_equal(out, ops.experts(x, weights, *now, x))


def test_what_does_not_fit_is_refused_before_memory_is_touched() -> None:
    ops, parts = ops_on(ISAS[-1]), tensors((Q8_0, Q8_0, Q8_0), 64, 32)
    weights = packed(ops, parts)
    x, ids, shares, residual = inputs(3, 2, 64)
    for wrong in (-1, N_EXPERTS):
        spoilt = ids.copy()
        spoilt[2, 1] = wrong
        with pytest.raises(ValueError, match="no such expert"):
            ops.experts(x, weights, spoilt, shares, residual)
    with pytest.raises(ValueError, match="do not fit"):
        ops.experts(x[:, :32].copy(), weights, ids, shares, residual)
    with pytest.raises(ValueError, match="do not fit"):
        ops.experts(x, weights, ids[:2].copy(), shares, residual)
    with pytest.raises(ValueError, match="as one weight"):
        ops.linear(x, weights.gate)
    with pytest.raises(ValueError, match="do not fit"):
        ops.route(np.zeros((2, 3), np.float32), 4, is_renormalised=True)
