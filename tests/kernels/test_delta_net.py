"""What gated delta nets need: against the definition and PyTorch, alone and in company, whole and in pieces, on every
instruction set."""

import numpy as np
import pytest
import torch

from samovar.kernels import DeltaNet, Spans, States
from samovar.kernels.native import available_isas
from samovar.kernels.reference import ReferenceOps
from tests.kernels.kv_cases import randn
from tests.kernels.native_cases import ISAS, ops_on

native = pytest.mark.skipif(not ISAS, reason="the native kernels are not built")
# key heads, value heads, key width, value width, taps
SIZES = [(1, 1, 1, 1, 2), (2, 4, 16, 24, 4), (3, 3, 20, 36, 3), (2, 6, 33, 17, 5), (1, 2, 128, 128, 4), (1, 1, 256, 65, 16)]


class Net:
    """A layer's weights and slots, which hold what an allocator may leave there, and rows for it."""

    def __init__(self, n_key_heads, n_heads, d_key, d_value, n_taps, n_slots=4):
        self.n_heads, self.d_value = n_heads, d_value
        self.n_channels = 2 * n_key_heads * d_key + n_heads * d_value
        rate_H = np.exp(randn(n_heads, seed=2)).astype(np.float32)
        self.net = DeltaNet(taps_JM=randn(n_taps, self.n_channels, seed=1), rate_H=rate_H, bias_H=randn(n_heads, seed=3))
        self.states = States.empty(n_slots, n_taps, self.n_channels, n_heads, d_key, d_value)
        self.states.inputs_ZJM.fill(np.nan)
        self.states.memory_ZHKU.fill(np.nan)

    def rows(self, n, seed=0):
        return randn(n, self.n_channels, seed=10 + seed), 2 * randn(n, 2 * self.n_heads, seed=100 + seed)

    def run(self, ops, rows, spans):
        x_TM, gates_TM = rows
        convolved_TM = ops.convolve(x_TM, self.net, self.states, spans)
        return convolved_TM, ops.delta_rule(convolved_TM, gates_TM, self.net, self.states, spans)


def spans_of(counts, positions, slots):
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return Spans(
        row_starts=starts, positions=np.array(positions, np.int32), page_tables_SP=np.zeros((len(counts), 1), np.int32),
        states_S=np.array(slots, np.int32),
    )  # fmt: skip


def run_in_pieces(ops, sizes, counts):
    """All rows of one sequence, so many at a time; what came of them, and what its slot holds in the end."""
    net = Net(*sizes)
    x_TM, gates_TM = net.rows(sum(counts))
    parts, start = [], 0
    for count in counts:
        rows = x_TM[start : start + count], gates_TM[start : start + count]
        parts.append(net.run(ops, rows, spans_of([count], [start], [2])))
        start += count
    kept = net.states.inputs_ZJM[2], net.states.memory_ZHKU[2]
    return *(np.concatenate(part) for part in zip(*parts, strict=True)), *kept


@native
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("sizes", SIZES)
def test_the_native_kernels_match_the_definition(isa, sizes):
    wanted, found = (run_in_pieces(ops, sizes, [19, 1, 2]) for ops in (ReferenceOps(), ops_on(isa, 2)))
    for theirs, ours in zip(wanted, found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("ops", [ReferenceOps(), *(ops_on(isa, 2) for isa in ISAS)], ids=lambda ops: ops.isa)
@pytest.mark.parametrize("sizes", SIZES)
def test_a_text_in_pieces_gives_the_bits_of_the_whole(ops, sizes):
    whole = run_in_pieces(ops, sizes, [40])
    for counts in ([1] * 40, [17, 3, 20], [2, 1, 37]):
        for a, b in zip(run_in_pieces(ops, sizes, counts), whole, strict=True):
            assert np.array_equal(a, b), counts


@native
@pytest.mark.parametrize("sizes", SIZES)
def test_every_instruction_set_and_number_of_threads_gives_the_same_bits(sizes):
    found = {b"".join(x.tobytes() for x in run_in_pieces(ops_on(isa, n), sizes, [23])) for isa in ISAS for n in (1, 2)}
    assert len(found) == 1


@pytest.mark.parametrize("ops", [ReferenceOps(), *(ops_on(isa, 2) for isa in ISAS[-1:])], ids=lambda ops: ops.isa)
@pytest.mark.parametrize("sizes", SIZES)
def test_sequences_in_one_call_do_not_touch_each_other(ops, sizes):
    together = Net(*sizes)
    first, second, third = (together.rows(n, seed) for n, seed in ((9, 0), (1, 1), (12, 2)))
    together.run(ops, second, spans_of([1], [0], [3]))
    rows = tuple(np.concatenate(parts) for parts in zip(first, second, third, strict=True))
    found = together.run(ops, rows, spans_of([9, 1, 12], [0, 1, 0], [1, 3, 0]))
    start = 0
    for rows, slot, before in ((first, 2, 0), (second, 0, 1), (third, 1, 0)):
        alone = Net(*sizes)
        if before:
            alone.run(ops, rows, spans_of([1], [0], [slot]))
        n = len(rows[0])
        for ours, theirs in zip(alone.run(ops, rows, spans_of([n], [before], [slot])), found, strict=True):
            assert np.array_equal(ours, theirs[start : start + n])
        start += n
    assert np.isnan(together.states.memory_ZHKU[2]).all()


@pytest.mark.parametrize("ops", [ReferenceOps(), *(ops_on(isa) for isa in ISAS)], ids=lambda ops: ops.isa)
def test_the_convolution_is_that_of_pytorch(ops):
    net = Net(2, 4, 16, 24, 4)
    x_TM, _ = net.rows(30)
    weight = torch.from_numpy(np.ascontiguousarray(net.net.taps_JM.T))[:, None]
    line = torch.nn.functional.conv1d(torch.from_numpy(x_TM.T.copy())[None], weight, padding=3, groups=net.n_channels)
    wanted = torch.nn.functional.silu(line[0, :, :30]).T.numpy()
    np.testing.assert_allclose(ops.convolve(x_TM, net.net, net.states, spans_of([30], [0], [1])), wanted, rtol=2e-5, atol=1e-6)


@native
@pytest.mark.parametrize("isa", ISAS)
def test_memories_forget_by_the_softplus_of_their_gate_exactly(isa):
    a = np.concatenate([np.linspace(-30, 30, 997), [-200, -87.3, 88, 200]]).astype(np.float32)
    net = Net(1, 1, 1, 1, 2)
    net.net = DeltaNet(taps_JM=net.net.taps_JM, rate_H=np.full(1, 0.05, np.float32), bias_H=np.zeros(1, np.float32))
    exact = np.exp(-np.float64(np.float32(0.05)) * np.logaddexp(0, a.astype(np.float64)))
    for value, wanted in zip(a, exact, strict=True):
        net.states.memory_ZHKU[0] = 1
        x, gates = np.array([[1e6, 0, 0]], np.float32), np.array([[0, value]], np.float32)  # a key of zero learns nothing
        found = ops_on(isa).delta_rule(x, gates, net.net, net.states, spans_of([1], [7], [0]))
        np.testing.assert_allclose(found.item(), wanted, rtol=1e-6, atol=1e-37)


@pytest.mark.parametrize("ops", [ReferenceOps(), *(ops_on(isa, 2) for isa in ISAS)], ids=lambda ops: ops.isa)
@pytest.mark.parametrize(("n_tokens", "n_gates", "n_each"), [(1, 1, 1), (5, 1, 96), (3, 37, 1), (2, 3, 40), (1, 30_000, 1)])
def test_sigmoid_gates_are_those_of_pytorch(ops, n_tokens, n_gates, n_each):
    gate, x = 30 * randn(n_tokens, n_gates), randn(n_tokens, n_gates * n_each, seed=1)
    found = ops.sigmoid_gate(gate, x)
    shares = torch.sigmoid(torch.from_numpy(gate.astype(np.float64))).numpy()
    np.testing.assert_allclose(found, np.repeat(shares, n_each, axis=1) * x, rtol=1e-6, atol=1e-37)
    assert np.array_equal(ops.sigmoid_gate(gate[-1:], x[-1:]), found[-1:])


@native
def test_arrays_that_do_not_fit_and_slots_that_are_not_there_are_refused():
    ops, net = ops_on(available_isas()[-1]), Net(2, 4, 16, 24, 4)
    x_TM, gates_TM = net.rows(3)
    good = spans_of([2, 1], [0, 0], [1, 2])
    for spans in (
        spans_of([2, 1], [0, 0], [1, 1]), spans_of([2, 1], [0, 0], [1, 4]), spans_of([2, 1], [0, 0], [-1, 2]),
        spans_of([2, 2], [0, 0], [1, 2]), spans_of([2, 1], [0, 0], [1]),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"slot|rows"):
            ops.convolve(x_TM, net.net, net.states, spans)
        with pytest.raises(ValueError, match=r"slot|rows"):
            ops.delta_rule(x_TM, gates_TM, net.net, net.states, spans)
    with pytest.raises(ValueError, match="gates"):
        ops.delta_rule(x_TM, gates_TM[:, :-1].copy(), net.net, net.states, good)
    with pytest.raises(ValueError, match="memories"):
        ops.delta_rule(x_TM[:, :-1].copy(), gates_TM, net.net, net.states, good)
    with pytest.raises(ValueError, match="taps"):
        ops.convolve(x_TM[:, :-1].copy(), net.net, net.states, good)
    with pytest.raises(ValueError, match="gate"):
        ops.sigmoid_gate(np.ones((1, 5), np.float32), np.ones((1, 12), np.float32))
