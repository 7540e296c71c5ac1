"""What an engine says of itself while it works: plain numbers, which may travel to another process."""

from pathlib import Path

import msgspec

from samovar.engine.engine import Engine


class EngineStats(msgspec.Struct, kw_only=True, frozen=True):
    """Sequences that run and wait, and the tokens they have still to compute; pages that answers use, that are cached for
    prompts to come, and that are free; the memory of the engine's process in bytes, 0 where the system does not tell."""

    n_running: int
    n_waiting: int
    n_behind: int
    n_used: int
    n_cached: int
    n_free: int
    resident_bytes: int


def engine_stats(engine: Engine) -> EngineStats:
    """The numbers of this moment. Any thread may call this; a step may be running, and changes them one by one."""
    pool = engine.pool
    n_free, n_cached = pool.n_free, pool.n_idle
    sequences = [*engine.scheduler.running, *engine.scheduler.waiting]
    return EngineStats(
        n_running=len(engine.scheduler.running),
        n_waiting=len(engine.scheduler.waiting),
        n_behind=sum(sequence.n_behind for sequence in sequences),
        n_used=max(0, pool.n_pages - n_free - n_cached),
        n_cached=n_cached,
        n_free=n_free,
        resident_bytes=_resident_bytes(),
    )


def _resident_bytes() -> int:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return 0
    return 0
