"""An answer is the same to the last bit, tokens and log-probabilities, whatever runs beside it and however it is computed."""

import itertools
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pytest

from samovar.engine.draft_model import DraftModel
from samovar.engine.engine import Engine, Limits
from samovar.engine.ngram_drafter import NgramDrafter
from samovar.engine.page_pool import PagePool
from samovar.engine.request import Request
from samovar.kernels import Ops
from samovar.llm import LLM
from samovar.models.blocks import Decoder
from tests.engine.fakes import FixedCost, request, run
from tests.engine.random_decoders import NAMES, random_decoder
from tests.kernels.native_cases import ISAS, ops_on
from tests.matrices import slow_but

WAYS = ("in company", "chunked", "cached", "preempted", "speculated", "two threads")
PAIRS = list(itertools.combinations(WAYS, 2))
EVERY_WAY = WAYS
native = pytest.mark.skipif(not ISAS, reason="the native kernels are not built")


@dataclass(frozen=True)
class Machine:
    """A model, and the operations that it runs on."""

    model: Decoder
    ops: Ops

    def engine(self, kv_type, drafters=(), **options):
        config = self.model.config
        pool = PagePool.of(config, kv_type, n_pages=400, n_sequences=65)
        return Engine(self.model, self.ops, pool, config.vocab_size, 512, start_drafters=drafters, cost=FixedCost(), **options)


@lru_cache
def random_machine(name, n_threads):
    ops = ops_on(ISAS[-1], n_threads)
    return Machine(random_decoder(name, ops), ops)


def prompt(n, vocab_size, seed):
    return np.random.default_rng(seed).integers(3, vocab_size, n).tolist()


def targets(vocab_size, n_answer):
    """Requests of every kind that the order of computing might matter to."""
    text = prompt(75, vocab_size, 0)
    seeded = {"max_tokens": n_answer, "temperature": 1.3}
    return [
        request(text, max_tokens=n_answer, logprobs=5),
        request(text, **seeded, seed=3, logprobs=0, logit_ids=(4, 7), repetition_penalty=1.2, frequency_penalty=0.3),
        request(text[:64], **seeded, seed=4, top_k=40, top_p=0.95, min_p=0.01, prompt_logprobs=3),
        request(text[:50] + text[:33], **seeded, seed=5, logprobs=1, prompt_logprobs=0, prompt_logprobs_from=40),
        request(text[:9], **seeded, seed=6, logprobs=1, stop_ids=tuple(range(40)), min_tokens=5),
    ]


def others(vocab_size):
    return [
        request(
            prompt(1 + 13 * i % 90, vocab_size, i % 7),
            temperature=0.3 * (i % 5),
            seed=i,
            max_tokens=1 + i % 9,
            priority=max(i % 3 - 1, i // 20),
            logprobs=i % 4 or None,
            presence_penalty=0.1 * (i % 2),
        )
        for i in range(32)
    ]


def answers(machine, kv_type, asked, ways):
    """What each of the requests `asked` gets, computed in these ways."""
    company = others(machine.model.config.vocab_size) if "in company" in ways else []
    drafters = ()
    if "speculated" in ways:
        guesser = DraftModel(machine.engine(kv_type))
        drafters = (lambda r: guesser.start(r) if r in asked else NgramDrafter(),)
    limits = Limits(max_step_tokens=24, max_mixed_tokens=20) if "chunked" in ways else Limits()
    engine = machine.engine(kv_type, drafters, limits=limits, keeps_prefixes="cached" in ways or "preempted" in ways)
    if "cached" in ways:
        for n in (33, 60, 512):  # the beginnings of texts and whole ones, each as it is, and followed by something else
            texts = [(*r.prompt_ids[:n], *more) for r in asked for more in ((), (1, 2))]
            before = [Request(prompt_ids=text, sampling=asked[0].sampling, task="prefill") for text in texts]
            run(engine, [engine.submit(r) for r in before])
    sequences = [engine.submit(r) for r in company[:20]]
    if company:
        engine.step()
    ours = [engine.submit(r) for r in asked]
    sequences += [*ours, *(engine.submit(r) for r in company[20:])]
    events = {s.id: [] for s in sequences}
    due = dict.fromkeys(ours, 0)
    while engine.has_work:
        for sequence in list(engine.scheduler.running) if "preempted" in ways else ():
            if sequence.n_computed and sequence.n_generated >= due.get(sequence, 1000):
                engine.scheduler.preempt(sequence)
                due[sequence] += 9
                if due[sequence] != 18:  # else its pages are found again
                    engine.cache.clear()
        for event in engine.step():
            events[event.sequence_id].append(event)
    return [events[s.id] for s in ours]


def told(events):
    """All that a caller was told of an answer."""
    ending = events[-1].ending
    ids = [i for event in events for i in event.token_ids]
    return ids, [x for event in events for x in event.logprobs], ending.prompt_logprobs, ending.logits, ending.reason


def check(machines, kv_type, asked, ways, plain):
    found = answers(machines[1 + ("two threads" in ways)], kv_type, asked, ways)
    for ours, theirs in zip(found, plain, strict=True):
        assert told(ours) == theirs
    endings = [events[-1].ending for events in found]
    assert any(e.n_preempted for e in endings) == ("preempted" in ways)
    assert any(e.n_accepted for e in endings) == ("speculated" in ways)
    assert all(e.n_cached for e in endings[:2]) or "cached" not in ways


@lru_cache
def plain_answers(name, kv_type):
    machine = random_machine(name, 1)
    asked = targets(machine.model.config.vocab_size, 40)
    return asked, [told(answers(machine, kv_type, [r], ())[0]) for r in asked]


@native
@pytest.mark.parametrize("ways", [*PAIRS, EVERY_WAY], ids=" and ".join)
@pytest.mark.parametrize("kv_type", ["f16", "int8"])
def test_an_answer_is_the_same_to_the_last_bit_however_it_is_computed(kv_type, ways):
    asked, plain = plain_answers("qwen3", kv_type)
    check({n: random_machine("qwen3", n) for n in (1, 2)}, kv_type, asked, ways, plain)


@native
@pytest.mark.parametrize("kv_type", slow_but(["int8"], ["f32", "bf16", "f16", "int8"]))
@pytest.mark.parametrize("name", NAMES)
def test_every_architecture_and_type_of_keys_gives_the_same_answers_in_all_ways_at_once(name, kv_type):
    asked, plain = plain_answers(name, kv_type)
    ways = tuple(way for way in EVERY_WAY if name != "qwen3_next" or way != "speculated")  # states cannot step back
    check({n: random_machine(name, n) for n in (1, 2)}, kv_type, asked, ways, plain)


@native
def test_the_answers_that_are_compared_differ_from_each_other():
    asked, plain = plain_answers("qwen3", "f16")
    assert len({tuple(ids) for ids, *_ in plain}) == len(asked)
    assert all(ids for ids, *_ in plain)
    assert plain != plain_answers("qwen3", "int8")[1]
    assert [len(scores) for _, _, scores, *_ in plain] == [0, 0, 63, 43, 0]


@native
@pytest.mark.slow
@pytest.mark.parametrize("kv_type", ["f16", "int8"])
def test_a_real_model_gives_the_same_answers_to_the_last_bit_however_they_are_computed(smollm2, kv_type):
    models = {n: LLM(smollm2, n_threads=n, max_context=512, speculation="off") for n in (1, 2)}
    machines = {n: Machine(llm.model, llm.ops) for n, llm in models.items()}
    text = models[1].tokenizer.encode("The samovar is a metal container used to heat and boil water. " * 6)
    asked = [replace(r, prompt_ids=tuple(text[: len(r.prompt_ids)])) for r in targets(1000, 40)]
    plain = [told(answers(machines[1], kv_type, [r], ())[0]) for r in asked]
    for ways in [*zip(WAYS, strict=True), EVERY_WAY]:  # pairs of them are tested on the tiny model
        check(machines, kv_type, asked, ways, plain)
    for llm in models.values():
        llm.close()
