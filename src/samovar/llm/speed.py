"""How fast a model runs here, on prompts of token ids: the one way in which the bench and the comparison with peers measure.

Nothing is reused from one run to the next, no end token stops a run, and nothing guesses ahead: what random weights say is
either never or always guessed.
"""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from samovar.engine.engine import Engine, Limits
from samovar.engine.page_pool import PagePool, n_pages_for
from samovar.engine.request import Request, SamplingParams
from samovar.errors import OutOfMemory
from samovar.kernels.native import NativeOps
from samovar.llm.llm import LLM

_LOW_ID, _HIGH_ID = 300, 30_000  # ordinary tokens in common vocabularies


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Seconds until every stream had its first token, seconds for the others, and the part of the sum that was spent outside
    the native operations (None on the NumPy kernels)."""

    first_s: float
    rest_s: float
    python_share: float | None


def random_prompts(n_streams: int, n_tokens: int, seed: int, vocab_size: int = _HIGH_ID) -> list[list[int]]:
    """Token ids [S, T]; the same arguments give the same ones."""
    source = random.Random(f"{n_streams} {n_tokens} {seed}")  # noqa: S311
    low, high = (_LOW_ID, _HIGH_ID) if vocab_size >= _HIGH_ID else (0, vocab_size)
    return [[source.randrange(low, high) for _ in range(n_tokens)] for _ in range(n_streams)]


def bench_engine(llm: LLM, *, n_streams: int, n_tokens: int) -> Engine:
    """An engine of its own on the model's weights, with pages for as many streams of as many tokens. Raises OutOfMemory."""
    config = llm.model.config
    n_pages = n_streams * n_pages_for(n_tokens)
    pool = PagePool.of(config, llm.kv_type, n_pages=n_pages, n_sequences=n_streams)
    limits = Limits(max_running=max(64, n_streams))
    long = config.long_context
    n_context = min(n_tokens, config.max_context if long is None else long.longest)
    return Engine(llm.model, llm.ops, pool, config.vocab_size, n_context, limits, keeps_prefixes=False, long_context=long)


def timed_run(engine: Engine, prompts_ST: Sequence[Sequence[int]], n_tokens: int) -> Run:
    """Continue all prompts together by `n_tokens` greedy tokens each.

    Raises as `Engine.check` does, and OutOfMemory where the engine has too few pages for all of them.
    """
    sampling = SamplingParams(temperature=0, max_tokens=n_tokens)
    requests = [Request(prompt_ids=tuple(ids), sampling=sampling, stops_loops=False) for ids in prompts_ST]
    for request in requests:
        engine.check(request)
    n_pages = sum(n_pages_for(len(ids) + n_tokens) for ids in prompts_ST)
    if n_pages > engine.pool.n_pages:
        raise OutOfMemory(f"the prompts and their answers need {n_pages} pages together, and there are {engine.pool.n_pages}")
    sequences = [engine.admit(request) for request in requests]
    native_before = _native_seconds(engine)
    started = first = time.perf_counter()
    n_waiting = len(sequences)
    try:
        while engine.has_work:
            engine.step()
            if n_waiting and (n_waiting := sum(1 for sequence in sequences if not sequence.n_generated)) == 0:
                first = time.perf_counter()
        ended, native_after = time.perf_counter(), _native_seconds(engine)
    finally:
        for sequence in sequences:
            engine.cancel(sequence)
        engine.take_events()
    share = None
    if native_before is not None and native_after is not None:
        share = 1 - (native_after - native_before) / (ended - started)
    return Run(first_s=first - started, rest_s=ended - first, python_share=share)


def _native_seconds(engine: Engine) -> float | None:
    return engine.ops.native_seconds if isinstance(engine.ops, NativeOps) else None
