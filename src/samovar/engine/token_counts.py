"""Which tokens a sequence has seen, and how often each occurs in its answer: what penalties need, kept up token by token."""

import numpy as np
from numpy.typing import NDArray

_I64 = NDArray[np.int64]


class TokenCounts:
    """Distinct ids in order of first sight. Adding a token takes the same time however long the sequence is."""

    def __init__(self) -> None:
        self._place: dict[int, int] = {}
        self._ids: _I64 = np.empty(64, np.int64)
        self._counts: _I64 = np.empty(64, np.int64)
        self._n_tokens = 0

    def catch_up(self, token_ids: list[int], n_prompt: int) -> None:
        """Count what `token_ids` holds beyond the last call; the first `n_prompt` are the prompt, seen with count 0."""
        for at in range(self._n_tokens, len(token_ids)):
            self._add(token_ids[at], int(at >= n_prompt))
        self._n_tokens = len(token_ids)

    def arrays(self, draft_ids: tuple[int, ...]) -> tuple[_I64, _I64]:
        """Distinct ids, and the times each was generated, if `draft_ids` were generated too. Not to be written to."""
        n = len(self._place)
        if not draft_ids:
            return self._ids[:n], self._counts[:n]
        counts = self._counts[:n].copy()
        new: dict[int, int] = {}
        for token_id in draft_ids:
            if (place := self._place.get(token_id)) is not None:
                counts[place] += 1
            else:
                new[token_id] = new.get(token_id, 0) + 1
        return (
            np.concatenate([self._ids[:n], np.fromiter(new.keys(), np.int64, len(new))]),
            np.concatenate([counts, np.fromiter(new.values(), np.int64, len(new))]),
        )

    def _add(self, token_id: int, count: int) -> None:
        place = self._place.get(token_id)
        if place is None:
            place = self._place[token_id] = len(self._place)
            if place == len(self._ids):
                self._ids, self._counts = np.resize(self._ids, 2 * place), np.resize(self._counts, 2 * place)
            self._ids[place], self._counts[place] = token_id, 0
        self._counts[place] += count
