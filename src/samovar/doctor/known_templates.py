"""What the chat templates of the known releases print, written from their rules.

These are renderings in Python, and no templates: the tests hold them against the published templates byte for byte. They
take conversations of `conversations.py` alone, whose messages are sound.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from samovar.doctor.coder_template import render_coder
from samovar.doctor.conversations import Conversation, Json

_QWEN: Final = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
_SMOL: Final = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
_TOOLS_HEAD: Final = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
_CALL_FORM: Final = '{"name": <function-name>, "arguments": <args-json-object>}'
_TOOLS_FOOT: Final = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    f"<tool_call></tool_call> XML tags:\n<tool_call>\n{_CALL_FORM}\n</tool_call>"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownTemplate:
    """The template of some releases. `render` gives its text of a conversation.

    `first_form` is what the first publications print, where they have a fault that is known, and `fault` names it.
    """

    name: str
    title: str
    render: Callable[[Conversation], str]
    takes_tools: bool = True
    first_form: Callable[[Conversation], str] | None = None
    fault: str = ""


def _turn(role: str, body: str) -> str:
    return f"<|im_start|>{role}\n{body}<|im_end|>\n"


def _text(message: Json) -> str:
    content = message["content"]
    return content if isinstance(content, str) else ""


def _calls(message: Json) -> list[Mapping[str, object]]:
    """The functions that a message calls."""
    calls = message.get("tool_calls", ())
    assert isinstance(calls, Sequence)
    return [call["function"] for call in calls]


def _call(function: Mapping[str, object]) -> str:
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return f'<tool_call>\n{{"name": "{function["name"]}", "arguments": {arguments}}}\n</tool_call>'


def _results(messages: Sequence[Json], index: int) -> str:
    """One result of a tool: those that follow each other share a turn of the user."""
    is_first = index == 0 or messages[index - 1]["role"] != "tool"
    is_last = index == len(messages) - 1 or messages[index + 1]["role"] != "tool"
    body = f"\n<tool_response>\n{_text(messages[index])}\n</tool_response>"
    return ("<|im_start|>user" if is_first else "") + body + ("<|im_end|>\n" if is_last else "")


def _tools_block(conversation: Conversation) -> str:
    listed = "".join("\n" + json.dumps(tool, ensure_ascii=False) for tool in conversation.tools)
    return _TOOLS_HEAD + listed + _TOOLS_FOOT


def _split_thoughts(message: Json) -> tuple[str, str]:
    """Thoughts and answer of a message: the thoughts in a field of their own, or before `</think>` in the text."""
    content, thoughts = _text(message), message.get("reasoning_content")
    if isinstance(thoughts, str):
        return thoughts, content
    if "</think>" not in content:
        return "", content
    before = content.split("</think>")[0].rstrip("\n").split("<think>")[-1].lstrip("\n")
    return before, content.split("</think>")[-1].lstrip("\n")


def _last_question(messages: Sequence[Json]) -> int:
    """The index of the last message that a user wrote, results of tools in disguise left out; the last one without any."""
    for index in range(len(messages) - 1, -1, -1):
        text = _text(messages[index])
        is_result = text.startswith("<tool_response>") and text.endswith("</tool_response>")
        if messages[index]["role"] == "user" and not is_result:
            return index
    return len(messages) - 1


def _qwen3_head(conversation: Conversation) -> str:
    first = conversation.messages[0]
    system = _text(first) if first["role"] == "system" else None
    if conversation.tools:
        return _turn("system", (f"{system}\n\n" if system is not None else "") + _tools_block(conversation))
    return _turn("system", system) if system is not None else ""


def _qwen3_answer(message: Json, content: str) -> str:
    """The text of an assistant's turn, with its calls: each on a line of its own."""
    text = content
    for index, function in enumerate(_calls(message)):
        text += ("\n" if content or index else "") + _call(function)
    return text


def _qwen3_turns(conversation: Conversation, *, thinks: bool) -> str:
    messages = conversation.messages
    question = _last_question(messages)
    parts = [_qwen3_head(conversation)]
    for index, message in enumerate(messages):
        role = message["role"]
        if role == "tool":
            parts.append(_results(messages, index))
        elif role == "assistant" and not thinks:
            parts.append(_turn("assistant", _qwen3_answer(message, _text(message))))
        elif role == "assistant":
            thoughts, content = _split_thoughts(message)
            shown = index > question and (bool(thoughts) or index == len(messages) - 1)
            answer = _qwen3_answer(message, content)
            if shown:
                stripped = content.lstrip("\n")
                head = "<think>\n" + thoughts.strip("\n") + "\n</think>\n\n"
                answer = head + stripped + answer[len(content) :]
            parts.append(_turn("assistant", answer))
        elif role == "user" or index:
            parts.append(_turn(str(role), _text(message)))
    return "".join(parts)


def _asked(conversation: Conversation, opening: str = "") -> str:
    return f"<|im_start|>assistant\n{opening}" if conversation.asks_for_answer else ""


def _hybrid(conversation: Conversation) -> str:
    closed = "<think>\n\n</think>\n\n" if conversation.thinking is False else ""
    return _qwen3_turns(conversation, thinks=True) + _asked(conversation, closed)


def _thinking_2507(conversation: Conversation) -> str:
    return _qwen3_turns(conversation, thinks=True) + _asked(conversation, "<think>\n")


def _instruct_2507(conversation: Conversation) -> str:
    return _qwen3_turns(conversation, thinks=False) + _asked(conversation)


def _qwen2_5(conversation: Conversation) -> str:
    messages = conversation.messages
    system = _text(messages[0]) if messages[0]["role"] == "system" else _QWEN
    parts = [_turn("system", system + ("\n\n" + _tools_block(conversation) if conversation.tools else ""))]
    for index, message in enumerate(messages):
        role, content = str(message["role"]), _text(message)
        if role == "tool":
            parts.append(_results(messages, index))
        elif calls := _calls(message):
            lines = ([content] if content else []) + [_call(function) for function in calls]
            parts.append(_turn(role, "\n".join(lines)))
        elif role != "system" or index:
            parts.append(_turn(role, content))
    return "".join(parts) + _asked(conversation)


def _qwen2_5_first(conversation: Conversation) -> str:
    return _qwen2_5(conversation).replace(_CALL_FORM, f"{{{_CALL_FORM}}}", 1)


def _smollm2(conversation: Conversation) -> str:
    messages = conversation.messages
    head = "" if messages[0]["role"] == "system" else _turn("system", _SMOL)
    return head + "".join(_turn(str(m["role"]), _text(m)) for m in messages) + _asked(conversation)


KNOWN_TEMPLATES: Final[Mapping[str, KnownTemplate]] = {
    "qwen3": KnownTemplate(name="qwen3", title="Qwen3 hybrid", render=_hybrid),
    "qwen3-instruct-2507": KnownTemplate(name="qwen3-instruct-2507", title="Qwen3 Instruct-2507", render=_instruct_2507),
    "qwen3-thinking-2507": KnownTemplate(name="qwen3-thinking-2507", title="Qwen3 Thinking-2507", render=_thinking_2507),
    "qwen3-coder": KnownTemplate(name="qwen3-coder", title="Qwen3-Coder", render=render_coder),
    "qwen2.5": KnownTemplate(
        name="qwen2.5",
        title="Qwen2.5",
        render=_qwen2_5,
        first_form=_qwen2_5_first,
        fault="doubled braces around the example of a call, where tools are offered",
    ),
    "smollm2": KnownTemplate(name="smollm2", title="SmolLM2", render=_smollm2, takes_tools=False),
}
