"""Responses in OpenAI's dialect, against the official client."""

import json
import time

import httpx
import openai
import pytest

from tests.engine.scripted import by_position
from tests.llm.scripted import broken, is_idle, scripted, spelled
from tests.serving.served import given_away

ANSWER = "<think>\nLight scatters.\n</think>\n\nBecause of 空気 scattering."
QUICK = {"reasoning": {"effort": "none"}}


@pytest.fixture(scope="module")
def client(keeper):
    with openai.OpenAI(base_url=f"{keeper.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def said(llm, text):
    return by_position([*llm.tokenizer.encode(text), llm.tokenizer.eos_id])


def slowly(llm):
    """A script that talks for long, a token every 2 ms, and does not go round in circles."""
    words = llm.tokenizer.encode(" ".join(str(n * n) for n in range(200)))

    def wanted(_, generated):
        time.sleep(0.002)
        return words[len(generated) * len(generated) % len(words)]

    return wanted


class Listener:
    """Says the same each time, and keeps the prompts."""

    def __init__(self, llm, *texts):
        self._llm, self._scripts = llm, [[*llm.tokenizer.encode(t), llm.tokenizer.eos_id] for t in texts]
        self.prompts = []

    def __call__(self, prompt_ids, generated):
        if prompt_ids not in self.prompts:
            self.prompts.append(prompt_ids)
        script = self._scripts[min(self.prompts.index(prompt_ids), len(self._scripts) - 1)]
        return script[min(len(generated), len(script) - 1)]

    @property
    def texts(self):
        return [self._llm.tokenizer.decode(list(ids)) for ids in self.prompts]


def test_thoughts_and_answer_are_items_of_their_own(client, hybrid):
    with scripted(hybrid, said(hybrid, ANSWER)):
        reply = client.responses.create(model="hybrid", input="Why is the sky blue?", metadata={"a": "b"}, user="me")
    thoughts, message = reply.output
    assert thoughts.content[0].text == "Light scatters."
    assert reply.output_text == "Because of 空気 scattering."
    assert (reply.status, message.status, reply.metadata, reply.user) == ("completed", "completed", {"a": "b"}, "me")
    assert reply.usage.output_tokens_details.reasoning_tokens == len(hybrid.tokenizer.encode("\nLight scatters.\n"))
    assert reply.usage.total_tokens == reply.usage.input_tokens + reply.usage.output_tokens
    assert is_idle(hybrid)


def test_a_stream_ends_with_the_response_that_its_events_add_up_to(client, hybrid):
    with scripted(hybrid, said(hybrid, ANSWER)):
        events = list(client.responses.create(model="hybrid", input="Why?", stream=True))
    assert [e.sequence_number for e in events] == list(range(len(events)))
    kinds = [e.type for e in events]
    assert [k for at, k in enumerate(kinds) if k != kinds[at - 1]] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    whole = events[-1].response
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == whole.output_text
    assert [e.item for e in events if e.type == "response.output_item.done"] == whole.output
    assert client.responses.retrieve(whole.id) == whole


def test_the_clients_own_stream_puts_the_same_together(client, hybrid):
    with scripted(hybrid, said(hybrid, ANSWER)):
        with client.responses.stream(model="hybrid", input="Why?") as stream:
            for _ in stream:
                pass
        final = stream.get_final_response()
    assert final.output_text == "Because of 空気 scattering."
    assert final.output[0].content[0].text == "Light scatters."


def test_a_chain_is_rendered_like_the_conversation_it_is(client, hybrid):
    listener = Listener(hybrid, ANSWER, "Red light is left.", "Yes.", "Yes.")
    with scripted(hybrid, listener):
        first = client.responses.create(model="hybrid", input="Why is it blue?", instructions="Be brief.")
        second = client.responses.create(
            model="hybrid", input="And red?", previous_response_id=first.id, instructions="Be kind."
        )
        client.responses.create(model="hybrid", input="Sure?", previous_response_id=second.id)
        client.chat.completions.create(
            model="hybrid",
            messages=[
                {"role": "user", "content": "Why is it blue?"},
                {"role": "assistant", "content": first.output_text, "reasoning_content": "Light scatters."},
                {"role": "user", "content": "And red?"},
                {"role": "assistant", "content": second.output_text},
                {"role": "user", "content": "Sure?"},
            ],
        )
    assert "Be kind." in listener.texts[1]
    assert "Be brief." not in listener.texts[1]
    assert len(listener.prompts) == 3, "the chat's prompt is that of the chain"


def test_a_whole_conversation_can_be_sent_back_as_items(client, hybrid):
    listener = Listener(hybrid, ANSWER, "Yes.")
    with scripted(hybrid, listener):
        first = client.responses.create(model="hybrid", input="Why?")
        by_id = client.responses.create(model="hybrid", input="Sure?", previous_response_id=first.id)
        items = [{"role": "user", "content": "Why?"}, *first.output, {"role": "user", "content": "Sure?"}]
        client.responses.create(model="hybrid", input=items)
        references = [{"type": "item_reference", "id": item.id} for item in first.output]
        client.responses.create(model="hybrid", input=[items[0], *references, items[-1]], store=False)
    assert len(listener.prompts) == 2
    listed = client.responses.input_items.list(by_id.id)
    assert [i.content[0].text for i in listed] == ["Sure?"]


def test_calls_of_one_turn_and_their_outputs_keep_their_order_and_bytes(client, hybrid):
    listener = Listener(hybrid, "Fine.")
    call = {"type": "function_call", "name": "weather"}
    arguments = '{"city":  "Nižní Novgorod", "n": 1e400, "id": 123456789012345678901}'
    items = [
        {"role": "user", "content": "Weather?"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "I look."}]},
        {**call, "call_id": "a", "arguments": arguments},
        {**call, "call_id": "b", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "b", "output": "rain"},
        {"type": "function_call_output", "call_id": "a", "output": [{"type": "input_text", "text": "sun"}]},
    ]
    tool = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": None}
    with scripted(hybrid, listener):
        reply = client.responses.create(model="hybrid", input=items, tools=[tool], **QUICK)
        client.responses.create(model="hybrid", input="Thanks.", previous_response_id=reply.id, tools=[tool], **QUICK)
    assert "<think>\nI look.\n</think>" in listener.texts[0]
    for text in listener.texts:
        assert f'"arguments": {arguments}' in text
        assert text.count('<tool_call>\n{"name": "weather"') == 2
        assert text.index("sun") < text.index("rain")
    assert reply.tools[0].name == "weather"


def test_a_response_can_be_fetched_and_deleted_by_its_owner(client, hybrid):
    with scripted(hybrid, said(hybrid, "Yes.")):
        made = client.responses.create(model="hybrid", input="Is it?", **QUICK)
        unstored = client.responses.create(model="hybrid", input="Is it?", store=False, **QUICK)
    assert client.responses.retrieve(made.id) == made
    client.responses.delete(made.id)
    for gone in (made.id, unstored.id):
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(gone)
    with scripted(hybrid, said(hybrid, "Yes.")), pytest.raises(openai.NotFoundError):
        client.responses.create(model="hybrid", input="And?", previous_response_id=made.id)


def test_another_callers_response_looks_like_none(client, keeper, hybrid):
    with scripted(hybrid, said(hybrid, "Yes.")):
        made = client.responses.create(model="hybrid", input="Is it?", **QUICK)
    path = f"/v1/responses/{made.id}"
    with given_away(keeper.server.records):
        replies = [
            keeper.client.get(path),
            keeper.client.get(f"{path}?stream=true"),
            keeper.client.get(f"{path}/input_items"),
            keeper.post(f"{path}/cancel"),
            keeper.client.delete(path),
            keeper.post("/v1/responses", input="x", previous_response_id=made.id),
            keeper.post("/v1/responses", input=[{"type": "item_reference", "id": made.output[0].id}]),
        ]
    assert [r.status_code for r in replies] == [404] * len(replies)
    assert client.responses.retrieve(made.id) == made


def test_a_background_response_runs_on_and_can_be_polled(client, hybrid):
    with scripted(hybrid, said(hybrid, ANSWER)):
        made = client.responses.create(model="hybrid", input="Why?", background=True)
        assert made.status == "in_progress"
        while (now := client.responses.retrieve(made.id)).status == "in_progress":
            time.sleep(0.01)
    assert (now.status, now.output_text) == ("completed", "Because of 空気 scattering.")
    assert client.responses.cancel(made.id) == now
    events = list(client.responses.retrieve(made.id, stream=True))
    assert events[-1].response == now
    assert list(client.responses.retrieve(made.id, stream=True, starting_after=3)) == events[4:]


def test_a_background_response_ends_when_it_is_cancelled(client, hybrid):
    with scripted(hybrid, slowly(hybrid)):
        made = client.responses.create(model="hybrid", input="Talk.", background=True, **QUICK)
        stream = client.responses.retrieve(made.id, stream=True)
        next(e for e in stream if e.type == "response.output_text.delta")
        ended = client.responses.cancel(made.id)
        assert ended.status == "cancelled"
        assert list(stream)[-1].response.status == "cancelled"
        assert is_idle(hybrid)
    assert client.responses.retrieve(made.id).output_text == ended.output_text != ""


def test_deleting_a_running_response_stops_it(client, hybrid):
    with scripted(hybrid, slowly(hybrid)):
        made = client.responses.create(model="hybrid", input="Talk.", background=True, **QUICK)
        client.responses.delete(made.id)
        assert is_idle(hybrid)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


@pytest.mark.parametrize("streams", [True, False])
def test_a_client_that_leaves_gives_its_pages_back(keeper, hybrid, streams):
    body = {"input": "Talk.", "stream": streams, **QUICK}
    with scripted(hybrid, slowly(hybrid)):
        if streams:
            with keeper.client.stream("POST", "/v1/responses", json=body) as reply:
                next(reply.iter_bytes())
        else:
            with pytest.raises(httpx.ReadTimeout):
                keeper.client.post("/v1/responses", json=body, timeout=0.2)
        deadline = time.monotonic() + 10
        while hybrid._engine.has_work:  # the scripted answer goes on for much longer
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert is_idle(hybrid)


def test_an_answer_that_is_cut_short_is_incomplete(client, hybrid):
    with scripted(hybrid, said(hybrid, "One two three four.")):
        reply = client.responses.create(model="hybrid", input="Count.", max_output_tokens=2, **QUICK)
    assert (reply.status, reply.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert reply.output[0].status == "incomplete"


def test_log_probabilities_are_those_of_the_text(client, hybrid):
    with scripted(hybrid, said(hybrid, ANSWER)):
        asked = {"model": "hybrid", "input": "Why?", "include": ["message.output_text.logprobs"], "top_logprobs": 2}
        whole = client.responses.create(**asked)
        events = list(client.responses.create(**asked, stream=True))
    told = whole.output[1].content[0].logprobs
    assert b"".join(bytes(entry.bytes) for entry in told).decode() == whole.output_text
    assert all(len(entry.top_logprobs) == 2 for entry in told)
    streamed = [entry for e in events if e.type == "response.output_text.delta" for entry in e.logprobs]
    assert [entry.token for entry in streamed] == [entry.token for entry in told]


def test_thoughts_can_be_had_as_a_summary_that_leaves_nothing_out(client, hybrid):
    with scripted(hybrid, said(hybrid, ANSWER)):
        asked = {"model": "hybrid", "input": "Why?", "reasoning": {"summary": "auto"}}
        events = list(client.responses.create(**asked, include=["reasoning.encrypted_content"], stream=True))
    thoughts = events[-1].response.output[0]
    assert thoughts.summary[0].text == "Light scatters."
    assert "".join(e.delta for e in events if e.type == "response.reasoning_summary_text.delta") == "Light scatters."
    listener = Listener(hybrid, "Yes.")
    bare = {"type": "reasoning", "summary": [], "encrypted_content": thoughts.encrypted_content}
    with scripted(hybrid, listener):
        client.responses.create(
            model="hybrid", input=[{"role": "user", "content": "?"}, bare, {"role": "assistant", "content": "So."}]
        )
    assert "<think>\nLight scatters.\n</think>\n\nSo." in listener.texts[0]


def test_a_schema_is_kept_to(client, hybrid):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
    form = {"format": {"type": "json_schema", "name": "x", "schema": schema}}
    with scripted(hybrid, by_position(spelled(hybrid, '{"a": 12}'))):
        reply = client.responses.create(model="hybrid", input="Go.", text=form, **QUICK)
    assert json.loads(reply.output_text) == {"a": 12}
    assert reply.text.format.name == "x"


def test_an_error_in_the_middle_is_told_once_and_kept(client, keeper, hybrid):
    with broken(hybrid, lambda _: True):
        plain = keeper.post("/v1/responses", input="Why?")
        events = list(client.responses.create(model="hybrid", input="Why?", stream=True))
        left = client.responses.create(model="hybrid", input="Why?", background=True)
        while (now := client.responses.retrieve(left.id)).status == "in_progress":
            time.sleep(0.01)
    assert plain.status_code == 500
    assert [e.type for e in events] == ["response.created", "response.in_progress", "response.failed"]
    assert (now.status, now.error.code) == ("failed", "server_error")
    with pytest.raises(openai.BadRequestError, match="is failed"):
        client.responses.create(model="hybrid", input="And?", previous_response_id=now.id)
    assert is_idle(hybrid)


def test_a_tool_is_called_and_its_output_read(client, hybrid):
    pytest.importorskip("samovar.text.tool_call_parser")
    call = '<tool_call>\n{"name": "weather", "arguments": {"city":  "Омск"}}\n</tool_call>'
    tool = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
    listener = Listener(hybrid, f"<think>\nI look.\n</think>\n\nWait.\n{call}", "Sunny.")
    with scripted(hybrid, listener):
        with client.responses.stream(model="hybrid", input="Weather?", tools=[tool | {"strict": None}]) as stream:
            events = list(stream)
        first = stream.get_final_response()
        asked = next(item for item in first.output if item.type == "function_call")
        output = {"type": "function_call_output", "call_id": asked.call_id, "output": "sun"}
        second = client.responses.create(
            model="hybrid", input=[output], previous_response_id=first.id, tools=[tool | {"strict": None}]
        )
    assert (asked.name, asked.arguments, first.output_text) == ("weather", '{"city":  "Омск"}', "Wait.")
    assert "".join(e.delta for e in events if e.type == "response.function_call_arguments.delta") == asked.arguments
    assert second.output_text == "Sunny."
    said_before = hybrid.tokenizer.encode(f"<think>\nI look.\n</think>\n\nWait.\n{call}<|im_end|>\n")
    n_first = len(listener.prompts[0])
    assert list(listener.prompts[1][n_first : n_first + len(said_before)]) == said_before, "what it wrote, to the byte"
