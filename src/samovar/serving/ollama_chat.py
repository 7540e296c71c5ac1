"""Ollama's `/api/chat`."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from samovar.errors import BadRequest
from samovar.llm.dialogue import MAX_MESSAGES
from samovar.llm.options import ChatOptions
from samovar.serving.body import Fields, Unsupported, read_body
from samovar.serving.chat import ChatAsk
from samovar.serving.ollama_options import (
    RunFields,
    check_keep_alive,
    keep_alive,
    keep_alive_s,
    read_options,
    run_options,
    thinking_ask,
)
from samovar.serving.ollama_replies import Call, Shape, load_or_unload, reply
from samovar.serving.server import Server

NO_IMAGES: Final = "these models read text"
UNSUPPORTED: Final[Mapping[str, Unsupported]] = {
    "truncate": Unsupported("prompts are never cut", (False,)),
    "shift": Unsupported("an answer ends where the context does", (False,)),
}


class FunctionFields(Fields, kw_only=True, frozen=True):
    """`messages[].tool_calls[].function`. Calls are told apart by their order, so that `index` says nothing more."""

    name: str
    arguments: dict[str, Any]
    index: int | None = None


class CallFields(Fields, kw_only=True, frozen=True):
    """`messages[].tool_calls[]`."""

    function: FunctionFields
    id: str | None = None
    type: str | None = None


class MessageFields(Fields, kw_only=True, frozen=True):
    """`messages[]`."""

    role: str
    content: str | None = None
    thinking: str | None = None
    images: list[Any] | None = None
    tool_calls: list[CallFields] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class ChatFields(RunFields, kw_only=True, frozen=True):
    """Fields of the route."""

    messages: list[MessageFields] | None = None
    tools: list[dict[str, Any]] | None = None


async def chat(server: Server, request: Request) -> Response:
    """Answer a conversation; without messages, open or close the model."""
    started_s = time.perf_counter()
    fields = read_body(ChatFields, await request.body(), UNSUPPORTED)
    ask, seconds = chat_ask(fields), keep_alive_s(fields.keep_alive)
    check_keep_alive(request, seconds)
    if not fields.messages:
        return await load_or_unload(server, request, fields.model, message, seconds)
    answers = await server.start(request, ask)
    keep_alive(server.registry, fields.model, seconds)
    shape = Shape(server, answers, message, model=fields.model, logprobs=bool(fields.logprobs), started_s=started_s)
    return await reply(request, answers, shape, streams=fields.stream is not False)


def chat_ask(fields: ChatFields) -> ChatAsk:
    """The request in the terms that all dialects share; a last message of the assistant is continued. Raises BadRequest."""
    given, asked = read_options(fields.options), thinking_ask(fields.think)
    if (n_messages := len(fields.messages or ())) > MAX_MESSAGES:  # they are gone through on the event loop
        raise BadRequest(f"there are {n_messages} messages; expected at most {MAX_MESSAGES}", param="messages")
    messages = [_message(f"messages[{at}]", one) for at, one in enumerate(fields.messages or [])]
    last = fields.messages[-1] if fields.messages else None
    is_begun = last is not None and last.role == "assistant" and bool((last.content or "").strip()) and not last.tool_calls
    options: ChatOptions = {
        **run_options(fields, given),
        "tools": fields.tools or None,
        "thinking": asked.thinking,
        "thinking_budget": asked.budget,
        "continue_final": is_begun or None,
    }
    return ChatAsk(model=fields.model, messages=messages, options=options, n_context=given.num_ctx)


def message(content: str, thinking: str, calls: Sequence[Call]) -> dict[str, object]:
    """What the model says, as a message."""
    said: dict[str, object] = {"role": "assistant", "content": content}
    if thinking:
        said["thinking"] = thinking
    if calls:
        said["tool_calls"] = calls
    return {"message": said}


def _message(where: str, given: MessageFields) -> dict[str, object]:
    """A message in OpenAI's form. Raises BadRequest for what a message of its role does not take."""
    if given.images:
        raise BadRequest(f"{where}.images is given, which is not supported: {NO_IMAGES}", param=f"{where}.images")
    for name, role, value in (
        ("thinking", "assistant", given.thinking),
        ("tool_calls", "assistant", given.tool_calls),
        ("tool_name", "tool", given.tool_name),
        ("tool_call_id", "tool", given.tool_call_id),
    ):
        if value and given.role != role:
            raise BadRequest(f"{where}.{name} is given; only a message of role {role} takes it", param=f"{where}.{name}")
    read: dict[str, object] = {"role": given.role, "content": given.content or ""}
    if given.thinking:
        read["reasoning_content"] = given.thinking
    if given.tool_name:
        read["name"] = given.tool_name
    if given.tool_call_id:
        read["tool_call_id"] = given.tool_call_id
    if given.tool_calls:
        read["tool_calls"] = [_call(call) for call in given.tool_calls]
    return read


def _call(given: CallFields) -> dict[str, object]:
    read: dict[str, object] = {
        "type": given.type or "function",
        "function": {"name": given.function.name, "arguments": given.function.arguments},
    }
    return read | ({"id": given.id} if given.id else {})
