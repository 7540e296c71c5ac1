"""What is measured when many requests come at once: a started engine that streams tokens, whichever it is.

`many_at_once` and `second_turn` know engines by `ServingPeer` alone. llama.cpp's is `llama_server.LlamaServer`.
"""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from samovar import __version__
from samovar.engine.engine import Engine, Limits
from samovar.engine.engine_thread import EngineThread
from samovar.engine.page_pool import PagePool, n_pages_for
from samovar.engine.request import Event, Request, SamplingParams
from samovar.kernels import PAGE_TOKENS
from samovar.llm import LLM


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What an engine is given: a GGUF file, threads, and memory for the keys and values (f16) of `n_slots` sequences of
    `n_context` tokens each."""

    model: Path
    n_slots: int
    n_context: int
    n_threads: int


class ServingPeer(Protocol):
    """An engine that takes requests while it computes others. Greedy, and no end token ends an answer."""

    @property
    def description(self) -> str:
        """Name, version and build."""
        ...

    async def start(self) -> None:
        """Return when requests can be answered."""
        ...

    def stream(self, prompt_ids: list[int], n_tokens: int) -> AsyncIterator[float]:
        """Continue a prompt: `time.perf_counter()` at each of the `n_tokens` tokens' arrival."""
        ...

    async def complete(self, prompt_ids: list[int], n_tokens: int, *, n_thoughts: int = 0) -> list[int]:
        """Continue a prompt: the ids of the `n_tokens` tokens, drawn at temperature 1, since what random weights find likeliest
        soon repeats itself. The first `n_thoughts` of them will not come back in the next turn."""
        ...

    def peak_bytes(self) -> int:
        """Most memory that the engine's process ever held."""
        ...

    async def stop(self) -> None:
        """Free everything. Also after a failed start."""
        ...


class SamovarPeer:
    """This project, in this process, without speculation, with the memory that the other engines have."""

    def __init__(self, place: Place, *, keeps_prefixes: bool = True) -> None:
        self._place, self._keeps_prefixes = place, keeps_prefixes
        self._llm: LLM | None = None
        self._client: EngineThread | None = None

    @property
    def description(self) -> str:
        """Version, and the instruction set of the kernels."""
        assert self._llm is not None
        prefixes = "" if self._keeps_prefixes else ", prefix cache off"
        return f"samovar {__version__} ({self._llm.ops.isa}{prefixes})"

    async def start(self) -> None:
        """Load the model, wait until all weights are packed, and start the loop that computes."""
        place = self._place
        self._llm = llm = LLM(place.model, n_threads=place.n_threads, max_context=PAGE_TOKENS, kv_type="f16", speculation="off")
        if llm.packer is not None:
            llm.packer.join()
        config, n_pages = llm.config, place.n_slots * n_pages_for(place.n_context)
        pool = PagePool("f16", n_pages=n_pages, n_layers=config.n_layers, n_kv_heads=config.n_kv_heads, d_head=config.d_head)
        engine = Engine(
            llm.model, llm.ops, pool, config.vocab_size, place.n_context, Limits(), keeps_prefixes=self._keeps_prefixes
        )
        self._client = EngineThread(engine)

    async def stream(self, prompt_ids: list[int], n_tokens: int) -> AsyncIterator[float]:
        """As `ServingPeer.stream`."""
        async for arrived_s, _ in self._tokens(prompt_ids, SamplingParams(temperature=0, max_tokens=n_tokens)):
            yield arrived_s

    async def complete(self, prompt_ids: list[int], n_tokens: int, *, n_thoughts: int = 0) -> list[int]:
        """As `ServingPeer.complete`. With thoughts, `LLM` has the next turn's form computed after an answer, and so does
        this."""
        sampling = SamplingParams(temperature=1.0, top_p=1.0, seed=1, max_tokens=n_tokens)
        ids = [token_id async for _, token_id in self._tokens(prompt_ids, sampling)]
        if n_thoughts and self._client is not None:
            self._client.forget(("", ""), (*prompt_ids, *ids), len(prompt_ids))
            form = Request(prompt_ids=(*prompt_ids, *ids[n_thoughts:]), sampling=SamplingParams(), task="prefill")
            self._client.submit(form, lambda _: None, is_idle_work=True)
        return ids

    def peak_bytes(self) -> int:
        """Of this process, the load's own few megabytes included."""
        return peak_bytes_of("self")

    async def stop(self) -> None:
        """Stop the loop and let go of the model."""
        if self._client is not None:
            self._client.close()
        if self._llm is not None:
            self._llm.close()
        self._client = self._llm = None
        gc.collect()  # engines refer to themselves, and the next round's memory is measured

    async def _tokens(self, prompt_ids: list[int], sampling: SamplingParams) -> AsyncIterator[tuple[float, int]]:
        """When each token arrived, and its id."""
        assert self._client is not None
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event]()
        request = Request(prompt_ids=tuple(prompt_ids), sampling=sampling, stops_loops=False)
        self._client.submit(request, lambda event: loop.call_soon_threadsafe(events.put_nowait, event) and None)
        while True:
            event = await events.get()
            for token_id in event.token_ids:
                yield time.perf_counter(), token_id
            if event.ending is not None:
                if event.ending.error is not None:
                    raise event.ending.error
                return


class UncachedPeer(SamovarPeer):
    """The same with its prefix cache off."""

    def __init__(self, place: Place) -> None:
        super().__init__(place, keeps_prefixes=False)


def peak_bytes_of(process: str) -> int:
    """Most memory that a process (its id, or "self") ever held."""
    lines = (Path("/proc") / process / "status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


MakePeer = Callable[[Place], ServingPeer]
