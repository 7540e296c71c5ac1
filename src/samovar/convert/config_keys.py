"""The `{architecture}.*` keys of a GGUF file from a Hugging Face config, as llama.cpp's converter writes them.

What is written is read back and held against the config: what GGUF cannot say of a model is refused, not lost.
"""

from dataclasses import replace
from typing import Final

import numpy as np

from samovar.convert.same_model import difference
from samovar.convert.source import SourceModel, rope_keys
from samovar.errors import UnsupportedModel
from samovar.formats.gguf_values import EncodedValue, Kind, encode_as, encode_list
from samovar.models import ARCHITECTURES
from samovar.models.config import DecoderConfig
from samovar.models.gguf_config import config_from_gguf, gguf_architecture
from samovar.models.loader import long_rope_factors
from samovar.models.outputs import gguf_outputs

_Values = dict[str, tuple[Kind, int | float | str | bool | list[bool] | list[str]]]
_ONE_WINDOW: Final = ("mistral", "phi3")  # in all layers, or in none
_GEMMA3_PATTERN: Final = 6  # every sixth layer sees all positions, where nothing else is said


def config_keys(raw: dict[str, object], source: SourceModel, where: str) -> dict[str, EncodedValue]:
    """The architecture and its keys. Raises UnsupportedModel where the file would say another model than the config."""
    config, scoring = source.config, source.scoring
    architecture = gguf_architecture(config.architecture)
    values: _Values = {"general.architecture": ("string", architecture)}
    own = _sizes(config) | _delta_net(config, where) | _windows(config) | _rope(raw, config) | _long_rope(raw, config)
    values |= {f"{architecture}.{key}": value for key, value in own.items()}
    if scoring is not None and scoring.pooling_type is not None:
        values[f"{architecture}.pooling_type"] = ("u32", scoring.pooling_type)
    if scoring is not None and scoring.labels:
        values[f"{architecture}.classifier.output_labels"] = ("string", list(scoring.labels))
    _check(values, source, where)
    return {
        key: encode_list(kind, value) if isinstance(value, list) else encode_as(kind, value)
        for key, (kind, value) in values.items()
    }


def _sizes(config: DecoderConfig) -> _Values:
    sizes: _Values = {
        "block_count": ("u32", config.n_layers),
        "context_length": ("u32", config.max_context),
        "embedding_length": ("u32", config.d_model),
        "feed_forward_length": ("u32", config.d_ffn),
        "attention.head_count": ("u32", config.n_heads),
        "attention.head_count_kv": ("u32", config.n_kv_heads),
        "attention.key_length": ("u32", config.d_head),
        "attention.value_length": ("u32", config.d_head),
        "attention.layer_norm_rms_epsilon": ("f32", config.norm_eps),
        "rope.dimension_count": ("u32", 2 * len(config.rope.inv_freq_R)),
        "vocab_size": ("u32", config.vocab_size),
    }
    if (experts := config.experts) is not None:
        sizes |= {
            "expert_count": ("u32", experts.n_experts),
            "expert_used_count": ("u32", experts.n_chosen),
            "expert_feed_forward_length": ("u32", experts.d_ffn),
        }
        if not experts.is_renormalised:
            sizes["expert_weights_norm"] = ("bool", False)
    return sizes


def _delta_net(config: DecoderConfig, where: str) -> _Values:
    """The sizes of Qwen3-Next's heads, and which layers are attention: every so many, the first of which says how many."""
    if config.architecture != "qwen3_next":
        return {}
    if (net := config.delta_net) is None:
        raise UnsupportedModel(f"{where}: no layer is linear_attention, and GGUF has no way to say so; use the folder itself")
    interval = next(index for index in range(config.n_layers) if index not in net.layers) + 1
    return {
        "expert_shared_feed_forward_length": ("u32", config.d_shared_expert),
        "full_attention_interval": ("u32", interval),
        "ssm.conv_kernel": ("u32", net.n_taps),
        "ssm.group_count": ("u32", net.n_key_heads),
        "ssm.inner_size": ("u32", net.d_values),
        "ssm.state_size": ("u32", net.d_key),
        "ssm.time_step_rank": ("u32", net.n_value_heads),
    }


def _windows(config: DecoderConfig) -> _Values:
    """Their length, and for Gemma 3 in which layers, where that is not the published pattern."""
    sliding = [window is not None for window in config.windows or [None] * config.n_layers]
    length = next((window for window in config.windows if window is not None), config.max_context)
    if config.architecture in _ONE_WINDOW and all(sliding):
        return {"attention.sliding_window": ("u32", length)}
    if not config.architecture.startswith("gemma3"):
        return {}
    found: _Values = {"attention.sliding_window": ("u32", length)}
    if sliding != [(index + 1) % _GEMMA3_PATTERN != 0 for index in range(config.n_layers)]:
        found["attention.sliding_window_pattern"] = ("bool", sliding)
    return found


def _rope(raw: dict[str, object], config: DecoderConfig) -> _Values:
    """Bases and scaling; the scaling of Llama 3 and LongRoPE is in tensors."""
    keys = rope_keys(raw)
    kind = keys.get("rope_type", keys.get("type", "default"))
    base = _number(keys.get("rope_theta", config.rope.theta or 10_000.0))
    found: _Values = {"rope.freq_base": ("f32", base)}
    if config.local_rope is not None and config.local_rope.theta is not None:
        found["rope.freq_base_swa"] = ("f32", config.local_rope.theta)
    if kind not in ("linear", "yarn"):
        return found
    found["rope.scaling.type"] = ("string", str(kind))
    if keys.get("factor") is not None:
        found["rope.scaling.factor"] = ("f32", _number(keys["factor"]))
    names: dict[str, tuple[str, Kind]] = {
        "original_max_position_embeddings": ("original_context_length", "u32"),
        "beta_fast": ("yarn_beta_fast", "f32"),
        "beta_slow": ("yarn_beta_slow", "f32"),
    }
    for key, (name, value_kind) in names.items():
        if kind == "yarn" and keys.get(key) is not None:
            number = _number(keys[key])
            found[f"rope.scaling.{name}"] = (value_kind, int(number) if value_kind == "u32" else number)
    return found


def _long_rope(raw: dict[str, object], config: DecoderConfig) -> _Values:
    """What Phi-3 has beside its tensors of factors."""
    found: _Values = {}
    if config.architecture != "phi3":
        return found
    if (original := raw.get("original_max_position_embeddings")) is not None:
        found["rope.scaling.original_context_length"] = ("u32", int(_number(original)))
    if config.rope.attention_factor != 1:
        found["rope.scaling.attn_factor"] = ("f32", config.rope.attention_factor)
    if config.long_context is not None:  # `max_context` is what the short factors serve
        found["context_length"] = ("u32", int(_number(raw["max_position_embeddings"])))
    return found


def _number(value: object) -> float:
    assert isinstance(value, int | float), value  # the config was read before
    return float(value)


def _check(values: _Values, source: SourceModel, where: str) -> None:
    """Read the keys back."""
    config, tensors = source.config, source.tensors
    plain = {key: value for key, (_, value) in values.items()}
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    raw = config_from_gguf(plain, shapes, where) | long_rope_factors({t.name: t.parts[0] for t in tensors})
    found = ARCHITECTURES[str(raw["model_type"])].read_config(raw, where)
    prefix = plain["general.architecture"]
    pooling, labels = (plain.get(f"{prefix}.{key}") for key in ("pooling_type", "classifier.output_labels"))
    if config.outputs.kind == "none" and pooling is None:
        raise UnsupportedModel(
            f"{where}: a model without an output head, and nothing says how its states become vectors, as GGUF has to: the "
            "files of sentence-transformers are expected beside it (modules.json, 1_Pooling/config.json)"
        )
    outputs = gguf_outputs(pooling, labels, shapes, where)
    found = replace(found, outputs=config.outputs if pooling is not None else replace(outputs, is_bare=config.outputs.is_bare))
    if config.outputs.kind != "vocabulary":
        found = replace(found, is_tied=config.is_tied)  # without a head neither is true
    factors = next((t.parts[0].stored().data.view(np.float32) for t in tensors if t.name == "rope_freqs.weight"), None)
    if factors is not None:
        found = replace(found, rope=found.rope.divided_by(factors), long_context=None)
    if (differing := difference(config, found)) is not None:
        raise UnsupportedModel(
            f"{where}: GGUF has no way to say this model's {differing}: "
            "it would be another model; use the folder itself, which Samovar runs as it is"
        )
