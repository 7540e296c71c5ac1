"""Messages and tools as clients send them (OpenAI's form), checked and made into the plain data that chat templates read."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Final, NoReturn, TypeAlias

from samovar.errors import BadRequest

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
Message: TypeAlias = dict[str, Json]

_KEYS: Final = {
    "system": ("role", "content", "name"),
    "user": ("role", "content", "name"),
    "assistant": ("role", "content", "name", "tool_calls", "reasoning_content", "reasoning", "reasoning_details", "refusal"),
    "tool": ("role", "content", "name", "tool_call_id", "id", "extra"),
}
_OFTEN_EMPTY: Final = frozenset(("annotations", "audio", "function_call"))
_MAX_DEPTH: Final = 64
_TOOL_NAME: Final = re.compile(r"""[^\s"'<>=\\]{1,256}""")  # that both formats of calls can hold


def read_messages(messages: Sequence[Mapping[str, object]], *, parse_arguments: bool) -> list[Message]:
    """Check a conversation and return a copy of it for a template.

    `developer` becomes `system`, text parts become one text (a line each), `reasoning` becomes `reasoning_content`. Results of
    tools come in the order of their calls, by which templates tell them apart. The
    arguments of tool calls, where they are a JSON text, are parsed with `parse_arguments` and else left as they are. Raises
    BadRequest for whatever else is found, naming it.
    """
    if isinstance(messages, str) or not isinstance(messages, Sequence):
        _refuse(f"messages is a {type(messages).__name__}; expected a list of messages")
    if not messages:
        _refuse("messages is empty; expected one message at least")
    return _in_order_of_calls([_message(f"messages[{i}]", message, parse_arguments) for i, message in enumerate(messages)])


def read_tools(tools: Sequence[Mapping[str, object]] | None) -> list[Json] | None:
    """Check the definitions of tools and return a copy of them; None where there are none. Raises BadRequest."""
    if tools is not None and (isinstance(tools, str) or not isinstance(tools, Sequence)):
        _refuse(f"tools is a {type(tools).__name__}; expected a list of tool definitions", "tools")
    read = [_tool(f"tools[{i}]", tool) for i, tool in enumerate(tools or ())]
    names = [str(tool.get("function", tool)["name"]) for tool in read]  # type: ignore[call-overload, index]
    if twice := [name for name in names if names.count(name) > 1]:
        _refuse(f"tools define {twice[0]!r} twice; expected a name of its own for each", "tools")
    return [*read] or None


def plain_json(where: str, value: object, param: str, depth: int = 0) -> Json:
    """A copy of `value` made of plain JSON types, the only ones that a template gets to see. Raises BadRequest."""
    if type(value) is str:
        return _sound(where, value, param)
    if value is None or type(value) in (bool, int, float):
        return value  # type: ignore[return-value]
    if depth == _MAX_DEPTH:
        _refuse(f"{where} nests more than {_MAX_DEPTH} levels deep", param)
    if isinstance(value, Mapping):
        if wrong := [key for key in value if type(key) is not str]:
            _refuse(f"{where} has a key of type {type(wrong[0]).__name__}; expected text", param)
        return {
            _sound(f"a key of {where}", key, param): plain_json(f"{where}.{key}", item, param, depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [plain_json(f"{where}[{i}]", item, param, depth + 1) for i, item in enumerate(value)]
    return _refuse(f"{where} is a {type(value).__name__}; expected JSON data", param)


def _message(where: str, message: Mapping[str, object], parse_arguments: bool) -> Message:
    if not isinstance(message, Mapping):
        _refuse(f"{where} is a {type(message).__name__}; expected an object with role and content")
    role = message.get("role")
    role = "system" if role == "developer" else role
    if not isinstance(role, str) or role not in _KEYS:
        _refuse(f"{where}.role is {role!r}; expected system, developer, user, assistant or tool")
    if unknown := [str(key) for key in message if key not in _KEYS[role] and not _is_empty(role, key, message[key])]:
        _refuse(f"{where} has keys that a message of role {role} does not take: {', '.join(sorted(unknown))}")
    read: Message = {"role": role, "content": _content(f"{where}.content", message.get("content"))}
    if message.get("name") is not None:
        read["name"] = _text(f"{where}.name", message["name"])
    if (call_id := _call_id(where, message)) is not None:
        read["tool_call_id"] = call_id
    if message.get("refusal") is not None:
        _refuse(f"{where}.refusal is set, which is not supported; give the text as content")
    calls = message.get("tool_calls")
    if calls:
        read["tool_calls"] = _tool_calls(f"{where}.tool_calls", calls, parse_arguments)
    reasoning = _reasoning(where, message)
    if reasoning is not None:
        read["reasoning_content"] = read["thinking"] = reasoning  # the second is the name some templates read
    if read["content"] is None and role != "assistant":
        _refuse(f"{where}.content is missing; expected text")
    if read["content"] is None and not calls:
        read["content"] = ""
    return read


def _call_id(where: str, message: Mapping[str, object]) -> str | None:
    """Which call a result is for: `tool_call_id`, or as qwen-agent has it, `id` and `extra.function_id`."""
    extra = message.get("extra") or {}
    if not isinstance(extra, Mapping) or not {*extra} <= {"function_id"}:
        _refuse(f"{where}.extra is {extra!r}; expected an object with function_id alone")
    words = {
        "tool_call_id": message.get("tool_call_id"),
        "id": message.get("id"),
        "extra.function_id": extra.get("function_id"),
    }
    given = {name: _text(f"{where}.{name}", value) for name, value in words.items() if value is not None}
    if len(set(given.values())) > 1:
        _refuse(f"{where} has {' and '.join(given)}, and they differ; give one")
    return next(iter(given.values()), None)


def _in_order_of_calls(messages: list[Message]) -> list[Message]:
    """Sort the results of calls that were made together by the place of each one's call, as far as calls have ids."""
    ordered: list[Message] = []
    places: dict[Json, int] = {}
    for i, message in enumerate(messages):
        if message["role"] != "tool":
            calls = message.get("tool_calls")
            ids = [call.get("id") if isinstance(call, dict) else None for call in calls] if isinstance(calls, list) else []
            places = {call_id: at for at, call_id in enumerate(ids)} if all(type(one) is str for one in ids) else {}
            ordered.append(message)
            continue
        call_id = message.get("tool_call_id")
        if places and call_id is not None and call_id not in places:
            known = ", ".join(map(str, places))
            _refuse(f"messages[{i}].tool_call_id is {call_id!r}, which is none of the calls before it: {known}")
        at = len(ordered)
        while call_id in places and places.get(ordered[at - 1].get("tool_call_id"), -1) > places[call_id]:
            at -= 1
        ordered.insert(at, message)
    return ordered


def _is_empty(role: str, key: str, value: object) -> bool:
    """Whether a key says nothing: clients send back all the keys that their own objects have."""
    return role == "assistant" and key in _OFTEN_EMPTY and value in (None, [])


def _content(where: str, content: object) -> str | None:
    """Text as it is, text parts joined by newlines."""
    if content is None or isinstance(content, str):
        return content if content is None else _sound(where, str.__str__(content))
    if not isinstance(content, Sequence):
        _refuse(f"{where} is a {type(content).__name__}; expected text, or a list of text parts")
    return "\n".join(_part(f"{where}[{i}]", part) for i, part in enumerate(content))


def _part(where: str, part: object) -> str:
    if not isinstance(part, Mapping):
        _refuse(f"{where} is a {type(part).__name__}; expected an object with type and text")
    if part.get("type") != "text":
        _refuse(f"{where}.type is {part.get('type')!r}; this model reads text only")
    if unknown := [str(key) for key in part if key not in ("type", "text")]:
        _refuse(f"{where} has keys that a text part does not take: {', '.join(sorted(unknown))}")
    return _text(f"{where}.text", part.get("text"))


def _reasoning(where: str, message: Mapping[str, object]) -> str | None:
    """The thoughts of an earlier answer, under either of their names."""
    given = {key: message[key] for key in ("reasoning_content", "reasoning") if message.get(key) is not None}
    texts = [_text(f"{where}.{key}", value) for key, value in given.items()]
    if len(set(texts)) > 1:
        _refuse(f"{where} has reasoning_content and reasoning, and they differ; give one")
    return texts[0] if texts else _details(f"{where}.reasoning_details", message.get("reasoning_details"))


def _details(where: str, details: object) -> str | None:
    """The thoughts as OpenRouter has them: parts of type reasoning.text; summaries and what is encrypted are left out."""
    if details is None:
        return None
    if isinstance(details, str) or not isinstance(details, Sequence):
        _refuse(f"{where} is a {type(details).__name__}; expected a list of parts")
    texts = [
        _text(f"{where}[{i}].text", part["text"])
        for i, part in enumerate(details)
        if isinstance(part, Mapping) and part.get("type") == "reasoning.text" and part.get("text") is not None
    ]
    return "".join(texts) or None


def _tool_calls(where: str, calls: object, parse_arguments: bool) -> list[Json]:
    if isinstance(calls, str) or not isinstance(calls, Sequence):
        _refuse(f"{where} is a {type(calls).__name__}; expected a list of tool calls")
    return [_tool_call(f"{where}[{i}]", call, parse_arguments) for i, call in enumerate(calls)]


def _tool_call(where: str, call: object, parse_arguments: bool) -> Json:
    """One call: {id, type, function: {name, arguments}}, or the function's object alone."""
    read = plain_json(where, call, "messages")
    if not isinstance(read, dict):
        _refuse(f"{where} is a {type(call).__name__}; expected an object with function")
    if read.get("type", "function") != "function":
        _refuse(f"{where}.type is {read['type']!r}; expected 'function'")
    function = read.get("function", read)
    allowed = ("id", "type", "index", "function") if "function" in read else ("id", "type", "index", "name", "arguments")
    if unknown := [key for key in read if key not in allowed]:
        _refuse(f"{where} has keys that a tool call does not take: {', '.join(sorted(unknown))}")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        _refuse(f"{where}.function.name is missing; expected text")
    arguments = function.get("arguments")
    if not isinstance(arguments, (str, dict)):
        _refuse(f"{where}.function.arguments is {arguments!r}; expected an object, or one as JSON text")
    if isinstance(arguments, str) and not arguments.strip():
        function["arguments"] = arguments = "{}"  # a call without arguments, as some clients send it
    if isinstance(arguments, str) and parse_arguments:
        function["arguments"] = _parsed(f"{where}.function.arguments", arguments)
    return read


def _parsed(where: str, arguments: str) -> Json:
    try:
        read = json.loads(arguments)
    except (ValueError, RecursionError) as error:
        _refuse(f"{where} is no JSON: {error}")
    if not isinstance(read, dict):
        _refuse(f"{where} is a JSON {type(read).__name__}; expected an object")
    return plain_json(where, read, "messages")


def _tool(where: str, tool: object) -> dict[str, Json]:
    read = plain_json(where, tool, "tools")
    if not isinstance(read, dict):
        _refuse(f"{where} is a {type(tool).__name__}; expected an object with type and function", "tools")
    if read.get("type", "function") != "function":
        _refuse(f"{where}.type is {read['type']!r}; expected 'function'", "tools")
    function = read.get("function", read)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        _refuse(f"{where}.function.name is missing; expected text", "tools")
    name, parameters, strict = function["name"], function.get("parameters"), function.get("strict")
    if not _TOOL_NAME.fullmatch(str(name)):
        _refuse(f"{where}.function.name is {name!r}; expected up to 256 characters without spaces, quotes, <, > and =", "tools")
    if parameters is not None and not isinstance(parameters, dict):
        _refuse(f"{where}.function.parameters is {parameters!r}; expected a JSON schema", "tools")
    if strict is not None and not isinstance(strict, bool):
        _refuse(f"{where}.function.strict is {strict!r}; expected true or false", "tools")
    return read


def _text(where: str, value: object) -> str:
    if not isinstance(value, str):
        _refuse(f"{where} is a {type(value).__name__}; expected text")
    return _sound(where, str.__str__(value))


def _sound(where: str, text: str, param: str = "messages") -> str:
    """The text, if it is valid Unicode."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = f"U+{ord(text[error.start]):04X} at character {error.start}"
        _refuse(f"{where} has half a surrogate pair, {found}, which is no valid Unicode: remove it", param)
    return text


def _refuse(message: str, param: str = "messages") -> NoReturn:
    raise BadRequest(message, param=param)
