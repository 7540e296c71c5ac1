"""Whether two configs make one model: what was written is read back, and held against what it was made of."""

import math
from dataclasses import fields

import numpy as np

from samovar.models.config import DecoderConfig, DeltaNetConfig
from samovar.models.long_context import LongContext
from samovar.models.rope import Rope

_ROUNDING = 1e-6  # GGUF files keep numbers in float32


def difference(wanted: DecoderConfig, found: DecoderConfig) -> str | None:
    """The first setting that differs, and what it is in `wanted`, in words; None for one model.

    The name of the architecture may differ, which is another for one computation in GGUF files, and numbers by rounding.
    """
    for entry in fields(wanted):
        value = getattr(wanted, entry.name)
        if entry.name != "architecture" and not _is_same(value, getattr(found, entry.name)):
            return f"{entry.name.replace('_', ' ')} ({_in_words(value, entry.name)})"
    return None


def _in_words(value: object, name: str) -> str:
    """What a config says, for a message."""
    if isinstance(value, DeltaNetConfig):
        layers = ", ".join(str(index) for index in sorted(value.layers))
        return f"layers {layers} of linear_attention, the others of full_attention"
    if name != "windows" or not isinstance(value, tuple):
        return str(value)[:200]
    sliding = [window for window in value if window is not None]
    lengths = " or ".join(str(length) for length in sorted(set(sliding)))
    return f"{len(sliding)} of {len(value)} layers see the last {lengths} positions, the others all of them"


def _is_same(wanted: object, got: object) -> bool:
    if isinstance(wanted, Rope) and isinstance(got, Rope):
        is_near = wanted.inv_freq_R.shape == got.inv_freq_R.shape and np.allclose(
            wanted.inv_freq_R, got.inv_freq_R, rtol=_ROUNDING, atol=0
        )
        return bool(is_near and math.isclose(wanted.attention_factor, got.attention_factor, rel_tol=_ROUNDING))
    if isinstance(wanted, LongContext) and isinstance(got, LongContext):
        lengths = [(long.native, long.trained, *long.ropes) for long in (wanted, got)]
        return lengths[0] == lengths[1] and all(_is_same(rope, got.ropes[factor]) for factor, rope in wanted.ropes.items())
    if isinstance(wanted, float) and isinstance(got, float):
        return math.isclose(wanted, got, rel_tol=_ROUNDING)
    return wanted == got
