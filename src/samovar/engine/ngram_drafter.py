"""Guesses by looking up: what followed when these words were last said, in the prompt or the answer.

Prompt lookup (Saxena, 2023, github.com/apoorvumang/prompt-lookup-decoding), with the longest match taken. It costs nothing to
speak of, and pays where an answer repeats its prompt: extraction, edits of code, quotes.
"""

_SIZES = (2, 3, 5, 8)  # n-grams that are indexed; longer matches are found through the longest of them
_KIND_ENDS = (3, 4, 8, 16)  # a match shorter than this many tokens is of that kind; the last kind has no end
_MAX_MATCH = 16


class NgramDrafter:
    """The drafter of one sequence. Its index grows with the sequence, at a constant cost a token."""

    priors = (0.25, 0.4, 0.6, 0.8, 0.9)  # by length of the match
    token_s = 0.0

    def __init__(self) -> None:
        self._followers: dict[int, int] = {}  # hash of an n-gram -> position after its last occurrence that has a follower
        self._n_indexed = _SIZES[0]
        self._source = 0

    def look(self, token_ids: list[int]) -> int | None:
        """The kind of guess, by the length of the match: see `priors`."""
        self._index(token_ids)
        n = len(token_ids)
        sizes = (size for size in reversed(_SIZES) if size <= n)
        found = next((at for s in sizes if (at := self._followers.get(hash(tuple(token_ids[n - s :])))) is not None), None)
        if found is None:
            return None
        n_same = 0
        while n_same < min(found, _MAX_MATCH) and token_ids[found - 1 - n_same] == token_ids[n - 1 - n_same]:
            n_same += 1
        if n_same < _SIZES[0]:  # two n-grams with one hash
            return None
        self._source = found
        return sum(n_same >= end for end in _KIND_ENDS)

    def propose(self, token_ids: list[int], n_most: int) -> tuple[int, ...]:
        """What followed last time; past the end of what there is, the guess itself goes round."""
        drafts = token_ids[self._source : self._source + n_most]
        while len(drafts) < n_most:
            drafts.append(drafts[self._source - len(token_ids)])
        return tuple(drafts)

    def close(self) -> None:
        """Nothing is held."""

    def _index(self, token_ids: list[int]) -> None:
        for end in range(self._n_indexed, len(token_ids)):
            for size in _SIZES:
                if size <= end:
                    self._followers[hash(tuple(token_ids[end - size : end]))] = end
        self._n_indexed = max(self._n_indexed, len(token_ids))
