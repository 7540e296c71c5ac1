"""A conversation in Anthropic's blocks, made into the messages that all dialects share."""

import json
from collections.abc import Sequence
from typing import Any, Final

from samovar.errors import BadRequest
from samovar.llm.dialogue import MAX_MESSAGES
from samovar.serving.anthropic_blocks import (
    Block,
    RedactedThinking,
    Text,
    Thinking,
    ToolResult,
    ToolUse,
    read_block,
    read_tool,
    thoughts_of,
)

Message = dict[str, object]
Turn = tuple[str, list[tuple[str, Block]]]  # a role, and blocks with the place of each

# Claude Code begins its system blocks with a line for Anthropic's accounting, which is no part of the prompt. It differs in
# every request: as text it would keep the cache from finding anything.
_BILLING: Final = "x-anthropic-billing-header:"
_MAX_BLOCKS: Final = 2 * MAX_MESSAGES
_SAYS_ERROR: Final = ("Error", "<tool_use_error>")


def read_conversation(system: str | Sequence[Any] | None, messages: Sequence[dict[str, Any]]) -> list[Message]:
    """System prompt and messages in OpenAI's form. Raises BadRequest with the place of what is wrong.

    Messages of one role that follow each other are one turn. The results of a turn's tools come before its text, in the order
    of the calls, by which the model tells them apart.
    """
    if not messages:
        raise BadRequest("messages is empty; expected one message at least", param="messages")
    _check_size(system, messages)
    found = [Text(type="text", text=system)] if isinstance(system, str) else []
    blocks = [
        read_block(f"system[{i}]", raw, "system") for i, raw in enumerate(() if isinstance(system, str) else system or ())
    ]
    found += [block for block in blocks if isinstance(block, Text) and not block.text.startswith(_BILLING)]
    read: list[Message] = [{"role": "system", "content": _text(found)}] if found else []
    calls: list[str] = []
    for role, placed in _turns(messages):
        if role == "assistant":
            _results((), calls)
            read.append(_answer(placed))
            calls = [block.id for _, block in placed if isinstance(block, ToolUse)]
            continue
        if role == "user":
            read += _results(placed, calls)
            calls = []
        if texts := [block for _, block in placed if isinstance(block, Text)]:
            read.append({"role": role, "content": _text(texts)})
        elif role == "system" or not any(isinstance(block, ToolResult) for _, block in placed):
            raise BadRequest(f"messages: a {role} message has no content; expected some text", param="messages")
    _results((), calls)
    last = read[-1]
    if last["role"] == "assistant" and (content := str(last["content"])) != content.rstrip():
        raise BadRequest(
            "messages: the last message, an assistant's, is continued, and ends in whitespace; leave that out", param="messages"
        )
    return read


def read_tools(tools: Sequence[dict[str, Any]]) -> list[dict[str, object]] | None:
    """Tools in OpenAI's form; None where there are none. Raises BadRequest."""
    read: list[dict[str, object]] = []
    for i, raw in enumerate(tools):
        tool = read_tool(f"tools[{i}]", raw)
        function: dict[str, object] = {"name": tool.name}
        if tool.description is not None:
            function["description"] = tool.description
        function["parameters"] = tool.input_schema
        if tool.strict:
            function["strict"] = True
        read.append({"type": "function", "function": function})
    return read or None


def _check_size(system: str | Sequence[Any] | None, messages: Sequence[dict[str, Any]]) -> None:
    """Raises BadRequest for more messages or blocks than there may be: they are gone through on the event loop."""
    contents = [message.get("content") for message in messages]
    n_blocks = sum(len(blocks) for blocks in (system, *contents) if isinstance(blocks, list))
    for what, found, most in (("messages", len(messages), MAX_MESSAGES), ("content blocks", n_blocks, _MAX_BLOCKS)):
        if found > most:
            raise BadRequest(f"messages: there are {found} {what}; expected at most {most}", param="messages")


def _turns(messages: Sequence[dict[str, Any]]) -> list[Turn]:
    turns: list[Turn] = []
    for i, message in enumerate(messages):
        where, role, content = f"messages[{i}]", message.get("role"), message.get("content")
        if role not in ("user", "assistant", "system"):
            raise BadRequest(f"{where}.role is {role!r}; expected user, assistant or system", param=f"{where}.role")
        if unknown := sorted(message.keys() - {"role", "content"}):
            raise BadRequest(f"{where}.{unknown[0]} is no field that is known here", param=f"{where}.{unknown[0]}")
        if isinstance(content, str):
            placed: list[tuple[str, Block]] = [(f"{where}.content", Text(type="text", text=content))]
        elif isinstance(content, list):
            places = [f"{where}.content[{j}]" for j in range(len(content))]
            placed = [(place, read_block(place, raw, role)) for place, raw in zip(places, content, strict=True)]
        else:
            found = f"a {type(content).__name__}" if content is not None else "missing"
            raise BadRequest(f"{where}.content is {found}; expected text or a list of blocks", param=f"{where}.content")
        if turns and turns[-1][0] == role:
            turns[-1][1].extend(placed)
        else:
            turns.append((role, placed))
    return turns


def _answer(placed: Sequence[tuple[str, Block]]) -> Message:
    """An earlier answer: thoughts, text, and calls with their arguments as models write them."""
    message: Message = {"role": "assistant", "content": _text([block for _, block in placed if isinstance(block, Text)])}
    assert all(isinstance(block, Text | Thinking | RedactedThinking | ToolUse) for _, block in placed)
    thoughts = [thoughts_of(where, block) for where, block in placed if isinstance(block, Thinking)]
    if any(thoughts):
        message["reasoning_content"] = "\n".join(filter(None, thoughts))
    calls = [
        {
            "id": block.id,
            "type": "function",
            "function": {"name": block.name, "arguments": json.dumps(block.input, ensure_ascii=False)},
        }
        for _, block in placed
        if isinstance(block, ToolUse)
    ]
    return message | {"tool_calls": calls} if calls else message


def _results(placed: Sequence[tuple[str, Block]], calls: Sequence[str]) -> list[Message]:
    """A message for the result of each call. Raises BadRequest where calls and results do not match."""
    results: dict[str, str] = {}
    for where, block in placed:
        if not isinstance(block, ToolResult):
            continue
        if block.tool_use_id not in calls or block.tool_use_id in results:
            problem = "has a result already" if block.tool_use_id in results else "is no call in the message before"
            raise BadRequest(
                f"{where}.tool_use_id: {block.tool_use_id!r} {problem}; expected one result for each tool_use",
                param=f"{where}.tool_use_id",
            )
        results[block.tool_use_id] = _result_text(where, block)
    if missing := [call for call in calls if call not in results]:
        raise BadRequest(
            f"messages: calls have no results ({', '.join(missing)}); expected a tool_result for each tool_use in the message "
            "after it",
            param="messages",
        )
    return [{"role": "tool", "tool_call_id": call, "content": results[call]} for call in calls]


def _result_text(where: str, result: ToolResult) -> str:
    """The text of a result. Templates have no word for a failure, so the text has to say it."""
    content = result.content or ""
    if not isinstance(content, str):
        blocks = [read_block(f"{where}.content[{i}]", raw, "system") for i, raw in enumerate(content)]
        content = _text([block for block in blocks if isinstance(block, Text)])
    if result.is_error and not content.lstrip().startswith(_SAYS_ERROR):
        return f"Error: {content}" if content else "Error"
    return content


def _text(blocks: Sequence[Text]) -> str:
    return "\n".join(block.text for block in blocks)
