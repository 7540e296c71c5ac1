"""Anthropic's Messages API, against the official client."""

import json
import time

import anthropic
import httpx
import pytest

from samovar.serving.anthropic_fields import MessageFields, PromptFields
from samovar.serving.anthropic_reply import anthropic_error
from samovar.serving.failures import Failure
from tests.engine.scripted import by_position
from tests.llm.scripted import broken, is_idle, scripted
from tests.serving.served import served

QUESTION = [{"role": "user", "content": "Why is the sky blue?"}]
ANSWER = "<think>\nLight scatters.\n</think>\n\nBecause of 空気 scattering."
THINKS = {"type": "enabled", "budget_tokens": 1024}
BASE = {"model": "hybrid", "max_tokens": 2048, "messages": QUESTION}


def said(llm, text):
    """A script that says a text, tags being tokens."""
    return by_position([*llm.tokenizer.encode(text), llm.tokenizer.eos_id])


def endless(_, generated):
    """A script that goes on for seconds, and never in a circle."""
    time.sleep(0.002)
    return 5000 + len(generated) * 7919 % 1009


@pytest.fixture(scope="module")
def client(server):
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as made:
        yield made


def test_thoughts_and_answer_are_blocks(client, hybrid):
    with scripted(hybrid, said(hybrid, ANSWER)):
        message = client.messages.create(**BASE, thinking=THINKS)
    thinking, text = message.content
    assert (thinking.type, thinking.thinking) == ("thinking", "Light scatters.")
    assert thinking.signature
    assert (text.type, text.text) == ("text", "Because of 空気 scattering.")
    assert (message.stop_reason, message.stop_sequence, message.model) == ("end_turn", None, "hybrid")
    assert message.usage.output_tokens == len(hybrid.tokenizer.encode(ANSWER)) + 1
    assert message.usage.output_tokens_details.thinking_tokens == len(hybrid.tokenizer.encode("\nLight scatters.\n"))
    assert message._request_id.startswith("req_")
    assert is_idle(hybrid)


@pytest.mark.parametrize("thinking", [THINKS, {**THINKS, "display": "omitted"}, {"type": "disabled"}])
def test_the_events_of_a_stream_add_up_to_the_plain_message(client, hybrid, thinking):
    answer = ANSWER if thinking["type"] == "enabled" else "Because."
    with scripted(hybrid, said(hybrid, answer)):
        whole = client.messages.create(**BASE, thinking=thinking)
        with client.messages.stream(**BASE, thinking=thinking) as stream:
            kinds = [event.type for event in stream]
            streamed = stream.get_final_message()
    alike = {"id", "usage", "samovar", "content"}
    assert streamed.model_dump(exclude=alike) == whole.model_dump(exclude=alike)
    assert [b.to_dict() for b in streamed.content] == [b.to_dict() for b in whole.content]
    assert streamed.usage.output_tokens == whole.usage.output_tokens
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]


def test_a_stream_has_anthropics_events_in_order(server, hybrid):
    body = BASE | {"stream": True, "thinking": THINKS}
    with scripted(hybrid, said(hybrid, ANSWER)), server.client.stream("POST", "/v1/messages", json=body) as reply:
        lines = [line for line in reply.iter_lines() if line]
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert [event["type"] for event in events] == names
    assert names[:3] == ["message_start", "ping", "content_block_start"]
    assert events[0]["message"]["usage"]["input_tokens"] > 0
    blocks = [(e["type"], e["index"]) for e in events if e["type"] in ("content_block_start", "content_block_stop")]
    start, stop = "content_block_start", "content_block_stop"
    assert blocks == [(start, 0), (stop, 0), (start, 1), (stop, 1)]
    deltas = [event["delta"]["type"] for event in events if event["type"] == "content_block_delta"]
    assert list(dict.fromkeys(deltas)) == ["thinking_delta", "signature_delta", "text_delta"]
    assert events[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}


def test_omitted_thoughts_come_back_in_their_signature(client, hybrid):
    with scripted(hybrid, said(hybrid, ANSWER)):
        hidden = client.messages.create(**BASE, thinking=THINKS | {"display": "omitted"})
        shown = client.messages.create(**BASE, thinking=THINKS)
    assert hidden.content[0].thinking == ""
    call = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "blue"}]}
    counts = [
        client.messages.count_tokens(
            model="hybrid", messages=[*QUESTION, {"role": "assistant", "content": [*blocks, call]}, result]
        ).input_tokens
        for blocks in (hidden.content, shown.content, shown.content[1:])
    ]
    assert counts[0] == counts[1] > counts[2]


def test_a_client_that_asks_for_no_thoughts_gets_none(client, hybrid):
    with scripted(hybrid, said(hybrid, "Because.")):
        for thinking in ({}, {"thinking": {"type": "disabled"}}):
            message = client.messages.create(**BASE, **thinking)
            assert [block.type for block in message.content] == ["text"]
            assert message.content[0].text == "Because."


def test_models_that_always_or_never_think_take_the_default_and_refuse_the_opposite(models):
    always, never = models.load("always"), models.load("never")
    try:
        with served({"always": always, "never": never}) as running:
            with scripted(always, said(always, "Hm.\n</think>\n\nYes.")):
                blocks = running.post("/v1/messages", **BASE | {"model": "always"}).json()["content"]
            assert [block["type"] for block in blocks] == ["thinking", "text"]
            with scripted(never, said(never, "Yes.")):
                adaptive = BASE | {"model": "never", "thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}
                assert running.post("/v1/messages", **adaptive).json()["content"] == [{"type": "text", "text": "Yes."}]
            for model, thinking in (("always", {"type": "disabled"}), ("never", THINKS)):
                refused = running.post("/v1/messages", **BASE | {"model": model, "thinking": thinking})
                assert refused.status_code == 400, model
                assert "think" in refused.json()["error"]["message"]
    finally:
        always.close()
        never.close()


@pytest.mark.parametrize(
    ("fields", "reason", "sequence"),
    [
        ({"max_tokens": 4}, "max_tokens", None),
        ({"stop_sequences": ["three"]}, "stop_sequence", "three"),
        ({"max_tokens": 100_000}, "model_context_window_exceeded", None),
    ],
)
def test_a_stop_reason_says_why_an_answer_ended(server, hybrid, models, fields, reason, sequence):
    small = models.load("hybrid", max_context=64)
    try:
        with served({"hybrid": small}) as running, scripted(small, said(small, "one two three " * 50)):
            message = running.post("/v1/messages", **BASE | fields).json()
    finally:
        small.close()
    assert (message["stop_reason"], message["stop_sequence"]) == (reason, sequence)


def test_a_last_message_of_the_assistant_is_continued(client, hybrid):
    with scripted(hybrid, said(hybrid, " scattering.")):
        messages = [*QUESTION, {"role": "assistant", "content": "Because of"}]
        message = client.messages.create(**BASE | {"messages": messages})
        assert message.content[0].text == " scattering."
        with pytest.raises(anthropic.BadRequestError, match="ends in whitespace"):
            client.messages.create(**BASE | {"messages": [*QUESTION, {"role": "assistant", "content": "Because of "}]})


def test_counted_tokens_are_those_of_the_call(client, hybrid):
    prompt = {
        "model": "hybrid",
        "system": [{"type": "text", "text": "You are brief.", "cache_control": {"type": "ephemeral"}}],
        "messages": QUESTION,
        "tools": [{"name": "look", "description": "Look up.", "input_schema": {"type": "object", "properties": {}}}],
    }
    for more in ({}, {"thinking": THINKS}, {"thinking": {"type": "adaptive"}}):
        with scripted(hybrid, said(hybrid, "Because.")):
            counted = client.messages.count_tokens(**prompt, **more).input_tokens
            usage = client.messages.create(**prompt, **more, max_tokens=2048).usage
            assert counted == usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens
    long = [{"role": "user", "content": "word " * 6000}]
    assert client.messages.count_tokens(model="hybrid", messages=long).input_tokens > 6000  # more than the context holds


def test_what_the_cache_held_is_told_apart(client, hybrid):
    messages = [{"role": "user", "content": "word " * 200}]
    with scripted(hybrid, said(hybrid, "Yes.")):
        first = client.messages.create(**BASE | {"messages": messages}).usage
        with client.messages.stream(**BASE | {"messages": messages}) as stream:
            second = stream.get_final_message().usage
    assert first.cache_read_input_tokens == 0
    assert second.cache_read_input_tokens > 100
    assert second.input_tokens + second.cache_read_input_tokens == first.input_tokens


def test_a_schema_is_followed_in_both_places_that_clients_give_it(server, hybrid):
    schema = {"type": "object", "properties": {"sky": {"type": "string"}}, "required": ["sky"], "additionalProperties": False}
    asked = {"type": "json_schema", "schema": schema}
    with scripted(hybrid, said(hybrid, 'No{"sky": "blue"}')):
        for place in ({"output_config": {"format": asked}}, {"output_format": asked}):
            text = server.post("/v1/messages?beta=true", **BASE | {"max_tokens": 40} | place).json()["content"][0]["text"]
            assert text.lstrip().startswith("{"), text


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"foo": 1}, "foo"),
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"stop_sequences": [""]}, "stop_sequences"),
        ({"container": "c"}, "container"),
        ({"mcp_servers": [{"name": "x"}]}, "mcp_servers"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "context_management.edits[0].type"),
        ({"thinking": {"type": "enabled", "budget_tokens": 4096}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 0}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "disabled", "budget_tokens": 50}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "between_tools"}}, "thinking.type"),
        ({"output_config": {"effort": "huge"}}, "output_config.effort"),
        ({"timeout_s": -1}, "timeout_s"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "web_search_20250305"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "bash_20250124"),
        ({"tools": [{"name": "look"}]}, "tools[0]"),
        ({"tools": [{"name": "look", "input_schema": {}, "defer_loading": True}]}, "tools[0]: defer_loading"),
        ({"system": [{"type": "image"}]}, "system[0].type"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "x"}] * 10_001}, "there are 10001 messages"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 20_001}]}, "20001 content blocks"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "foo": 1}]}]}, "messages[0].content[0]: foo"),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_9"}]}]},
            "messages[0].content[0].tool_use_id",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(server, fields, named):
    reply = server.post("/v1/messages", **{name: value for name, value in (BASE | fields).items() if value is not None})
    error = reply.json()
    assert reply.status_code == 400
    assert (error["type"], error["error"]["type"]) == ("error", "invalid_request_error")
    assert named in error["error"]["message"]
    assert error["request_id"] == reply.headers["request-id"]


def test_errors_are_those_that_the_official_client_knows(client, hybrid):
    with pytest.raises(anthropic.NotFoundError, match="is not offered here") as missing:
        client.messages.create(**BASE | {"model": "claude-0"})
    assert missing.value.body["error"]["type"] == "not_found_error"
    assert missing.value.request_id.startswith("req_")
    with pytest.raises(anthropic.BadRequestError, match="tokens, and the context holds"):
        client.messages.create(**BASE | {"messages": [{"role": "user", "content": "word " * 5000}]})


def test_a_path_or_method_that_is_not_there_is_told_in_anthropics_words(server):
    for method, path, status in (("GET", "/v1/messages", 405), ("POST", "/v1/messages/batches", 404)):
        reply = server.client.request(method, path)
        assert reply.status_code == status
        assert reply.json()["type"] == "error"
        assert reply.headers.get("allow") == ("POST" if status == 405 else None)


def test_a_full_queue_is_overload_and_says_when_to_return(models):
    small = models.load("hybrid", max_streams=1, max_waiting=1)
    try:
        with served({"hybrid": small}) as running, scripted(small, endless):
            body = BASE | {"stream": True}
            with (
                running.client.stream("POST", "/v1/messages", json=body),
                running.client.stream("POST", "/v1/messages", json=body),
            ):
                reply = running.post("/v1/messages", **BASE)
        assert reply.status_code == 529
        assert reply.json()["error"]["type"] == "overloaded_error"
        assert int(reply.headers["retry-after"]) >= 1
    finally:
        small.close()


def test_an_error_in_mid_stream_is_an_event_that_the_client_raises(client, hybrid):
    def fails(prompt_ids):
        return True

    with broken(hybrid, fails), client.messages.stream(**BASE) as stream, pytest.raises(anthropic.APIStatusError) as caught:
        stream.get_final_message()
    assert caught.value.body["error"]["type"] == "api_error"
    assert is_idle(hybrid)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_takes_its_request_along(server, hybrid, stream):
    with scripted(hybrid, endless):
        with httpx.Client(base_url=server.url, timeout=0.2) as leaving:
            if stream:
                with leaving.stream("POST", "/v1/messages", json=BASE | {"stream": True}) as reply:
                    assert next(reply.iter_lines()) == "event: message_start"
            else:
                with pytest.raises(httpx.ReadTimeout):
                    leaving.post("/v1/messages", json=BASE)
        deadline = time.monotonic() + 5
        while hybrid._engine.has_work and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not hybrid._engine.has_work
    assert is_idle(hybrid)


@pytest.mark.parametrize(
    ("status", "told", "kind"),
    [
        (401, 401, "authentication_error"),
        (403, 403, "permission_error"),
        (413, 413, "request_too_large"),
        (422, 422, "invalid_request_error"),
        (429, 429, "rate_limit_error"),
        (503, 529, "overloaded_error"),
        (504, 504, "timeout_error"),
        (500, 500, "api_error"),
    ],
)
def test_each_failure_has_anthropics_status_and_type(status, told, kind):
    failure = Failure(status=status, kind="server_error", message="It is so.", retry_s=2.4)
    reply = anthropic_error(failure, "req_1")
    assert (reply.status_code, json.loads(reply.body)["error"]) == (told, {"type": kind, "message": "It is so."})
    assert (reply.headers["retry-after"], reply.headers["request-id"]) == ("2", "req_1")


ODD = [None, True, -1, 1.5, 1 << 70, "", "\x00", [], {}, [None], [[]], [{}], {"type": None}, {"type": "text"}, [{"type": []}]]
ODD_BLOCKS = [
    {"type": "tool_use", "id": 1, "name": "x", "input": {}},
    {"type": "tool_result", "tool_use_id": "x", "content": [[]]},
    {"type": "thinking", "thinking": None},
    {"type": "text", "text": "x", "cache_control": 1},
    {"type": {}},
]


def test_whatever_is_sent_the_answer_is_no_internal_error(server, hybrid):
    fields = {**MessageFields.__annotations__, **PromptFields.__annotations__}
    bodies = [BASE | {"max_tokens": 1, name: value} for name in fields for value in ODD]
    bodies += [BASE | {"max_tokens": 1, "messages": [{"role": "user", "content": value}]} for value in ODD]
    for role in ("user", "assistant", "system"):
        bodies += [BASE | {"max_tokens": 1, "messages": [{"role": role, "content": [block]}]} for block in ODD_BLOCKS]
    bodies += [BASE | {"max_tokens": 1, "tools": [{"name": value, "input_schema": value}]} for value in ODD]
    with scripted(hybrid, said(hybrid, "Yes.")):
        for body in bodies:
            reply = server.post("/v1/messages", **body)
            assert reply.status_code in (200, 400, 404), (body, reply.text)
        for raw in (b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"messages": ' + b"[" * 5000 + b"]" * 5000 + b"}"):
            assert server.client.post("/v1/messages", content=raw).status_code == 400, raw[:20]
    assert is_idle(hybrid)
