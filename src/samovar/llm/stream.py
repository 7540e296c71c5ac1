"""Answers in the making, for callers that wait in a thread and for those of asyncio. All go on together in the engine's
thread."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue

from samovar.engine.client import EngineClient, Ticket
from samovar.engine.request import Event
from samovar.errors import Overloaded, SamovarError
from samovar.llm.answer import Answer
from samovar.llm.result import Result
from samovar.text.output_parser import Delta

_MAX_OPEN = 256  # answers of a list that are handed to the engine at once

OnEnd = Callable[[Answer], None]


class Stream(Iterator[Delta]):
    """An answer in the making. Iterate for its deltas; `result` is the whole so far, and final once the stream has ended.

    The answer goes on whether it is read or not. `close` stops it, as does dropping the stream.
    """

    def __init__(
        self, engine: EngineClient, answer: Answer, *, leader: Ticket | None = None, on_end: OnEnd | None = None
    ) -> None:
        self._engine, self._answer, self._on_end = engine, answer, on_end
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._deltas: deque[Delta] = deque()
        self._error: SamovarError | None = None
        self._is_ended = True
        self.ticket = engine.submit(answer.request, self._events.put, leader=leader)
        self._is_ended = False

    def __next__(self) -> Delta:
        """The next piece. After the last, raises the error that ended the answer, where one did."""
        while not self._deltas:
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            if self._is_ended:
                raise StopIteration
            self._deltas += self._answer.push(self._events.get())
            if self._answer.is_over:
                self._end()
                self._error = self._answer.error
        return self._deltas.popleft()

    def __del__(self) -> None:
        """Nobody can read it any more."""
        if not self._is_ended and not self._answer.is_over:
            self._engine.cancel(self.ticket)

    def __enter__(self) -> "Stream":
        """For `with`, which closes the stream."""
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop generating, and wait for the step that is running. An answer that had not ended counts as cancelled."""
        if not self._is_ended:
            self._answer.cancel()
            self._end()

    def stop_thinking(self) -> None:
        """Have the thoughts closed, and the answer begun."""
        self._engine.stop_thinking(self.ticket)

    @property
    def result(self) -> Result:
        """The answer so far."""
        return self._answer.result()

    def _end(self) -> None:
        """Wait for the engine's last word about an answer that is over."""
        self._is_ended = True
        if self._answer.ending is None:
            self._engine.cancel(self.ticket)
            while self._answer.ending is None:
                self._answer.push(self._events.get())
        if self._on_end is not None:
            self._on_end(self._answer)


def run_together(engine: EngineClient, groups: Sequence[Sequence[Answer]]) -> None:
    """Generate all answers. Those of a group have the same prompt, which is computed once.

    As many as the engine's queue holds are handed in, and the others as places become free. Answers end in whatever way they
    end; an interruption cancels those that are open. Raises what is wrong with a request before any is computed.
    """
    for first, *_ in groups:  # the others of a group differ in their seeds alone
        engine.check(first.request)
    events: SimpleQueue[tuple[Answer, Event]] = SimpleQueue()
    tickets: dict[Answer, Ticket] = {}
    waiting = deque((answer, group[0]) for group in groups for answer in group)
    try:
        while waiting or tickets:
            while waiting and len(tickets) < _MAX_OPEN:
                answer, first = waiting[0]
                try:
                    ticket = engine.submit(answer.request, _tagged(answer, events), leader=tickets.get(first))
                except Overloaded:
                    if not tickets:
                        raise
                    break
                tickets[answer] = ticket
                waiting.popleft()
            answer, event = events.get()
            answer.push(event)
            if answer.ending is not None:
                del tickets[answer]
            elif answer.is_over:
                engine.cancel(tickets[answer])
    finally:
        for ticket in tickets.values():
            engine.cancel(ticket)


def _tagged(answer: Answer, events: SimpleQueue[tuple[Answer, Event]]) -> Callable[[Event], None]:
    return lambda event: events.put((answer, event))
