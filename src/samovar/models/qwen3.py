"""Qwen3, dense: each query and key head is normalised before it is rotated (QK-norm).

Source: Qwen3 technical report (arXiv 2505.09388), section 2. The head width comes from the config and need not be
width / heads; one norm weight [K] serves all heads of a layer.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samovar.models.blocks import AttentionProjections, GatedMlp, Mlp, Step
from samovar.models.config import DecoderConfig, read_decoder_config
from samovar.models.weights import WeightSource

F32 = NDArray[np.float32]


def read_config(raw: dict[str, object], where: str) -> DecoderConfig:
    """A missing head width is 128, as in the published class."""
    return read_decoder_config({"head_dim": 128, **raw}, where, sliding="above_a_layer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Qwen3Layer:
    """Norm, attention with QK-norm, norm, feed-forward block, each added to its input."""

    attention_norm_D: F32
    attention: AttentionProjections
    q_norm_K: F32
    k_norm_K: F32
    mlp_norm_D: F32
    mlp: Mlp
    norm_eps: float
    window: int | None

    def __call__(self, index: int, x_TD: F32, step: Step) -> F32:
        """[T, D] to [T, D]."""
        ops, eps = step.ops, self.norm_eps
        q_THK, k_TGK, v_TGK = self.attention.heads(step, x_TD, (self.attention_norm_D, eps), len(self.q_norm_K))
        q_THK = ops.rope(ops.rms_norm(q_THK, self.q_norm_K, eps), step.cos_TR, step.sin_TR)
        k_TGK = ops.rope(ops.rms_norm(k_TGK, self.k_norm_K, eps), step.cos_TR, step.sin_TR)
        x_TD = self.attention.output(step, step.attend(index, q_THK, k_TGK, v_TGK, window=self.window), x_TD)
        return self.mlp(step, x_TD, (self.mlp_norm_D, eps))


def load_layer(
    source: WeightSource,
    index: int,
    config: DecoderConfig,
    load_mlp: Callable[[WeightSource, str, DecoderConfig], Mlp] = GatedMlp.load,
) -> Qwen3Layer:
    """Take layer `index`; `load_mlp` takes its feed-forward block under the name given."""
    name = f"model.layers.{index}"
    attention = f"{name}.self_attn"
    return Qwen3Layer(
        attention_norm_D=source.vector(f"{name}.input_layernorm.weight", config.d_model),
        attention=AttentionProjections.load(source, attention, config, has_output_bias=config.has_attention_bias),
        q_norm_K=source.vector(f"{attention}.q_norm.weight", config.d_head),
        k_norm_K=source.vector(f"{attention}.k_norm.weight", config.d_head),
        mlp_norm_D=source.vector(f"{name}.post_attention_layernorm.weight", config.d_model),
        mlp=load_mlp(source, f"{name}.mlp", config),
        norm_eps=config.norm_eps,
        window=config.window_of(index),
    )
