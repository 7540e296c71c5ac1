"""Recorded steps against the same steps computed call by call, and whole generations alone and in company."""

import numpy as np
import pytest

from samovar.engine.batch import Slice, build_batch
from samovar.engine.prefix_cache import PrefixCache
from samovar.engine.replay import MAX_LENT, MAX_ROWS, MAX_SHAPES, Angles, RecordedStep, Replays
from samovar.engine.runner import Runner, make_runner
from samovar.engine.sequence import Sequence
from samovar.kernels.recorder import RecordingOps
from samovar.kernels.slabs import Slabs
from tests.engine.fakes import generate, request
from tests.engine.random_decoders import NAMES, VOCAB, random_decoder, random_engine, random_pool
from tests.kernels.native_cases import ISAS, ops_on
from tests.matrices import slow_but

pytestmark = pytest.mark.skipif(not ISAS, reason="the native kernels are not built")
# Tokens that each sequence of a step brings: together 1, 2, 7, 16 and 33 rows, and the most that are recorded.
STEPS = ([1], [2], [1, 1], [3, 1, 1, 2], [1] * 16, [1] * 33, [20, 1, 12], [64])


def prompt(n, seed=0):
    return np.random.default_rng(seed).integers(0, VOCAB, n).tolist()


class CountingReplays(Replays):
    n_replayed = 0

    def logits(self, batch, adapted=()):
        found = super().logits(batch, adapted)
        self.n_replayed += found is not None
        return found


class Steps:
    """Sequences of several lengths that are given the same tokens whatever runs them."""

    def __init__(self, model, ops, *, replayed):
        self.pool = random_pool(decoder=model)
        assert make_runner(model, ops, self.pool).replays is not None
        self.replays = CountingReplays(model, ops, self.pool)
        self.runner = Runner(model, ops, self.pool, self.replays if replayed else None)
        self.sequences = [Sequence(request=request([1]), token_ids=[]) for _ in range(64)]
        for sequence in self.sequences if self.pool.states is not None else ():
            sequence.state = self.pool.states.take(sequence.realm, ())
        self.rng = np.random.default_rng(3)
        for i, sequence in enumerate(self.sequences):
            self.run([sequence], [1 + 5 * i % 70])
        self.replays.n_replayed = 0

    def run(self, sequences, counts):
        slices = []
        for i, (sequence, count) in enumerate(zip(sequences, counts, strict=False)):
            start = sequence.n_computed
            PrefixCache(self.pool).grow(sequence.pages, start + count)
            token_ids = tuple(self.rng.integers(0, VOCAB, count).tolist())
            slices.append(Slice(sequence, start, token_ids, n_logits=(count + i) % (count + 1)))
            sequence.n_computed += count
        self.last = self.runner.run(slices)  # held, so that the next step's logits come to lie elsewhere
        return self.last.copy()

    def logits(self):
        """Each step four times, small ones again after large ones: unseen, recorded for two places of its logits, replayed."""
        results = [self.run(self.sequences[i:] + self.sequences[:i], counts) for counts in STEPS for i in range(3)]
        return results + [self.run(self.sequences[::-1], counts) for counts in STEPS]


@pytest.mark.parametrize("isa", slow_but(ISAS[-1:], ISAS))
@pytest.mark.parametrize("name", NAMES)
def test_a_replayed_step_has_the_bits_of_its_calls_made_one_by_one(name: str, isa: str) -> None:
    one, two = ops_on(isa, 1), ops_on(isa, 2)
    wanted = Steps(random_decoder(name, one), one, replayed=False).logits()
    for ops in (one, two):
        steps = Steps(random_decoder(name, ops), ops, replayed=True)
        for ours, theirs in zip(steps.logits(), wanted, strict=True):
            assert np.array_equal(ours, theirs)
        assert steps.replays.n_replayed >= 3 * len(STEPS)


def replays_of(name):
    """With two sequences that have pages for more rows than are recorded."""
    ops, pool = ops_on(ISAS[-1]), random_pool()
    sequences = [Sequence(request=request([1]), token_ids=[]) for _ in range(2)]
    for sequence in sequences:
        PrefixCache(pool).grow(sequence.pages, MAX_ROWS + 1)
    return Replays(random_decoder(name, ops), ops, pool), *sequences


def test_a_shape_is_recorded_when_it_comes_again_and_large_steps_never() -> None:
    replays, sequence, _ = replays_of("qwen3")

    def is_replayed(n, n_logits=1):
        return replays.logits(build_batch([Slice(sequence, 0, (1,) * n, n_logits)])) is not None

    assert not is_replayed(5)
    assert not is_replayed(6)
    assert not is_replayed(5, 2)
    assert is_replayed(5)
    assert is_replayed(5)
    assert is_replayed(5, 2)
    assert not any(is_replayed(MAX_ROWS + 1) for _ in range(3))


def test_logits_of_a_replayed_step_stay_as_long_as_a_view_of_them_is_held() -> None:
    replays, sequence, _ = replays_of("qwen3")

    def logits(token_id):
        return replays.logits(build_batch([Slice(sequence, 0, (token_id, token_id), 2)]))

    logits(1)
    held = [logits(1)]
    wanted = [held[0].copy()]
    for token_id in range(2, MAX_LENT + 1):
        held.append(logits(token_id)[1:])
        wanted.append(held[-1].copy())
    assert logits(9) is None
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(held, wanted, strict=True))
    assert len({values[-1].tobytes() for values in wanted}) == MAX_LENT
    address = held[0].__array_interface__["data"][0]
    held.clear()
    assert logits(9).__array_interface__["data"][0] == address


def test_angles_of_blocks_have_the_bits_of_angles_of_single_positions() -> None:
    model = random_decoder("qwen3", ops_on(ISAS[-1]))
    angles = Angles(model, 600)
    for position in (0, 255, 256, 599):
        angles.reach(position)
        angles.reach(0)
        for table, row in zip((angles.cos_CR, angles.sin_CR), model.angles(np.array([position])), strict=True):
            assert np.array_equal(table[position], row[0])
    angles.reach(600)  # there is no room; what takes the row refuses it


def test_shapes_not_met_for_long_are_forgotten_and_their_memory_is_used_again() -> None:
    replays, first, second = replays_of("llama")

    def logits(n, m):
        pieces = [Slice(first, 0, (1,) * n, 0), Slice(second, 0, (1,) * m, 0)]
        return replays.logits(build_batch(pieces[: 2 if m else 1]))

    def record_all():
        for n, m in ((n, m) for m in (0, 1) for n in range(1, MAX_SHAPES // 2 + 3)):
            logits(n, m)
            assert logits(n, m) is not None

    record_all()
    assert logits(1, 0) is None
    size_bytes = replays.slabs.size_bytes
    record_all()
    assert replays.slabs.size_bytes == size_bytes


def test_a_slab_is_free_again_only_when_no_view_of_it_is_left() -> None:
    slabs = Slabs()
    view = slabs.new(4, 6).reshape(2, 12)[1:].reshape(3, 4)
    other = slabs.new(24)
    assert not np.shares_memory(view, other)
    address = view.__array_interface__["data"][0] - 12 * 4
    del view
    assert slabs.new(10).__array_interface__["data"][0] == address


@pytest.mark.parametrize(
    "fault", ["ids_T", "positions_T", "slots_T", "output_rows", "row_starts", "positions", "page_tables_SP"]
)
def test_a_number_that_points_nowhere_is_refused_at_each_run(fault: str) -> None:
    ops, pool = ops_on(ISAS[-1], 2), random_pool()
    model = random_decoder("qwen3", ops)
    sequence = Sequence(request=request([1]), token_ids=[])
    PrefixCache(pool).grow(sequence.pages, 40)
    batch = build_batch([Slice(sequence, 30, (1, 2, 3), 1)])
    logits_V = np.empty(VOCAB, np.float32)
    angles = Angles(model, 64)
    angles.reach(63)
    step = RecordedStep.record(model, RecordingOps(ops, Slabs()), pool, angles, batch, logits_V)
    step.run(batch, batch.positions_T)
    numbers = getattr(batch, fault) if hasattr(batch, fault) else getattr(batch.spans, fault)
    for wrong in (-1, 1 << 30):
        kept, numbers.flat[-1] = numbers.flat[-1], wrong
        with pytest.raises(ValueError, match=r"outside|no such page|page table|cover the rows"):
            step.run(batch, batch.positions_T)
        numbers.flat[-1] = kept
    step.run(batch, batch.positions_T)


@pytest.mark.parametrize("name", NAMES)
def test_a_request_gets_the_same_ids_alone_and_among_32_others_whole_or_in_chunks(name: str) -> None:
    ops = ops_on(ISAS[-1], 2)
    requests = [
        request(prompt(1 + 7 * i % 90, seed=i), temperature=0.0 if i % 2 else 0.8, seed=i, max_tokens=6 + i % 9)
        for i in range(33)
    ]

    def ids(engine, *some):
        return [s.token_ids[s.n_prompt :] for s in generate(engine, *some)]

    together = ids(random_engine(name, ops), *requests)
    chunked = ids(random_engine(name, ops, max_step_tokens=19), *requests)
    engine = random_engine(name, ops)
    alone = [ids(engine, one)[0] for one in requests]
    assert together == alone
    assert chunked == alone
    assert len({tuple(a) for a in alone}) > 25  # the model says different things
    one_thread = ids(random_engine(name, ops_on(ISAS[-1], 1)), *requests[:5])
    assert one_thread == alone[:5]
