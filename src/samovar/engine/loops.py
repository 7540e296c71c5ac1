"""Tells a text that goes round in circles: the same cycle of tokens, over and over."""

from dataclasses import dataclass, field

_WINDOWS = (384, 160, 64)
"""Tokens by which an earlier place is recognised. Any cycle no longer than a window is known by it for certain, a round after
the window is full; a longer one if some window is met only once in it."""
_MAX_PLACES = 4096  # how far back, at least
_PRIME, _BASE = (1 << 61) - 1, 0x9E3779B97F4A7C15


@dataclass(frozen=True, slots=True)
class LoopLimits:
    """A loop is a cycle seen `n_rounds` times or more, `n_tokens` in all."""

    n_rounds: int
    n_tokens: int


IN_THOUGHTS = LoopLimits(n_rounds=4, n_tokens=192)
IN_ANSWER = LoopLimits(n_rounds=8, n_tokens=768)
"""An answer may have reasons to repeat itself: a table, a list of zeros. Thoughts have few."""


@dataclass(slots=True)
class _Window:
    """The last `size` tokens as a rolling hash (Karp and Rabin, 1987), and where each such window last ended."""

    size: int
    hash: int = 0
    recent: dict[int, int] = field(default_factory=dict)
    older: dict[int, int] = field(default_factory=dict)
    drop: int = field(init=False)

    def __post_init__(self) -> None:
        """What the token that leaves the window counts."""
        self.drop = pow(_BASE, self.size, _PRIME)

    def push(self, ids: list[int]) -> int | None:
        """The end of the newest earlier window that equals the one that ends with the last of `ids`."""
        n = len(ids)
        value = self.hash * _BASE + ids[-1] + 1
        if n > self.size:
            value -= (ids[-1 - self.size] + 1) * self.drop
        self.hash = value = value % _PRIME
        if n < self.size:
            return None
        place = self.recent.get(value) or self.older.get(value)
        self.recent[value] = n
        if len(self.recent) >= _MAX_PLACES:
            self.recent, self.older = {}, self.recent
        return place


@dataclass(slots=True)
class LoopDetector:
    """Fed token by token, at a constant cost and in bounded memory beside the tokens. Of several periods that would do, the one
    that holds for longest counts."""

    _ids: list[int] = field(default_factory=list)
    _windows: tuple[_Window, ...] = field(default_factory=lambda: tuple(map(_Window, _WINDOWS)))
    _period: int = 0
    _n_same: int = 0  # the last tokens that equal those a period before

    def push(self, token_id: int) -> None:
        """Take in the next token."""
        ids = self._ids
        ids.append(token_id)
        n = len(ids)
        if self._period and token_id == ids[n - 1 - self._period]:
            self._n_same += 1
        else:
            self._period = self._n_same = 0
        for window in self._windows:
            if (place := window.push(ids)) is not None and window.size > self._n_same:
                self._period, self._n_same = n - place, window.size

    def is_loop(self, limits: LoopLimits) -> bool:
        """Whether the last tokens are a cycle that has gone round often enough."""
        n_tokens = self._n_same + self._period
        return bool(self._period) and n_tokens >= max(limits.n_tokens, limits.n_rounds * self._period)
