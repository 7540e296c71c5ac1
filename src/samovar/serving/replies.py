"""Replies: JSON bodies, server-sent events, newline-delimited JSON; and what becomes of a request whose client has left."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Final, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")
Close = Callable[[], Awaitable[None]]
PING_S: Final = 10.0
PING: Final = b": keep-alive\n\n"
_encode = msgspec.json.Encoder().encode


class ClientGone(Exception):
    """The client closed its connection before it had its reply."""


class StreamReply(Response):
    """A body that comes piece by piece. It is closed as soon as the client leaves, even while there is nothing to send."""

    def __init__(self, pieces: AsyncGenerator[bytes, None], media_type: str, close: Close) -> None:
        super().__init__(None, media_type=media_type, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._pieces, self._close = pieces, close

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Send the pieces until they end or nobody listens."""
        sending, leaving = asyncio.ensure_future(self._send(send)), asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                await sending
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
            await self._pieces.aclose()
            await self._close()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for piece in self._pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def json_reply(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON body."""
    return Response(_encode(value), status, headers, media_type="application/json")


def sse(value: object, event: str | None = None) -> bytes:
    """One server-sent event with a JSON value."""
    name = b"" if event is None else b"event: " + event.encode() + b"\n"
    return name + b"data: " + _encode(value) + b"\n\n"


def sse_reply(events: AsyncGenerator[bytes, None], *, close: Close, ping: bytes = PING, ping_s: float = PING_S) -> Response:
    """A stream of server-sent events, with a `ping` whenever there was nothing to say for a while, and `close` at its end."""
    return StreamReply(with_pings(events, ping, ping_s), "text/event-stream", close)


def ndjson_reply(values: AsyncIterator[object], *, close: Close) -> Response:
    """A stream of JSON values, one a line, and `close` at its end."""

    async def lines() -> AsyncGenerator[bytes, None]:
        async for value in values:
            yield _encode(value) + b"\n"

    return StreamReply(lines(), "application/x-ndjson", close)


async def with_pings(events: AsyncGenerator[bytes, None], ping: bytes, ping_s: float) -> AsyncGenerator[bytes, None]:
    """The events, and a ping whenever none came for `ping_s` seconds. Closing it closes the events."""
    queue: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=64)  # a client that reads slowly holds its own stream back

    async def pump() -> None:
        try:
            async for event in events:
                await queue.put(event)
        except Exception:
            await queue.put(None)
            raise
        await queue.put(None)

    task = asyncio.create_task(pump())
    try:
        while True:
            try:
                item = await asyncio.wait_for(queue.get(), ping_s)
            except TimeoutError:
                item = ping
            if item is None:
                break
            yield item
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await events.aclose()


async def unless_gone(request: Request, work: Callable[[], Awaitable[T]]) -> T:
    """The result of `work`, which is cancelled when the client leaves. The body must have been read. Raises ClientGone."""
    working = asyncio.ensure_future(work())
    leaving = asyncio.ensure_future(_left(request.receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return await working
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
