"""Ollama's `/api/pull`: a model of the catalogue is fetched on behalf of a client, where the server's owner allows it."""

import asyncio
import hashlib
import threading
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from samovar.errors import BadRequest
from samovar.serving.body import Fields, Unsupported, read_body
from samovar.serving.ollama_replies import NDJSON
from samovar.serving.registry import UnknownModel
from samovar.serving.replies import StreamReply, json_reply, unless_gone
from samovar.serving.server import Server, require_admin

UNSUPPORTED: Final = {
    "insecure": Unsupported("downloads are checked by their sha256", (False,)),
    "username": Unsupported("there are no accounts", ("",)),
    "password": Unsupported("there are no accounts", ("",)),
}
_TELL_EVERY_S: Final = 0.5
_encode = msgspec.json.Encoder().encode


class PullFields(Fields, kw_only=True, frozen=True):
    """Fields of the route. `name` is the older name of `model`."""

    model: str | None = None
    name: str | None = None
    stream: bool | None = None


class _Left(Exception):
    """The client has gone; what has come is kept."""


class _Fetching:
    """A fetch in a thread: how far it is, and a way to end it. `done` and `total` are bytes."""

    def __init__(self, server: Server, name: str) -> None:
        self._server, self._name, self._is_left = server, name, threading.Event()
        self.done = self.total = 0

    async def run(self) -> None:
        """Fetch the model, and offer it. Raises what the fetch does."""
        fetch = self._server.fetch
        assert fetch is not None
        try:
            offered = await asyncio.to_thread(fetch, self._name, self._report)
        except asyncio.CancelledError:
            self._is_left.set()
            raise
        self._server.registry.models.setdefault(offered.name, offered)

    def _report(self, done: int, total: int, _: str) -> None:
        if self._is_left.is_set():
            raise _Left
        self.done, self.total = done, total


async def pull(server: Server, request: Request) -> Response:
    """Fetch a model and offer it from then on, for admins alone and where it is allowed; one that is offered is there.

    A client that leaves ends the fetch; the next one goes on from there.
    """
    fields = read_body(PullFields, await request.body(), UNSUPPORTED)
    name = fields.model or fields.name
    if not name or (fields.model and fields.name and fields.model != fields.name):
        raise BadRequest("expected the name of one model as model", param="model")
    try:
        server.registry.find(name)
    except UnknownModel as error:
        if server.fetch is None:
            raise BadRequest(
                f"models are not fetched over HTTP; on the server, run: samovar pull {name}, and serve it, or start it with "
                f"--allow-pull ({error})",
                param="model",
            ) from None
    else:
        reply = json_reply({"status": "success"})
        if fields.stream is not False:  # a stream of one line
            reply.headers["content-type"] = NDJSON
        return reply
    require_admin(request)
    fetching = _Fetching(server, name)
    if fields.stream is False:
        await unless_gone(request, fetching.run)
        return json_reply({"status": "success"})
    task = asyncio.ensure_future(fetching.run())

    async def close() -> None:
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):  # told to the client, where it is still there
            await task

    return StreamReply(_lines(server, name, fetching, task), NDJSON, close)


async def _lines(server: Server, name: str, fetching: _Fetching, task: "asyncio.Future[None]") -> AsyncGenerator[bytes, None]:
    """How far the fetch is, and how it ends."""
    digest = f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"  # clients tell bars apart by it
    yield _line({"status": "pulling manifest"})
    while not task.done():
        await asyncio.wait((task,), timeout=_TELL_EVERY_S)
        if fetching.total:
            about = {"digest": digest, "total": fetching.total, "completed": fetching.done}
            yield _line({"status": f"pulling {digest[7:19]}", **about})
    if (error := task.exception()) is None:
        yield _line({"status": "success"})
    elif isinstance(error, Exception):
        yield _line({"error": server.failed(error).message})


def _line(value: dict[str, object]) -> bytes:
    return _encode(value) + b"\n"
