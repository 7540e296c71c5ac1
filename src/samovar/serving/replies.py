"""Replies: JSON bodies and streams; and what becomes of a request whose client has left."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
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
    """A body that comes piece by piece, with a `ping` whenever there was nothing to say for `ping_s` seconds.

    It is closed, and `close` awaited, at its end or as soon as the client leaves, even while there is nothing to send.
    """

    def __init__(
        self,
        pieces: AsyncGenerator[bytes, None],
        media_type: str,
        close: Close,
        ping: bytes | None = None,
        ping_s: float = PING_S,
    ) -> None:
        super().__init__(None, media_type=media_type, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._pieces, self._close, self._ping, self._ping_s = pieces, close, ping, ping_s
        self._sent_s = 0.0

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Send the pieces until they end or nobody listens."""
        sending = asyncio.ensure_future(self._send(send))
        beside = [asyncio.ensure_future(_left(receive))]
        if self._ping is not None:
            beside.append(asyncio.ensure_future(self._send_pings(send, self._ping)))
        try:
            await asyncio.wait((sending, beside[0]), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                await sending
        finally:
            for task in (sending, *beside):
                task.cancel()
            await asyncio.gather(sending, *beside, return_exceptions=True)
            await self._pieces.aclose()
            await self._close()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for piece in self._pieces:
            self._sent_s = time.monotonic()
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        self._ping = None
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_pings(self, send: Send, ping: bytes) -> None:
        """A task of its own, so that a piece costs no timer. Pieces and pings are whole, and go out one after the other."""
        self._sent_s = time.monotonic()
        while self._ping is not None:
            wait_s = self._sent_s + self._ping_s - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            else:
                self._sent_s = time.monotonic()
                await send({"type": "http.response.body", "body": ping, "more_body": True})


def json_reply(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON body."""
    return Response(_encode(value), status, headers, media_type="application/json")


def sse(value: object, event: str | None = None) -> bytes:
    """One server-sent event with a JSON value."""
    name = b"" if event is None else b"event: " + event.encode() + b"\n"
    return name + b"data: " + _encode(value) + b"\n\n"


def sse_reply(events: AsyncGenerator[bytes, None], *, close: Close, ping: bytes = PING, ping_s: float = PING_S) -> Response:
    """A stream of server-sent events; see `StreamReply`."""
    return StreamReply(events, "text/event-stream", close, ping, ping_s)


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
