"""How much context this machine can hold: the KV cache's share of the memory that is free."""

import os
from dataclasses import dataclass
from pathlib import Path

from samovar.engine.page_pool import n_pages_for, page_bytes
from samovar.errors import BadRequest, OutOfMemory
from samovar.kernels import PAGE_TOKENS, KvType
from samovar.models.config import DecoderConfig

_DEFAULT_SHARE = 0.5  # of the free memory, for keys and values of which the caller has not said how many
_FULL_CONTEXTS = 4
_ROUNDING = 1 << 20  # sizes are told in MiB
_OTHER_BYTES = 140 << 20  # Python, NumPy, activations of a step
_BYTES_PER_TOKEN = 800  # of the vocabulary: tokenizer, and what grammars know of it
_EXPERT_ROWS = 512  # that are computed together (kBatchRows in native/experts.cpp)
_BYTES_PER_LOGIT = 8  # of a step: a float32, and a copy while tokens are chosen


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
    return page_bytes(kv_type, n_layers=config.n_kv_layers, n_kv_heads=config.n_kv_heads, d_head=config.d_head)


def other_bytes(vocab_size: int, max_streams: int) -> int:
    """What a model takes beside its weights, keys and values; see `tests/llm/test_budget.py`."""
    return _OTHER_BYTES + vocab_size * (_BYTES_PER_TOKEN + max_streams * _BYTES_PER_LOGIT)


def expert_bytes(config: DecoderConfig) -> int:
    """What a step takes for the inputs and outputs of experts, rounded (for gate and up apart where they have orders of inputs)
    and in float32; none in a dense model."""
    if config.experts is None:
        return 0
    return _EXPERT_ROWS * (16 * config.d_model + 14 * config.experts.d_ffn)


def states_bytes(config: DecoderConfig, n_sequences: int) -> int:
    """What recurrent states take, with one to spare (`engine.page_pool.PagePool.of`); 0 in models without any."""
    return (n_sequences + 1) * config.state_bytes


def size(n_bytes: int) -> str:
    """In the unit that says most."""
    return f"{n_bytes / 2**30:.2f} GiB" if n_bytes >= 1 << 30 else f"{n_bytes / 2**20:.0f} MiB"


@dataclass(frozen=True, slots=True)
class Budget:
    """Memory in bytes: what the caller allows in all (None: nothing was said), what is free, and what the weights take of
    it."""

    asked: int | None
    free: int
    packed: int

    def for_sequences(self, other: int) -> int:
        """What keys, values and states may take, where `other` bytes go to all else."""
        if self.asked is None:
            return max(0, self.free - self.packed)
        return max(0, self.asked - self.packed - other)

    def n_sequences(self, config: DecoderConfig, max_streams: int) -> int:
        """Sequences that may run at once: `max_streams`, but no more than have recurrent states, with one to spare, in half of
        what is left beside the weights."""
        if not config.state_bytes:
            return max_streams
        left = self.for_sequences(other_bytes(config.vocab_size, max_streams) + expert_bytes(config))
        return max(1, min(max_streams, left // 2 // config.state_bytes - 1))

    def choose(
        self,
        config: DecoderConfig,
        kv_type: KvType,
        max_context: int | None,
        max_streams: int,
        longest: int | None = None,
    ) -> tuple[int, int]:
        """Tokens of context, and pages in the pool.

        The context is what was asked, else the `longest` that the model takes (default: its native one), as far as there is
        room. The pool holds that, or a few native contexts, one for each stream at most; all that a budget leaves, where one
        was given. Raises BadRequest for a context beyond the longest, OutOfMemory for what does not fit.
        """
        longest = longest or config.max_context
        per_page = kv_page_bytes(config, kv_type)
        other = other_bytes(config.vocab_size, max_streams) + expert_bytes(config)
        states = states_bytes(config, self.n_sequences(config, max_streams))
        for_pages = max(0, self.for_sequences(other) - states)
        other += states
        n_fitting = for_pages // per_page
        if max_context is not None and not 1 <= max_context <= longest:
            raise BadRequest(
                f"a context of {max_context} tokens was asked for; this model takes 1 to {longest}",
                param="max_context",
            )
        if self.asked is not None and self.asked > self.free:
            raise OutOfMemory(f"{size(self.asked)} of memory were allowed, and {size(self.free)} are free; allow less")
        if self.asked is not None and n_fitting < 1:
            raise OutOfMemory(
                f"{size(self.asked)} of memory were allowed; the weights take {size(self.packed)}, and "
                f"{size(other)} go to everything else: allow "
                f"{size(self.packed + other + per_page + _ROUNDING)} at "
                f"least, and {per_page / PAGE_TOKENS / 1024:.0f} KiB for each token of context"
            )
        if max_context is not None and n_pages_for(max_context) > n_fitting:
            raise OutOfMemory(
                f"a context of {max_context} tokens needs {size(n_pages_for(max_context) * per_page)} for keys and "
                f"values, and {size(for_pages)} are "
                f"{'free' if self.asked is None else 'left of the memory allowed'}; "
                f"{n_fitting * PAGE_TOKENS} tokens would fit"
            )
        if self.asked is not None:
            return min(max_context or longest, n_fitting * PAGE_TOKENS), n_fitting
        n_easy = int(for_pages * _DEFAULT_SHARE) // per_page
        context = max_context or max(PAGE_TOKENS, min(longest, n_easy * PAGE_TOKENS))
        n_usual = n_pages_for(min(context, config.max_context))
        return context, max(n_pages_for(context), min(n_usual * min(max_streams, _FULL_CONTEXTS), n_easy))
