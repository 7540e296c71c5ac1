"""The engine: every sequence is some tokens behind, and each step lets those that fit catch up.

`submit` puts a request into the queue, `step` computes and says what came of it, `cancel` ends a request between two steps.
Which sequences a step holds is the scheduler's matter; what an answer is depends on none of it. One thread at a time may call
it.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from samovar.engine.batch import Slice
from samovar.engine.decoding import Decoding, force
from samovar.engine.page_pool import PagePool
from samovar.engine.prefix_cache import PrefixCache
from samovar.engine.request import Ending, Event, FinishReason, Grammar, Request, SamplingParams, check_request
from samovar.engine.runner import Model, make_runner
from samovar.engine.scheduler import IDLE_RANK, PRIORITY_S, Scheduler
from samovar.engine.sequence import Sequence
from samovar.engine.speculate import Drafter, Speculation
from samovar.engine.step_cost import StepCost
from samovar.engine.take_up import keep_on_the_way, put_away, take_up
from samovar.engine.thinking import Control, ThinkingTokens
from samovar.engine.throughput import Throughput
from samovar.errors import BadRequest, OutOfMemory, Overloaded, SamovarError
from samovar.kernels import PAGE_TOKENS, Ops
from samovar.kernels.finite import check_computed
from samovar.models.long_context import LongContext
from samovar.models.lora import LoraAdapter
from samovar.text.grammar_spec import GrammarSpec

F32 = NDArray[np.float32]
StartDrafter = Callable[[Request], Drafter]

MAX_IDLE = 64
"""Requests of idle work that may wait: where there is no idle time, they would become ever more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much at once. A step computes `max_step_tokens`, and `max_mixed_tokens` while streams are talking; `max_running`
    sequences run together, and `max_waiting` wait."""

    max_step_tokens: int = 512
    max_mixed_tokens: int = 96
    max_running: int = 64
    max_waiting: int = 1024


@dataclass(slots=True)
class Engine:
    """Token ids in, token ids out. `max_context` bounds prompt and answer together.

    With a `long_context`, a request goes beyond the native length where its prompt and the answer that it asks for by
    `max_tokens` do not fit into it, with the smallest YaRN factor that covers them. Without `max_tokens` the prompt alone
    decides, with one token to follow, and the answer ends where that factor does.

    Each sequence is given drafters by `start_drafters`; they change how soon its tokens come, and not which. A model with
    recurrent states has none, since those cannot step back. `thinking_tokens` is what has to be known of a vocabulary for
    thoughts to be watched.
    """

    model: Model
    ops: Ops
    pool: PagePool
    vocab_size: int
    max_context: int
    limits: Limits = field(default_factory=Limits)
    start_drafters: tuple[StartDrafter, ...] = ()
    thinking_tokens: ThinkingTokens | None = None
    compile_grammar: Callable[[GrammarSpec], Grammar] | None = None
    keeps_prefixes: bool = True
    long_context: LongContext | None = None
    cost: StepCost = field(default_factory=StepCost)
    clock: Callable[[], float] = time.monotonic
    throughput: Throughput = field(default_factory=Throughput)
    cache: PrefixCache = field(init=False)
    scheduler: Scheduler = field(init=False)
    decoding: Decoding = field(init=False)
    _events: list[Event] = field(default_factory=list, init=False)
    _ids: Iterator[int] = field(default_factory=lambda: itertools.count(1), init=False)

    def __post_init__(self) -> None:
        """Set up the pages and the queue."""
        self.max_context = min(self.max_context, self.pool.n_pages * PAGE_TOKENS)
        self.cache = PrefixCache(self.pool, is_on=self.keeps_prefixes)
        limits, states = self.limits, self.pool.states
        if states is not None:
            self.start_drafters = ()
            limits = self.limits = replace(limits, max_running=min(limits.max_running, states.n_slots - 1))
        self.decoding = Decoding(
            runner=make_runner(self.model, self.ops, self.pool),
            cache=self.cache,
            cost=self.cost,
            vocab_size=self.vocab_size,
            max_context=self.max_context,
            max_step_tokens=limits.max_step_tokens,
        )
        self.scheduler = Scheduler(
            self.cache,
            max_step_tokens=limits.max_step_tokens,
            max_mixed_tokens=limits.max_mixed_tokens,
            max_running=limits.max_running,
            begin=self._begin,
            retire=self._retire,
        )

    @property
    def has_work(self) -> bool:
        """A request is unfinished, or an event not fetched."""
        return bool(self._events or self.scheduler.running or self.scheduler.waiting)

    def submit(self, request: Request, *, leader: Sequence | None = None, is_idle_work: bool = False) -> Sequence:
        """Admit a request to the queue. With a `leader`, which has the same prompt, it waits until that one has computed it,
        and shares its pages; idle work is done only while there is no other.

        Raises PromptTooLong, BadRequest for an empty prompt or an id outside the vocabulary, Overloaded when the queue is full.
        """
        self.check(request)
        matcher = self.matcher(request)
        n_waiting = sum(s.rank != IDLE_RANK for s in self.scheduler.waiting)
        if n_waiting >= self.limits.max_waiting and not is_idle_work:
            raise Overloaded(n_waiting, self.expected_wait_s())
        return self.admit(request, matcher, leader=leader, is_idle_work=is_idle_work)

    def matcher(self, request: Request) -> Grammar | None:
        """What follows an answer's grammar, where it has one. Compiling may take a second; any thread may call this.

        Raises BadRequest for a grammar that is unsound or too large.
        """
        if request.grammar is None:
            return None
        if self.compile_grammar is None:
            raise BadRequest("this engine was given nothing that compiles grammars", param=request.grammar.param)
        return self.compile_grammar(request.grammar)

    def admit(
        self, request: Request, matcher: Grammar | None = None, *, leader: Sequence | None = None, is_idle_work: bool = False
    ) -> Sequence:
        """As `submit`, for a request that was checked, however full the queue is. Of too much idle work, the oldest is
        cancelled."""
        now, max_tokens = self.clock(), self._max_tokens(request)
        idle = [s for s in self.scheduler.waiting if s.rank == IDLE_RANK] if is_idle_work else []
        if len(idle) >= MAX_IDLE:
            self.cancel(idle[0])
        sequence = Sequence(
            request=request,
            token_ids=list(request.prompt_ids),
            id=next(self._ids),
            rank=IDLE_RANK if is_idle_work else now - PRIORITY_S * request.priority,
            deadline=None if request.deadline_s is None else now + request.deadline_s,
            leader=None if self.pool.states is not None else leader,
            speculation=Speculation(tuple(start(request) for start in self.start_drafters)),
            max_tokens=max_tokens,
            factor=self.factor_of(request),
            matcher=matcher,
            control=Control.start(request, self.thinking_tokens, max_tokens),
        )
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> list[Event]:
        """Compute once; what came of it, and of what happened since the last call. Each request gets exactly one ending."""
        self._expire()
        plan = self.scheduler.plan()
        started = time.perf_counter()
        self.decoding.run(plan)
        self.throughput.observe(sum(count for _, count in plan), len(plan), time.perf_counter() - started)
        for sequence, _ in plan:
            if sequence.is_finished:
                self._close(sequence)
            else:
                self._share(sequence)
                keep_on_the_way(self.cache, sequence)
                self._report(sequence)
        return self.take_events()

    def take_events(self) -> list[Event]:
        """What happened since the last call."""
        events, self._events = self._events, []
        return events

    def fail_all(self, error: SamovarError) -> None:
        """End every request with an error; what was computed is forgotten."""
        for sequence in [*self.scheduler.running, *self.scheduler.waiting]:
            sequence.finish_reason, sequence.error = "error", error
            sequence.n_computed = sequence.n_shared
            self._close(sequence)
        self.cache.clear()

    def cancel(self, sequence: Sequence, reason: FinishReason = "cancelled") -> None:
        """End a request from outside; its pages are free at once, and its ending comes with the next step."""
        if not sequence.is_finished:
            sequence.finish_reason = reason
            self._close(sequence)

    def expected_wait_s(self) -> float:
        """Seconds until all that is admitted will have been computed, by what the last steps took."""
        sequences = (*self.scheduler.running, *self.scheduler.waiting)
        n_prompt = sum(s.n_behind for s in sequences)
        n_answer = max((s.max_tokens - s.n_generated for s in sequences), default=0)
        return self.throughput.seconds(n_prompt, min(n_answer, 256) * (1 + len(sequences) // self.limits.max_running))

    def catch_up(self, sequence: Sequence) -> F32:
        """By hand: compute what a sequence is behind, at least one token; logits [1, V] after the last. It takes up what is
        cached at its first call, and `let_go` gives its pages back. Raises OutOfMemory when no page is free."""
        if sequence.node is None:
            self._begin(sequence)
        while True:
            count = min(sequence.n_behind, self.limits.max_step_tokens)
            if not self.cache.grow(sequence.pages, sequence.n_computed + count):
                raise OutOfMemory(f"no page is free for a text of {sequence.n_computed + count} tokens")
            logits_SV = self.decoding.compute([self.decoding.slice(sequence, count)])
            sequence.n_computed += count
            if len(logits_SV):
                return logits_SV

    def let_go(self, sequence: Sequence) -> None:
        """By hand: give the pages of a sequence to the prefix cache."""
        if sequence.node is not None:
            self._retire(sequence)

    def logits(self, token_ids: tuple[int, ...]) -> F32:
        """Logits [T, V] after every token. Raises as `submit` does, OutOfMemory where running requests leave no room, and
        SamovarError for logits that are no numbers."""
        request = Request(prompt_ids=token_ids, sampling=SamplingParams())
        self.check(request, n_to_come=0)
        factor = self.factor_of(replace(request, task="prefill"))
        sequence = Sequence(request=request, token_ids=list(token_ids), factor=factor)
        if (states := self.pool.states) is not None:
            sequence.state = states.take(sequence.realm, ())
        out_TV = np.empty((len(token_ids), self.vocab_size), np.float32)
        try:
            for start in range(0, len(token_ids), self.limits.max_step_tokens):
                part = tuple(token_ids[start : start + self.limits.max_step_tokens])
                if not self.cache.grow(sequence.pages, start + len(part)):
                    raise OutOfMemory("the pages for keys and values are in use; wait until other requests have ended")
                part_TV = out_TV[start : start + len(part)]
                part_TV[:] = self.decoding.compute([Slice(sequence, start, part, len(part))])
                check_computed(part_TV.max(axis=1), "a logit")
        finally:
            self.pool.shrink(sequence.pages, 0)
            if states is not None and sequence.state is not None:
                states.leave(sequence.state, sequence.realm, ())
        return out_TV

    def check(self, request: Request, n_to_come: int = 1) -> None:
        """Raises PromptTooLong or BadRequest for a request that this model cannot serve. Any thread may call it."""
        check_request(request, self.context_of(request), self.vocab_size, n_to_come)
        self.check_adapter(request)

    def check_adapter(self, request: Request) -> None:
        """Raises BadRequest for a request that names an adapter which is not loaded."""
        adapters = self.decoding.runner.adapters
        if request.adapter is not None and request.adapter not in adapters:
            loaded = f"loaded are: {', '.join(sorted(adapters))}" if adapters else "none is loaded"
            raise BadRequest(f"there is no adapter {request.adapter!r}; {loaded}", param="adapter")

    def load_adapter(self, name: str, adapter: LoraAdapter) -> None:
        """Let requests name an adapter. Raises BadRequest where there is one of that name."""
        if name in self.decoding.runner.adapters:
            raise BadRequest(f"an adapter {name!r} is loaded already; unload it first, or choose another name", param="name")
        self.decoding.runner.load(name, adapter)

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter and all that was computed with it. Raises BadRequest for one that is not there, or in use."""
        if name not in self.decoding.runner.adapters:
            raise BadRequest(f"there is no adapter {name!r} to unload", param="name")
        n_users = sum(s.request.adapter == name for s in (*self.scheduler.running, *self.scheduler.waiting))
        if n_users:
            raise BadRequest(f"adapter {name!r} is in use by {n_users} requests; unload it when they have ended", param="name")
        self.cache.drop_adapter(name)
        if self.pool.states is not None:
            self.pool.states.drop_adapter(name)
        self.decoding.runner.unload(name)

    def _max_tokens(self, request: Request) -> int:
        """Tokens that a request may generate."""
        if request.task != "generate":
            return 0
        most = self.context_of(request) - len(request.prompt_ids)
        return most if request.sampling.max_tokens is None else min(most, request.sampling.max_tokens)

    def factor_of(self, request: Request) -> int:
        """The YaRN factor that a request is computed with; 1 is the model's own rotation."""
        if self.long_context is None:
            return 1
        n_to_come = request.sampling.max_tokens or int(request.task == "generate")
        n_wanted = min(len(request.prompt_ids) + n_to_come, request.max_context or self.max_context, self.max_context)
        return self.long_context.factor_for(n_wanted)

    def context_of(self, request: Request) -> int:
        """Tokens that a request's prompt and answer may have together."""
        asked = request.max_context or self.max_context
        reach = self.max_context if self.long_context is None else self.long_context.reach(self.factor_of(request))
        return min(self.max_context, asked, reach)

    def _expire(self) -> None:
        """End the requests whose time is up."""
        now = self.clock()
        for sequence in [*self.scheduler.running, *self.scheduler.waiting]:
            if sequence.deadline is not None and now >= sequence.deadline:
                self.cancel(sequence, "deadline")

    def _begin(self, sequence: Sequence) -> None:
        """A sequence starts to run, or starts again: take up what is cached of its text."""
        request, ids = sequence.request, sequence.token_ids
        if (
            request.prompt_logprobs is not None
            and len(sequence.prompt_logprobs) < sequence.n_prompt - request.prompt_logprobs_from
        ):
            ids = ids[: request.prompt_logprobs_from + len(sequence.prompt_logprobs)]
        match = take_up(self.cache, sequence, ids)
        if not sequence.n_preempted:
            sequence.n_cached, sequence.parting = match.n_tokens, match.parting
            other = self.cache.other_factor(sequence.realm, ids)
            is_told = other is not None and other.n_tokens >= match.n_tokens + PAGE_TOKENS  # less is how all prompts begin
            sequence.other_factor = other if is_told else None
            if request.task == "generate":
                force(sequence, sequence.control.begin())

    def _retire(self, sequence: Sequence) -> None:
        """Give a sequence's pages to the prefix cache."""
        self._share(sequence)
        put_away(self.cache, sequence)
        sequence.n_preempted += 1

    def _share(self, sequence: Sequence) -> None:
        """Let others find the pages that have become full."""
        n_full = sequence.n_computed // PAGE_TOKENS * PAGE_TOKENS
        if n_full > sequence.n_shared and sequence.node is not None:
            sequence.node = self.cache.extend(
                sequence.node, sequence.token_ids, sequence.pages, sequence.n_shared, sequence.n_computed
            )
            sequence.n_shared = n_full

    def _close(self, sequence: Sequence) -> None:
        """Take a finished sequence out, keep what it computed, and report its ending."""
        assert sequence.finish_reason is not None
        self.scheduler.remove(sequence)
        n_preempted = sequence.n_preempted
        if sequence.node is not None:
            self._retire(sequence)
        sequence.speculation.close()
        sequence.leader = None
        control = sequence.control
        control.finish(sequence.finish_reason)
        self._report(
            sequence,
            Ending(
                reason=sequence.finish_reason,
                error=sequence.error,
                n_cached=sequence.n_cached,
                parting=sequence.parting,
                n_thinking=control.n_thinking,
                thinking_stopped=control.stopped,
                n_drafted=sequence.speculation.n_drafted,
                n_accepted=sequence.speculation.n_accepted,
                n_preempted=n_preempted,
                yarn_factor=sequence.factor,
                other_factor=sequence.other_factor,
                is_grammar_complete=None if sequence.matcher is None else sequence.matcher.is_accepting,
                prompt_logprobs=tuple(sequence.prompt_logprobs),
                logits=sequence.logits,
                vector=sequence.vector,
            ),
        )

    def _report(self, sequence: Sequence, ending: Ending | None = None) -> None:
        """Make an event of what a sequence generated since its last one."""
        ids, logprobs = sequence.token_ids[sequence.n_reported :], sequence.logprobs
        if ids or ending is not None:
            self._events.append(Event(sequence_id=sequence.id, token_ids=tuple(ids), logprobs=tuple(logprobs), ending=ending))
            sequence.n_reported, sequence.logprobs = len(sequence.token_ids), []
