"""From a plan to tokens: slices are computed, tokens chosen, guesses checked, and what has to follow by force is put there."""

import itertools
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samovar.engine.batch import Slice
from samovar.engine.logprobs import logprob
from samovar.engine.prefix_cache import PrefixCache
from samovar.engine.request import Logprob
from samovar.engine.runner import Runner
from samovar.engine.sampler import Row, sample_rows
from samovar.engine.sequence import Sequence
from samovar.engine.speculate import MAX_DRAFTS
from samovar.engine.step_cost import StepCost
from samovar.errors import NoTokenLeft, SamovarError
from samovar.kernels import PAGE_TOKENS
from samovar.kernels.finite import check_computed

F32 = NDArray[np.float32]
_READING = ("embed", "classify")  # tasks that write no token


@dataclass(slots=True, kw_only=True)
class Decoding:
    """Runs the plans of a scheduler, which has seen to the pages."""

    runner: Runner
    cache: PrefixCache
    cost: StepCost
    vocab_size: int
    max_context: int
    max_step_tokens: int

    def run(self, plan: list[tuple[Sequence, int]]) -> None:
        """Compute a plan: sequences get their tokens, log-probabilities and vectors, and those that end a reason."""
        reads = [self.slice(sequence, count) for sequence, count in plan if sequence.request.task in _READING]
        slices = [self.slice(sequence, count) for sequence, count in plan if sequence.request.task not in _READING]
        if reads:
            self._read(reads)
        if not slices:
            return
        is_decoding = all(piece.sequence.n_behind == 1 for piece in slices)
        if is_decoding:
            slices = self._add_drafts(slices)
        started = time.perf_counter()
        logits_SV = self.compute(slices)
        if is_decoding and slices[0].sequence.speculation.drafters:  # who else asks what rows cost
            self.cost.observe(len(logits_SV), time.perf_counter() - started)
        self._take_in(slices, logits_SV)

    def slice(self, sequence: Sequence, count: int) -> Slice:
        """The next `count` tokens of a sequence, with as many logits as it needs of them."""
        start, request = sequence.n_computed, sequence.request
        is_last = count == sequence.n_behind and request.task == "generate"
        n_logits = int(is_last)
        if request.prompt_logprobs is not None and start < sequence.n_prompt - 1:
            n_done = len(sequence.prompt_logprobs)
            n_logits = max(n_logits, start + count - max(start, request.prompt_logprobs_from - 1 + n_done))
        return Slice(sequence, start, tuple(sequence.token_ids[start : start + count]), n_logits)

    def compute(self, slices: list[Slice]) -> F32:
        """Logits [S, V] of the slices, whose sequences have the pages they need."""
        return self.runner.run(slices)

    def _read(self, slices: list[Slice]) -> None:
        """Compute slices of texts of which the state after the last token is wanted: made of length 1, or as labels' logits."""
        hidden_SD = self.runner.hidden(slices)
        for piece, hidden_D in zip(slices, hidden_SD, strict=True):
            sequence = piece.sequence
            sequence.n_computed = piece.end
            if sequence.n_behind:
                continue
            sequence.finish_reason = "stop"
            try:
                self._take_state(sequence, hidden_D)
            except SamovarError as error:
                sequence.finish_reason, sequence.error = "error", error

    def _take_state(self, sequence: Sequence, hidden_D: F32) -> None:
        """Make a vector or labels' logits of the state after a text. Raises SamovarError for what is no numbers."""
        if sequence.request.task == "classify":
            logits_L = self.runner.labels(hidden_D[None])[0]
            check_computed(logits_L, "a label's logit")
            sequence.logits = tuple(map(float, logits_L))
        else:
            check_computed(hidden_D, "a value of the text's vector")
            wide_D = hidden_D.astype(np.float64)
            sequence.vector = (wide_D / max(np.sqrt(np.sum(wide_D * wide_D)), 1e-12)).astype(np.float32)

    def _add_drafts(self, slices: list[Slice]) -> list[Slice]:
        """The slices of a decoding step, each with what its sequence's drafters guess.

        Drafts take no page that another sequence needs or that is worth keeping, and go no further than plain decoding could.
        """
        if not any(piece.sequence.speculation.drafters for piece in slices):
            return slices
        pool = self.cache.pool
        budget = self.max_step_tokens - len(slices)
        with_drafts = []
        for piece in slices:
            sequence, end = piece.sequence, piece.end
            room = (len(sequence.pages) + pool.n_free) * PAGE_TOKENS - end
            n_most = min(MAX_DRAFTS, sequence.max_tokens - sequence.n_generated - 1, self.max_context - end - 1, room, budget)
            drafts = sequence.speculation.draft(sequence.token_ids, n_most, self.cost, len(slices))
            drafts = tuple(itertools.takewhile(lambda token_id: 0 <= token_id < self.vocab_size, drafts))
            sequence.speculation.n_drafted += len(drafts)
            self.cache.grow(sequence.pages, end + len(drafts))
            budget -= len(drafts)
            with_drafts.append(
                Slice(sequence, piece.start, piece.token_ids + drafts, piece.n_logits + len(drafts), len(drafts))
            )
        return with_drafts

    def _take_in(self, slices: list[Slice], logits_SV: F32) -> None:
        """Let each sequence have what its rows of logits say: of its prompt, and the next tokens."""
        first_rows = itertools.accumulate((piece.n_logits for piece in slices), initial=0)
        current = []
        for piece, row in zip(slices, first_rows, strict=False):
            sequence, request = piece.sequence, piece.sequence.request
            sequence.n_computed = piece.end - piece.n_drafts
            if request.prompt_logprobs is not None:
                try:
                    _score_prompt(piece, logits_SV[row : row + piece.n_logits])
                except SamovarError as error:
                    sequence.finish_reason, sequence.error = "error", error
            if sequence.n_behind == 0 and not sequence.is_finished:  # forced tokens may have been all that it may have
                if request.task == "prefill":
                    sequence.finish_reason = "stop"
                else:
                    current.append((piece, row + piece.n_logits - piece.n_drafts - 1))
        self._choose(current, logits_SV)
        for piece in slices:
            if piece.n_drafts:
                self.cache.pool.shrink(piece.sequence.pages, piece.sequence.n_computed)

    def _choose(self, current: list[tuple[Slice, int]], logits_SV: F32) -> None:
        """Append its next token to each sequence, whose row of logits is given; then another to those whose draft was that
        token."""
        for depth in itertools.count():
            if not current:
                return
            rows = [row + depth for _, row in current]
            logits_of_current = logits_SV if len(rows) == len(logits_SV) else logits_SV[rows]
            token_ids = self._sample([piece.sequence for piece, _ in current], logits_of_current)
            confirmed = []
            for (piece, row), token_id, logits_V in zip(current, token_ids, logits_of_current, strict=True):
                sequence = piece.sequence
                if token_id is None:
                    continue
                is_forced = append(sequence, token_id, _logprob(sequence, logits_V, token_id), self.max_context)
                if depth < piece.n_drafts and sequence.error is None:
                    is_right = piece.drafts[depth] == token_id
                    sequence.speculation.learn(is_right=is_right)
                    sequence.n_computed += is_right
                    if is_right and not is_forced and not sequence.is_finished:
                        confirmed.append((piece, row))
            current = confirmed

    def _sample(self, sequences: list[Sequence], logits_SV: F32) -> list[int | None]:
        """The next token of each; None for one whose logits or grammar leave none, which ends with the error."""
        rows = list(range(len(sequences)))
        chosen: list[int | None] = [None] * len(sequences)
        while rows:
            try:
                part_SV = logits_SV if len(rows) == len(sequences) else logits_SV[rows]
                token_ids = sample_rows(self.runner.ops, part_SV, [Row(sequences[row]) for row in rows])
            except NoTokenLeft as error:
                failed = sequences[rows.pop(error.row)]
                cause = error.__cause__
                own = NoTokenLeft(str(error).replace(f" for row {error.row} of the batch", ""), row=0)
                failed.finish_reason, failed.error = "error", cause if isinstance(cause, SamovarError) else own
                continue
            for row, token_id in zip(rows, token_ids, strict=True):
                chosen[row] = token_id
            break
        return chosen


def append(sequence: Sequence, token_id: int, chosen: Logprob | None, max_context: int = 1 << 31) -> bool:
    """Add a token that was chosen, see whether it is the last, and add what has to follow it; whether anything had to."""
    request, control = sequence.request, sequence.control
    if sequence.is_guided and sequence.matcher is not None:
        try:
            sequence.matcher.accept(token_id)
        except SamovarError as error:
            sequence.finish_reason, sequence.error = "error", error
            return False
    _add(sequence, token_id, chosen)
    if token_id in request.sampling.stop_ids:
        sequence.finish_reason = "stop"
        return False
    forced = control.push(token_id)
    if control.finish_reason is not None:
        sequence.finish_reason = control.finish_reason
    elif sequence.n_generated >= sequence.max_tokens or len(sequence.token_ids) >= max_context:
        sequence.finish_reason = "length"
    else:
        force(sequence, forced)
    return bool(forced)


def force(sequence: Sequence, token_ids: tuple[int, ...]) -> None:
    """Add tokens that nobody chose, as far as there is room for them and none stops the request."""
    for token_id in token_ids:
        _add(sequence, token_id, None)
        if token_id in sequence.request.sampling.stop_ids:
            sequence.finish_reason = "stop"
            return
        sequence.control.push(token_id)
        if sequence.n_generated >= sequence.max_tokens:
            sequence.finish_reason = "length"
            return


def _add(sequence: Sequence, token_id: int, chosen: Logprob | None) -> None:
    sequence.token_ids.append(token_id)
    if sequence.request.logprobs is not None:
        sequence.logprobs.append(chosen)


def _logprob(sequence: Sequence, logits_V: F32, token_id: int) -> Logprob | None:
    """What the request wants to know of the choice."""
    request = sequence.request
    if request.logit_ids and not sequence.n_generated:
        sequence.logits = tuple(float(logits_V[i]) for i in request.logit_ids)
    return None if request.logprobs is None else logprob(logits_V, token_id, request.logprobs)


def _score_prompt(piece: Slice, logits_RV: F32) -> None:
    """Take down the log-probabilities of the prompt's tokens that follow this slice's last R tokens. Raises SamovarError for
    logits that are no numbers."""
    sequence = piece.sequence
    request, done = sequence.request, sequence.prompt_logprobs
    assert request.prompt_logprobs is not None
    check_computed(logits_RV.max(axis=1), "a logit")
    for row, position in enumerate(range(piece.end - piece.n_logits + 1, piece.end + 1)):
        if position == request.prompt_logprobs_from + len(done) and position < sequence.n_prompt:
            done.append(logprob(logits_RV[row], sequence.token_ids[position], request.prompt_logprobs))
