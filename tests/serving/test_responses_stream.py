"""A response as a fold: every event is one that the official client knows, and they add up to the whole."""

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from samovar.llm.result import Result, Timing, ToolCall, Usage
from samovar.serving.failures import Failure
from samovar.serving.responses_fields import ResponseFields, echoed
from samovar.serving.responses_items import messages_of
from samovar.serving.responses_stream import Growing, response_id_of
from samovar.text.output_parser import Delta

KNOWN = TypeAdapter(ResponseStreamEvent)
DELTAS = [
    Delta("reasoning", "I lo"),
    Delta("reasoning", "ok."),
    Delta("content", "Wait"),
    Delta("content", ":"),
    Delta("tool_name", "weather", 0),
    Delta("tool_arguments", '{"city":', 0),
    Delta("tool_arguments", '  "Омск"}', 0),
    Delta("tool_name", "time", 1),
    Delta("tool_arguments", "{}", 1),
]


def body():
    head = {"id": "resp_abc", "object": "response", "created_at": 1, "status": "in_progress", "error": None, "model": "m"}
    return head | {"incomplete_details": None, "output": [], "usage": None} | echoed(ResponseFields(input="?"))


def result(reason="stop"):
    usage = Usage(n_prompt=5, n_completion=9, n_thinking=2, n_cached=1)
    calls = (ToolCall(name="weather", arguments='{"city":  "Омск"}'), ToolCall(name="time", arguments="{}"))
    timing = Timing(prefill_s=0, decode_s=0)
    return Result(
        text="Wait:",
        reasoning="I look.",
        token_ids=(),
        finish_reason=reason,
        usage=usage,
        timing=timing,
        seed=3,
        tool_calls=calls,
    )


def told(growing, deltas, end):
    events = growing.begin()
    for delta in deltas:
        events += growing.push(delta)
    return events + end(growing)


@pytest.mark.parametrize("has_summary", [False, True])
def test_every_event_is_one_that_the_client_knows(has_summary):
    growing = Growing(body(), has_summary=has_summary)
    events = told(growing, DELTAS, lambda g: g.finish(result()))
    for event in events:
        known = KNOWN.validate_python(event)
        assert known.type == event["type"]
        assert set(event) <= set(type(known).model_fields), "no field that the client's class has not"
    Response.model_validate(growing.body)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


def test_calls_of_tools_stream_their_arguments_and_come_whole():
    growing = Growing(body())
    events = told(growing, DELTAS, lambda g: g.finish(result()))
    _, message, weather, time = growing.body["output"]
    assert message["content"][0]["text"] == "Wait:"
    assert (weather["name"], weather["arguments"], time["name"], time["arguments"]) == (
        "weather",
        '{"city":  "Омск"}',
        "time",
        "{}",
    )
    assert weather["call_id"] != time["call_id"]
    pieces = [e for e in events if e["type"] == "response.function_call_arguments.delta" and e["item_id"] == weather["id"]]
    assert "".join(e["delta"] for e in pieces) == weather["arguments"]
    assert [e["output_index"] for e in events if e["type"] == "response.output_item.added"] == [0, 1, 2, 3]
    assert growing.body["status"] == "completed"
    assert response_id_of(weather["id"]) == "resp_abc"


def test_the_items_of_an_answer_are_one_turn_when_they_come_back():
    growing = Growing(body())
    told(growing, DELTAS, lambda g: g.finish(result()))
    (turn,) = messages_of(growing.body["output"])
    assert (turn["content"], turn["reasoning_content"]) == ("Wait:", "I look.")
    assert [call["function"] for call in turn["tool_calls"]] == [
        {"name": "weather", "arguments": '{"city":  "Омск"}'},
        {"name": "time", "arguments": "{}"},
    ]


@pytest.mark.parametrize(
    ("reason", "status"), [("length", "incomplete"), ("deadline", "incomplete"), ("cancelled", "cancelled")]
)
def test_what_was_cut_short_says_so(reason, status):
    growing = Growing(body())
    events = told(growing, DELTAS[:3], lambda g: g.finish(result(reason)))
    assert events[-1]["type"] == "response.incomplete"
    assert (growing.body["status"], growing.body["output"][-1]["status"]) == (status, "incomplete")
    KNOWN.validate_python(events[-1])


def test_an_error_ends_the_stream_with_what_there_is():
    growing = Growing(body())
    failure = Failure(status=500, kind="server_error", message="it broke")
    events = told(growing, DELTAS[:3], lambda g: g.fail(failure))
    assert KNOWN.validate_python(events[-1]).response.error.message == "it broke"
    assert [item["type"] for item in growing.body["output"]] == ["reasoning", "message"]


def test_an_answer_without_a_word_is_an_empty_message():
    growing = Growing(body())
    told(growing, DELTAS[:2], lambda g: g.finish(result()))
    assert growing.body["output"][-1]["content"][0]["text"] == ""
