"""What is measured when many requests come at once: a started engine that streams tokens, whichever it is.

`many_at_once` and `second_turn` know engines by `ServingPeer` alone. llama.cpp's is `llama_server.LlamaServer`.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


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

    async def complete(self, prompt_ids: list[int], n_tokens: int) -> list[int]:
        """Continue a prompt: the ids of the `n_tokens` tokens."""
        ...

    def peak_bytes(self) -> int:
        """Most memory that the engine's process ever held."""
        ...

    async def stop(self) -> None:
        """Free everything. Also after a failed start."""
        ...


class SamovarPeer:
    """TO BE COMPLETED with the engine's asynchronous interface: this project, in this process, without speculation.

    It has to be given the memory that the other engines have: the keys and values of `n_slots * n_context` tokens.
    """

    def __init__(self, place: Place) -> None:
        self._place = place

    @property
    def description(self) -> str:
        """Version, and the instruction set of the kernels."""
        raise NotImplementedError

    async def start(self) -> None:
        """Load the model, wait until all weights are packed, and start the loop that computes."""
        raise NotImplementedError

    def stream(self, prompt_ids: list[int], n_tokens: int) -> AsyncIterator[float]:
        """As `ServingPeer.stream`: temperature 0, no end tokens, a `yield time.perf_counter()` for each token."""
        raise NotImplementedError

    async def complete(self, prompt_ids: list[int], n_tokens: int) -> list[int]:
        """As `ServingPeer.complete`."""
        raise NotImplementedError

    def peak_bytes(self) -> int:
        """Of this process, the load's own few megabytes included."""
        return peak_bytes_of("self")

    async def stop(self) -> None:
        """Stop the loop and let go of the model."""


def peak_bytes_of(process: str) -> int:
    """Most memory that a process (its id, or "self") ever held."""
    lines = (Path("/proc") / process / "status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


MakePeer = Callable[[Place], ServingPeer]
