"""How fast an engine is, on prompts of token ids: the one way in which the bench and the comparison with peers measure."""

import time
from collections.abc import Sequence

from samovar.engine.engine import Engine
from samovar.engine.request import Request, SamplingParams


def timed_run(engine: Engine, prompts_ST: Sequence[Sequence[int]], n_tokens: int) -> tuple[float, float]:
    """Continue all prompts together by `n_tokens` greedy tokens each: seconds until every one has its first token, and
    seconds from then on. The engine should have no drafters: how well they guess depends on what random weights say.
    Nothing is reused from earlier runs, and no page is kept for later ones.

    Raises as `Engine.start` does, and OutOfMemory where the engine has too few pages for all of them.
    """
    sampling = SamplingParams(temperature=0, max_tokens=n_tokens)
    engine.drop_kept()
    sequences = [engine.start(Request(prompt_ids=tuple(ids), sampling=sampling)) for ids in prompts_ST]
    started = first = time.perf_counter()
    n_waiting = len(sequences)
    try:
        for event in engine.run(sequences):
            if n_waiting and sequences[event.index].n_generated == 1:
                n_waiting -= 1
                first = time.perf_counter()
        return first - started, time.perf_counter() - first
    finally:
        for sequence in sequences:
            engine.finish(sequence, "cancelled")
            engine.release(sequence, keep=False)
