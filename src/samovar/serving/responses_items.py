"""The items of a response's input: checked, given ids, kept, and made into the messages of a chat."""

import base64
import binascii
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from samovar.errors import BadRequest
from samovar.llm.dialogue import MAX_MESSAGES
from samovar.serving.body import Fields, Unsupported, read_fields

Item = dict[str, Any]
Message = dict[str, Any]
_SIMPLE: Final = ("message", "function_call", "function_call_output", "reasoning", "item_reference")


class MessageItem(Fields, kw_only=True, frozen=True):
    """A message; `type` may be left out."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[dict[str, Any]]
    type: Literal["message"] = "message"
    id: str | None = None
    status: str | None = None


class CallItem(Fields, kw_only=True, frozen=True):
    """A call that the model made."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: str | None = None


class CallOutputItem(Fields, kw_only=True, frozen=True):
    """What came of a call."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | list[dict[str, Any]]
    id: str | None = None
    status: str | None = None


class ReasoningItem(Fields, kw_only=True, frozen=True):
    """Thoughts. The text is that of `content`, else of `encrypted_content`, else of `summary`."""

    type: Literal["reasoning"]
    summary: list[dict[str, Any]] | None = None
    content: list[dict[str, Any]] | None = None
    encrypted_content: str | None = None
    id: str | None = None
    status: str | None = None


class ReferenceItem(Fields, kw_only=True, frozen=True):
    """An item of a stored response, by its id."""

    type: Literal["item_reference"]
    id: str


_UNSUPPORTED: Final[Mapping[str, Unsupported]] = {
    "phase": Unsupported("a message is an answer as a whole"),
    "namespace": Unsupported("functions have no namespaces"),
    "async": Unsupported("calls are answered in their order", (False,)),
    "caller": Unsupported("the model calls functions itself", ({"type": "direct"},)),
}


def read_items(given: str | Sequence[Item]) -> list[Item]:
    """The items of an input in their full form, as they are kept. Raises BadRequest naming the item at fault."""
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if len(given) > MAX_MESSAGES:  # they are gone through on the event loop
        raise BadRequest(f"input has {len(given)} items; expected at most {MAX_MESSAGES}", param="input")
    return [_item(f"input[{at}]", item) for at, item in enumerate(given)]


def messages_of(items: Sequence[Item]) -> list[Message]:
    """A conversation's items as the messages of a chat.

    Thoughts, text and calls that follow each other are one turn of the assistant; the outputs of calls made together stand in
    the order of the calls, as templates tell them apart by that. Raises BadRequest for an output without its call.
    """
    messages: list[Message] = []
    places: dict[str, int] = {}
    for at, item in enumerate(items):
        last = messages[-1] if messages and messages[-1]["role"] == "assistant" else None
        if item["type"] == "reasoning":
            _add_thoughts(messages, last, thoughts_of(item))
        elif item["type"] == "function_call":
            turn = last or _turn(messages)
            places[item["call_id"]] = at
            function = {"name": item["name"], "arguments": item["arguments"]}
            turn.setdefault("tool_calls", []).append({"id": item["call_id"], "type": "function", "function": function})
        elif item["type"] == "function_call_output":
            _add_output(messages, item, places)
        elif item["role"] == "assistant":
            _add_text(messages, last, _text(item["content"]))
        else:
            messages.append({"role": item["role"], "content": _text(item["content"])})
    return messages


def thoughts_of(item: Item) -> str:
    """The text of a reasoning item."""
    if item.get("content"):
        return "\n".join(part["text"] for part in item["content"])
    if item.get("encrypted_content"):
        return unsealed(item["encrypted_content"])
    return "\n".join(part["text"] for part in item["summary"])


def sealed(thoughts: str) -> str:
    """Thoughts as `encrypted_content`, for clients that hand them back unread. It hides nothing: they are shown anyway."""
    return base64.b64encode(thoughts.encode()).decode()


def unsealed(given: str) -> str:
    """The thoughts in an `encrypted_content`. Raises BadRequest for one that was not made here."""
    try:
        return base64.b64decode(given, validate=True).decode()
    except (binascii.Error, ValueError):
        raise BadRequest("encrypted_content of a reasoning item was not made by this server", param="input") from None


def _item(where: str, item: Item) -> Item:
    kind = item.get("type", "message" if "role" in item else None)
    if kind not in _SIMPLE:
        raise BadRequest(f"{where}.type is {kind!r}; expected one of {', '.join(_SIMPLE)}", param="input")
    try:
        return _full(item, kind)
    except BadRequest as error:
        raise BadRequest(f"{where}: {error}", param="input") from None


def _full(item: Item, kind: str) -> Item:
    if kind == "message":
        read = read_fields(MessageItem, item, _UNSUPPORTED)
        text_type = "output_text" if read.role == "assistant" else "input_text"
        content = _parts(read.content, text_type, "content")
        return _head("message", "msg", read.id) | {"role": read.role, "status": read.status or "completed", "content": content}
    if kind == "function_call":
        call = read_fields(CallItem, item, _UNSUPPORTED)
        told = {"call_id": call.call_id, "name": call.name, "arguments": call.arguments}
        return _head(kind, "fc", call.id) | told | {"status": call.status or "completed"}
    if kind == "function_call_output":
        out = read_fields(CallOutputItem, item, _UNSUPPORTED)
        output = out.output if isinstance(out.output, str) else _parts(out.output, "input_text", "output")
        return _head(kind, "fco", out.id) | {"call_id": out.call_id, "output": output, "status": out.status or "completed"}
    if kind == "reasoning":
        thoughts = read_fields(ReasoningItem, item, {})
        full = _head(kind, "rs", thoughts.id) | {"summary": _parts(thoughts.summary or (), "summary_text", "summary")}
        if thoughts.content is not None:
            full["content"] = _parts(thoughts.content, "reasoning_text", "content")
        if thoughts.encrypted_content is not None:
            unsealed(thoughts.encrypted_content)
            full["encrypted_content"] = thoughts.encrypted_content
        return full
    return {"type": kind, "id": read_fields(ReferenceItem, item, {}).id}


def _head(kind: str, prefix: str, given: str | None) -> Item:
    return {"type": kind, "id": given or f"{prefix}_{uuid.uuid4().hex}"}


def _parts(given: str | Sequence[Item], text_type: str, name: str) -> list[Item]:
    """Text parts in their full form. All of a list have the type that belongs there."""
    if isinstance(given, str):
        given = [{"type": text_type, "text": given}]
    more: Item = {"annotations": []} if text_type == "output_text" else {}
    parts = []
    for at, part in enumerate(given):
        if part.get("type") != text_type:
            raise BadRequest(f"{name}[{at}].type is {part.get('type')!r}; these models read text alone: expected {text_type}")
        if unknown := sorted(part.keys() - {"type", "text", "annotations", "logprobs"}):
            raise BadRequest(f"{name}[{at}].{unknown[0]} is no field that is known here")
        if not isinstance(part.get("text"), str):
            raise BadRequest(f"{name}[{at}].text is missing; expected text")
        if part.get("annotations") or ("logprobs" in part and text_type != "output_text"):
            raise BadRequest(f"{name}[{at}] has annotations or logprobs, which the model cannot read; leave them out")
        parts.append({"type": text_type, "text": part["text"]} | more)
    return parts


def _text(content: Sequence[Item]) -> str:
    return "\n".join(part["text"] for part in content)


def _turn(messages: list[Message]) -> Message:
    messages.append({"role": "assistant", "content": None})
    return messages[-1]


def _add_thoughts(messages: list[Message], last: Message | None, thoughts: str) -> None:
    """Thoughts begin a turn, or go on with thoughts that nothing followed yet."""
    if last is None or last["content"] is not None or "tool_calls" in last:
        last = _turn(messages)
    earlier = last.get("reasoning_content")
    last["reasoning_content"] = thoughts if earlier is None else f"{earlier}\n{thoughts}"


def _add_text(messages: list[Message], last: Message | None, text: str) -> None:
    """Text goes into the turn that has none; after calls it belongs to the turn that made them."""
    if last is None or (last["content"] is not None and "tool_calls" not in last):
        last = _turn(messages)
    last["content"] = text if last["content"] is None else last["content"] + text


def _add_output(messages: list[Message], item: Item, places: Mapping[str, int]) -> None:
    call_id, output = item["call_id"], item["output"]
    if call_id not in places:
        raise BadRequest(f"input has an output for the call {call_id!r}, and no such function_call before it", param="input")
    message = {"role": "tool", "tool_call_id": call_id, "content": output if isinstance(output, str) else _text(output)}
    at = len(messages)
    while messages[at - 1]["role"] == "tool" and places[messages[at - 1]["tool_call_id"]] > places[call_id]:
        at -= 1
    messages.insert(at, message)
