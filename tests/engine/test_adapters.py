"""Requests with different adapters in one batch: each gets the bits that it gets alone."""

import numpy as np
import pytest

from samovar.engine.batch import Slice, build_batch
from samovar.engine.request import Request, SamplingParams
from samovar.engine.runner import Runner, make_runner
from samovar.engine.sequence import Sequence
from samovar.errors import BadRequest
from samovar.kernels import Ops
from samovar.kernels.reference import ReferenceOps
from samovar.models.lora import AdaptedRows, adapted_rows
from tests.engine.random_adapters import CASES, random_adapter
from tests.engine.random_decoders import NAMES, VOCAB, random_decoder, random_pool
from tests.kernels.native_cases import ISAS, ops_on

WHO = (None, "wide", "odd", None, "one", "wide", "ends", "first", None, "odd")
N_PROMPT, N_STEPS = 21, 4


def ids(stream, n):
    return np.random.default_rng(stream).integers(0, VOCAB, n).tolist()


def runner_on(name: str, ops: Ops, *, is_replayed: bool = True) -> Runner:
    model, pool = random_decoder(name, ops), random_pool()
    runner = make_runner(model, ops, pool) if is_replayed else Runner(model, ops, pool)
    for adapter in CASES:
        runner.load(adapter, random_adapter(adapter, model, ops))
    return runner


def start(adapter):
    request = Request(prompt_ids=(1,), sampling=SamplingParams(), adapter=adapter)
    return Sequence(request=request, token_ids=[])


def step(runner, sequences, pieces):
    """Logits [T, V] of every token, a list for each sequence."""
    slices = []
    for sequence, piece in zip(sequences, pieces, strict=True):
        runner.pool.grow(sequence.pages, sequence.n_computed + len(piece))
        slices.append(Slice(sequence, sequence.n_computed, tuple(piece), len(piece)))
        sequence.n_computed += len(piece)
    return np.split(runner.run(slices), np.cumsum([len(piece) for piece in pieces])[:-1])


def logits(runner, streams, adapters, chunk=N_PROMPT):
    """Of each stream: the bits of its logits after each token of its prompt, and of some steps of one token."""
    texts = [ids(stream, N_PROMPT + stream) + ids(stream, N_STEPS) for stream in streams]
    sequences = [start(adapter) for adapter in adapters]
    found = [[] for _ in streams]
    while left := [i for i, sequence in enumerate(sequences) if sequence.n_computed < len(texts[i])]:
        pieces = []
        for i in left:
            at, n_prompt = sequences[i].n_computed, len(texts[i]) - N_STEPS
            pieces.append(texts[i][at : min(at + chunk, n_prompt) if at < n_prompt else at + 1])
        for i, some in zip(left, step(runner, [sequences[i] for i in left], pieces), strict=True):
            found[i].append(some)
    for sequence in sequences:
        runner.pool.shrink(sequence.pages, 0)
    return [np.concatenate(some) for some in found]


def same_bits(ours, theirs):
    return len(ours) == len(theirs) and all(a.tobytes() == b.tobytes() for a, b in zip(ours, theirs, strict=True))


def alone(runner):
    return [logits(runner, [stream], [adapter])[0] for stream, adapter in enumerate(WHO)]


@pytest.mark.skipif(not ISAS, reason="the native kernels are not built")
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", NAMES)
def test_a_row_has_the_same_bits_alone_and_among_rows_with_other_adapters(name: str, isa: str) -> None:
    wanted = alone(runner_on(name, ops_on(isa, 1), is_replayed=False))
    for n_threads in (1, 2):
        runner = runner_on(name, ops_on(isa, n_threads))
        streams = range(len(WHO))
        assert same_bits(logits(runner, streams, WHO), wanted)
        assert same_bits(logits(runner, streams, WHO, chunk=4), wanted)
        assert same_bits(logits(runner, streams, WHO, chunk=13), wanted)
        backwards = logits(runner, streams[::-1], WHO[::-1], chunk=7)
        assert same_bits(backwards[::-1], wanted)


def test_the_numpy_kernels_keep_rows_apart_as_well() -> None:
    runner = runner_on("qwen3", ReferenceOps())
    assert same_bits(logits(runner, range(len(WHO)), WHO, chunk=9), alone(runner))


@pytest.mark.skipif(not ISAS, reason="the native kernels are not built")
def test_rows_without_an_adapter_have_the_bits_that_they_have_where_there_are_none() -> None:
    ops = ops_on(ISAS[-1], 2)
    runner, streams = runner_on("qwen3", ops), range(len(WHO))
    plain = make_runner(random_decoder("qwen3", ops), ops, random_pool())
    wanted = logits(plain, streams, [None] * len(WHO))
    mixed = logits(runner, streams, WHO)
    for stream, adapter in enumerate(WHO):
        is_same = mixed[stream].tobytes() == wanted[stream].tobytes()
        assert is_same == (adapter is None)


@pytest.mark.skipif(not ISAS, reason="the native kernels are not built")
@pytest.mark.parametrize("name", NAMES)
def test_steps_of_one_adapter_are_replayed_with_the_same_bits(name: str) -> None:
    ops = ops_on(ISAS[-1], 2)
    runner, plain = runner_on(name, ops), runner_on(name, ops, is_replayed=False)
    assert runner.replays is not None
    for adapter in ("wide", "one", "wide", None):
        for streams in ([0, 1, 2], [0, 1, 2], [4]):
            adapters = [adapter] * len(streams)
            assert same_bits(logits(runner, streams, adapters), logits(plain, streams, adapters))
    recorded = [shape for shape, recorded in runner.replays._steps.items() if recorded is not None]
    assert {adapter for _, _, adapter in recorded} == {runner.adapters["wide"], runner.adapters["one"], None}


@pytest.mark.skipif(not ISAS, reason="the native kernels are not built")
def test_an_adapter_loaded_under_a_name_that_became_free_is_the_one_that_answers() -> None:
    ops = ops_on(ISAS[-1], 1)
    runner = runner_on("llama", ops)
    before = [logits(runner, [1], ["odd"]) for _ in range(3)][-1]
    runner.unload("odd")
    assert runner.replays is not None
    assert all(shape[2] in (None, *runner.adapters.values()) for shape in runner.replays._steps)
    with pytest.raises(BadRequest, match=r"'odd' is not loaded; loaded: ends, first, one, wide"):
        logits(runner, [1], ["odd"])
    runner.load("odd", runner.adapters["first"])
    after = [logits(runner, [1], ["odd"]) for _ in range(3)][-1]
    assert not same_bits(after, before)
    assert same_bits(after, logits(runner, [1], ["first"]))
    with pytest.raises(BadRequest, match="'odd' is loaded already"):
        runner.load("odd", runner.adapters["first"])
    with pytest.raises(BadRequest, match="'never' is not loaded"):
        runner.unload("never")


def test_a_batch_names_adapters_only_where_one_is_asked_for() -> None:
    with_pages = [start(adapter) for adapter in (None, None, "wide")]
    for sequence in with_pages:
        sequence.pages = [0]
    slices = [Slice(sequence, 0, (1, 2), 1) for sequence in with_pages]
    assert build_batch(slices[:2]).adapters == ()
    assert build_batch(slices).adapters == (None, None, "wide")


def test_rows_are_gathered_by_adapter() -> None:
    runner = runner_on("qwen3", ReferenceOps())
    wide, odd = runner.adapters["wide"], runner.adapters["odd"]

    def rows(adapters, *row_starts):
        found = adapted_rows(adapters, np.array(row_starts, np.int32))
        assert all(isinstance(part, AdaptedRows) for part in found)
        return [(part.adapter, part.rows if not isinstance(part.rows, np.ndarray) else part.rows.tolist()) for part in found]

    assert rows([None, None], 0, 1, 2) == []
    assert rows([wide, wide], 0, 1, 4) == [(wide, None)]
    assert rows([None, wide, wide], 0, 1, 4, 5) == [(wide, slice(1, 5))]
    assert rows([wide, odd, None, wide], 0, 2, 3, 5, 6) == [(wide, [0, 1, 5]), (odd, slice(2, 3))]
