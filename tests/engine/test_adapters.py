"""Requests with different adapters in one batch: each gets the bits that it gets alone."""

import numpy as np
import pytest

from samovar.engine.batch import Slice, build_batch
from samovar.engine.draft_model import DraftModel
from samovar.engine.prefix_cache import PrefixCache
from samovar.engine.request import Request, SamplingParams
from samovar.engine.runner import Runner, make_runner
from samovar.engine.sequence import Sequence
from samovar.errors import BadRequest
from samovar.kernels import Ops
from samovar.kernels.reference import ReferenceOps
from samovar.models.lora import LoraAdapter, adapted_rows
from tests.engine.fakes import tiny_engine
from tests.engine.random_adapters import CASES, random_adapter
from tests.engine.random_decoders import NAMES, VOCAB, random_decoder, random_pool
from tests.kernels.native_cases import ISAS, ops_on
from tests.matrices import slow_but

ADAPTABLE = tuple(name for name in NAMES if name != "qwen3_next")  # whose files mix matrices row by row
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
        PrefixCache(runner.pool).grow(sequence.pages, sequence.n_computed + len(piece))
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


def recorded_shapes(runner):
    assert runner.replays is not None
    return [shape for shape, steps in runner.replays._steps.items() if steps]


def alone(runner):
    return [logits(runner, [stream], [adapter])[0] for stream, adapter in enumerate(WHO)]


@pytest.mark.skipif(not ISAS, reason="the native kernels are not built")
@pytest.mark.parametrize("isa", slow_but(ISAS[-1:], ISAS))
@pytest.mark.parametrize("name", ADAPTABLE)
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
@pytest.mark.parametrize("name", ADAPTABLE)
def test_steps_with_adapters_are_replayed_with_the_same_bits(name: str) -> None:
    ops = ops_on(ISAS[-1], 2)
    runner, plain = runner_on(name, ops), runner_on(name, ops, is_replayed=False)
    for adapters in (["wide"], ["one"], ["wide"], [None], ["wide", None, "odd"], ["odd", None, "wide"], [None, "odd", "odd"]):
        for streams in (range(len(adapters)), range(4, 4 + len(adapters))):
            assert same_bits(logits(runner, streams, adapters), logits(plain, streams, adapters))
    wide, odd = runner.adapters["wide"], runner.adapters["odd"]
    rows = {tuple((p.adapter, p.start, p.stop) for p in shape[3]) for shape in recorded_shapes(runner) if shape[0] < 4}
    assert {(), ((wide, 0, 1),), ((odd, 1, 2), (wide, 2, 3)), ((odd, 1, 3),)} <= rows


@pytest.mark.skipif(not ISAS, reason="the native kernels are not built")
def test_an_adapter_loaded_under_a_name_that_became_free_is_the_one_that_answers() -> None:
    ops = ops_on(ISAS[-1], 1)
    runner = runner_on("llama", ops)
    before = [logits(runner, [1], ["odd"]) for _ in range(3)][-1]
    gone = runner.adapters["odd"]
    assert any(part.adapter is gone for shape in recorded_shapes(runner) for part in shape[3])
    runner.unload("odd")
    assert not any(part.adapter is gone for shape in recorded_shapes(runner) for part in shape[3])
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


def test_a_batch_brings_sequences_with_the_same_adapter_together_and_wants_logits_in_the_order_of_the_slices() -> None:
    sequences = [start(adapter) for adapter in ("wide", None, "odd", "wide", None)]
    for page, sequence in enumerate(sequences):
        sequence.pages = [page]
    slices = [Slice(sequence, 0, (10 * i, 10 * i + 1), 1 + i % 2) for i, sequence in enumerate(sequences)]
    batch = build_batch(slices)
    assert batch.adapters == (None, None, "odd", "wide", "wide")
    assert batch.ids_T.tolist() == [10, 11, 40, 41, 20, 21, 0, 1, 30, 31]
    assert batch.slots_T.tolist() == [32, 33, 128, 129, 64, 65, 0, 1, 96, 97]
    assert batch.spans.page_tables_SP.tolist() == [[1], [4], [2], [0], [3]]
    assert batch.ids_T[batch.output_rows].tolist() == [1, 10, 11, 21, 30, 31, 41]
    assert batch.ids_T[batch.last_rows].tolist() == [1, 11, 21, 31, 41]
    plain = build_batch([slices[4], slices[1]])
    assert plain.adapters == ()
    assert plain.ids_T[plain.last_rows].tolist() == [41, 11]


@pytest.mark.skipif(not ISAS, reason="the native kernels are not built")
def test_a_text_has_the_same_state_alone_and_among_texts_with_other_adapters() -> None:
    runner = runner_on("qwen3", ops_on(ISAS[-1], 2))

    def hidden(streams):
        slices = []
        for stream in streams:
            sequence = start(WHO[stream])
            PrefixCache(runner.pool).grow(sequence.pages, 5 + stream)
            slices.append(Slice(sequence, 0, tuple(ids(stream, 5 + stream)), 0))
        found = runner.hidden(slices)
        for piece in slices:
            runner.pool.shrink(piece.sequence.pages, 0)
        return list(found)

    assert same_bits(hidden(range(len(WHO))), [hidden([stream])[0] for stream in range(len(WHO))])


def test_a_smaller_model_guesses_without_the_adapter() -> None:
    asked = Request(prompt_ids=(1, 2), sampling=SamplingParams(temperature=0.0), adapter="wide")
    drafter = DraftModel(tiny_engine()).start(asked)
    assert len(drafter.propose([1, 2], 2)) == 2


def test_neighbours_with_the_same_adapter_are_one_run_of_rows() -> None:
    wide, odd = LoraAdapter(terms={}), LoraAdapter(terms={})

    def rows(adapters: list[LoraAdapter | None], *row_starts: int) -> list[tuple[LoraAdapter, int, int]]:
        return [(part.adapter, part.start, part.stop) for part in adapted_rows(adapters, np.array(row_starts, np.int32))]

    assert rows([None, None], 0, 1, 2) == []
    assert rows([None, wide, wide, odd], 0, 1, 4, 5, 7) == [(wide, 1, 5), (odd, 5, 7)]
    assert rows([wide, odd], 0, 0, 1) == [(odd, 0, 1)]
    assert rows([wide, None, wide], 0, 1, 4, 5) == [(wide, 0, 1), (wide, 4, 5)]
