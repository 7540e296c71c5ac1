"""Contexts beyond what a model was trained for: YaRN, with the smallest factor that covers a request, for models made for it.

YaRN with a fixed factor makes short texts worse, so a text within the native length is computed with the model's own rotation.
Keys of different factors do not go together: a sequence has one factor from its first token to its last.

The native length is the config's `max_position_embeddings`. The ramp of YaRN is laid over the length that the model was trained
at, which Qwen's model cards give as `original_max_position_embeddings` 32,768: for Qwen2.5 it is the native length, while Qwen3
counts 8,192 for a prompt and 32,768 for its answer, and was trained at 32,768 (arXiv 2505.09388, section 3.2).
A factor reaches that many times the trained length: 65,536 and 131,072, as the model cards have it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samovar.models.rope import F32, Rope, read_rope

FACTORS = (2, 4)
"""Those that Qwen's model cards speak of; 4 is the largest that was evaluated."""

ARCHITECTURES = frozenset({"qwen2", "qwen3", "qwen3_moe", "qwen3_next"})
"""Whose model cards say that YaRN may be used without training."""

_TRAINED = {("qwen3", 40_960): 32_768, ("qwen3_moe", 40_960): 32_768}
"""Tokens of the last stage of training, where they are not the native length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LongContext:
    """The rotations of a model by YaRN's factor; 1 is the model's own, which serves `native` tokens.

    `trained` tokens are what a factor multiplies.
    """

    native: int
    trained: int
    ropes: Mapping[int, Rope]

    @property
    def longest(self) -> int:
        """Tokens that the largest factor reaches."""
        return max(map(self.reach, self.ropes))

    def reach(self, factor: int) -> int:
        """Tokens that prompt and answer may have together."""
        return self.native if factor == 1 else factor * self.trained

    def factor_for(self, n_tokens: int) -> int:
        """The smallest factor that covers so many tokens; the largest where none does."""
        return next((factor for factor in sorted(self.ropes) if n_tokens <= self.reach(factor)), max(self.ropes))

    def tables(self, positions_T: NDArray[np.int64], factors_T: NDArray[np.int64]) -> tuple[F32, F32]:
        """Cosines and sines, each float32 [T, R], of tokens that each have a factor. A row does not depend on the others."""
        shape = len(positions_T), len(self.ropes[1].inv_freq_R)
        cos_TR, sin_TR = np.empty(shape, np.float32), np.empty(shape, np.float32)
        for factor in set(factors_T.tolist()):
            rows = factors_T == factor
            cos_TR[rows], sin_TR[rows] = self.ropes[factor].tables(positions_T[rows])
        return cos_TR, sin_TR


def read_long_context(architecture: str, rope: Rope, max_context: int, where: str) -> LongContext | None:
    """What goes beyond the native length of a model; None for an architecture that YaRN is not known to work for, and for a
    model whose own rotation is scaled already."""
    if architecture not in ARCHITECTURES or rope.theta is None or rope.theta <= 1:
        return None
    trained = _TRAINED.get((architecture, max_context), max_context)
    ropes = {1: rope}
    for factor in FACTORS:
        yarn = {
            "rope_type": "yarn",
            "rope_theta": rope.theta,
            "factor": float(factor),
            "original_max_position_embeddings": trained,
        }
        ropes[factor] = read_rope(yarn, d_rotary=2 * len(rope.inv_freq_R), max_context=max_context, where=where)
    return LongContext(native=max_context, trained=trained, ropes=ropes)
