"""Ollama's streams: pieces of tool calls, errors and silence in mid-stream, and clients that leave."""

import asyncio
import json
import time

import httpx
import msgspec
import ollama
import pytest

import samovar.serving.ollama_replies as replies
from samovar.errors import EngineFailed
from samovar.llm.result import Result, Timing, ToolCall, Usage
from samovar.serving.ollama_chat import ChatFields, MessageFields, chat_ask, message
from samovar.serving.ollama_options import keep_alive_s
from samovar.serving.ollama_replies import Shape, tool_call
from samovar.text.output_parser import Delta
from tests.engine.scripted import by_position
from tests.llm.scripted import broken, is_idle, scripted

MODEL = "hybrid"
QUESTION = [{"role": "user", "content": "Why is the sky blue?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


@pytest.fixture(scope="module")
def client(server):
    made = ollama.Client(host=server.url)
    yield made
    made.close()


class Told:
    """Answers that are known beforehand."""

    def __init__(self, deltas, calls=(), reason="stop", error=None):
        self._deltas, self._error = deltas, error
        usage = Usage(n_prompt=3, n_completion=9, n_thinking=0, n_cached=0)
        timing = Timing(prefill_s=0.5, decode_s=2.0)
        self.results = [
            Result(
                text="".join(d.text for d in deltas if d.field == "content"),
                reasoning=None,
                token_ids=(),
                finish_reason=reason,
                usage=usage,
                timing=timing,
                seed=5,
                tool_calls=tuple(ToolCall(name=name, arguments=text) for name, text in calls),
            )
        ]

    async def __aiter__(self):
        for delta in self._deltas:
            yield 0, delta
        if self._error:
            raise self._error


def streamed(server, told):
    """The lines of a stream and the whole reply, of the same answers."""
    shape = Shape(server.server, told, message, model=MODEL, logprobs=False, started_s=time.perf_counter())

    async def collect():
        return [line async for line in shape.lines()]

    lines = asyncio.run(collect())
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in lines)
    whole = replies.json_reply(shape.whole(told.results[0])).body
    return [json.loads(line) for line in lines], json.loads(whole), b"".join(lines)


def pieces(calls, size):
    """The deltas of calls whose arguments come in pieces."""
    for at, (name, text) in enumerate(calls):
        yield Delta("tool_name", name, at)
        for start in range(0, len(text), size):
            yield Delta("tool_arguments", text[start : start + size], at)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_tool_call_comes_in_one_piece_wherever_its_arguments_are_cut(server, size):
    calls = [("weather", '{"city": "東京",\n "at": [1, {"x": "a\\nb"}]}'), ("now", ""), ("big", '{"n": 123456789012345678901}')]
    told = Told([Delta("content", "Let me see."), *pieces(calls, size)], calls)
    lines, whole, raw = streamed(server, told)
    said = [call["function"] for line in lines for call in line["message"].get("tool_calls", ())]
    assert said == [
        {"name": "weather", "arguments": {"city": "東京", "at": [1, {"x": "a\nb"}]}},
        {"name": "now", "arguments": {}},
        {"name": "big", "arguments": {"n": 123456789012345678901}},
    ]
    assert b"123456789012345678901" in raw
    assert [call["function"] for call in whole["message"]["tool_calls"]] == said
    assert lines[0]["message"]["content"] == whole["message"]["content"] == "Let me see."
    assert [len(line["message"].get("tool_calls", ())) for line in lines] == [0, 1, 1, 1, 0]
    assert (lines[-1]["done_reason"], whole["done_reason"]) == ("stop", "stop")
    assert (whole["eval_duration"], whole["prompt_eval_duration"], whole["seed"]) == (2_000_000_000, 500_000_000, 5)


def test_a_call_that_was_cut_short_is_told_apart_from_one_that_can_be_made(server):
    calls = [("weather", '{"city": "Par')]
    lines, whole, _ = streamed(server, Told(list(pieces(calls, 4)), calls, reason="length"))
    for end in (lines[-1], whole):
        assert end["unfinished_tool_calls"] == [{"name": "weather", "arguments": '{"city": "Par'}]
        assert end["done_reason"] == "length"
        assert "tool_calls" not in end["message"]


@pytest.mark.parametrize("arguments", ['{"a": NaN}', "[1]", '"a"', '{"a": 1', '{"a": 1} x', "[" * 100_000])
def test_arguments_that_are_no_object_make_no_call(arguments):
    assert tool_call("f", arguments) is None


@pytest.mark.parametrize(
    ("reason", "told"), [("deadline", "length"), ("loop", "length"), ("length", "length"), ("stop", "stop")]
)
def test_every_end_is_stop_or_length_and_says_more_beside_it(server, reason, told):
    lines, whole, _ = streamed(server, Told([Delta("content", "a")], reason=reason))
    assert lines[-1]["done_reason"] == whole["done_reason"] == told
    assert whole.get("stop_reason") == (reason if reason in ("deadline", "loop") else None)


def test_an_error_in_mid_stream_is_the_last_line(server):
    lines, _, _ = streamed(server, Told([Delta("content", "a")], error=EngineFailed("the engine broke")))
    assert lines[-1] == {"error": "the engine broke"}
    assert [line["done"] for line in lines[:-1]] == [False]


def test_the_official_client_raises_what_fails(client, hybrid):
    with broken(hybrid, lambda ids: True):
        with pytest.raises(ollama.ResponseError, match=r"."):
            list(client.chat(MODEL, QUESTION, stream=True))
        with pytest.raises(ollama.ResponseError) as caught:
            client.chat(MODEL, QUESTION)
    assert caught.value.status_code == 500
    assert is_idle(hybrid)


def test_calls_and_results_of_tools_go_back_into_the_prompt():
    history = [
        *QUESTION,
        {
            "role": "assistant",
            "content": "",
            "thinking": "I ask.",
            "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Paris"}, "index": 0}, "id": "1"}],
        },
        {"role": "tool", "tool_name": "weather", "content": "rain"},
    ]
    fields = ChatFields(model=MODEL, messages=msgspec.convert(history, list[MessageFields]), tools=[WEATHER])
    ask = chat_ask(fields)
    assert ask.messages[1]["tool_calls"] == [
        {"type": "function", "id": "1", "function": {"name": "weather", "arguments": {"city": "Paris"}}}
    ]
    assert ask.messages[1]["reasoning_content"] == "I ask."
    assert ask.messages[2] == {"role": "tool", "content": "rain", "name": "weather"}
    assert ask.options["tools"] == [WEATHER]
    assert ask.options["continue_final"] is None


def test_a_conversation_with_tools_has_the_tokens_that_the_model_knows(client, hybrid):
    seen = []
    call = ollama.Message.ToolCall(function={"name": "weather", "arguments": {"city": "Zürich", "days": 2}})
    history = [
        *QUESTION,
        ollama.Message(role="assistant", content="", tool_calls=[call]),
        {"role": "tool", "tool_name": "weather", "content": "rain"},
    ]
    script = by_position([*hybrid.tokenizer.encode("Rain."), hybrid.tokenizer.eos_id])
    with scripted(hybrid, lambda prompt, made: (seen.append(prompt), script(prompt, made))[1]):
        reply = client.chat(MODEL, history, tools=[WEATHER], think=False)
    assert reply.message.content == "Rain."
    text = hybrid.tokenizer.decode(seen[0])
    assert '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich", "days": 2}}\n</tool_call>' in text
    assert "<tool_response>\nrain\n</tool_response>" in text
    assert '"description": "The weather."' in text


def test_silence_is_filled_with_lines_that_say_nothing(client, hybrid, monkeypatch):
    monkeypatch.setattr(replies, "PING_S", 0.05)
    script = by_position([*hybrid.tokenizer.encode("Yes."), hybrid.tokenizer.eos_id])

    def slow(prompt, made):
        time.sleep(0.2 if not made else 0)
        return script(prompt, made)

    with scripted(hybrid, slow):
        parts = list(client.chat(MODEL, QUESTION, think=False, stream=True))
    assert [p.message.content for p in parts[:2]] == ["", ""]
    assert "".join(p.message.content for p in parts) == "Yes."
    assert [p.done for p in parts] == [False] * (len(parts) - 1) + [True]


@pytest.mark.parametrize("path", ["chat", "generate"])
@pytest.mark.parametrize("streams", [True, False])
def test_a_client_that_leaves_stops_its_request(server, hybrid, path, streams):
    n_tokens = 0
    word = hybrid.tokenizer.encode(" word")[0]

    def endless(prompt, made):
        nonlocal n_tokens
        n_tokens += 1
        time.sleep(0.005)
        return word if len(made) % 7 else hybrid.tokenizer.encode(f" {len(made)}")[-1]

    body = {"model": MODEL, "think": False, "stream": streams, "messages": QUESTION}
    if path == "generate":
        body = {"model": MODEL, "think": False, "stream": streams, "prompt": "Go on."}
    with scripted(hybrid, endless):
        with httpx.Client(base_url=server.url, timeout=0.5) as leaver:
            if streams:
                with leaver.stream("POST", f"/api/{path}", json=body) as reply:
                    next(reply.iter_lines())
            else:
                with pytest.raises(httpx.ReadTimeout):
                    leaver.post(f"/api/{path}", json=body)
        assert is_idle(hybrid)
        assert 0 < n_tokens < 1000


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (None, None),
        (0, 0),
        (2.5, 2.5),
        (-1, float("inf")),
        (1e300, float("inf")),
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5s", 1.5),
        ("500ms", 0.5),
        ("-1", float("inf")),
        ("-1m", float("inf")),
        ("0", 0),
        ("300", 300),
    ],
)
def test_durations_are_read_as_go_writes_them(said, seconds):
    assert keep_alive_s(said) == seconds
