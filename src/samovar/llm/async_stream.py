"""Answers in the making, for callers that live in an asyncio event loop."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator

from samovar.engine.client import EngineClient, Ticket
from samovar.engine.request import Event
from samovar.errors import SamovarError
from samovar.llm.answer import Answer
from samovar.llm.result import Result
from samovar.llm.stream import OnEnd
from samovar.text.output_parser import Delta


class AsyncStream(AsyncIterator[Delta]):
    """`Stream` for asyncio: `async for` over its deltas, then `result`; `aclose` stops it, as does cancelling whoever waits."""

    def __init__(
        self,
        engine: EngineClient,
        answer: Answer,
        *,
        leader: Ticket | None = None,
        on_end: OnEnd | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._engine, self._answer, self._on_end = engine, answer, on_end
        self._events = events = asyncio.Queue[Event]()
        self._deltas: deque[Delta] = deque()
        self._error: SamovarError | None = None
        self._is_ended = True
        home = loop or asyncio.get_running_loop()

        def deliver(event: Event) -> None:  # it knows nothing of the stream, which may be dropped
            with contextlib.suppress(RuntimeError):  # the loop was closed, and nobody waits
                home.call_soon_threadsafe(events.put_nowait, event)

        self.ticket = engine.submit(answer.request, deliver, leader=leader)
        self._is_ended = False

    async def __anext__(self) -> Delta:
        """The next piece. After the last, raises the error that ended the answer, where one did."""
        while not self._deltas:
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            if self._is_ended:
                raise StopAsyncIteration
            try:
                event = await self._events.get()
            except asyncio.CancelledError:
                self._engine.cancel(self.ticket)
                raise
            self._deltas += self._answer.push(event)
            if self._answer.is_over:
                await self._end()
                self._error = self._answer.error
        return self._deltas.popleft()

    def __del__(self) -> None:
        """Nobody can read it any more."""
        if not self._is_ended and not self._answer.is_over:
            self._engine.cancel(self.ticket)

    async def __aenter__(self) -> "AsyncStream":
        """For `async with`, which closes the stream."""
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop generating, and wait for the step that is running. An answer that had not ended counts as cancelled."""
        if not self._is_ended:
            self._answer.cancel()
            await self._end()

    def stop_thinking(self) -> None:
        """Have the thoughts closed, and the answer begun."""
        self._engine.stop_thinking(self.ticket)

    @property
    def result(self) -> Result:
        """The answer so far."""
        return self._answer.result()

    @property
    def n_tokens(self) -> int:
        """How many tokens the answer has so far, thoughts included."""
        return self._answer.n_tokens

    @property
    def n_thinking(self) -> int:
        """How many of them are thoughts."""
        return self._answer.n_thinking

    async def _end(self) -> None:
        self._is_ended = True
        if self._answer.ending is None:
            self._engine.cancel(self.ticket)
            while self._answer.ending is None:
                self._answer.push(await self._events.get())
        if self._on_end is not None:
            self._on_end(self._answer)
