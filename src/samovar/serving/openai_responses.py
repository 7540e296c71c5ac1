"""OpenAI's `/v1/responses`: answers that can be kept, gone on from, fetched, cancelled and deleted."""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from samovar.errors import BadRequest
from samovar.serving.body import naming, read_body
from samovar.serving.chat import Answers, ChatAsk
from samovar.serving.openai_options import token_logprob
from samovar.serving.paging import page_body, read_page, read_query, read_whole
from samovar.serving.records import NoSuchRecord, Records
from samovar.serving.replies import json_reply, sse, sse_reply, unless_gone
from samovar.serving.responses_fields import (
    LOGPROBS,
    SEALED,
    UNSUPPORTED,
    ResponseFields,
    chat_options,
    echoed,
    has_summary,
    option_names,
)
from samovar.serving.responses_items import Item, messages_of, read_items
from samovar.serving.responses_logprobs import TextTokens
from samovar.serving.responses_stream import Event, Growing, response_id_of
from samovar.serving.server import Server, Table, caller_of

KIND: Final = "response"
_KEPT_S: Final = 300.0  # how long the events of a background response can be had after its end
_FINISHED: Final = ("completed", "incomplete")


async def create_response(server: Server, request: Request) -> Response:
    """Answer the input: at once, as a stream, or in the background."""
    fields, owner = read_body(ResponseFields, await request.body(), UNSUPPORTED), caller_of(request).id
    options = chat_options(fields)
    if fields.store:
        server.kept()
    is_stored = server.records is not None if fields.store is None else fields.store
    if fields.background and not is_stored:
        server.kept()
        raise BadRequest("background is on, and store is off; expected store: true with it", param="store")
    items = await _resolved(server, owner, read_items(fields.input))
    earlier = await _earlier(server, owner, fields.previous_response_id)
    messages = messages_of([*earlier, *items])
    if fields.instructions:
        messages.insert(0, {"role": "system", "content": fields.instructions})
    ask = ChatAsk(model=fields.model, messages=messages, options=options, cache_salt=fields.cache_salt)
    with naming(**option_names(fields)):
        answers = await server.start(request, ask)
    making = _Making(server, answers, fields, items, owner if is_stored else None)
    if fields.background:
        return await _in_background(server, making, fields)
    if fields.stream:
        return sse_reply(making.frames(), close=answers.aclose)
    try:
        body = await unless_gone(request, making.whole)
    finally:
        await answers.aclose()
    return json_reply(body)


async def get_response(server: Server, request: Request) -> Response:
    """A stored response; with `stream` its events, as long as it runs in the background and for some minutes after."""
    query = read_query(request, ["stream", "starting_after", "include_obfuscation"])
    streams = _switch(query, "stream")
    if _switch(query, "include_obfuscation"):
        raise BadRequest("include_obfuscation is on, which is not supported", param="include_obfuscation")
    if "starting_after" in query and not streams:
        raise BadRequest("starting_after is given, and stream is off", param="starting_after")
    body = (await _stored(server, request))["response"]
    if not streams:
        return json_reply(body)
    job = server.background.find(body["id"])
    if not isinstance(job, _Running):
        raise BadRequest(
            "stream is on, and this response has no events any more: only those of a background response can be had, while it "
            "runs and for some minutes after; get it without stream",
            param="stream",
        )
    start = read_whole("starting_after", query["starting_after"], 0, 1 << 48) + 1 if "starting_after" in query else 0
    return sse_reply(job.follow(start), close=_nothing)


async def list_input_items(server: Server, request: Request) -> Response:
    """The items that a stored response was asked with, without those of earlier responses."""
    page = read_page(request, default=20, most=100)
    items: list[Item] = (await _stored(server, request))["input"]
    if not page.is_oldest_first:
        items = items[::-1]
    if page.after is not None:
        ids = [item["id"] for item in items]
        if page.after not in ids:
            raise NoSuchRecord("item", page.after)
        items = items[ids.index(page.after) + 1 :]
    return json_reply(page_body(items, page.limit))


async def delete_response(server: Server, request: Request) -> Response:
    """Forget a response; one that runs ends first. Later ones cannot go on from it any more."""
    body = (await _stored(server, request))["response"]
    await server.background.cancel(body["id"])
    await server.kept().delete(KIND, body["id"], caller_of(request).id)
    return json_reply({"id": body["id"], "object": "response", "deleted": True})


async def cancel_response(server: Server, request: Request) -> Response:
    """End a background response early. One that has ended stays as it is."""
    body = (await _stored(server, request))["response"]
    if not body["background"]:
        raise BadRequest("this response does not run in the background; to end one that streams, close its connection")
    await server.background.cancel(body["id"])
    return json_reply((await _stored(server, request))["response"])


ROUTES: Final[Table] = (
    ("POST", "/v1/responses", create_response),
    ("GET", "/v1/responses/{id}", get_response),
    ("DELETE", "/v1/responses/{id}", delete_response),
    ("GET", "/v1/responses/{id}/input_items", list_input_items),
    ("POST", "/v1/responses/{id}/cancel", cancel_response),
)


async def fail_interrupted(records: Records) -> None:
    """Say of the responses that ran in the background when the server ended that they failed."""
    for response_id, owner, value in await records.unfinished(KIND):
        error = {"code": "server_error", "message": "the server ended while this response was being made; send it again"}
        value["response"] |= {"status": "failed", "error": error}
        await records.put(KIND, response_id, owner, value)


class _Making:
    """One response being made: its events, and its record at the end where it has an owner."""

    def __init__(
        self, server: Server, answers: Answers, fields: ResponseFields, items: Sequence[Item], owner: str | None
    ) -> None:
        self._server, self.answers, self._items, self._owner = server, answers, items, owner
        self.body: dict[str, Any] = {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "model": answers.model,
            "output": [],
            "usage": None,
            "store": owner is not None,
            "system_fingerprint": server.fingerprint,
            **echoed(fields),
        }
        has_sealed = SEALED in (fields.include or ())
        self.growing = Growing(self.body, has_summary=has_summary(fields), has_sealed=has_sealed)
        self._tokens = TextTokens(answers.llm.tokenizer) if LOGPROBS in (fields.include or ()) else None
        self.error: Exception | None = None

    async def events(self) -> AsyncGenerator[Event, None]:
        """All events. The response is kept before the last one is told; an error becomes an event, and `error`."""
        for event in self.growing.begin():
            yield event
        try:
            async for _, delta in self.answers:
                for event in self.growing.push(delta, self._logprobs() if delta.field == "content" else ()):
                    yield event
            ending = await self.ended()
        except Exception as error:  # the head may be sent: this is the one place left to tell of it
            self.error, ending = error, self.growing.fail(self._server.failed(error))
            if self.body["background"]:
                await self.keep()
        for event in ending:
            yield event

    async def ended(self) -> list[Event]:
        """The last events of an answer that is over."""
        ending = self.growing.finish(self.answers.results[0], self._logprobs())
        await self.keep()
        return ending

    async def keep(self, *, is_open: bool = False) -> None:
        """Write the record, where there is an owner."""
        if self._owner is not None:
            value = {"response": self.body, "input": list(self._items)}
            await self._server.kept().put(KIND, self.body["id"], self._owner, value, is_open=is_open)

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """All events as a stream."""
        async for event in self.events():
            yield _frame(event)

    async def whole(self) -> dict[str, Any]:
        """The response, once it is all there. Raises the error that ended it, where one did."""
        async for _ in self.events():
            pass
        if self.error is not None:
            raise self.error
        return self.body

    def _logprobs(self) -> list[Item]:
        if self._tokens is None:
            return []
        tokenizer = self.answers.llm.tokenizer
        return [
            token_logprob(tokenizer, token_id, entry.value)
            | {"top_logprobs": [token_logprob(tokenizer, i, value) for i, value in entry.top]}
            for token_id, entry in self._tokens.more(self.answers.results[0])
        ]


class _Running:
    """A response that is made in the background, and its events for those who follow."""

    def __init__(self, making: _Making) -> None:
        self._making, self._is_cancelled, self._is_over = making, False, False
        self._frames: list[bytes] = []
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Make it, to its end."""
        making = self._making
        try:
            async for event in making.events():
                self._tell(event)
        except asyncio.CancelledError:
            if not self._is_cancelled:
                raise
            await making.answers.aclose()
            for event in await making.ended():
                self._tell(event)
        finally:
            await making.answers.aclose()
            self._is_over = True
            self._news.set()

    def give_up(self) -> bool:
        """It is to end as it is."""
        self._is_cancelled = True
        return True

    async def follow(self, start: int) -> AsyncGenerator[bytes, None]:
        """The events from number `start` on, as they come."""
        while True:
            news = self._news
            for frame in self._frames[start:]:
                yield frame
                start += 1
            if start >= len(self._frames):
                if self._is_over:
                    return
                await news.wait()

    def _tell(self, event: Event) -> None:
        self._frames.append(_frame(event))
        self._news.set()
        self._news = asyncio.Event()


async def _in_background(server: Server, making: _Making, fields: ResponseFields) -> Response:
    try:
        await making.keep(is_open=True)
    except BaseException:
        await making.answers.aclose()
        raise
    job, reply = _Running(making), json_reply(making.body)
    server.background.begin(making.body["id"], job, keep_s=_KEPT_S)
    return sse_reply(job.follow(0), close=_nothing) if fields.stream else reply


async def _earlier(server: Server, owner: str, response_id: str | None) -> list[Item]:
    """All items of the conversation that a response ends. Raises BadRequest for one that has not ended."""
    turns: list[list[Item]] = []
    while response_id is not None:
        try:
            value = await server.kept().get(KIND, response_id, owner)
        except NoSuchRecord as error:
            raise NoSuchRecord("earlier response", response_id) from error
        response = value["response"]
        if response["status"] not in _FINISHED:
            raise BadRequest(
                f"the response {response_id} is {response['status']}; expected one that is {' or '.join(_FINISHED)}",
                param="previous_response_id",
            )
        turns.append([*value["input"], *response["output"]])
        response_id = response["previous_response_id"]
    return [item for turn in reversed(turns) for item in turn]


async def _resolved(server: Server, owner: str, items: list[Item]) -> list[Item]:
    """The items, with those in place of references that they refer to."""
    return [await _referred(server, owner, item["id"]) if item["type"] == "item_reference" else item for item in items]


async def _referred(server: Server, owner: str, item_id: str) -> Item:
    response_id = response_id_of(item_id)
    if response_id is None:
        raise NoSuchRecord("item", item_id)
    value = await server.kept().get(KIND, response_id, owner)
    for item in value["response"]["output"]:
        if item["id"] == item_id:
            found: Item = item
            return found
    raise NoSuchRecord("item", item_id)


async def _stored(server: Server, request: Request) -> dict[str, Any]:
    return await server.kept().get(KIND, request.path_params["id"], caller_of(request).id)


def _switch(query: dict[str, str], name: str) -> bool:
    given = query.get(name, "false")
    if given not in ("true", "false"):
        raise BadRequest(f"{name} is {given!r}; expected true or false", param=name)
    return given == "true"


def _frame(event: Event) -> bytes:
    return sse(event, event["type"])


async def _nothing() -> None:
    """Whoever follows a response leaves nothing behind."""
