"""Gemma 3, text: norms before and after each block, queries and keys normalised, and layers of two kinds.

Source: Gemma 3 technical report (arXiv 2503.19786), section 2, and `transformers.models.gemma3`. Of six layers, five are local:
their tokens see the last `sliding_window` positions alone, and their rotation has a base of its own. A norm's weight is 1 plus
what the checkpoint holds (GGUF files hold the sum). Vision is left out: its tensors and keys are refused.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from samovar.errors import FormatError, UnsupportedModel
from samovar.models.blocks import AttentionProjections, Norm, Step, project, project_onto
from samovar.models.config import ConfigReader, DecoderConfig, read_decoder_config
from samovar.models.rope import Rope, read_rope
from samovar.models.weights import Projection, WeightSource

F32 = NDArray[np.float32]
_ACTIVATION = "gelu_pytorch_tanh"
_GLOBAL_THETA, _LOCAL_THETA = 1_000_000.0, 10_000.0
_PUBLISHED: dict[str, object] = {
    "head_dim": 256, "num_key_value_heads": 4, "max_position_embeddings": 131_072, "sliding_window": 4096,
    "tie_word_embeddings": True,
}  # fmt: skip
_OWN_KEYS = (
    "hidden_activation", "hidden_act", "query_pre_attn_scalar", "rope_local_base_freq", "final_logit_softcapping",
    "attn_logit_softcapping", "use_bidirectional_attention", "cache_implementation",
)  # fmt: skip


def read_config(raw: dict[str, object], where: str) -> DecoderConfig:
    """Defaults are those of the published class. Raises as `read_decoder_config`."""
    if "vision_config" in raw or "text_config" in raw:
        raise UnsupportedModel(
            f"{where}: vision_config and text_config belong to a model that sees; only the text model (gemma3_text) is "
            "implemented: take a text-only folder, or a GGUF file of it"
        )
    own = ConfigReader({key: raw[key] for key in _OWN_KEYS if key in raw}, where)
    rest = {key: value for key, value in raw.items() if key not in _OWN_KEYS}
    full, local = _rope_parameters(rest, own)
    own.take("cache_implementation")  # how transformers keeps keys and values
    for key, expected in (("hidden_activation", _ACTIVATION), ("hidden_act", _ACTIVATION)):
        if (value := own.take(key)) not in (None, expected):
            raise UnsupportedModel(f"{where}: {key} {value!r} is not implemented; expected {expected!r}")
    if (value := own.take("use_bidirectional_attention")) not in (None, False):
        raise UnsupportedModel(f"{where}: use_bidirectional_attention {value!r} is not implemented; expected false")
    query_scale = own.number("query_pre_attn_scalar", default=256.0)
    own.finish()
    config = read_decoder_config({**_PUBLISHED, **rest, "rope_parameters": full}, where, sliding="by_pattern")
    return replace(
        config,
        local_rope=_local_rope(config, local, where),
        attention_scale=query_scale**-0.5,
        has_centred_norms=True,
        embedding_scale=float(config.d_model) ** 0.5,
    )


def _local_rope(config: DecoderConfig, parameters: dict[str, object], where: str) -> Rope:
    return read_rope(parameters, d_rotary=config.d_head, max_context=config.max_context, where=f"{where}: local layers")


def _rope_parameters(rest: dict[str, object], own: ConfigReader) -> tuple[dict[str, object], dict[str, object]]:
    """Those of global and of local layers: by kind of layer (transformers 5), or in the keys of transformers 4."""
    where, given = own.where, rest.pop("rope_parameters", None)
    theta, local_theta = rest.pop("rope_theta", None), own.take("rope_local_base_freq")
    scaling = rest.pop("rope_scaling", None)
    by_kind: dict[str, object] = {"full_attention": scaling, "sliding_attention": None}
    if isinstance(given, dict) and not given.keys() - by_kind.keys():
        by_kind |= given
    elif given is not None:
        by_kind["full_attention"] = given
    found = []
    for value, base, default in (
        (by_kind["full_attention"], theta, _GLOBAL_THETA),
        (by_kind["sliding_attention"], local_theta, _LOCAL_THETA),
    ):
        if not isinstance(value, dict | None):
            raise FormatError(f"{where}: rope parameters {value!r} are of another form; expected an object or null")
        found.append({"rope_theta": default if base is None else base, **(value or {})})
    return found[0], found[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemma3Layer:
    """x + norm(attention(norm(x))), then x + norm(mlp(norm(x)))."""

    norms: tuple[F32, F32, F32, F32]
    attention: AttentionProjections
    q_norm_K: F32
    k_norm_K: F32
    gate: Projection
    up: Projection
    down: Projection
    norm_eps: float
    scale: float
    window: int | None

    def __call__(self, index: int, x_TD: F32, step: Step) -> F32:
        """[T, D] to [T, D]."""
        ops, eps = step.ops, self.norm_eps
        before_attention_D, after_attention_D, before_mlp_D, after_mlp_D = self.norms
        cos_TR, sin_TR = (step.cos_TR, step.sin_TR) if self.window is None or step.local is None else step.local
        q_THK, k_TGK, v_TGK = self.attention.heads(step, x_TD, (before_attention_D, eps), len(self.q_norm_K))
        q_THK = ops.rope(ops.rms_norm(q_THK, self.q_norm_K, eps), cos_TR, sin_TR)
        k_TGK = ops.rope(ops.rms_norm(k_TGK, self.k_norm_K, eps), cos_TR, sin_TR)
        o_THK = step.attend(index, q_THK, k_TGK, v_TGK, scale=self.scale, window=self.window)
        made_TD = project_onto(None, step, o_THK.reshape(len(o_THK), -1), self.attention.o)
        x_TD = _added(step, x_TD, made_TD, (after_attention_D, eps))
        gate_TF, up_TF = project(step, x_TD, (before_mlp_D, eps), self.gate, self.up)
        made_TD = project_onto(None, step, up_TF, self.down, gate_TD=gate_TF, activation="gelu_tanh")
        return _added(step, x_TD, made_TD, (after_mlp_D, eps))


def _added(step: Step, x_TD: F32, made_TD: F32, norm: Norm) -> F32:
    """x + norm(made)."""
    normed_TD = step.ops.rms_norm(made_TD, *norm)
    step.ops.accumulate(x_TD, normed_TD)
    return normed_TD


def load_layer(source: WeightSource, index: int, config: DecoderConfig) -> Gemma3Layer:
    """Take layer `index`."""
    name, narrow, wide = f"model.layers.{index}", config.d_model, config.d_ffn
    attention, mlp = f"{name}.self_attn", f"{name}.mlp"
    before_attention_D, after_attention_D, before_mlp_D, after_mlp_D = (
        source.norm(f"{name}.{part}_layernorm.weight", narrow)
        for part in ("input", "post_attention", "pre_feedforward", "post_feedforward")
    )
    assert config.attention_scale is not None
    return Gemma3Layer(
        norms=(before_attention_D, after_attention_D, before_mlp_D, after_mlp_D),
        attention=AttentionProjections.load(source, attention, config, has_output_bias=config.has_attention_bias),
        q_norm_K=source.norm(f"{attention}.q_norm.weight", config.d_head),
        k_norm_K=source.norm(f"{attention}.k_norm.weight", config.d_head),
        gate=source.projection(f"{mlp}.gate_proj", wide, narrow, has_bias=False),
        up=source.projection(f"{mlp}.up_proj", wide, narrow, has_bias=False),
        down=source.projection(f"{mlp}.down_proj", narrow, wide, has_bias=False),
        norm_eps=config.norm_eps,
        scale=config.attention_scale,
        window=config.window_of(index),
    )
