"""The engine for a fixed batch: every sequence is some tokens behind, and each step lets them catch up.

There is no queue here: all requests of a batch run together until each has ended. What a finished sequence computed can be
kept and taken up by a later request that starts with the same tokens. Where it pays, a step guesses ahead: see `speculate`.
"""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from numbers import Integral

import numpy as np
from numpy.typing import NDArray

from samovar.engine.batch import Slice
from samovar.engine.page_pool import PagePool, n_pages_for
from samovar.engine.request import FinishReason, Request, SamplingParams, TokenEvent
from samovar.engine.runner import Model, Runner, make_runner
from samovar.engine.sampler import Row, sample_rows
from samovar.engine.sequence import Sequence
from samovar.engine.speculate import MAX_DRAFTS, Drafter, Speculation
from samovar.engine.step_cost import StepCost
from samovar.errors import BadRequest, PromptTooLong
from samovar.kernels import PAGE_TOKENS, Ops

F32 = NDArray[np.float32]
StartDrafter = Callable[[Request], Drafter]


@dataclass(slots=True)
class Engine:
    """Token ids in, token ids out. `max_context` bounds prompt and answer together; a step computes `max_step_tokens`.

    Each sequence is given drafters by `start_drafters`; they change how soon its tokens come, and not which.
    """

    model: Model
    ops: Ops
    pool: PagePool
    vocab_size: int
    max_context: int
    max_step_tokens: int = 512
    start_drafters: tuple[StartDrafter, ...] = ()
    cost: StepCost = field(default_factory=StepCost)
    _runner: Runner = field(init=False)
    _kept: Sequence | None = field(default=None, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        self._runner = make_runner(self.model, self.ops, self.pool)

    def start(self, request: Request) -> Sequence:
        """Admit a request; nothing is computed and no page held until `run`.

        Raises PromptTooLong, or BadRequest for an empty prompt or an id outside the vocabulary.
        """
        self._check(request)
        speculation = Speculation(tuple(start(request) for start in self.start_drafters))
        return Sequence(request=request, token_ids=list(request.prompt_ids), speculation=speculation)

    def run(self, sequences: list[Sequence]) -> Iterator[TokenEvent]:
        """Generate until all have ended. A sequence that `finish` is called on between two events gets no further token.

        The first takes up the kept sequence's pages as far as the tokens agree, and computes at least its last token.
        """
        self.take_up_kept(sequences[0])
        while slices := self._plan(sequences):
            is_decoding = all(piece.sequence.n_behind == 1 for piece in slices)
            if is_decoding:
                slices = self._add_drafts(slices)
            started = time.perf_counter()
            logits_SV = self._step(slices)
            if is_decoding:
                self.cost.observe(len(logits_SV), time.perf_counter() - started)
            for sequence in self._choose(slices, logits_SV):
                yield TokenEvent(
                    index=sequences.index(sequence), token_id=sequence.token_ids[-1], finish_reason=sequence.finish_reason
                )

    def catch_up(self, sequence: Sequence) -> F32:
        """Compute what is behind, at least one token; logits [1, V] after the last. Raises OutOfMemory when no page is free."""
        while True:
            slices = self._plan([sequence])
            logits_SV = self._step(slices)
            sequence.n_computed = slices[0].end
            if slices[0].n_logits:
                return logits_SV

    def finish(self, sequence: Sequence, reason: FinishReason) -> None:
        """End a sequence from outside: a stop string was seen, or nobody listens any more."""
        if sequence.finish_reason is None:
            sequence.finish_reason = reason

    def release(self, sequence: Sequence, *, keep: bool) -> None:
        """Take a sequence's pages back, or keep them for the next request, in place of any kept before."""
        sequence.speculation.close(keep=keep)
        if keep:
            self.drop_kept()
            self._kept = sequence
        else:
            self.pool.shrink(sequence.pages, 0)
            sequence.n_computed = 0

    def drop_kept(self) -> None:
        """Take back the pages of the kept sequence."""
        if self._kept is not None:
            self.pool.shrink(self._kept.pages, 0)
            self._kept = None

    def logits(self, token_ids: tuple[int, ...]) -> F32:
        """Logits [T, V] after every token."""
        sequence = Sequence(request=Request(prompt_ids=token_ids, sampling=SamplingParams()), token_ids=list(token_ids))
        self._check(sequence.request, n_to_come=0)
        self.drop_kept()
        out_TV = np.empty((len(token_ids), self.vocab_size), np.float32)
        try:
            for start in range(0, len(token_ids), self.max_step_tokens):
                part = tuple(token_ids[start : start + self.max_step_tokens])
                out_TV[start : start + len(part)] = self._step([Slice(sequence, start, part, len(part))])
        finally:
            self.release(sequence, keep=False)
        return out_TV

    def take_up_kept(self, sequence: Sequence) -> None:
        """Give a sequence that was not started the kept pages, as far as its prompt agrees with them."""
        if (kept := self._kept) is not None:
            self._kept = None
            n_same = _n_common(kept.token_ids[: kept.n_computed], sequence.request.prompt_ids[:-1])
            self.pool.shrink(kept.pages, n_same)
            sequence.pages, sequence.n_computed, sequence.n_cached = kept.pages, n_same, n_same

    def _step(self, slices: list[Slice]) -> F32:
        """Logits [S, V] of the slices, whose sequences get the pages they need."""
        with self._lock:
            for piece in slices:
                self.pool.grow(piece.sequence.pages, piece.end)
            return self._runner.run(slices)

    def _check(self, request: Request, n_to_come: int = 1) -> None:
        if not request.prompt_ids:
            raise BadRequest("the prompt is empty; expected at least one token", param="prompt")
        if len(request.prompt_ids) + n_to_come > self.max_context:
            raise PromptTooLong(len(request.prompt_ids), self.max_context)
        if odd := [i for i in request.prompt_ids if isinstance(i, bool) or not isinstance(i, Integral)]:
            raise BadRequest(f"token ids hold {odd[0]!r}; expected whole numbers", param="prompt")
        low, high = min(request.prompt_ids), max(request.prompt_ids)
        if low < 0 or high >= self.vocab_size:
            raise BadRequest(
                f"token id {low if low < 0 else high} is not in the vocabulary; expected 0 to {self.vocab_size - 1}",
                param="prompt",
            )
        if beyond := [i for i, _ in request.sampling.logit_bias if i >= self.vocab_size]:
            raise BadRequest(
                f"logit_bias names token {beyond[0]}; expected ids from 0 to {self.vocab_size - 1}", param="logit_bias"
            )

    def _plan(self, sequences: list[Sequence]) -> list[Slice]:
        """What each unfinished sequence computes next, within the step's budget; those that are talking go first."""
        budget, slices = self.max_step_tokens, []
        for sequence in sorted((s for s in sequences if not s.is_finished), key=lambda s: s.n_behind > 1):
            if count := min(sequence.n_behind, budget):
                start = sequence.n_computed
                part = tuple(sequence.token_ids[start : start + count])
                slices.append(Slice(sequence, start, part, n_logits=int(count == sequence.n_behind)))
                budget -= count
        return slices

    def _add_drafts(self, slices: list[Slice]) -> list[Slice]:
        """The slices of a decoding step, each with what its sequence's drafters guess.

        Drafts take no page that another sequence needs, and go no further than plain decoding could.
        """
        n_free = self.pool.n_free - sum(max(0, n_pages_for(piece.end) - len(piece.sequence.pages)) for piece in slices)
        budget = self.max_step_tokens - len(slices)
        with_drafts = []
        for piece in slices:
            sequence, end = piece.sequence, piece.end
            max_tokens = sequence.request.sampling.max_tokens or self.max_context
            n_pages = max(len(sequence.pages), n_pages_for(end))
            room = (n_pages + n_free) * PAGE_TOKENS - end
            n_most = min(MAX_DRAFTS, max_tokens - sequence.n_generated - 1, self.max_context - end - 1, room, budget)
            drafts = sequence.speculation.draft(sequence.token_ids, n_most, self.cost, len(slices))
            drafts = tuple(itertools.takewhile(lambda token_id: 0 <= token_id < self.vocab_size, drafts))
            sequence.speculation.n_drafted += len(drafts)
            n_free -= max(0, n_pages_for(end + len(drafts)) - n_pages)
            budget -= len(drafts)
            with_drafts.append(Slice(sequence, piece.start, piece.token_ids + drafts, 1 + len(drafts)))
        return with_drafts

    def _choose(self, slices: list[Slice], logits_SV: F32) -> Iterator[Sequence]:
        """Append its next token to each sequence that is up to date; then another to those whose draft was that token; and on.

        Yields the sequence after each token. One that was finished meanwhile gets no more.
        """
        for piece in slices:
            piece.sequence.n_computed = piece.end - len(piece.drafts)
        first_rows = itertools.accumulate((piece.n_logits for piece in slices), initial=0)
        current = [(piece, row) for piece, row in zip(slices, first_rows, strict=False) if piece.n_logits]
        for depth in itertools.count():
            current = [(piece, row) for piece, row in current if not piece.sequence.is_finished]
            if not current:
                break
            logits_of_current = logits_SV[[row + depth for _, row in current]] if len(current) < len(logits_SV) else logits_SV
            token_ids = sample_rows(self.ops, logits_of_current, [Row(piece.sequence) for piece, _ in current])
            confirmed = []
            for (piece, first_row), token_id in zip(current, token_ids, strict=True):
                sequence = piece.sequence
                if sequence.is_finished:
                    continue
                self._append(sequence, token_id)
                if depth < len(piece.drafts):
                    is_right = piece.drafts[depth] == token_id
                    sequence.speculation.learn(is_right=is_right)
                    if is_right:
                        sequence.n_computed += 1
                        confirmed.append((piece, first_row))
                yield sequence
            current = confirmed
        for piece in slices:
            self.pool.shrink(piece.sequence.pages, piece.sequence.n_computed)

    def _append(self, sequence: Sequence, token_id: int) -> None:
        """Add a token, and see whether it is the last."""
        params = sequence.request.sampling
        sequence.token_ids.append(token_id)
        if (grammar := sequence.request.grammar) is not None:
            grammar.accept(token_id)
        if token_id in params.stop_ids:
            sequence.finish_reason = "stop"
        elif sequence.n_generated == params.max_tokens or len(sequence.token_ids) >= self.max_context:
            sequence.finish_reason = "length"


def _n_common(first: list[int], second: tuple[int, ...]) -> int:
    """Length of the longest common prefix."""
    n = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        n += 1
    return n
