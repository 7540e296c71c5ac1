"""The figures of a model as its file states them, under the keys of a config.json, whichever format it is in."""

from collections.abc import Mapping
from typing import Final

from samovar.doctor.subject import Subject
from samovar.models.gguf_config import model_type_of

Figures = Mapping[str, object]

_GGUF_KEYS: Final = {
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "intermediate_size": "feed_forward_length",
    "vocab_size": "vocab_size",
    "rope_theta": "rope.freq_base",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "max_position_embeddings": "context_length",
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "shared_expert_intermediate_size": "expert_shared_feed_forward_length",
    "norm_topk_prob": "expert_weights_norm",
    "full_attention_interval": "full_attention_interval",
    "linear_conv_kernel_dim": "ssm.conv_kernel",
    "linear_num_key_heads": "ssm.group_count",
    "linear_num_value_heads": "ssm.time_step_rank",
    "linear_key_head_dim": "ssm.state_size",
}
_EMBEDDING: Final = "token_embd.weight"


def figures_of(subject: Subject) -> Figures:
    """The figures that the file states, or that follow from what it states. Those it does not state are absent."""
    stated = _of_gguf(subject) if subject.is_gguf else _of_config(subject.config)
    figures = {key: value for key, value in stated.items() if value is not None}
    width, heads = figures.get("hidden_size"), figures.get("num_attention_heads")
    if "head_dim" not in figures and isinstance(width, int) and isinstance(heads, int) and heads > 0:
        figures["head_dim"] = width // heads
    return figures


def rope_scaling_of(subject: Subject) -> str | None:
    """How positions are stretched, in words; None where they are not."""
    if subject.is_gguf:
        prefix = f"{subject.metadata.get('general.architecture')}.rope.scaling."
        kind, factor = subject.metadata.get(prefix + "type"), subject.metadata.get(prefix + "factor")
    else:
        found = subject.config.get("rope_scaling") or subject.config.get("rope_parameters")
        scaling: Mapping[str, object] = found if isinstance(found, dict) else {}
        kind, factor = scaling.get("rope_type", scaling.get("type")), scaling.get("factor")
    return None if kind in (None, "none", "default") else f"{kind}, factor {factor}"


def _of_gguf(subject: Subject) -> dict[str, object]:
    metadata = subject.metadata
    architecture = metadata.get("general.architecture")
    figures = {key: metadata.get(f"{architecture}.{name}") for key, name in _GGUF_KEYS.items()}
    figures["model_type"] = model_type_of(architecture)
    if figures["vocab_size"] is None and (embedding := subject.listed.get(_EMBEDDING)):
        figures["vocab_size"] = embedding.shape[0]
    if figures["model_type"] == "qwen3_next":
        figures["partial_rotary_factor"] = _ratio(metadata, "rope.dimension_count", "attention.key_length")
        width = _ratio(metadata, "ssm.inner_size", "ssm.time_step_rank")
        figures["linear_value_head_dim"] = width if width is None else int(width)
    return figures


def _ratio(metadata: Mapping[str, object], upper: str, lower: str) -> float | None:
    """One whole number of the architecture by another."""
    first, second = (metadata.get(f"{metadata.get('general.architecture')}.{key}") for key in (upper, lower))
    return first / second if isinstance(first, int) and isinstance(second, int) and second else None


def _of_config(config: Mapping[str, object]) -> dict[str, object]:
    figures = dict(config)
    figures.setdefault("num_experts", config.get("num_local_experts"))  # as transformers 5 writes it
    parameters = config.get("rope_parameters")
    if isinstance(parameters, dict):
        figures.setdefault("rope_theta", parameters.get("rope_theta"))
        if "partial_rotary_factor" in parameters:
            figures.setdefault("partial_rotary_factor", parameters["partial_rotary_factor"])
    return figures
