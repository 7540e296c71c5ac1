"""Which sequences compute how many tokens in the next step. It plans integers and knows no phases.

Every sequence is some tokens behind, and a plan lets them catch up within a budget of tokens: a prompt, a chunk of one, a token
that was just chosen, and what a preempted sequence has to compute again are all the same. Sequences that are nearly up to date
go first, so that streams that are talking do not wait for long prompts.

Who goes before whom is one number, `Sequence.rank`: the time of arrival, less PRIORITY_S for each step of priority. Nobody
starves: whoever has waited long enough ranks before all who come later, and the first in rank is never preempted.
"""

import bisect
import math
from collections.abc import Callable

from samovar.engine.page_pool import n_pages_for
from samovar.engine.prefix_cache import PrefixCache
from samovar.engine.sequence import Sequence

PRIORITY_S = 30.0
"""Seconds of waiting that a step of priority is worth."""

IDLE_RANK = math.inf
"""The rank of work that is done only while nothing else is to be done."""

_MIN_CHUNK = 16  # tokens of a prompt in each step, however many streams are talking
_TALKING = 32  # tokens behind up to which a stream counts as talking: the stop text of thoughts comes at once


class Scheduler:
    """The queue, the running sequences and their pages.

    A step computes at most `max_step_tokens`, and `max_mixed_tokens` while streams are talking. At most `max_running` sequences
    run at once. `retire(sequence)` is called for one that gives its pages back, to be computed again later.
    """

    def __init__(
        self,
        cache: PrefixCache,
        *,
        max_step_tokens: int,
        max_mixed_tokens: int,
        max_running: int,
        begin: Callable[[Sequence], None],
        retire: Callable[[Sequence], None],
    ) -> None:
        self.cache = cache
        self.max_step_tokens, self.max_mixed_tokens, self.max_running = max_step_tokens, max_mixed_tokens, max_running
        self.waiting: list[Sequence] = []  # in the order of rank
        self.running: list[Sequence] = []
        self.n_preempted = 0
        self._begin, self._retire = begin, retire

    def add(self, sequence: Sequence) -> None:
        """Put a sequence into the queue."""
        bisect.insort(self.waiting, sequence, key=_order)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is; its pages are the caller's matter."""
        (self.running if sequence in self.running else self.waiting).remove(sequence)

    def plan(self) -> list[tuple[Sequence, int]]:
        """Sequences and the tokens that each computes next, for which they hold pages. Empty when there is nothing to do."""
        self._make_way()
        plan: dict[Sequence, int] = {}
        for sequence in sorted(self.running, key=lambda s: (not _is_talking(s), *_order(s))):
            if sequence in self.running:  # not preempted meanwhile
                self._allot(sequence, plan)
        while self._budget(plan) > 0 and (following := self._next_waiting()) is not None:
            self.waiting.remove(following)
            self.running.append(following)
            self._begin(following)
            self._allot(following, plan)
            if following not in plan:  # it was preempted again at once, since no pages were left
                break
        return list(plan.items())

    def _budget(self, plan: dict[Sequence, int]) -> int:
        """Tokens that are left of the step."""
        n_planned = sum(plan.values())
        n_prompt = sum(count for sequence, count in plan.items() if not _is_talking(sequence))
        if n_prompt == n_planned:
            return self.max_step_tokens - n_planned
        return min(self.max_step_tokens - n_planned, max(self.max_mixed_tokens - n_planned, _MIN_CHUNK - n_prompt))

    def _allot(self, sequence: Sequence, plan: dict[Sequence, int]) -> None:
        """Plan as many tokens of a running sequence as the budget holds, and take pages for them, if need be from the last in
        rank."""
        budget = self.max_step_tokens - sum(plan.values()) if _is_talking(sequence) else self._budget(plan)
        count = min(sequence.n_behind, budget, sequence.request.max_chunk or budget)
        if count <= 0:
            return
        while not self.cache.grow(sequence.pages, sequence.n_computed + count):
            victim = max(self.running, key=_order)
            self.preempt(victim)
            plan.pop(victim, None)
            if victim is sequence:
                return
        plan[sequence] = count

    def preempt(self, sequence: Sequence) -> None:
        """Put a running sequence back into the queue, without its pages."""
        self.n_preempted += 1
        self.running.remove(sequence)
        self._retire(sequence)
        self.add(sequence)

    def _make_way(self) -> None:
        """Let idle work, and of a full house those of lower priority, go back for the first in the queue."""
        first = next((s for s in self.waiting if s.is_ready), None)
        if first is None or first.rank == IDLE_RANK:
            return
        for sequence in [s for s in self.running if s.rank == IDLE_RANK]:
            self.preempt(sequence)
        if len(self.running) < self.max_running and self._has_room(first):
            return
        victim = max(self.running, key=_order, default=None)
        if victim is not None and victim.request.priority < first.request.priority and _order(first) < _order(victim):
            self.preempt(victim)

    def _next_waiting(self) -> Sequence | None:
        """The first in the queue that may run, unless there is no room for its text: then nobody overtakes it."""
        sequence = next((s for s in self.waiting if s.is_ready), None)
        if sequence is None or len(self.running) >= self.max_running or (self.running and not self._has_room(sequence)):
            return None
        return None if sequence.rank == IDLE_RANK and self.running else sequence

    def _has_room(self, sequence: Sequence) -> bool:
        """Whether the text as it stands fits beside the texts of what runs, with a page to grow for each."""
        shared = self.cache.match(sequence.realm, sequence.token_ids).nodes
        n_needed = n_pages_for(len(sequence.token_ids)) - sum(1 for node in shared if self.cache.pool.n_users(node.page))
        n_owed = sum(n_pages_for(len(s.token_ids)) - len(s.pages) + 1 for s in self.running)
        return n_needed + n_owed <= self.cache.n_available


def _is_talking(sequence: Sequence) -> bool:
    """Its caller was told tokens, and waits for the next."""
    return sequence.n_reported > sequence.n_prompt and sequence.n_behind <= _TALKING


def _order(sequence: Sequence) -> tuple[float, int]:
    return sequence.rank, sequence.id
