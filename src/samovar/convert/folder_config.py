"""The JSON files of a Hugging Face folder, from the metadata of a GGUF file: config.json and generation_config.json."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, cast

import numpy as np

from samovar.convert.llama3_rope import llama3_settings
from samovar.convert.same_model import difference
from samovar.convert.text_scoring import TextScoring, label_config
from samovar.errors import UnsupportedModel
from samovar.formats.gguf import GgufCheckpoint
from samovar.kernels.dequantise import dequantise
from samovar.llm.options import own_defaults
from samovar.models import ARCHITECTURES
from samovar.models.config import DecoderConfig
from samovar.models.loader import LONG_ROPE_FACTORS, ROPE_FACTORS, raw_config, with_rope_factors
from samovar.tensors.dtypes import TensorType
from samovar.text.tokenizer import Tokenizer

_DTYPES: Final = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_ACTIVATION: Final = {"hidden_act": "silu"}
_NO_BIASES: Final = {"attention_bias": False, "mlp_bias": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Class:
    """The classes of transformers for a `model_type`, what they have in any case, and what their configs say beside sizes."""

    name: str
    classifier: str
    implied: Mapping[str, bool] = field(default_factory=dict)
    stated: Mapping[str, object] = field(default_factory=lambda: _ACTIVATION)


def _named(stem: str, **implied: bool) -> _Class:
    return _Class(name=f"{stem}ForCausalLM", classifier=f"{stem}ForSequenceClassification", implied=implied)


_CLASSES: Final = {
    "gemma3_text": _Class(
        name="Gemma3ForCausalLM",
        classifier="Gemma3TextForSequenceClassification",
        implied={"mlp_bias": False},
        stated={"hidden_activation": "gelu_pytorch_tanh"},
    ),
    "llama": _named("Llama"),
    "mistral": _named("Mistral", **_NO_BIASES),
    "phi3": _named("Phi3", **_NO_BIASES),
    "qwen2": _named("Qwen2", attention_bias=True, mlp_bias=False),
    "qwen3": _named("Qwen3", mlp_bias=False),
    "qwen3_moe": _named("Qwen3Moe", mlp_bias=False),
    "qwen3_next": _named("Qwen3Next", mlp_bias=False),
}


def folder_config(
    checkpoint: GgufCheckpoint, config: DecoderConfig, tokenizer: Tokenizer, main: TensorType, scoring: TextScoring
) -> dict[str, object]:
    """The config.json. Raises UnsupportedModel for an architecture that is not converted, and where the config.json would say
    another model than the file."""
    where = str(checkpoint.path)
    raw = raw_config(checkpoint)
    if (divisors := checkpoint.tensors.get(ROPE_FACTORS)) is not None:
        plain_R, config = config.rope.inv_freq_R, with_rope_factors(config, divisors)
        settings = llama3_settings(plain_R, dequantise(divisors.type, divisors.stored().data))
        raw["rope_parameters"] = cast(dict[str, object], raw["rope_parameters"]) | settings
    model_type = str(raw["model_type"])
    if model_type not in _CLASSES:
        raise UnsupportedModel(f"{where}: {model_type!r} is not converted to a folder; implemented are {', '.join(_CLASSES)}")
    known = _CLASSES[model_type]
    for key, value in known.implied.items():
        if (found := raw.pop(key, value)) != value:
            raise UnsupportedModel(
                f"{where}: {key} is {found!r}, and {known.name} of transformers has {value!r} in any case; use the GGUF "
                "file itself"
            )
    if model_type == "gemma3_text":
        windows = config.windows or [None] * config.n_layers
        raw["layer_types"] = ["full_attention" if window is None else "sliding_attention" for window in windows]
        raw.pop("sliding_window_pattern", None)
        raw.setdefault("rope_local_base_freq", 10_000.0)
    is_classifier = config.outputs.kind == "labels"
    result = {
        "architectures": [known.classifier if is_classifier else known.name],
        **_with_rope(raw),
        **known.stated,
        "torch_dtype": _DTYPES[main.name],
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": checkpoint.facts.get("tokenizer.ggml.padding_token_id"),  # some classes have one of their own
    } | (label_config(scoring) if is_classifier else {})
    read = ARCHITECTURES[model_type].read_config(dict(result), where)
    if (differing := difference(config, replace(read, outputs=config.outputs))) is not None:
        raise UnsupportedModel(
            f"{where}: a config.json has no way to say this model's {differing}: it would be another model; use the GGUF file "
            "itself, which Samovar runs as it is"
        )
    return result


def _with_rope(raw: dict[str, object]) -> dict[str, object]:
    """The settings in the form of transformers 4, with its keys for rotation."""
    raw = {key: _short(value) for key, value in raw.items()}
    rope = {key: _short(value) for key, value in cast(dict[str, object], raw.pop("rope_parameters")).items()}
    raw["rope_theta"] = rope.pop("rope_theta")
    factors = {key: raw.pop(key) for key in LONG_ROPE_FACTORS if key in raw}
    if factors:
        rope = {"rope_type": "longrope", "type": "longrope", **factors}
        scale = raw.pop("attention_factor", None)
        if scale is not None and not math.isclose(cast(float, scale), _longrope_scale(raw), rel_tol=1e-6):
            rope["attention_factor"] = scale
    raw["rope_scaling"] = None if rope.get("rope_type") == "default" else rope
    return raw


def _longrope_scale(raw: Mapping[str, object]) -> float:
    """The attention factor that a config.json leaves unsaid."""
    longest = cast(int, raw["max_position_embeddings"])
    original = cast(int, raw.get("original_max_position_embeddings", longest))
    return math.sqrt(1 + math.log(longest / original) / math.log(original)) if longest > original > 1 else 1.0


def _short(value: object) -> object:
    """A fraction as it was written before the file held it in 32 bits: 1e-06, and not 9.999999974752427e-07."""
    if isinstance(value, list):
        return [_short(element) for element in value]
    return float(str(np.float32(value))) if isinstance(value, float) else value


def generation_config(checkpoint: GgufCheckpoint, tokenizer: Tokenizer) -> dict[str, object]:
    """The ids that end an answer, and the sampling defaults that the file states."""
    sampling = own_defaults({}, checkpoint.facts, str(checkpoint.path))
    found: dict[str, object] = {"bos_token_id": tokenizer.bos_id, "eos_token_id": list(tokenizer.eos_ids)}
    if sampling:
        found["do_sample"] = sampling.get("temperature") != 0.0
    return {key: _short(value) for key, value in {**found, **sampling}.items() if value is not None}
