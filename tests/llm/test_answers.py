"""What a call may ask for beside one plain answer: lists, samples, stop strings, log-probabilities, and each option by name."""

import asyncio
import math

import numpy as np
import pytest

from samovar.engine.request import Ending, Event, Request, SamplingParams
from samovar.errors import BadRequest, NoTokenLeft, Overloaded, PromptTooLong
from samovar.llm import LLM
from samovar.llm.answer import Answer
from tests.engine.scripted import by_position
from tests.llm.scripted import broken, is_idle, scripted, spelled

PROMPTS = ["The water", "Nobody remembers whose samovar it was", "S"]
SAMPLED = {"temperature": 1.0, "seed": 3, "max_tokens": 15}


async def gathered(stream):
    return [delta async for delta in stream]


async def gathered_of(make):
    return await gathered(make())


def test_one_of_a_list_that_fails_says_so_and_the_others_are_as_ever(tiny_llm):
    wanted = tiny_llm.generate(PROMPTS, **SAMPLED)
    bad = tuple(tiny_llm.tokenizer.encode(PROMPTS[1]))
    with broken(tiny_llm, lambda ids: ids == bad):
        first, failed, third = tiny_llm.generate(PROMPTS, **SAMPLED)
        with pytest.raises(NoTokenLeft):
            tiny_llm.generate(PROMPTS[1], **SAMPLED)
        with pytest.raises(NoTokenLeft):
            list(tiny_llm.stream_generate(PROMPTS[1], **SAMPLED))
        with pytest.raises(NoTokenLeft):
            asyncio.run(gathered_of(lambda: tiny_llm.astream_generate(PROMPTS[1], **SAMPLED)))
    assert (first.token_ids, third.token_ids) == (wanted[0].token_ids, wanted[2].token_ids)
    assert (failed.finish_reason, failed.token_ids, failed.text) == ("error", (), "")
    assert "nan, expected a number" in failed.error
    assert (first.error, third.error) == (None, None)
    assert is_idle(tiny_llm)


def test_a_prompt_of_a_list_that_does_not_fit_is_refused_before_anything_runs(tiny_llm):
    tiny_llm.settle()
    next_id = repr(tiny_llm._engine._ids)
    with pytest.raises(PromptTooLong):
        tiny_llm.generate(["S", "The water is hot. " * 200])
    tiny_llm.settle()
    assert repr(tiny_llm._engine._ids) == next_id


@pytest.mark.parametrize("seed", [4, (1 << 63) - 2])
def test_samples_are_the_answers_with_the_following_seeds(tiny_llm, seed):
    options = {"temperature": 1.3, "max_tokens": 12, "logprobs": 1}
    first = tiny_llm.generate("The water", n=4, seed=seed, **options)
    samples = [first, *first.alternatives]
    assert [s.seed for s in samples] == [(seed + i) % (1 << 63) for i in range(4)]
    for sample in samples:
        alone = tiny_llm.generate("The water", seed=sample.seed, **options)
        assert (sample.token_ids, sample.logprobs, sample.text) == (alone.token_ids, alone.logprobs, alone.text)
    assert len({s.token_ids for s in samples}) > 1
    assert all(s.alternatives == () for s in first.alternatives)
    one, two = tiny_llm.chat(["The water", "S"], n=2, seed=seed, **options)
    for result, prompt in ((one, "The water"), (two, "S")):
        alone = tiny_llm.chat(prompt, seed=result.alternatives[0].seed, **options)
        assert result.alternatives[0].token_ids == alone.token_ids


def test_lists_of_conversations_are_answered_in_their_order(tiny_llm):
    turns = [
        [{"role": "user", "content": "The water"}],
        [
            {"role": "user", "content": "S"},
            {"role": "assistant", "content": "Tea."},
            {"role": "user", "content": "And the snow?"},
        ],
    ]
    together = tiny_llm.chat(turns, **SAMPLED)
    assert [r.token_ids for r in together] == [tiny_llm.chat(t, **SAMPLED).token_ids for t in turns]
    assert tiny_llm.chat(["The water"], **SAMPLED)[0].token_ids == together[0].token_ids
    for odd in ([], [[]], [[], "S"], ["S", 3], [turns[0], None], [turns[0][0], "S"]):
        with pytest.raises(BadRequest):
            tiny_llm.chat(odd)


@pytest.mark.parametrize(("stop", "shown"), [
    ("END", "one two E"), (["xx", "ND", "END."], "one two EE"), ("EEND", "one two "), ("three", "one two EEND. "),
    ("nowhere", "one two EEND. three"), ("one", ""),
])  # fmt: skip
def test_a_stop_string_that_spans_tokens_is_never_shown(tiny_llm, stop, shown):
    script = spelled(tiny_llm, "one two EEND. three")
    with scripted(tiny_llm, by_position(script)):
        stream = tiny_llm.stream_generate("S", stop=stop, temperature=0, max_tokens=40)
        deltas = [d.text for d in stream]
    result = stream.result
    assert "".join(deltas) == result.text == shown
    assert all(shown.startswith("".join(deltas[:i])) for i in range(len(deltas)))
    assert (result.finish_reason, result.usage.n_completion) == ("stop", len(result.token_ids))
    if stop == "nowhere":
        assert result.stop is None
        assert result.token_ids == tuple(script)
    else:
        assert result.stop in ([stop] if isinstance(stop, str) else stop)
        assert tiny_llm.tokenizer.decode(result.token_ids) == shown + result.stop
    assert is_idle(tiny_llm)


def test_an_answer_knows_what_was_computed_beyond_its_end(tiny_llm):
    ids = tuple(tiny_llm.tokenizer.encode("one two END three four"))
    request = Request(prompt_ids=(5, 6), sampling=SamplingParams())
    answer = Answer(request, tiny_llm.tokenizer.detokenizer(is_continuation=True), None, ("END",), lambda _: None)
    answer.push(Event(sequence_id=1, token_ids=ids[:-2]))  # as a step gives them that confirms guesses
    answer.push(Event(sequence_id=1, token_ids=ids[-2:], ending=Ending(reason="cancelled")))
    assert (answer.text, answer.text_ids) == ("one two ", (5, 6, *ids))
    assert tiny_llm.tokenizer.decode(answer.result().token_ids).startswith("one two END")
    assert len(answer.result().token_ids) < len(ids) - 2


def test_a_stop_string_in_the_thoughts_stops_nothing(hybrid_llm):
    script = [*hybrid_llm.tokenizer.encode("<think>\nSay END or not?\n</think>\n\nOne. END two"), hybrid_llm.tokenizer.eos_id]
    with scripted(hybrid_llm, by_position(script)):
        result = hybrid_llm.chat("Hi", stop="END", temperature=0)
    assert (result.reasoning, result.text, result.stop) == ("Say END or not?", "One. ", "END")


def log_softmax(logits_V):
    wide = logits_V.astype(np.float64)
    return wide - wide.max() - math.log(np.exp(wide - wide.max()).sum())


@pytest.mark.parametrize("n_top", [0, 1, 20])
def test_logprobs_belong_to_their_tokens(tiny_llm, n_top):
    result = tiny_llm.generate("The water", logprobs=n_top, prompt_logprobs=n_top, **SAMPLED)
    prompt_ids = tiny_llm.tokenizer.encode("The water")
    rows_TV = [log_softmax(row) for row in tiny_llm.logits([*prompt_ids, *result.token_ids])]
    assert len(result.logprobs) == len(result.token_ids)
    assert len(result.prompt_logprobs) == len(prompt_ids) - 1
    found = [*result.prompt_logprobs, *result.logprobs]
    for row_V, token_id, logprob in zip(rows_TV, [*prompt_ids[1:], *result.token_ids], found, strict=False):
        assert logprob.value == pytest.approx(row_V[token_id], abs=1e-7)
        best = np.argsort(-row_V, kind="stable")[:n_top]
        assert [i for i, _ in logprob.top] == best.tolist()
        assert [v for _, v in logprob.top] == pytest.approx(row_V[best].tolist(), abs=1e-7)


def test_logprobs_come_with_streams_and_after_cached_prompts_too(tiny_llm):
    options = {"logprobs": 3, "prompt_logprobs": 2, **SAMPLED}
    first = tiny_llm.generate(PROMPTS[1], **options)
    again = tiny_llm.generate(PROMPTS[1], **options)
    stream = tiny_llm.stream_generate(PROMPTS[1], **options)
    list(stream)
    assert first.logprobs == again.logprobs == stream.result.logprobs
    assert first.prompt_logprobs == again.prompt_logprobs == stream.result.prompt_logprobs
    assert tiny_llm.generate("S", **SAMPLED).logprobs is None
    assert tiny_llm.generate("S", **SAMPLED).prompt_logprobs is None


def test_no_end_before_min_tokens_and_none_at_all_where_it_is_ignored(tiny_llm):
    end = tiny_llm.tokenizer.eos_id
    eager = {"temperature": 0, "logit_bias": {end: 100}}
    assert tiny_llm.generate("S", max_tokens=9, **eager).token_ids == (end,)
    late = tiny_llm.generate("S", max_tokens=9, min_tokens=4, **eager)
    assert (late.token_ids.index(end), len(late.token_ids), late.finish_reason) == (4, 5, "stop")
    never = tiny_llm.generate("S", max_tokens=9, ignore_eos=True, **eager)
    assert (never.token_ids, never.finish_reason) == ((end,) * 9, "length")
    own = tiny_llm.generate("S", max_tokens=9, ignore_eos=True, stop_token_ids=[end], **eager)
    assert (own.token_ids, own.finish_reason) == ((end,), "stop")


def test_a_list_longer_than_the_queue_is_handed_in_as_places_become_free(tiny_folder):
    llm = LLM(tiny_folder, max_streams=2, max_waiting=0)
    wanted = [llm.generate(f"{i}", max_tokens=4, temperature=0).token_ids for i in range(9)]
    assert [r.token_ids for r in llm.generate([f"{i}" for i in range(9)], max_tokens=4, temperature=0)] == wanted
    streams = [llm.stream_generate("S", max_tokens=100, ignore_eos=True) for _ in range(2)]
    with pytest.raises(Overloaded):
        streams += [llm.stream_generate("S", max_tokens=100, ignore_eos=True) for _ in range(50)]


@pytest.mark.parametrize(
    "options",
    [
        {"n": 0}, {"n": 129}, {"n": 1.5}, {"n": True}, {"logprobs": 21}, {"logprobs": -1}, {"logprobs": True},
        {"prompt_logprobs": 21}, {"min_tokens": -1}, {"min_tokens": False}, {"priority": 101}, {"priority": "high"},
        {"priority": False}, {"tenant": 3}, {"tenant": 0}, {"deadline_s": 0}, {"deadline_s": "soon"}, {"ignore_eos": 1},
        {"stop_token_ids": 0}, {"stop_token_ids": ""}, {"logit_bias": []}, {"stop": 0}, {"stop": {}}, {"stop": [""]},
        {"thinking": True}, {"max_tokens": 0}, {"seed": 1 << 63},
    ],
)  # fmt: skip
def test_every_option_is_honoured_or_refused_by_name(tiny_llm, options):
    for call in (tiny_llm.generate, tiny_llm.stream_generate):
        with pytest.raises(BadRequest) as caught:
            call("S", **options)
        assert caught.value.param == next(iter(options))


def test_min_tokens_beyond_max_tokens_are_refused(tiny_llm):
    with pytest.raises(BadRequest, match="min_tokens"):
        tiny_llm.generate("S", min_tokens=5, max_tokens=4)


def test_tenants_share_nothing(tiny_llm):
    options = {"temperature": 0, "max_tokens": 2}
    tiny_llm.generate(PROMPTS[1], tenant="a", **options)
    assert tiny_llm.generate(PROMPTS[1], tenant="a", **options).usage.n_cached > 0
    assert tiny_llm.generate(PROMPTS[1], tenant="b", **options).usage.n_cached == 0
