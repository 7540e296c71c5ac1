"""Tools in Anthropic's Messages API: blocks, and a session as Claude Code holds it."""

import json
import re

import anthropic
import msgspec
import pydantic
import pytest

from samovar.errors import BadRequest
from samovar.serving.anthropic_conversation import read_conversation, read_tools
from samovar.serving.anthropic_reply import Content
from samovar.serving.chat import Answers
from samovar.text.output_parser import Delta
from tests.llm.scripted import is_idle, scripted
from tests.serving.test_anthropic import said

CALL = re.compile(r"\n*<tool_call>\n(.*?)\n</tool_call>", re.DOTALL)


def use(id_, name, **arguments):
    return {"type": "tool_use", "id": id_, "name": name, "input": arguments}


def result(id_, content, **more):
    return {"type": "tool_result", "tool_use_id": id_, "content": content, **more}


def text(said_):
    return {"type": "text", "text": said_}


@pytest.fixture(scope="module")
def client(server):
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture
def parsed_calls(monkeypatch):
    """Calls in an answer's text come as deltas of their own, where the engine does not take them apart itself."""
    own = Answers.__aiter__

    def taken_apart(held):
        end, n_calls = 0, 0
        for found in CALL.finditer(held):
            if before := held[end : found.start()]:
                yield Delta("content", before)
            call = json.loads(found[1])
            yield Delta("tool_name", call["name"], n_calls)
            written = json.dumps(call["arguments"], ensure_ascii=False)
            for start in range(0, len(written), 7):
                yield Delta("tool_arguments", written[start : start + 7], n_calls)
            end, n_calls = found.end(), n_calls + 1
        if held[end:]:
            yield Delta("content", held[end:])

    async def parsed(self):
        held = ""
        async for index, delta in own(self):
            if delta.field == "content":
                held += delta.text
                continue
            for piece in taken_apart(held):
                yield index, piece
            held = ""
            yield index, delta
        for piece in taken_apart(held):
            yield 0, piece

    monkeypatch.setattr(Answers, "__aiter__", parsed)


def folded(events):
    """The blocks that events build up."""
    blocks = []
    for event in events:
        if event["type"] == "content_block_start":
            assert event["index"] == len(blocks)
            blocks.append(dict(event["content_block"]) | {"partial_json": ""})
        elif event["type"] == "content_block_delta":
            assert event["index"] == len(blocks) - 1
            for key, piece in event["delta"].items():
                if key != "type":
                    blocks[-1][key] += piece
    for block in blocks:
        arguments = block.pop("partial_json")
        if arguments:
            block["input"] = json.loads(arguments)
    return blocks


DELTAS = [
    Delta("reasoning", "Which "),
    Delta("reasoning", "files?"),
    Delta("content", "I look."),
    Delta("tool_name", "Read", 0),
    Delta("tool_arguments", '{"path": "空', 0),
    Delta("tool_arguments", '.py", "n": 12345678901234567890123}', 0),
    Delta("tool_name", "List", 1),
    Delta("tool_name", "Read", 2),
    Delta("tool_arguments", "{}", 2),
    Delta("content", "Done."),
]


@pytest.mark.parametrize("omits", [True, False])
def test_blocks_come_in_the_order_of_the_deltas_and_events_add_up_to_them(omits):
    content = Content(omits_thoughts=omits)
    events = [event for delta in DELTAS for event in content.push(delta)] + content.finish()
    whole = folded(events)
    kinds = [block["type"] for block in whole]
    assert kinds == ["thinking", "text", "tool_use", "tool_use", "tool_use", "text"]
    assert whole[2]["input"] == {"path": "空.py", "n": 12345678901234567890123}
    assert whole[3]["input"] == whole[4]["input"] == {}
    assert len({block["id"] for block in whole[2:5]}) == 3
    assert all(block["id"].startswith("toolu_") for block in whole[2:5])
    assert (whole[0]["thinking"] == "") == omits
    plain = content.whole()
    assert bytes(plain[2]["input"]).decode() == DELTAS[4].text + DELTAS[5].text
    assert json.loads(msgspec.json.encode(plain)) == whole


def test_a_call_that_was_cut_short_has_no_input():
    content = Content()
    for delta in (Delta("tool_name", "Read"), Delta("tool_arguments", '{"path": "a')):
        content.push(delta)
    assert content.whole()[0]["input"] == {}


def test_results_come_before_text_and_in_the_order_of_their_calls():
    messages = [
        {"role": "user", "content": "Look."},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Both.", "signature": "of Anthropic's"},
                text("I look."),
                use("a", "Read", path="空.py", n=1.5),
                use("b", "List"),
            ],
        },
        {
            "role": "user",
            "content": [
                result("b", [text("x"), text("y")]),
                text("Go on."),
                result("a", "gone", is_error=True),
                text("Quick!"),
            ],
        },
    ]
    assert read_conversation(None, messages) == [
        {"role": "user", "content": "Look."},
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "Both.",
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "Read", "arguments": '{"path": "空.py", "n": 1.5}'}},
                {"id": "b", "type": "function", "function": {"name": "List", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": "Error: gone"},
        {"role": "tool", "tool_call_id": "b", "content": "x\ny"},
        {"role": "user", "content": "Go on.\nQuick!"},
    ]


def test_results_that_come_in_messages_of_their_own_are_one_turn():
    calls = {"role": "assistant", "content": [use("a", "Read"), use("b", "Read")]}
    results = [{"role": "user", "content": [result(id_, id_)]} for id_ in "ab"]
    read = read_conversation("Be brief.", [{"role": "user", "content": "?"}, calls, *results])
    assert [message["role"] for message in read] == ["system", "user", "assistant", "tool", "tool"]


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ([result("a", "1")], r"calls have no results \(b\)"),
        ([result("a", "1"), result("b", "2"), result("a", "3")], "has a result already"),
        ([result("a", "1"), result("b", "2"), result("c", "3")], "is no call in the message before"),
        ([text("Never mind.")], r"calls have no results \(a, b\)"),
        ([result("a", [{"type": "image", "source": {}}]), result("b", "")], r"content\[0\]\.content\[0\]\.type is 'image'"),
        ([], r"calls have no results \(a, b\)"),
    ],
)
def test_calls_and_results_that_do_not_match_are_refused(answers, problem):
    calls = {"role": "assistant", "content": [use("a", "Read"), use("b", "Read")]}
    after = [{"role": "user", "content": answers}] if answers else []
    with pytest.raises(BadRequest, match=problem):
        read_conversation(None, [{"role": "user", "content": "?"}, calls, *after])


def test_a_signature_that_was_changed_is_refused():
    block = {"type": "thinking", "thinking": "", "signature": "samovar.%%%"}
    with pytest.raises(BadRequest, match=r"messages\[0\]\.content\[0\]\.signature is damaged"):
        read_conversation(None, [{"role": "assistant", "content": [block, text("x")]}, {"role": "user", "content": "?"}])


def test_thoughts_that_nobody_can_read_are_left_out():
    blocks = [{"type": "redacted_thinking", "data": "..."}, {"type": "thinking", "thinking": "", "signature": "E1=="}]
    read = read_conversation(None, [{"role": "assistant", "content": [*blocks, text("x")]}, {"role": "user", "content": "?"}])
    assert read[0] == {"role": "assistant", "content": "x"}


def test_a_tool_is_a_function_in_the_order_of_fields_that_models_know():
    tool = {"input_schema": {"type": "object"}, "name": "Read", "strict": True, "description": "Read.", "type": "custom"}
    [function] = [tool["function"] for tool in read_tools([tool | {"cache_control": {"type": "ephemeral"}}])]
    expected = {"name": "Read", "description": "Read.", "parameters": {"type": "object"}, "strict": True}
    assert list(function.items()) == list(expected.items())


def test_the_official_tool_runner_calls_a_tool_and_hands_in_its_result(client, hybrid, parsed_calls):
    cities = []

    @anthropic.beta_tool
    def weather(city: str) -> str:
        """The weather in a city.

        Args:
            city: Its name.
        """
        cities.append(city)
        return "sunny"

    call = said(hybrid, '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>')
    answer = said(hybrid, "It is sunny.")
    with scripted(hybrid, lambda prompt, generated: (answer if cities else call)(prompt, generated)):
        last = client.beta.messages.tool_runner(
            model="hybrid", max_tokens=200, tools=[weather], messages=[{"role": "user", "content": "Weather in Köln?"}]
        ).until_done()
    assert cities == ["Köln"]
    assert (last.content[0].text, last.stop_reason) == ("It is sunny.", "end_turn")


def test_the_official_client_parses_an_answer_that_follows_a_schema(client, hybrid):
    class Sky(pydantic.BaseModel):
        colour: str

    with scripted(hybrid, said(hybrid, '{"colour": "blue"}')):
        message = client.messages.parse(
            model="hybrid", max_tokens=50, messages=[{"role": "user", "content": "?"}], output_format=Sky
        )
    assert message.parsed_output == Sky(colour="blue")


TOOLS = [
    {
        "name": name,
        "description": f"{name} files.",
        "input_schema": {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "type": "object",
            "properties": {key: {"type": "string", "description": f"The {key}"} for key in keys},
            "required": keys[:1],
            "additionalProperties": False,
        },
    }
    for name, keys in (("Glob", ["pattern"]), ("Read", ["file_path", "offset"]), ("Edit", ["file_path", "old", "new"]))
]


def written(name, **arguments):
    return f'<tool_call>\n{{"name": "{name}", "arguments": {json.dumps(arguments, ensure_ascii=False)}}}\n</tool_call>'


# What the model says in each turn, and what the client sends back: results by the number of the call, and text.
TURNS = [
    (f"<think>\nSearch first.\n</think>\n\nI look for it.\n{written('Glob', pattern='**/*.py')}", ["a.py\nüber.py"], []),
    (
        "<think>\nRead both.\n</think>\n\n" + written("Read", file_path="a.py") + "\n" + written("Read", file_path="über.py"),
        ["x = 1", "y = '空'"],
        [],
    ),
    ("<think>\nChange it.\n</think>\n\n" + written("Edit", file_path="a.py", old="x", new='"z"'), ["File has changed"], []),
    (
        f"<think>\nRead again.\n</think>\n\nI read it again.\n{written('Read', file_path='a.py')}",
        ["x = 2"],
        ["<system-reminder>\nBe quick.\n</system-reminder>"],
    ),
    ("<think>\nEnough.\n</think>\n\nThe file has changed meanwhile.", [], ["Then leave it."]),
    ("<think>\nFine.\n</think>\n\nAs you wish.", [], []),
]


class Script:
    """Says its `answer`, and remembers prompts and what was said after each."""

    def __init__(self, tokenizer):
        self.tokenizer, self.answer, self.prompts, self.said = tokenizer, "", [], []

    def __call__(self, prompt, generated):
        ids = (*self.tokenizer.encode(self.answer), self.tokenizer.eos_id)
        if not generated:
            self.prompts.append(prompt)
            self.said.append(ids)
        return ids[min(len(generated), len(ids) - 1)]


def asked(client, turn, messages):
    """What Claude Code sends, and the message that its stream adds up to."""
    with client.beta.messages.stream(
        model="hybrid",
        max_tokens=1500,
        messages=messages,
        system=[
            text(f"x-anthropic-billing-header: cc_version=2.1.0; cch={turn:05x};"),
            text("You are Claude Code.") | {"cache_control": {"type": "ephemeral"}},
            text("Work in /src.") | {"cache_control": {"type": "ephemeral", "ttl": "1h"}},
        ],
        tools=TOOLS,
        thinking={"type": "enabled", "budget_tokens": 1024},
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        metadata={"user_id": "user_1_account__session_2"},
        betas=["claude-code-20250219", "interleaved-thinking-2025-05-14", "context-management-2025-06-27"],
        extra_body={"temperature": 1},
    ) as stream:
        return stream.get_final_message()


def test_a_session_of_claude_code_keeps_its_thread(client, hybrid, parsed_calls):
    script, messages, usages = Script(hybrid.tokenizer), [], []
    content = [text("<system-reminder>\nToday.\n</system-reminder>"), text("Rename x.")]
    with scripted(hybrid, script):
        for turn, (script.answer, results, remarks) in enumerate(TURNS):
            messages.append({"role": "user", "content": content})
            message = asked(client, turn, messages)
            calls = [block for block in message.content if block.type == "tool_use"]
            made = [{"name": call.name, "arguments": call.input} for call in calls]
            assert made == [json.loads(call) for call in CALL.findall(script.answer)], turn
            assert f"<think>\n{message.content[0].thinking}\n</think>" in script.answer, turn
            assert message.stop_reason == ("tool_use" if calls else "end_turn"), turn
            usages.append(message.usage)
            messages.append({"role": "assistant", "content": [block.to_dict() for block in message.content]})
            answered = [result(call.id, said_, is_error=turn == 2) for call, said_ in zip(calls, results, strict=True)]
            content = [*reversed(answered), *map(text, remarks)]
    assert is_idle(hybrid)
    for turn in (1, 2, 3):  # within a round of tools, a prompt begins with the very tokens of the last one and its answer
        before = script.prompts[turn - 1] + script.said[turn - 1]
        assert script.prompts[turn][: len(before)] == before, turn
        assert usages[turn].cache_read_input_tokens >= len(script.prompts[turn - 1]) // 16 * 16, turn
    texts = [hybrid.tokenizer.decode(prompt) for prompt in script.prompts]
    assert "billing" not in texts[0]
    assert texts[0].startswith("<|im_start|>system\nYou are Claude Code.\nWork in /src.\n\n# Tools")
    assert texts[2].endswith(
        "<|im_start|>user\n<tool_response>\nx = 1\n</tool_response>\n<tool_response>\ny = '空'\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert "<tool_response>\nError: File has changed\n</tool_response>" in texts[3]
    assert "</tool_response><|im_end|>\n<|im_start|>user\n<system-reminder>\nBe quick." in texts[4]
    assert "Then leave it.<|im_end|>\n<|im_start|>assistant\n" in texts[5]
    assert "Search first." not in texts[5]
