"""Twelve turns of tools in each dialect, as an agent holds them: what was said before comes back to the model as it said it."""

import json

import anthropic
import ollama
import openai
import pytest

from tests.llm.scripted import is_idle, scripted
from tests.matrices import slow_but
from tests.serving.test_anthropic_tools import Script, written

SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}, "n": {"type": "integer"}, "deep": {"type": "object"}}}
FUNCTION = {"name": "read", "description": "Reads.", "parameters": SCHEMA}
QUESTION = "Look into every file."
FAILED = "Error: no such file"
ARGUMENTS = (
    [{"path": "a.py"}],
    [{"path": "空/über.py", "n": 3}, {"path": "b.py"}],
    [{}],
    [{"path": 'quote " and \\ and \n line'}],
    [{"path": "<b>{{ x }}</b>", "deep": {"a": [1, {"b": None}]}}],
    [{"path": "😀🏳️‍🌈"}, {"path": "c"}, {"path": "d", "n": -1}],
) * 2
TURNS = [
    (f"Thought {at} – 考.", f"I read {at}." if at % 2 else "", calls) for at, calls in enumerate(ARGUMENTS)
]  # thoughts, text, and the arguments of calls


def whole(thought, text, calls):
    """What the model writes in a turn."""
    body = "\n".join([*([text] if text else []), *(written("read", **arguments) for arguments in calls)])
    return f"<think>\n{thought}\n</think>\n\n{body}"


def results(at, calls):
    """What the tool says: of every third turn, that it failed."""
    return [FAILED if at % 3 == 2 else f"content {at}.{i} é" for i, _ in enumerate(calls)]


class Chat:
    """`/v1/chat/completions`, streamed every other turn."""

    def __init__(self, url):
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        self.history = [{"role": "user", "content": QUESTION}]

    def ask(self, at):
        asked = {"model": "hybrid", "messages": self.history, "tools": [{"type": "function", "function": FUNCTION}]}
        if at % 2:
            with self.client.chat.completions.stream(**asked) as stream:
                said = stream.get_final_completion().choices[0].message
        else:
            said = self.client.chat.completions.create(**asked).choices[0].message
        self.history.append(said.model_dump(exclude_none=True, exclude={"parsed"}))
        for call in self.history[-1].get("tool_calls", ()):
            call["function"].pop("parsed_arguments", None)  # of the client's own
        self.calls = said.tool_calls or []
        return said.reasoning_content, said.content or "", [json.loads(call.function.arguments) for call in self.calls]

    def answer(self, results):
        for call, result in zip(self.calls, results, strict=True):
            self.history.append({"role": "tool", "tool_call_id": call.id, "content": result})


class Responses:
    """`/v1/responses`, chained by id every other turn and sent whole in the others."""

    def __init__(self, url):
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        self.items, self.news, self.last = [], [{"role": "user", "content": QUESTION}], None

    def ask(self, at):
        self.items += self.news
        asked = {"model": "hybrid", "tools": [{"type": "function", "strict": None, **FUNCTION}]}
        asked |= {"input": self.news, "previous_response_id": self.last} if at % 2 else {"input": self.items}
        with self.client.responses.stream(**asked) as stream:
            said = stream.get_final_response()
        self.last = said.id
        self.items += [item.to_dict() for item in self.client.responses.retrieve(said.id).output]
        self.calls = [item for item in said.output if item.type == "function_call"]
        thoughts = "".join(part.text for item in said.output if item.type == "reasoning" for part in item.content)
        return thoughts, said.output_text, [json.loads(call.arguments) for call in self.calls]

    def answer(self, results):
        self.news = [
            {"type": "function_call_output", "call_id": call.call_id, "output": result}
            for call, result in zip(self.calls, results, strict=True)
        ]


class Messages:
    """Anthropic's `/v1/messages`, streamed every other turn."""

    def __init__(self, url):
        self.client = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
        self.history = [{"role": "user", "content": QUESTION}]

    def ask(self, at):
        tool = {"name": "read", "description": "Reads.", "input_schema": SCHEMA}
        asked = {"model": "hybrid", "max_tokens": 500, "messages": self.history, "tools": [tool]}
        asked["thinking"] = {"type": "enabled", "budget_tokens": 200}
        if at % 2:
            with self.client.messages.stream(**asked) as stream:
                said = stream.get_final_message()
        else:
            said = self.client.messages.create(**asked)
        self.history.append({"role": "assistant", "content": [block.to_dict() for block in said.content]})
        blocks = {kind: [b for b in said.content if b.type == kind] for kind in ("thinking", "text", "tool_use")}
        self.calls = blocks["tool_use"]
        text = "".join(block.text for block in blocks["text"])
        return "".join(block.thinking for block in blocks["thinking"]), text, [call.input for call in self.calls]

    def answer(self, results):
        blocks = [
            {"type": "tool_result", "tool_use_id": call.id, "content": text.removeprefix("Error: "), "is_error": text == FAILED}
            for call, text in zip(self.calls, results, strict=True)
        ]
        self.history.append({"role": "user", "content": blocks})


class Ollama:
    """`/api/chat`, streamed every other turn."""

    def __init__(self, url):
        self.client = ollama.Client(host=url)
        self.history = [{"role": "user", "content": QUESTION}]

    def ask(self, at):
        tools = [{"type": "function", "function": FUNCTION}]
        asked = {"model": "hybrid", "messages": self.history, "tools": tools, "think": True}
        parts = self.client.chat(**asked, stream=True) if at % 2 else [self.client.chat(**asked)]
        messages = [part.message for part in parts]
        self.calls = [call for message in messages for call in message.tool_calls or ()]
        thoughts, text = ("".join(getattr(m, key) or "" for m in messages) for key in ("thinking", "content"))
        self.history.append(ollama.Message(role="assistant", content=text, thinking=thoughts, tool_calls=self.calls or None))
        return thoughts, text, [dict(call.function.arguments) for call in self.calls]

    def answer(self, results):
        for call, result in zip(self.calls, results, strict=True):
            self.history.append({"role": "tool", "tool_name": call.function.name, "content": result})


@pytest.mark.parametrize("dialect", slow_but([Chat], [Chat, Responses, Messages, Ollama]))
def test_twelve_turns_of_tools_are_one_thread(keeper, hybrid, dialect):
    agent, script = dialect(keeper.url), Script(hybrid.tokenizer)
    with scripted(hybrid, script):
        for at, turn in enumerate(TURNS):
            script.answer = whole(*turn)
            thought, text, calls = agent.ask(at)
            assert (thought.strip(), text.strip(), calls) == turn, at
            agent.answer(results(at, calls))
        script.answer = "<think>\nEnough.\n</think>\n\nAll read."
        assert agent.ask(len(TURNS)) == ("Enough.", "All read.", [])
    agent.client.close()
    assert is_idle(hybrid)
    assert len(script.prompts) == len(TURNS) + 1
    for at, turn in enumerate(TURNS):
        before = script.prompts[at] + script.said[at]
        after = script.prompts[at + 1]
        assert after[: len(before)] == before, f"turn {at + 1} begins with what was said until then"
        added = hybrid.tokenizer.decode(after[len(before) :])
        places = [added.index(f"<tool_response>\n{result}\n</tool_response>") for result in results(at, turn[2])]
        assert places == sorted(places)
