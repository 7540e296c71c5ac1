"""A model in a caller's own process: the same answers and the same errors as in this one."""

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest

from samovar.errors import BadRequest, Overloaded, PromptTooLong, SamovarError
from samovar.llm import LLM
from tests.llm.remote_processes import LONG, PROMPT, children, pid
from tests.matrices import slow_but


@pytest.fixture(scope="module")
def shared(tiny_folder) -> Iterator[LLM]:
    """For tests that leave its process alive."""
    llm = LLM(tiny_folder, process=True)
    yield llm
    llm.close()


@pytest.mark.parametrize(
    "call",
    [
        {"temperature": 0, "seed": 6},
        {"temperature": 0.9, "seed": 7, "logprobs": 4, "prompt_logprobs": 2},
        {"temperature": 1.2, "seed": 1, "top_k": 40, "min_p": 0.01, "presence_penalty": 0.5, "logit_bias": {5: 2.0}},
        {"temperature": 1.0, "seed": 2, "n": 3, "stop": ["e"], "tenant": "ann", "priority": 3, "deadline_s": 60},
        {"temperature": 1.0, "seed": 4, "json_schema": {"type": "object", "properties": {"a": {"type": "boolean"}}}},
        {"temperature": 1.0, "seed": 5, "regex": "[a-f]{3,9}"},
    ],
)
def test_answers_are_those_of_this_process(shared, tiny_folder, call):
    here = LLM(tiny_folder)
    for ask in ("generate", "chat"):
        for prompt in (PROMPT, [PROMPT, "snow"]):
            found, wanted = (getattr(llm, ask)(prompt, max_tokens=20, **call) for llm in (shared, here))
            pairs = zip(found, wanted, strict=True) if isinstance(found, list) else [(found, wanted)]
            for ours, theirs in pairs:
                assert _plain(ours) == _plain(theirs)
                assert [_plain(a) for a in ours.alternatives] == [_plain(a) for a in theirs.alternatives]


def _plain(result):
    names = (
        "text",
        "token_ids",
        "finish_reason",
        "stop",
        "seed",
        "logprobs",
        "prompt_logprobs",
        "is_grammar_complete",
        "error",
    )
    return {name: getattr(result, name) for name in names}


def test_scores_are_those_of_this_process(shared, tiny_llm):
    texts = ["a", PROMPT, "snow"]
    assert shared.embed(texts, any_model=True).tobytes() == tiny_llm.embed(texts, any_model=True).tobytes()
    pairs = [(PROMPT, " is hot"), ("", "tea")]
    assert shared.log_likelihoods(pairs) == tiny_llm.log_likelihoods(pairs)
    assert (shared.max_context, shared.kv_type, shared.warnings) == (tiny_llm.max_context, tiny_llm.kv_type, tiny_llm.warnings)


def test_values_of_numpy_and_the_like_are_understood_as_here(shared, tiny_llm):
    call = {"temperature": np.float32(0.5), "seed": np.int64(3), "logit_bias": {np.int64(5): np.float64(1)}, "max_tokens": 5}
    assert shared.generate(PROMPT, **call).token_ids == tiny_llm.generate(PROMPT, **call).token_ids


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (BadRequest, lambda m: m.generate(PROMPT, adapter="nobody")),
        (BadRequest, lambda m: m.generate([PROMPT, PROMPT], regex="(")),
        (BadRequest, lambda m: m.stream_generate(PROMPT, lark="start: nowhere")),
        (BadRequest, lambda m: m.generate(PROMPT, tenant="\ud800")),
        (BadRequest, lambda m: m.generate(PROMPT, adapter=5)),
        (BadRequest, lambda m: m.generate(PROMPT, temperature=-1)),
        (PromptTooLong, lambda m: m.generate(PROMPT * 50)),
        (BadRequest, lambda m: m.embed("", any_model=True)),
    ],
)
def test_requests_are_refused_as_in_this_process_and_harm_nothing(shared, tiny_llm, error, call):
    before, errors = pid(shared), []
    for llm in (shared, tiny_llm):
        with pytest.raises(error) as caught:
            call(llm)
        errors.append((type(caught.value), str(caught.value), vars(caught.value)))
    assert errors[0] == errors[1]
    assert pid(shared) == before
    assert shared.generate(PROMPT, max_tokens=3, temperature=0).token_ids


def test_the_insides_cannot_be_had(shared):
    for name in ("model", "ops", "packer"):
        with pytest.raises(BadRequest, match="caller's own process"):
            getattr(shared, name)


def test_a_full_queue_refuses_with_the_time_to_wait(tiny_folder):
    llm = LLM(tiny_folder, process=True, max_streams=1, max_waiting=1)
    streams = [llm.stream_generate(PROMPT, **LONG) for _ in range(2)]
    with pytest.raises(Overloaded) as caught:
        llm.stream_generate(PROMPT)
    assert (caught.value.n_waiting, caught.value.wait_s > 0) == (1, True)
    for stream in streams:
        stream.close()
    assert llm.generate(PROMPT, max_tokens=2).usage.n_completion
    llm.close()


def test_streams_can_be_closed_and_dropped(shared):
    stream = shared.stream_generate(PROMPT, **LONG)
    next(stream)
    stream.close()
    assert stream.result.finish_reason == "cancelled"
    assert stream.result.usage.n_completion < 110
    dropped = shared.stream_generate(PROMPT, **LONG)
    next(dropped)
    del dropped
    shared.settle()


def test_async_streams_are_the_answers_of_plain_ones(shared):
    wanted = shared.generate(PROMPT, **LONG)

    async def read():
        stream = shared.astream_generate(PROMPT, **LONG)
        pieces = [delta.text async for delta in stream]
        return "".join(pieces), stream.result.token_ids

    async def read_all():
        stopped = shared.astream_generate(PROMPT, **LONG)
        await anext(stopped)
        found = await asyncio.gather(*[read() for _ in range(8)])
        await stopped.aclose()
        assert stopped.result.finish_reason == "cancelled"
        return found

    assert asyncio.run(read_all()) == [(wanted.text, wanted.token_ids)] * 8


@pytest.mark.parametrize(
    "settings",
    slow_but(
        [{"path_or_name": "/nowhere/model.gguf"}, {"memory": 1000}],
        [
            {"path_or_name": "/nowhere/model.gguf"},
            {"memory": 1000},
            {"max_context": 100_000},
            {"isa": "sse9"},
            {"n_threads": 0},
            {"draft": "/nowhere/draft.gguf"},
            {"kv_type": "q8"},
        ],
    ),
)
def test_a_model_that_cannot_be_opened_raises_the_same_error_as_here(tiny_folder, settings):
    errors, before = [], children()
    for process in (False, True):
        with pytest.raises(SamovarError) as caught:
            LLM(**{"path_or_name": tiny_folder} | settings, process=process)
        errors.append((type(caught.value), str(caught.value), vars(caught.value)))
    assert errors[0] == errors[1]
    assert children() == before
