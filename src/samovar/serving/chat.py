"""One chat request, whatever dialect it came in: from the contract that all dialects share to pieces of answers."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from samovar.engine.request import Task
from samovar.errors import BadRequest, SamovarError
from samovar.llm import LLM
from samovar.llm.async_stream import AsyncStream
from samovar.llm.options import ChatOptions, Options
from samovar.llm.prepared import Prepared
from samovar.llm.result import Result, Usage
from samovar.serving.caller import Caller
from samovar.serving.limits import Limits
from samovar.serving.registry import Opened, Registry
from samovar.serving.thinking_words import ThinkingAsk
from samovar.text.output_parser import Delta


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatAsk:
    """What every dialect's chat request becomes. `model` None is the server's first one; `options` are those of
    `LLM.prepare_chat`, without tenant and adapter, which the server sets. `wish` is how to think where the model has that
    choice, for requests whose options leave it open. `n_context` bounds prompt and answer together. Prompts share what is
    cached with those of the same `cache_salt` alone."""

    model: str | None
    messages: Sequence[dict[str, object]]
    options: ChatOptions
    wish: ThinkingAsk | None = None
    cache_salt: str | None = None
    n_context: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TextAsk:
    """What a request to continue raw text, or token ids, becomes; or each of a list of them. `suffix` is what comes after the
    answer, `task` "prefill" for the prompt alone (see `LLM.prepare_generate`)."""

    model: str | None
    prompt: str | tuple[int, ...] | list[str | tuple[int, ...]]
    options: Options
    suffix: str | None = None
    task: Task = "generate"
    cache_salt: str | None = None
    n_context: int | None = None


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
    Answers to the first of several prompts come first, as many to each. `thinking` is `Prepared.thinking`.

    Leaving the iteration early, or `aclose`, gives all pages back within one step. `usages` are there after `aclose`,
    which tells `on_close`.
    """

    def __init__(
        self,
        opened: Opened,
        prepared: Sequence[Prepared],
        streams: list[AsyncStream],
        stack: AsyncExitStack,
        count: Callable[[int], None],
        registry: Registry,
    ) -> None:
        self.model, self.llm, self.thinking = opened.name, opened.llm, prepared[0].thinking
        self.prompts = [one.prompt_ids for one in prepared]
        self.n_prompt = sum(map(len, self.prompts))
        self._stack, self._count, self._is_closed = stack, count, False
        self._registry = registry
        registry.growing.add(self)
        self.pace, self.usages = Pace(), list[Usage]()
        self.on_close: Callable[[], None] = lambda: None
        self._streams = streams

    async def __aiter__(self) -> AsyncIterator[tuple[int, Delta]]:
        """All deltas as they come. Raises the error that ended an answer, where one did."""
        async for index, delta in merged(self._streams):
            self.pace.tick(index)
            yield index, delta

    @property
    def results(self) -> list[Result]:
        """The answers so far."""
        return [stream.result for stream in self._streams]

    @property
    def n_tokens(self) -> int:
        """How many tokens there are so far, thoughts included."""
        return sum(stream.n_tokens for stream in self._streams)

    @property
    def n_thinking(self) -> int:
        """How many of them are thoughts."""
        return sum(stream.n_thinking for stream in self._streams)

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
            self._registry.growing.discard(self)
            self.usages = [result.usage for result in self.results]
            self._count(self.n_prompt + sum(usage.n_completion for usage in self.usages))
            self.on_close()
            await self._stack.aclose()


async def start(registry: Registry, limits: Limits, caller: Caller, ask: ChatAsk | TextAsk) -> Answers:
    """Open the model, check, render and encode the request, and hand it in. To be closed with `aclose`.

    Raises what `LLM.prepare_chat` and `Prepared.astreams` do, UnknownModel, and LimitReached.
    """
    async with AsyncExitStack() as stack:
        count = stack.enter_context(limits.admit(caller))
        opened = await stack.enter_async_context(registry.use(ask.model))
        loop = asyncio.get_running_loop()
        prepared, streams = await asyncio.to_thread(_hand_in, opened, caller, ask, loop)
        return Answers(opened, prepared, streams, stack.pop_all(), count, registry)


def tenant_of(caller: Caller, cache_salt: str | None) -> str:
    """Whom a request shares cached prompts with. Raises BadRequest for an empty salt."""
    if cache_salt == "":
        raise BadRequest("cache_salt is empty; expected some text, or no such field", param="cache_salt")
    return caller.id if cache_salt is None else f"{caller.id}\0{cache_salt}"


def _hand_in(
    opened: Opened, caller: Caller, ask: ChatAsk | TextAsk, loop: asyncio.AbstractEventLoop
) -> tuple[list[Prepared], list[AsyncStream]]:
    """In a thread: long prompts take time to encode, and grammars to compile. Streams that are dropped end."""
    if isinstance(ask, ChatAsk):
        prepared = [prepared_chat(opened, caller, ask)]
    else:
        options: Options = {**ask.options, "tenant": tenant_of(caller, ask.cache_salt), "adapter": opened.adapter}
        prompts = ask.prompt if isinstance(ask.prompt, list) else [ask.prompt]
        prepared = [opened.llm.prepare_generate(one, suffix=ask.suffix, task=ask.task, **options) for one in prompts]
    if ask.n_context is not None:
        if ask.n_context > (n_max := opened.llm.max_context):
            wanted = f"a context of {ask.n_context} tokens is wanted, and this model is open with {n_max}"
            raise BadRequest(wanted, param="num_ctx")
        for one in prepared:
            one.bound(ask.n_context)
    if len(prepared) > 1:
        for one in prepared:
            one.check()  # before any is handed in
    return prepared, [stream for one in prepared for stream in one.astreams(loop)]


def prepared_chat(opened: Opened, caller: Caller, ask: ChatAsk) -> Prepared:
    """A chat, rendered and encoded; whether the engine can serve it is not checked. Raises what `LLM.prepare_chat` does."""
    options: ChatOptions = {**ask.options, "tenant": tenant_of(caller, ask.cache_salt), "adapter": opened.adapter}
    if ask.wish is not None and ask.wish.thinking is not None and _can_think(opened.llm, ask.wish.thinking):
        options |= {"thinking": ask.wish.thinking, "thinking_budget": ask.wish.budget}
    return opened.llm.prepare_chat(ask.messages, **options)


def _can_think(llm: LLM, thinking: bool) -> bool:
    try:
        llm.check_thinking(thinking)
    except BadRequest:
        return False
    return True


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
