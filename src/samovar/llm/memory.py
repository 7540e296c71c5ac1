"""How much context this machine can hold: the KV cache's share of the memory that is free."""

import os
from pathlib import Path

from samovar.engine.page_pool import n_pages_for, page_bytes
from samovar.errors import BadRequest, OutOfMemory
from samovar.kernels import PAGE_TOKENS, KvType
from samovar.models.config import DecoderConfig

_DEFAULT_SHARE = 0.5  # of the free memory, when the caller names no context


def available_bytes(meminfo: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory that can be had without swapping; the control group's limit is respected."""
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):
        return free
    return min(free, max(0, limit - used))


def kv_page_bytes(config: DecoderConfig, kv_type: KvType) -> int:
    """Bytes of one page of this model's keys and values."""
    return page_bytes(kv_type, n_layers=config.n_layers, n_kv_heads=config.n_kv_heads, d_head=config.d_head)


def choose_context(config: DecoderConfig, kv_type: KvType, asked: int | None, free_bytes: int) -> int:
    """Tokens of context to reserve for: what was asked, else the model's own, as far as half of the free memory holds it.

    Raises BadRequest for more than the model was made for, OutOfMemory for more than fits.
    """
    per_page = kv_page_bytes(config, kv_type)
    if asked is None:
        n_fitting = int(free_bytes * _DEFAULT_SHARE) // per_page * PAGE_TOKENS
        return max(PAGE_TOKENS, min(config.max_context, n_fitting))
    if not 1 <= asked <= config.max_context:
        raise BadRequest(
            f"a context of {asked} tokens was asked for; this model takes 1 to {config.max_context}", param="max_context"
        )
    if n_pages_for(asked) * per_page > free_bytes:
        raise OutOfMemory(
            f"a context of {asked} tokens needs {n_pages_for(asked) * per_page / 2**30:.1f} GiB for keys and values, and "
            f"{free_bytes / 2**30:.1f} GiB are free; {free_bytes // per_page * PAGE_TOKENS} tokens would fit"
        )
    return asked
