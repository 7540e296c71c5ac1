"""Anthropic's `/v1/messages` and `/v1/messages/count_tokens`.

The headers anthropic-version and anthropic-beta are accepted with any value: requests look alike in all versions, and a beta's
fields are honoured or refused as all others.
"""

import asyncio
import uuid
from collections.abc import AsyncGenerator

from starlette.requests import Request
from starlette.responses import Response

from samovar.serving.anthropic_fields import UNSUPPORTED, MessageFields, PromptFields, message_ask, prompt_ask
from samovar.serving.anthropic_reply import (
    Content,
    Event,
    details,
    error_event,
    first_usage,
    stop_fields,
    usage,
)
from samovar.serving.body import read_body
from samovar.serving.chat import Answers, prepared_chat
from samovar.serving.replies import json_reply, sse, sse_reply, unless_gone
from samovar.serving.server import Server, caller_of


async def create_message(server: Server, request: Request) -> Response:
    """Answer a conversation."""
    fields = read_body(MessageFields, await request.body(), UNSUPPORTED)
    answers = await server.start(request, message_ask(fields))
    message = _Message(server, answers, fields, request.state.request_id)
    if fields.stream:
        return _named(sse_reply(message.events(), close=answers.aclose, ping=_event({"type": "ping"})), request)
    try:
        body = await unless_gone(request, message.whole)
    finally:
        await answers.aclose()
    return _named(json_reply(body), request)


async def count_tokens(server: Server, request: Request) -> Response:
    """How many tokens the prompt of a message has, however many the context holds."""
    fields = read_body(PromptFields, await request.body(), UNSUPPORTED)
    caller, ask = caller_of(request), prompt_ask(fields)
    with server.limits.admit(caller):
        async with server.registry.use(ask.model) as opened:
            prepared = await asyncio.to_thread(prepared_chat, opened, caller, ask)
    return _named(json_reply({"input_tokens": prepared.n_prompt}), request)


class _Message:
    """Gives an answer the form of a message, whole or in events."""

    def __init__(self, server: Server, answers: Answers, fields: MessageFields, request_id: str) -> None:
        self._server, self._answers, self._request_id, self._max_tokens = server, answers, request_id, fields.max_tokens
        self._content = Content(omits_thoughts=fields.thinking is not None and fields.thinking.display == "omitted")
        self._head = {
            "id": f"msg_{uuid.uuid4().hex[:24]}",
            "type": "message",
            "role": "assistant",
            "model": answers.model,
        }

    async def whole(self) -> dict[str, object]:
        """The message, once it is complete."""
        async for _, delta in self._answers:
            self._content.push(delta)
        self._content.finish()
        [result] = self._answers.results
        return {
            **self._head,
            "content": self._content.whole(),
            **self._stop(),
            "usage": usage(result),
            "samovar": details(result),
        }

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The message in events. An error ends it with an event of its own."""
        start: Event = {**self._head, "content": [], "stop_reason": None, "stop_sequence": None}
        yield _event({"type": "message_start", "message": start | {"usage": first_usage(self._answers.n_prompt)}})
        yield _event({"type": "ping"})
        try:
            async for _, delta in self._answers:
                for event in self._content.push(delta):
                    yield _event(event)
        except Exception as error:  # the head is sent: this is the one place left to tell of it
            yield _event(error_event(self._server.failed(error), self._request_id))
            return
        for event in self._content.finish():
            yield _event(event)
        [result] = self._answers.results
        yield _event({"type": "message_delta", "delta": self._stop(), "usage": usage(result), "samovar": details(result)})
        yield _event({"type": "message_stop"})

    def _stop(self) -> dict[str, object]:
        [result] = self._answers.results
        return stop_fields(result, has_calls=self._content.has_calls, max_tokens=self._max_tokens)


def _event(event: Event) -> bytes:
    return sse(event, str(event["type"]))


def _named(reply: Response, request: Request) -> Response:
    reply.headers["request-id"] = request.state.request_id
    return reply
