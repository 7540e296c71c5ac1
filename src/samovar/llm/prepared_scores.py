"""Requests whose answers are numbers, checked and encoded, and run in one of two ways: in a thread, or for an event loop."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Final, Generic, TypeVar

from samovar.engine.client import EngineClient, Ticket
from samovar.engine.request import Ending, Event, Request
from samovar.errors import Overloaded

T = TypeVar("T")
_MAX_OPEN: Final = 256
_Item = tuple[int, Event]


class PreparedScores(Generic[T]):
    """Requests that run together, and `read`, which makes of their endings what is wanted. `truncated` is (index, tokens) of
    the texts whose end was cut off, as the caller allowed."""

    def __init__(
        self,
        client: EngineClient,
        requests: Sequence[Request],
        read: Callable[[list[Ending]], T],
        truncated: tuple[tuple[int, int], ...] = (),
    ) -> None:
        self._client, self._requests, self._read, self.truncated = client, requests, read, truncated

    @property
    def n_prompt(self) -> int:
        """Tokens of all prompts."""
        return sum(len(request.prompt_ids) for request in self._requests)

    def check(self) -> None:
        """Raises what is wrong with a request for this engine."""
        for request in self._requests:
            self._client.check(request)

    def run(self) -> T:
        """Wait for all. Raises what is wrong with a request before any is computed, and the error of one that fails."""
        self.check()
        events = SimpleQueue[_Item]()
        running = _Running(self._client, self._requests, events.put)
        try:
            while not running.is_done:
                running.fill()
                running.take(events.get())
        finally:
            running.cancel()
        return self._read(running.in_order())

    async def arun(self) -> T:
        """As `run`, for an event loop, after `check`. Cancelling whoever waits ends what still runs within one step."""
        events, loop = asyncio.Queue[_Item](), asyncio.get_running_loop()

        def put(item: _Item) -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed, and nobody waits
                loop.call_soon_threadsafe(events.put_nowait, item)

        running = _Running(self._client, self._requests, put)
        try:
            while not running.is_done:
                running.fill()
                running.take(await events.get())
        finally:
            running.cancel()
        return self._read(running.in_order())


class _Running:
    """Requests on their way: as many at once as the engine's queue holds. `put` is told of what happens to each, by place."""

    def __init__(self, client: EngineClient, requests: Sequence[Request], put: Callable[[_Item], None]) -> None:
        self._client, self._requests, self._put = client, requests, put
        self._tickets: dict[int, Ticket] = {}
        self._endings: dict[int, Ending] = {}
        self._n_sent = 0

    @property
    def is_done(self) -> bool:
        return len(self._endings) == len(self._requests)

    def fill(self) -> None:
        """Hand in what there is room for. Raises Overloaded where others leave room for none."""
        while self._n_sent < len(self._requests) and len(self._tickets) < _MAX_OPEN:
            place = self._n_sent
            try:
                ticket = self._client.submit(self._requests[place], lambda event, place=place: self._put((place, event)))  # type: ignore[misc]
            except Overloaded:
                if not self._tickets:
                    raise
                return
            self._tickets[place] = ticket
            self._n_sent += 1

    def take(self, item: _Item) -> None:
        """Note what happened. Raises the error that ended a request."""
        place, event = item
        if event.ending is not None:
            self._endings[place] = event.ending
            del self._tickets[place]
            if event.ending.error is not None:
                raise event.ending.error

    def in_order(self) -> list[Ending]:
        return [self._endings[place] for place in range(len(self._requests))]

    def cancel(self) -> None:
        """End what still runs."""
        for ticket in self._tickets.values():
            self._client.cancel(ticket)
