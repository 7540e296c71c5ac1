"""Chat completions in OpenAI's dialect, against the official client."""

import json
from functools import reduce

import openai
import pytest

from tests.engine.scripted import by_position
from tests.llm.scripted import is_idle, scripted
from tests.serving.served import served


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def said(llm, text):
    """A script that says a text, tags being tokens."""
    return by_position([*llm.tokenizer.encode(text), llm.tokenizer.eos_id])


QUESTION = [{"role": "user", "content": "Why is the sky blue?"}]
ANSWER = "<think>\nLight scatters.\n</think>\n\nBecause of 空気 scattering."


def test_thoughts_and_answer_come_apart(client, hybrid):
    with scripted(hybrid, said(hybrid, ANSWER)):
        reply = client.chat.completions.create(model="hybrid", messages=QUESTION)
    message = reply.choices[0].message
    assert message.content == "Because of 空気 scattering."
    assert message.reasoning_content == message.reasoning == "Light scatters."
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage.completion_tokens_details.reasoning_tokens == len(hybrid.tokenizer.encode("\nLight scatters.\n"))
    assert reply.system_fingerprint.startswith("samovar-")
    assert is_idle(hybrid)


def test_a_whole_reply_is_its_stream_put_together(client, hybrid):
    with scripted(hybrid, said(hybrid, ANSWER)):
        whole = client.chat.completions.create(model="hybrid", messages=QUESTION, seed=1)
        chunks = list(
            client.chat.completions.create(
                model="hybrid", messages=QUESTION, seed=1, stream=True, stream_options={"include_usage": True}
            )
        )
    deltas = [c.choices[0].delta for c in chunks if c.choices]
    assert "".join(d.content or "" for d in deltas) == whole.choices[0].message.content
    assert "".join(getattr(d, "reasoning_content", None) or "" for d in deltas) == "Light scatters."
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"


def test_thinking_can_be_switched_off_in_every_way_that_clients_know(server, hybrid):
    ways = (
        {"enable_thinking": False},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"reasoning_effort": "none"},
        {"reasoning": {"effort": "none"}},
        {"thinking": {"type": "disabled"}},
    )
    with scripted(hybrid, said(hybrid, "Yes.")):
        for way in ways:
            reply = server.post("/v1/chat/completions", messages=QUESTION, **way).json()
            assert reply["choices"][0]["message"]["content"] == "Yes.", way
            assert "reasoning" not in reply["choices"][0]["message"], way


def test_several_answers_come_with_their_places(client, hybrid):
    with scripted(hybrid, said(hybrid, ANSWER)):
        chunks = list(client.chat.completions.create(model="hybrid", messages=QUESTION, n=3, stream=True))
    texts = reduce(
        lambda texts, c: texts | {c.index: texts.get(c.index, "") + (c.delta.content or "")},
        (choice for chunk in chunks for choice in chunk.choices),
        {},
    )
    assert texts == dict.fromkeys(range(3), "Because of 空気 scattering.")


def test_log_probabilities_cover_every_token_once(server, hybrid):
    with scripted(hybrid, said(hybrid, "Yes, it is.")):
        body = {"messages": QUESTION, "enable_thinking": False, "logprobs": True, "top_logprobs": 2, "seed": 1}
        whole = server.post("/v1/chat/completions", **body).json()["choices"][0]["logprobs"]["content"]
        events = server.events("/v1/chat/completions", **body, stream=True)
    choices = [json.loads(event)["choices"][0] for event in events[:-1]]
    streamed = [entry for choice in choices if choice["logprobs"] for entry in choice["logprobs"]["content"]]
    assert streamed == whole
    assert all(len(entry["top_logprobs"]) == 2 for entry in whole)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"foo": 1}, "foo"),
        ({"audio": {"voice": "a"}}, "audio"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"enable_thinking": False, "thinking_budget": 50}, "thinking_budget"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"chat_template_kwargs": {"tokenize": True}}, "tokenize"),
        ({"messages": []}, "messages"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(server, fields, param):
    reply = server.post("/v1/chat/completions", **({"messages": QUESTION} | fields))
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param
    assert reply.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"timeout_s": -1}, "timeout_s"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"logprobs": True, "top_logprobs": 30}, "top_logprobs"),
        ({"guided_regex": "("}, "guided_regex"),
        ({"continue_final_message": True, "reasoning_effort": "low"}, "reasoning_effort"),
        ({}, "messages"),
    ],
)
def test_an_option_is_refused_under_the_name_that_the_request_has_for_it(server, fields, param):
    reply = server.post("/v1/chat/completions", **(fields | ({"messages": QUESTION} if fields else {})))
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, param)
    assert param in error["message"]


def test_a_body_of_too_many_objects_is_refused_before_it_is_gone_through_and_braces_in_texts_are_none(server, hybrid):
    refused = server.post("/v1/chat/completions", messages=QUESTION, tools=[{"type": "function"}] * 60_000)
    assert refused.status_code == 400
    assert "more than 50000 JSON objects" in refused.json()["error"]["message"]
    long = server.post("/v1/chat/completions", messages=[{"role": "user", "content": '{"a": { "' * 60_000}])
    assert long.json()["error"]["code"] == "context_length_exceeded"


def test_a_model_without_thoughts_says_so_and_not_where_it_lies(models):
    plain = models.load("never")
    try:
        with served({"plain": plain}) as running:
            error = running.post("/v1/chat/completions", messages=QUESTION, enable_thinking=True).json()["error"]
    finally:
        plain.close()
    assert error["param"] == "enable_thinking"
    assert error["message"] == "enable_thinking: this model has no thinking mode in its template"


def test_errors_are_those_that_the_official_client_knows(client):
    with pytest.raises(openai.NotFoundError, match="is not offered here"):
        client.chat.completions.create(model="gpt-0", messages=QUESTION)
    with pytest.raises(openai.BadRequestError, match="tokens, and the context holds") as caught:
        client.chat.completions.create(model="hybrid", messages=[{"role": "user", "content": "word " * 5000}])
    assert caught.value.code == "context_length_exceeded"
