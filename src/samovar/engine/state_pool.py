"""The memory for recurrent states: a fixed number of slots, each of one sequence. For models with gated delta net layers.

A state cannot step back and be shared as pages can: it has taken in each token of its sequence once, in their order. So a
sequence begins with its first token, a preempted one begins anew, and nothing is guessed ahead. The arrays are reserved at once,
and the system commits them as they are first written.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from samovar.errors import OutOfMemory
from samovar.kernels import States
from samovar.models.config import DeltaNetConfig

_UNKNOWN = -1  # a step that computes on it has not ended


class StatePool:
    """States by slot; `layers` are those of the layers that have such, in their order."""

    def __init__(self, config: DeltaNetConfig, n_slots: int) -> None:
        try:
            self.layers = tuple(
                States.empty(
                    n_slots, config.n_taps, config.n_channels, config.n_value_heads, config.d_key, config.d_value
                )
                for _ in config.layers
            )
        except MemoryError as error:
            raise OutOfMemory(
                f"the states of {n_slots} sequences need {n_slots * config.state_bytes / 2**30:.1f} GiB, which the system "
                "refuses; let fewer run at once (--max-streams)"
            ) from error
        self.n_slots = n_slots
        self._free = list(range(n_slots - 1, -1, -1))
        self._n_tokens = [0] * n_slots

    @property
    def n_free(self) -> int:
        """Slots that no sequence has."""
        return len(self._free)

    def take(self) -> int:
        """A free slot, to begin with a first token. There must be one."""
        slot = self._free.pop()
        self._n_tokens[slot] = 0
        return slot

    def leave(self, slot: int) -> None:
        """A sequence has done with a slot."""
        assert slot not in self._free, slot
        self._free.append(slot)

    @contextmanager
    def advancing(self, parts: Iterable[tuple[int, int, int]]) -> Iterator[None]:
        """A step computes tokens `start` to `end` of the sequences in these slots, (slot, start, end). A start that is not where
        the state stands is our bug."""
        parts = tuple(parts)
        for slot, start, _ in parts:
            assert self._n_tokens[slot] == start, (slot, self._n_tokens[slot], start)
            self._n_tokens[slot] = _UNKNOWN
        yield
        for slot, _, end in parts:
            self._n_tokens[slot] = end
