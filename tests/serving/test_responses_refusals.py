"""What responses refuse: by name, and never with an internal error."""

import pytest

from samovar.serving.responses_fields import ResponseFields
from tests.engine.scripted import by_position
from tests.llm.scripted import is_idle, scripted

QUICK = {"reasoning": {"effort": "none"}}


def said(llm, text):
    return by_position([*llm.tokenizer.encode(text), llm.tokenizer.eos_id])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"foo": 1}, "foo"),
        ({"truncation": "auto"}, "truncation"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_output_tokens": -1}, "max_output_tokens"),
        ({"timeout_s": -1}, "timeout_s"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"include": ["file_search_call.results"]}, "include"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tools": [{"type": "function", "name": "f", "x": 1}]}, "tools[0].x"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
        ({"reasoning": {"summary": "concise"}}, "reasoning.summary"),
        ({"background": True, "store": False}, "store"),
        ({"metadata": {"k" * 65: ""}}, "metadata"),
        ({"input": []}, "input"),
        ({"input": [{"role": "user", "content": "x"}] * 10_001}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input"),
        ({"input": [{"type": "function_call_output", "call_id": "a", "output": "x"}]}, "input"),
        ({"tool_choice": {"type": "mcp"}}, "tool_choice"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(keeper, fields, param):
    reply = keeper.post("/v1/responses", **({"input": "Why?"} | fields))
    assert reply.status_code == 400, reply.text
    assert (reply.json()["error"]["param"] or "").startswith(param), reply.text


def test_a_server_without_records_answers_and_says_what_it_cannot_do(server, hybrid):
    with scripted(hybrid, said(hybrid, "Yes.")):
        reply = server.post("/v1/responses", input="Is it?", **QUICK)
    assert reply.json()["store"] is False
    for body in ({"store": True}, {"background": True}, {"previous_response_id": "resp_x"}):
        refused = server.post("/v1/responses", input="Is it?", **body)
        assert refused.status_code == 400
        assert "keeps no records" in refused.json()["error"]["message"]


def test_a_too_long_prompt_is_refused_with_counts_even_in_the_background(keeper):
    for background in (False, True):
        reply = keeper.post("/v1/responses", input="word " * 5000, background=background)
        assert reply.status_code == 400
        assert reply.json()["error"]["code"] == "context_length_exceeded"


ODD = [
    None,
    True,
    -1,
    1.5,
    1 << 70,
    "",
    "\x00",
    [],
    {},
    [None],
    [[]],
    [{}],
    {"type": None},
    {"type": "message"},
    [{"type": []}],
]
ODD_ITEMS = [
    {"role": "user", "content": [{"type": "input_text", "text": 1}]},
    {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{"},
    {"type": "function_call", "call_id": "a", "name": "f", "arguments": "[]"},
    {"type": "reasoning", "summary": [{"type": "summary_text"}]},
    {"type": "reasoning", "encrypted_content": "gAAAA="},
    {"type": "item_reference", "id": "msg__0"},
    {"type": {}},
]


def test_whatever_is_sent_the_answer_is_no_internal_error(keeper, hybrid):
    base = {"input": "Why?", "max_output_tokens": 1}
    bodies = [base | {name: value} for name in ResponseFields.__annotations__ for value in ODD if name != "background"]
    bodies += [base | {"input": [item]} for item in ODD_ITEMS] + [
        base | {"tools": [{"type": "function", "name": v}]} for v in ODD
    ]
    bodies += [base | {part: {name: v}} for part, name in (("text", "format"), ("reasoning", "effort")) for v in ODD]
    bodies += [base | {"reasoning": {"summary": v}} for v in ODD]
    with scripted(hybrid, said(hybrid, "Yes.")):
        for body in bodies:
            reply = keeper.post("/v1/responses", **body)
            assert reply.status_code in (200, 400, 404), (body, reply.text)
        for raw in (b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"input": ' + b"[" * 5000 + b"]" * 5000 + b"}"):
            assert keeper.client.post("/v1/responses", content=raw).status_code == 400, raw[:20]
        for path in ("x", "%00", "resp_%ff", "x/input_items?limit=0", "x?stream=maybe", "x?starting_after=1", "x?a=b"):
            assert keeper.client.get(f"/v1/responses/{path}").status_code in (400, 404), path
    assert is_idle(hybrid)
