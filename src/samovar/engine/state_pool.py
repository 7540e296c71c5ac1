"""The memory for recurrent states: a fixed number of slots, each of one sequence. For models with gated delta net layers.

A state has taken in each token of its sequence once, in their order: it cannot step back, and is of use only to texts that
begin with all of those. So nothing is guessed ahead, and a sequence goes on from where an earlier one ended or the last large
step of its prompt began, or it begins anew. What sequences leave is kept until their slots are needed, the one not used for
longest first.

The arrays are reserved at once, and the system commits them as they are first written.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from samovar.engine.realm import Realm
from samovar.errors import OutOfMemory
from samovar.kernels import States
from samovar.models.config import DeltaNetConfig

_UNKNOWN = -1  # a step that computes on it has not ended


class StatePool:
    """States by slot; `layers` are those of the layers that have such, in their order."""

    def __init__(self, config: DeltaNetConfig, n_slots: int) -> None:
        heads = config.n_value_heads, config.d_key, config.d_value
        try:
            self.layers = tuple(States.empty(n_slots, config.n_taps, config.n_channels, *heads) for _ in config.layers)
        except MemoryError as error:
            raise OutOfMemory(
                f"the states of {n_slots} sequences need {n_slots * config.state_bytes / 2**30:.1f} GiB, which the system "
                "refuses; let fewer run at once (--max-streams)"
            ) from error
        self.n_slots = n_slots
        self._free = list(range(n_slots - 1, -1, -1))
        self._n_tokens = [0] * n_slots
        self._kept: OrderedDict[tuple[Realm, tuple[int, ...]], int] = OrderedDict()  # by the text taken in, oldest first

    def longest(self, realm: Realm, ids: Sequence[int], n_most: int) -> int:
        """The most tokens at the start of `ids` after which a state is kept, `n_most` or fewer."""
        found = 0
        for kept_realm, kept in self._kept:
            n = len(kept)
            if kept_realm == realm and found < n <= n_most and ids[n - 1] == kept[-1] and tuple(ids[:n]) == kept:
                found = n
        return found

    def take(self, realm: Realm, ids: Sequence[int]) -> int:
        """A slot with the state after `ids`, which is kept unless they are none. A slot must be free, or kept."""
        source = self._kept.get(key := (realm, tuple(ids)))
        if source is not None:
            self._kept.move_to_end(key)
        slot = self._free.pop() if self._free else self._kept.popitem(last=False)[1]
        if source is not None and source != slot:
            self._copy(source, slot)
        self._n_tokens[slot] = len(ids)
        return slot

    def keep_copy(self, slot: int, realm: Realm, ids: Sequence[int], n_replaced: int) -> bool:
        """Keep the state after `ids` while its sequence goes on, in place of the copy after the first `n_replaced` of them, if
        any; whether a copy was made, which it is not where no slot can be had or such a state is kept already."""
        if (key := (realm, tuple(ids))) in self._kept:
            self._kept.move_to_end(key)
            return False
        copy = self._kept.pop((realm, tuple(ids[:n_replaced])), None) if n_replaced else None
        if copy is None and not self._free and not self._kept:
            return False
        if copy is None:
            copy = self._free.pop() if self._free else self._kept.popitem(last=False)[1]
        self._copy(slot, copy)
        self._n_tokens[copy], self._kept[key] = len(ids), copy
        return True

    def _copy(self, source: int, target: int) -> None:
        for layer in self.layers:
            layer.inputs_ZJM[target], layer.memory_ZHKU[target] = layer.inputs_ZJM[source], layer.memory_ZHKU[source]

    def leave(self, slot: int, realm: Realm, ids: Sequence[int]) -> None:
        """A sequence of which `ids` are computed has done with its slot; what a failed step left there is of no use."""
        if not ids or self._n_tokens[slot] != len(ids):
            self._free.append(slot)
            return
        if (same := self._kept.pop(key := (realm, tuple(ids)), None)) is not None:
            self._free.append(same)
        self._kept[key] = slot

    def drop_adapter(self, name: str) -> None:
        """Forget what was computed with an adapter."""
        for key in [key for key in self._kept if key[0][1] == name]:
            self._free.append(self._kept.pop(key))

    @contextmanager
    def advancing(self, parts: Iterable[tuple[int, int, int]]) -> Iterator[None]:
        """A step computes tokens `start` to `end` of the sequences in these slots, (slot, start, end); each state stands at its
        start."""
        parts = tuple(parts)
        for slot, start, _ in parts:
            assert self._n_tokens[slot] == start, (slot, self._n_tokens[slot], start)
            self._n_tokens[slot] = _UNKNOWN
        yield
        for slot, _, end in parts:
            self._n_tokens[slot] = end
