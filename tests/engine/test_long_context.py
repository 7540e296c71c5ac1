"""Sequences with different rotations side by side: each gets the bits that it gets alone, and shares pages with its like."""

from itertools import pairwise

import numpy as np
import pytest

from samovar.engine.batch import Slice, build_batch
from samovar.engine.draft_model import DraftModel
from samovar.engine.engine import Engine, Limits
from samovar.engine.ngram_drafter import NgramDrafter
from samovar.engine.prefix_cache import OtherFactor, PrefixCache
from samovar.engine.prefix_store import collect, restore
from samovar.engine.request import Request, SamplingParams
from samovar.engine.runner import Runner, make_runner
from samovar.engine.sequence import Sequence
from samovar.errors import PromptTooLong
from samovar.kernels import PAGE_TOKENS, Ops
from samovar.kernels.reference import ReferenceOps
from tests.engine.fakes import FixedCost, generate, ids_of, request, run
from tests.engine.random_decoders import VOCAB, random_decoder, random_pool
from tests.kernels.native_cases import ISAS, ops_on
from tests.matrices import slow_but

NATIVE = 64
FACTORS = (1, 4, 2, 1, 2, 4, 4, 1)


def ids(n, seed=0):
    return np.random.default_rng(seed).integers(0, VOCAB, n).tolist()


def engine_of(name="qwen3", *, ops: Ops | None = None, n_pages=200, max_context=4 * NATIVE, is_off=False, **settings) -> Engine:
    ops = ops or (ops_on(ISAS[-1], 2) if ISAS else ReferenceOps())
    model = random_decoder(name, ops, NATIVE)
    limits = Limits(max_step_tokens=settings.pop("max_step_tokens", 512), max_mixed_tokens=settings.pop("max_mixed_tokens", 96))
    long = None if is_off else model.config.long_context
    pool = random_pool(n_pages=n_pages)
    return Engine(model, ops, pool, VOCAB, max_context, limits, cost=FixedCost(), long_context=long, **settings)


def steps_of(runner: Runner, streams, chunk):
    """Logits after each token of each stream's text, whose first part is computed in chunks, the rest token by token."""
    texts = [ids(30 + 11 * i, seed=i) for i in streams]
    sequences = [Sequence(request=request([1]), token_ids=[], factor=FACTORS[i]) for i in streams]
    found = [[] for _ in streams]
    while left := [i for i, s in enumerate(sequences) if s.n_computed < len(texts[i])]:
        slices = []
        for i in left:
            at = sequences[i].n_computed
            count = min(chunk, len(texts[i]) - 8 - at) if at < len(texts[i]) - 8 else 1
            PrefixCache(runner.pool).grow(sequences[i].pages, at + count)
            slices.append(Slice(sequences[i], at, tuple(texts[i][at : at + count]), count))
            sequences[i].n_computed += count
        logits_SV, ends = runner.run(slices), np.cumsum([0, *(len(s.token_ids) for s in slices)])
        for i, (start, end) in zip(left, pairwise(ends), strict=True):
            found[i].append(logits_SV[start:end].copy())
    return [np.concatenate(rows) for rows in found]


@pytest.mark.parametrize("name", ["qwen3", "qwen2", "qwen3_moe"])
@pytest.mark.parametrize("isa", [*ISAS[-1:], "numpy"])
def test_rows_of_a_step_have_the_bits_of_their_own_factor_whatever_stands_beside_them(name: str, isa: str) -> None:
    ops = ReferenceOps() if isa == "numpy" else ops_on(isa, 2)
    model = random_decoder(name, ops, NATIVE)
    streams = range(len(FACTORS))
    alone = [steps_of(Runner(model, ops, random_pool()), [i], 500)[0] for i in streams]
    together = steps_of(Runner(model, ops, random_pool()), streams, 500)
    in_chunks = steps_of(make_runner(model, ops, random_pool()), streams, 7)  # small steps, so that they are replayed
    for own, beside, chunked in zip(alone, together, in_chunks, strict=True):
        assert own.tobytes() == beside.tobytes()
        assert own.tobytes() == chunked.tobytes()
    (plain,) = steps_of(Runner(model, ops, random_pool()), [0], 500)
    sequence = Sequence(request=request([1]), token_ids=[], factor=2)
    runner = Runner(model, ops, random_pool())
    PrefixCache(runner.pool).grow(sequence.pages, 30)
    assert np.abs(runner.run([Slice(sequence, 0, tuple(ids(30)), 30)]) - plain).max() > 1e-3


def requests_of_all_factors():
    sizes = [(20, 30), (60, 4), (60, 5), (33, 90), (100, 28), (100, 40), (150, 12), (7, 9), (7, 200), (90, None), (65, None)]
    return [
        request(ids(n, seed=i % 3), max_tokens=more, temperature=0.9 * (i % 2), seed=i, logprobs=1)
        for i, (n, more) in enumerate(sizes)
    ]


@pytest.mark.parametrize("ways", slow_but([{"max_step_tokens": 23}, {"n_pages": 9}], [
    {"max_step_tokens": 23}, {"n_pages": 9}, {"start_drafters": "n-gram"}, {"start_drafters": "draft"},
    {"keeps_prefixes": False},
]), ids=str)  # fmt: skip
def test_a_request_gets_the_same_tokens_alone_and_among_others_with_other_factors(ways) -> None:
    ways = dict(ways)
    kind = ways.pop("start_drafters", None)
    if kind is not None:
        start = (lambda _: NgramDrafter()) if kind == "n-gram" else DraftModel(engine_of("qwen2")).start
        ways["start_drafters"] = (start,)
    engine = engine_of()
    alone = [generate(engine_of(), one)[0] for one in requests_of_all_factors()]
    assert [s.factor for s in alone] == [1, 1, 2, 2, 2, 4, 4, 1, 4, 2, 2]
    engine = engine_of(**ways)
    together = generate(engine, *requests_of_all_factors())
    assert [ids_of(s) for s in together] == [ids_of(s) for s in alone]
    assert [len(s.token_ids) for s in together[-2:]] == [2 * NATIVE] * 2  # no max_tokens: as far as the factor reaches
    assert engine.scheduler.n_preempted > 0 or ways.get("n_pages") is None
    again = generate(engine, *requests_of_all_factors())
    assert [ids_of(s) for s in again] == [ids_of(s) for s in alone]


def test_prompt_and_wanted_answer_decide_or_the_prompt_alone_with_a_token_to_follow() -> None:
    engine = engine_of(max_context=200)

    def factor_of(n, max_tokens=None, **more):
        asked = Request(prompt_ids=tuple(ids(n)), sampling=SamplingParams(max_tokens=max_tokens), **more)
        return engine.factor_of(asked), engine.context_of(asked)

    assert factor_of(63) == (1, 64)
    assert factor_of(64) == (2, 128)
    assert factor_of(64, task="embed") == (1, 64)
    assert factor_of(65, task="embed") == (2, 128)
    assert factor_of(3, 61) == (1, 64)
    assert factor_of(3, 62) == (2, 128)
    assert factor_of(3, 1000) == (4, 200)
    assert factor_of(3, 1000, max_context=64) == (1, 64)
    assert factor_of(3, max_context=200) == (1, 64)  # a bound is no wish
    assert factor_of(127) == (2, 128)
    assert factor_of(128) == (4, 200)
    with pytest.raises(PromptTooLong, match="200"):
        engine.check(request(ids(200)))
    with pytest.raises(PromptTooLong, match="holds 64"):
        engine_of(is_off=True, max_context=NATIVE).check(request(ids(64)))


def test_a_bound_below_the_prompt_is_a_prompt_that_is_too_long() -> None:
    with pytest.raises(PromptTooLong, match="holds 20"):
        engine_of().check(request(ids(30), max_context=20))


def ending_of(engine, asked):
    sequence = engine.submit(asked)
    return run(engine, [sequence])[sequence.id][-1].ending


def test_a_text_that_grows_beyond_the_native_context_is_computed_once_more_and_says_why() -> None:
    engine, text = engine_of(), ids(60)
    first = ending_of(engine, request(text, max_tokens=4))
    assert (first.yarn_factor, first.n_cached, first.other_factor) == (1, 0, None)
    second = ending_of(engine, request([*text, *ids(20, 5)], max_tokens=4))
    assert (second.yarn_factor, second.n_cached, second.other_factor) == (2, 0, OtherFactor(1, 60))
    third = ending_of(engine, request([*text, *ids(20, 5), 7], max_tokens=4))
    assert (third.yarn_factor, third.n_cached, third.other_factor) == (2, 80, None)
    back = ending_of(engine, request(text, max_tokens=1))
    assert (back.yarn_factor, back.n_cached, back.other_factor) == (1, 59, None)
    elsewhere = ending_of(engine, request(text, max_tokens=40, tenant="ann"))
    assert (elsewhere.yarn_factor, elsewhere.other_factor) == (2, None)  # nobody learns of another tenant's texts


def test_saved_prefixes_keep_their_factors_apart_and_those_that_are_not_asked_for_stay_away() -> None:
    old = engine_of()
    prompts = [request(ids(PAGE_TOKENS + 9, 3), max_tokens=n) for n in (2, 60, 120)]
    answers = [ids_of(s) for s in generate(old, *prompts)]
    meta, sections = collect(old.cache)
    new = engine_of()
    n_restored = restore(new.cache, meta, sections, VOCAB, (1, 2, 4))
    again = generate(new, *prompts)
    assert [s.factor for s in again] == [1, 2, 4]
    assert [s.n_cached for s in again] == [PAGE_TOKENS + 8] * 3
    assert [ids_of(s) for s in again] == answers
    plain = engine_of(is_off=True, max_context=NATIVE)
    assert 0 < restore(plain.cache, meta, sections, VOCAB) < n_restored
    assert {realm for realm, _ in plain.cache.paths()} == {("", "", 1)}
    for wrong in ("2", None, True):
        with pytest.raises(ValueError, match="place"):
            restore(engine_of().cache, {"nodes": [meta["nodes"][0] | {"factor": wrong}]}, {
                name: data[: len(data) // len(meta["nodes"])] for name, data in sections.items()
            }, VOCAB)  # fmt: skip


def test_idle_work_for_a_next_turn_is_done_with_the_factor_that_it_will_have() -> None:
    engine, text = engine_of(), ids(50)
    prefill = Request(prompt_ids=tuple(text), sampling=SamplingParams(max_tokens=30), task="prefill")
    run(engine, [engine.submit(prefill, is_idle_work=True)])
    assert ending_of(engine, request(text, max_tokens=30)).n_cached == 49
    assert ending_of(engine, request(text, max_tokens=3)).n_cached == 0


def test_factors_follow_their_tokens_where_adapters_change_the_order_of_a_step() -> None:
    pool = random_pool()
    slices = []
    for factor, adapter, count in ((2, "b", 3), (1, None, 2), (4, "a", 1), (2, None, 4), (1, "b", 2)):
        sequence = Sequence(request=request([1], adapter=adapter), token_ids=[], factor=factor)
        PrefixCache(pool).grow(sequence.pages, count)
        slices.append(Slice(sequence, 0, (10 * factor,) * count, 1))
    batch = build_batch(slices)
    assert batch.order != tuple(range(5))
    assert (batch.factors_T * 10).tolist() == batch.ids_T.tolist()
