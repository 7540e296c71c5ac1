"""One chat request, whatever dialect it came in: from the contract that all dialects share to pieces of answers."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from samovar.errors import SamovarError
from samovar.llm.async_stream import AsyncStream
from samovar.llm.options import ChatOptions, Options
from samovar.llm.prepared import Prepared
from samovar.llm.result import Result, Usage
from samovar.serving.caller import Caller
from samovar.serving.limits import Limits
from samovar.serving.registry import Opened, Registry
from samovar.text.output_parser import Delta


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatAsk:
    """What every dialect's chat request becomes. `model` None is the server's first one; `options` are those of
    `LLM.prepare_chat`, without tenant and adapter, which the server sets."""

    model: str | None
    messages: Sequence[dict[str, object]]
    options: ChatOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class TextAsk:
    """What a request to continue raw text, or token ids, becomes."""

    model: str | None
    prompt: str | tuple[int, ...]
    options: Options


@dataclass(slots=True)
class Pace:
    """When the pieces of answers came: the first one (time.perf_counter), and the seconds between those of one answer."""

    first: float | None = None
    gaps_s: list[float] = field(default_factory=list)
    _last: dict[int, float] = field(default_factory=dict)

    def tick(self, index: int) -> None:
        """A piece of an answer is there."""
        now = time.perf_counter()
        if self.first is None:
            self.first = now
        if index in self._last:
            self.gaps_s.append(now - self._last[index])
        self._last[index] = now


class Answers:
    """The answers to one request as they grow. `async for` gives (index of the answer, delta); `results` are there at the end.

    Leaving the iteration early, or `aclose`, gives all pages back within one step. `usages` are there after `aclose`.
    """

    def __init__(self, opened: Opened, prepared: Prepared, stack: AsyncExitStack, count: Callable[[int], None]) -> None:
        self.model, self.llm, self.n_prompt = opened.name, opened.llm, prepared.n_prompt
        self._stack, self._count, self._is_closed = stack, count, False
        self.pace, self.usages = Pace(), list[Usage]()
        self._streams: list[AsyncStream] = prepared.astreams()

    async def __aiter__(self) -> AsyncIterator[tuple[int, Delta]]:
        """All deltas as they come. Raises the error that ended an answer, where one did."""
        async for index, delta in merged(self._streams):
            self.pace.tick(index)
            yield index, delta

    @property
    def results(self) -> list[Result]:
        """The answers so far."""
        return [stream.result for stream in self._streams]

    async def fold(self) -> list[Result]:
        """Wait for all of it."""
        async for _ in self:
            pass
        return self.results

    async def aclose(self) -> None:
        """Stop what still runs, and let go of the model. What was computed until then counts."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            await asyncio.gather(*(stream.aclose() for stream in self._streams))
        finally:
            self.usages = [result.usage for result in self.results]
            self._count(self.n_prompt + sum(usage.n_completion for usage in self.usages))
            await self._stack.aclose()


async def start(registry: Registry, limits: Limits, caller: Caller, ask: ChatAsk | TextAsk) -> Answers:
    """Open the model, check, render and encode the request in a thread, and hand it in. To be closed with `aclose`.

    Raises what `LLM.prepare_chat` and `Prepared.astreams` do, UnknownModel, and LimitReached.
    """
    async with AsyncExitStack() as stack:
        count = stack.enter_context(limits.admit(caller))
        opened = await stack.enter_async_context(registry.use(ask.model))
        prepared = await asyncio.to_thread(_prepare, opened, caller, ask)
        return Answers(opened, prepared, stack.pop_all(), count)


def _prepare(opened: Opened, caller: Caller, ask: ChatAsk | TextAsk) -> Prepared:
    if isinstance(ask, ChatAsk):
        chat_options: ChatOptions = {**ask.options, "tenant": caller.id, "adapter": opened.adapter}
        prepared = opened.llm.prepare_chat(ask.messages, **chat_options)
    else:
        options: Options = {**ask.options, "tenant": caller.id, "adapter": opened.adapter}
        prepared = opened.llm.prepare_generate(ask.prompt, **options)
    prepared.check()
    return prepared


async def merged(streams: Sequence[AsyncIterator[Delta]]) -> AsyncIterator[tuple[int, Delta]]:
    """What several streams give, as it comes, with the index of each. Raises the first error that one raises."""
    if len(streams) == 1:
        async for delta in streams[0]:
            yield 0, delta
        return
    queue: asyncio.Queue[tuple[int, Delta] | SamovarError | None] = asyncio.Queue()

    async def drain(index: int, stream: AsyncIterator[Delta]) -> None:
        try:
            async for delta in stream:
                queue.put_nowait((index, delta))
            queue.put_nowait(None)
        except SamovarError as error:
            queue.put_nowait(error)

    tasks = [asyncio.create_task(drain(index, stream)) for index, stream in enumerate(streams)]
    try:
        n_open = len(tasks)
        while n_open:
            item = await queue.get()
            if isinstance(item, SamovarError):
                raise item
            if item is None:
                n_open -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
