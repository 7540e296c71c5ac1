"""Guesses by a second, smaller model with the same vocabulary.

It chooses with the request's own sampling settings and random numbers, so where the two models agree on the probabilities,
they mostly agree on the token drawn as well.
"""

import time
from dataclasses import dataclass, replace

from samovar.engine.engine import Engine
from samovar.engine.request import Request
from samovar.engine.sampler import Row, sample_rows
from samovar.engine.sequence import Sequence
from samovar.engine.token_counts import TokenCounts
from samovar.kernels import PAGE_TOKENS

_NEWEST_SHARE = 0.1  # of the newest measurement in the running mean


@dataclass(slots=True)
class DraftModel:
    """The engine of the smaller model. `token_s`, what a guessed token takes, is 0 until it was measured."""

    engine: Engine
    token_s: float = 0.0

    def start(self, request: Request) -> "ModelDrafter":
        """A drafter for one request.

        It does without the request's grammar, which cannot step back from a refused guess, without its adapter, which does
        not fit the smaller model, and without log-probabilities, which nobody asks it for.
        """
        own = replace(
            request, grammar=None, thinking=None, adapter=None, stops_loops=False, logprobs=None, prompt_logprobs=None
        )
        factor, n_context = self.engine.factor_of(own), self.engine.context_of(own)
        return ModelDrafter(self, Sequence(request=own, token_ids=list(own.prompt_ids), factor=factor), n_context)

    def measure(self, seconds: float) -> None:
        """A token took `seconds`."""
        share = _NEWEST_SHARE if self.token_s else 1.0
        self.token_s += share * (seconds - self.token_s)


@dataclass(slots=True)
class ModelDrafter:
    """The drafter of one sequence. It follows with a sequence of its own, which its guesses are part of until disproved.

    It guesses within the first `n_context` tokens.
    """

    model: DraftModel
    sequence: Sequence
    n_context: int
    priors: tuple[float, ...] = (0.7,)
    _n_sure: int = 0  # leading tokens that both sequences are known to share

    @property
    def token_s(self) -> float:
        """Seconds that a guessed token takes."""
        return self.model.token_s

    def look(self, token_ids: list[int]) -> int | None:
        """There is one kind of guess; None where the smaller model's vocabulary or context does not reach."""
        engine = self.model.engine
        return 0 if len(token_ids) < self.n_context and max(token_ids[self._n_sure :]) < engine.vocab_size else None

    def propose(self, token_ids: list[int], n_most: int) -> tuple[int, ...]:
        """Catch up with `token_ids`, and go on from there. () where too few pages are free."""
        engine, sequence = self.model.engine, self.sequence
        self._follow(token_ids)
        room = (len(sequence.pages) + engine.cache.n_available) * PAGE_TOKENS - len(token_ids)
        n_most = min(n_most, room + 1, self.n_context - len(token_ids), 2 if not self.token_s else n_most)
        sampling = sequence.request.sampling
        drafts: list[int] = []
        while len(drafts) < n_most:
            started, n_behind = time.perf_counter(), sequence.n_behind
            logits_SV = engine.catch_up(sequence)
            drafts += sample_rows(engine.ops, logits_SV, [Row(sequence)])
            sequence.token_ids.append(drafts[-1])
            if n_behind == 1:
                self.model.measure(time.perf_counter() - started)
            if drafts[-1] in sampling.stop_ids:
                break
        return tuple(drafts)

    def close(self) -> None:
        """Give the pages back; what they hold may serve the next request."""
        self.model.engine.let_go(self.sequence)

    def _follow(self, token_ids: list[int]) -> None:
        """Make the own sequence's tokens `token_ids`, and forget what was computed for others; one is left to compute."""
        own, n_same = self.sequence.token_ids, self._n_sure
        while n_same < min(len(own), len(token_ids)) and own[n_same] == token_ids[n_same]:
            n_same += 1
        if n_same < len(own):
            self.sequence.counts = TokenCounts()
        own[n_same:] = token_ids[n_same:]
        self._n_sure = len(token_ids)
        self.sequence.n_computed = min(self.sequence.n_computed, n_same, len(token_ids) - 1)
        self.model.engine.pool.shrink(self.sequence.pages, self.sequence.n_computed)
