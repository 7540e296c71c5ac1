"""The `{architecture}.*` keys of a GGUF file from a Hugging Face config, as llama.cpp's converter writes them.

What is written is read back and held against the config: what GGUF cannot say of a model is refused, not lost.
"""

import math
from dataclasses import fields, replace
from typing import Final

import numpy as np

from samovar.convert.source import SourceTensor, rope_keys
from samovar.errors import UnsupportedModel
from samovar.formats.gguf_values import EncodedValue, Kind, encode_as
from samovar.models import ARCHITECTURES
from samovar.models.config import DecoderConfig
from samovar.models.gguf_config import config_from_gguf, gguf_architecture
from samovar.models.long_context import LongContext
from samovar.models.outputs import POOLING_LAST, gguf_outputs
from samovar.models.rope import Rope

_Values = dict[str, tuple[Kind, int | float | str | bool]]
_ROUNDING: Final = 1e-6  # numbers are kept in float32


def config_keys(
    raw: dict[str, object], config: DecoderConfig, tensors: list[SourceTensor], where: str, *, is_embedder: bool
) -> dict[str, EncodedValue]:
    """The architecture and its keys. Raises UnsupportedModel where the file would say another model than the config.

    `is_embedder` says that the last token's state is the vector of a text.
    """
    architecture = gguf_architecture(config.architecture)
    values: _Values = {"general.architecture": ("string", architecture)}
    values |= {f"{architecture}.{key}": value for key, value in (_sizes(config) | _rope(raw)).items()}
    if is_embedder:
        values[f"{architecture}.pooling_type"] = ("u32", POOLING_LAST)
    _check(values, config, tensors, where)
    return {key: encode_as(kind, value) for key, (kind, value) in values.items()}


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
        "rope.dimension_count": ("u32", config.d_head),
        "vocab_size": ("u32", config.vocab_size),
    }
    if config.architecture == "mistral" and len(set(config.windows)) == 1 and (window := config.windows[0]) is not None:
        sizes["attention.sliding_window"] = ("u32", window)
    if (experts := config.experts) is not None:
        sizes |= {
            "expert_count": ("u32", experts.n_experts),
            "expert_used_count": ("u32", experts.n_chosen),
            "expert_feed_forward_length": ("u32", experts.d_ffn),
        }
        if not experts.is_renormalised:
            sizes["expert_weights_norm"] = ("bool", False)
    return sizes


def _rope(raw: dict[str, object]) -> _Values:
    """Base and scaling; Llama 3's scaling is a tensor."""
    keys = rope_keys(raw)
    kind = keys.get("rope_type", keys.get("type", "default"))
    found: _Values = {"rope.freq_base": ("f32", _number(keys.get("rope_theta", 10_000.0)))}
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


def _number(value: object) -> float:
    assert isinstance(value, int | float), value  # the config was read before
    return float(value)


def _check(values: _Values, config: DecoderConfig, tensors: list[SourceTensor], where: str) -> None:
    """Read the keys back."""
    plain = {key: value for key, (_, value) in values.items()}
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    raw = config_from_gguf(plain, shapes, where)
    found = ARCHITECTURES[str(raw["model_type"])].read_config(raw, where)
    pooling = plain.get(f"{values['general.architecture'][1]}.pooling_type")
    found = replace(found, outputs=replace(gguf_outputs(pooling, None, shapes, where), is_bare=config.outputs.is_bare))
    factors = next((t.parts[0].stored().data.view(np.float32) for t in tensors if t.name == "rope_freqs.weight"), None)
    for entry in fields(config):
        wanted, got = getattr(config, entry.name), getattr(found, entry.name)
        if isinstance(got, Rope) and factors is not None:
            got = got.divided_by(factors)
        if entry.name != "architecture" and not _is_same(wanted, got):
            found_words = f"{entry.name.replace('_', ' ')} ({_in_words(wanted, entry.name)})"
            raise UnsupportedModel(
                f"{where}: GGUF has no way to say this model's {found_words}: "
                "it would be another model; use the folder itself, which Samovar runs as it is"
            )


def _in_words(value: object, name: str) -> str:
    """What a config says, for a message."""
    if name != "windows" or not isinstance(value, tuple):
        return str(value)[:200]
    sliding = [window for window in value if window is not None]
    lengths = " or ".join(str(length) for length in sorted(set(sliding)))
    return f"{len(sliding)} of {len(value)} layers see the last {lengths} positions, the others all of them"


def _is_same(wanted: object, got: object) -> bool:
    if isinstance(wanted, Rope) and isinstance(got, Rope):
        is_near = np.allclose(wanted.inv_freq_R, got.inv_freq_R, rtol=_ROUNDING, atol=0)
        return bool(is_near and math.isclose(wanted.attention_factor, got.attention_factor, rel_tol=_ROUNDING))
    if isinstance(wanted, LongContext) and isinstance(got, LongContext):
        lengths = [(long.native, long.trained, *long.ropes) for long in (wanted, got)]
        return lengths[0] == lengths[1] and all(_is_same(rope, got.ropes[factor]) for factor, rope in wanted.ropes.items())
    if isinstance(wanted, float) and isinstance(got, float):
        return math.isclose(wanted, got, rel_tol=_ROUNDING)
    return wanted == got
