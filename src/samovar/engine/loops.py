"""Tells a text that goes round in circles: the same cycle of tokens, over and over."""

from dataclasses import dataclass, field

_GRAM = 4  # tokens by which an earlier place is recognised


@dataclass(frozen=True, slots=True)
class LoopLimits:
    """A loop is a cycle seen `n_rounds` times or more, `n_tokens` in all."""

    n_rounds: int
    n_tokens: int


IN_THOUGHTS = LoopLimits(n_rounds=4, n_tokens=192)
IN_ANSWER = LoopLimits(n_rounds=8, n_tokens=768)
"""An answer may have reasons to repeat itself: a table, a list of zeros. Thoughts have few."""


@dataclass(slots=True)
class LoopDetector:
    """Fed token by token, at a constant cost each. Cycles of any length are found, the longest last."""

    _ids: list[int] = field(default_factory=list)
    _places: dict[tuple[int, ...], int] = field(default_factory=dict)  # the newest place after each gram
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
        if n < _GRAM:
            return
        gram = tuple(ids[-_GRAM:])
        if not self._period and (place := self._places.get(gram)) is not None:
            self._period, self._n_same = n - place, _GRAM
        self._places[gram] = n

    def is_loop(self, limits: LoopLimits) -> bool:
        """Whether the last tokens are a cycle that has gone round often enough."""
        n_tokens = self._n_same + self._period
        return bool(self._period) and n_tokens >= max(limits.n_tokens, limits.n_rounds * self._period)
