"""The JSON files of a Hugging Face folder, from the metadata of a GGUF file: config.json and generation_config.json."""

from collections.abc import Mapping
from typing import Final, cast

import numpy as np

from samovar.errors import UnsupportedModel
from samovar.formats.gguf import GgufCheckpoint
from samovar.llm.options import own_defaults
from samovar.models.gguf_config import config_from_gguf
from samovar.tensors.dtypes import TensorType
from samovar.text.tokenizer import Tokenizer

_CLASSES: Final = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}
_DTYPES: Final = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# What a class has in any case, or states in a key of its own.
_IMPLIED: Final[Mapping[str, tuple[str, ...]]] = {
    "qwen2": ("attention_bias", "mlp_bias"),
    "qwen3": ("mlp_bias",),
    "qwen3_moe": ("mlp_bias",),
    "llama": (),
}


def folder_config(checkpoint: GgufCheckpoint, tokenizer: Tokenizer, main: TensorType) -> dict[str, object]:
    """The config.json. Raises UnsupportedModel for an architecture that is not converted."""
    where = str(checkpoint.path)
    shapes = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    raw = config_from_gguf(checkpoint.facts, shapes, where)
    pooling = checkpoint.facts.get(f"{checkpoint.facts.get('general.architecture')}.pooling_type")
    if pooling not in (None, 0):
        raise UnsupportedModel(
            f"{where}: pooling_type is {pooling!r}: a model that makes vectors or scores, which is not converted to a folder; "
            "get the release's own folder"
        )
    model_type = str(raw["model_type"])
    if model_type not in _CLASSES:
        raise UnsupportedModel(f"{where}: {model_type!r} is not converted to a folder; implemented are {', '.join(_CLASSES)}")
    for key in _IMPLIED[model_type]:
        raw.pop(key, None)
    raw = {key: _short(value) for key, value in raw.items()}
    rope = {key: _short(value) for key, value in cast(dict[str, object], raw.pop("rope_parameters")).items()}
    raw["rope_theta"] = rope.pop("rope_theta")
    raw["rope_scaling"] = None if rope.get("rope_type") == "default" else rope
    return {
        "architectures": [_CLASSES[model_type]],
        **raw,
        "hidden_act": "silu",
        "torch_dtype": _DTYPES[main.name],
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
    }


def _short(value: object) -> object:
    """A fraction as it was written before the file held it in 32 bits: 1e-06, and not 9.999999974752427e-07."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


def generation_config(checkpoint: GgufCheckpoint, tokenizer: Tokenizer) -> dict[str, object]:
    """The ids that end an answer, and the sampling defaults that the file states."""
    sampling = own_defaults({}, checkpoint.facts, str(checkpoint.path))
    found: dict[str, object] = {"bos_token_id": tokenizer.bos_id, "eos_token_id": list(tokenizer.eos_ids)}
    if sampling:
        found["do_sample"] = sampling.get("temperature") != 0.0
    return {key: _short(value) for key, value in {**found, **sampling}.items() if value is not None}
