"""Bounds on what a client sends: how large a body may be, how slowly it may come, and how much of all is held at once."""

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Final

from starlette.types import Message, Receive, Scope

from samovar.errors import SamovarError

_PATIENCE_S: Final = 30.0
_MIN_BYTES_PER_S: Final = 10_000
_DROP_S: Final = 2.0


class BodyTooLarge(SamovarError):
    """A body has more bytes than the route takes."""


class BodyTooSlow(SamovarError):
    """A body comes so slowly that its client may be taken for gone."""


class TooBusy(SamovarError):
    """There is no room for one more request. `wait_s` is the time after which there may be."""

    def __init__(self, message: str, wait_s: float) -> None:
        super().__init__(message)
        self.wait_s = wait_s


@dataclass(slots=True)
class Room:
    """Bytes of bodies that may be held at once, and those that are."""

    max_bytes: int
    n_held: int = 0

    def take(self, n_bytes: int) -> None:
        """Raises TooBusy where they do not fit."""
        if self.n_held + n_bytes > self.max_bytes:
            raise TooBusy("the server holds as many large requests as it has room for; try again in a few seconds", 5.0)
        self.n_held += n_bytes


class BoundedBody:
    """Receives for one request. Raises BodyTooLarge, BodyTooSlow or TooBusy in the place of a message that is too much."""

    def __init__(self, scope: Scope, receive: Receive, max_bytes: int, room: Room) -> None:
        self._receive, self._max_bytes, self._room = receive, max_bytes, room
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
        self._n_declared = int(declared) if declared.isdigit() else 0
        self._is_held_back = any(name == b"expect" for name, _ in scope["headers"])
        self._n_bytes, self._is_whole = 0, False
        self._started = asyncio.get_running_loop().time()

    async def __call__(self) -> Message:
        """The next message."""
        if self._is_whole:
            return await self._receive()
        await self._check(self._n_declared)
        try:
            async with asyncio.timeout_at(self._started + _PATIENCE_S + self._n_bytes / _MIN_BYTES_PER_S):
                message = await self._receive()
        except TimeoutError:
            raise BodyTooSlow(f"of the body only {self._n_bytes} bytes came in time; send it again") from None
        if message["type"] == "http.request":
            n_more = len(message.get("body", b""))
            self._is_whole = not message.get("more_body", False)
            await self._check(self._n_bytes + n_more)
            self._room.take(n_more)
            self._n_bytes += n_more
        return message

    async def drop(self) -> None:
        """Let more come for a while and forget it: a client that is cut off while it writes may never read why."""
        if self._is_whole or (self._is_held_back and not self._n_bytes):  # nothing more will come without leave
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DROP_S):
                while (await self._receive()).get("more_body", False):
                    pass

    def release(self) -> None:
        """The request is over, and its body gone."""
        self._room.n_held -= self._n_bytes

    async def _check(self, n_bytes: int) -> None:
        if n_bytes > self._max_bytes:
            await self.drop()
            raise BodyTooLarge(f"the body has more than {self._max_bytes} bytes, the most that is taken here; send less")
