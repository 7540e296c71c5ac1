"""The tiny models of `tiny_checkpoints` as GGUF files, in the conventions of llama.cpp's converter.

Matrices are stored as asked for, vectors in f32. Files of the `llama` architecture hold the rows of q and k in the order of
interleaved rotation, and Llama 3's RoPE scaling as the tensor `rope_freqs.weight`.
"""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf.quants import dequantize, quantize
from numpy.typing import NDArray
from transformers import PreTrainedModel

from tests.models.tiny_checkpoints import CHAT_TEMPLATE, CONTROL_TOKENS, END_ID, tiny_tokenizer

TYPES = {
    "F32": gguf.GGMLQuantizationType.F32,
    "F16": gguf.GGMLQuantizationType.F16,
    "BF16": gguf.GGMLQuantizationType.BF16,
    "Q8_0": gguf.GGMLQuantizationType.Q8_0,
}
_STAY_F32 = ("mlp.gate.weight", "mlp.shared_expert_gate.weight", "conv1d.weight")
_ARCHITECTURES = {
    "qwen3": "qwen3", "qwen3_moe": "qwen3moe", "qwen2": "qwen2", "llama": "llama", "mistral": "llama", "gemma3_text": "gemma3",
    "phi3": "phi3", "qwen3_next": "qwen3next",
}  # fmt: skip


def round_weights(model: PreTrainedModel, type_name: str) -> None:
    """Replace each matrix but routers by what remains of it after storing it as `type_name`, the scale of embeddings as if
    the model were published in that type, or in bf16, and logarithms of rates as if it were published in bf16."""
    scale = getattr(model.model.embed_tokens, "embed_scale", None)
    with torch.no_grad():
        if scale is not None and type_name != "F32":
            scale.copy_(scale.to(torch.float16 if type_name == "F16" else torch.bfloat16))
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and not name.endswith(_STAY_F32):
                stored = quantize(parameter.numpy(), TYPES[type_name])
                parameter.copy_(torch.from_numpy(dequantize(stored, TYPES[type_name])))
            if name.endswith("A_log"):
                parameter.copy_(parameter.to(torch.bfloat16))


def write_gguf(
    model: PreTrainedModel,
    path: Path,
    type_name: str,
    *,
    tensors_per_file: int = 0,
    describe: Callable[[gguf.GGUFWriter], None] | None = None,
    tensors: dict[str, NDArray[np.float32]] | None = None,
) -> Path:
    """Write the model; with `tensors_per_file`, in several files. `describe` writes a tokenizer and what else there is to say
    in place of the tiny one, and `tensors` are written beside the model's, in f32. Returns the file to open."""
    config = model.config
    writer = gguf.GGUFWriter(path, _ARCHITECTURES[config.model_type], split_max_tensors=tensors_per_file)
    _add_sizes(writer, config)
    (describe or add_tokenizer)(writer)
    tables = [
        gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, arch.upper()), config.num_hidden_layers)
        for arch in (writer.arch, "qwen3")  # dense layers among sparse ones have names that only the latter knows
    ]
    for key in ("short", "long"):
        if factors_R := model.config.rope_parameters.get(f"{key}_factor"):
            writer.add_tensor(f"rope_factors_{key}.weight", np.array(factors_R, np.float32))
    if factors_R := _rope_factors(model):
        writer.add_tensor("rope_freqs.weight", np.array(factors_R, np.float32))
    for name, values in _in_parts(model):
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if writer.arch == "llama" and (heads := _n_heads(name, config)):
            values = _interleaved(values, heads)
        if writer.arch == "gemma3" and name.endswith("norm.weight"):
            values = values + np.float32(1)
        if writer.arch == "qwen3next":
            name, values = _as_qwen3next(name, values)
        module, _, kind = name.rpartition(".")
        kept = "F32" if values.ndim == 1 or name.endswith(_STAY_F32) else type_name
        stored = quantize(values, TYPES[kept])
        known = next(found for table in tables if (found := table.get_name(module)))
        writer.add_tensor(f"{known}.{kind}" if kind else known, stored, raw_dtype=TYPES[kept])
    for name, values in (tensors or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return min(path.parent.glob(f"{path.stem}*.gguf"))


def _parameters(model: PreTrainedModel) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """All of them, gate and up of experts apart."""
    for name, tensor in model.state_dict().items():
        values = tensor.float().numpy()
        if name.endswith("experts.gate_up_proj"):
            for part, half in zip(("gate", "up"), np.split(values, 2, axis=1), strict=True):
                yield f"{name.removesuffix('gate_up_proj')}{part}_proj.weight", np.ascontiguousarray(half)
        else:
            yield f"{name}.weight" if name.endswith("experts.down_proj") else name, values


def _in_parts(model: PreTrainedModel) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """All parameters, z of delta nets apart from queries, keys and values, each with the rows of all heads together."""
    config = model.config
    for name, values in _parameters(model):
        if not name.endswith("in_proj_qkvz.weight"):
            yield name, values
            continue
        d_key, d_group = (
            config.linear_key_head_dim,
            config.linear_value_head_dim * (config.linear_num_value_heads // config.linear_num_key_heads),
        )
        groups = torch.from_numpy(values).view(config.linear_num_key_heads, -1, values.shape[1])
        q, k, v, z = (part.reshape(-1, values.shape[1]) for part in torch.split(groups, [d_key, d_key, d_group, d_group], 1))
        yield name.replace("qkvz", "qkv"), torch.cat((q, k, v)).numpy()
        yield name.replace("qkvz", "z"), z.numpy()


def _as_qwen3next(name: str, values: NDArray[np.float32]) -> tuple[str, NDArray[np.float32]]:
    """Norms with 1 added, rates with a minus and without a kind, no axes of length 1."""
    if name.endswith("norm.weight") and not name.endswith("linear_attn.norm.weight"):
        return name, values + np.float32(1)
    if name.endswith("A_log"):
        return f"{name}.", -torch.exp(torch.from_numpy(values)).numpy()
    if name.endswith("conv1d.weight"):
        return name, values[:, 0]
    return name.replace("dt_bias", "dt_proj.bias"), values


def _add_sizes(writer: gguf.GGUFWriter, config: object) -> None:
    d_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(d_head)
    writer.add_value_length(d_head)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    part = config.rope_parameters.get("partial_rotary_factor", 1.0)
    writer.add_rope_dimension_count(int(part * d_head))
    if config.model_type in ("qwen3_moe", "qwen3_next"):
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
        if not config.norm_topk_prob:
            writer.add_expert_weights_norm(False)
    if config.model_type == "qwen3_next":
        writer.add_expert_shared_feed_forward_length(config.shared_expert_intermediate_size)
        writer.add_ssm_conv_kernel(config.linear_conv_kernel_dim)
        writer.add_ssm_state_size(config.linear_key_head_dim)
        writer.add_ssm_group_count(config.linear_num_key_heads)
        writer.add_ssm_time_step_rank(config.linear_num_value_heads)
        writer.add_ssm_inner_size(config.linear_num_value_heads * config.linear_value_head_dim)
        writer.add_full_attention_interval(config.layer_types.index("full_attention") + 1)
    rope = config.rope_parameters
    if config.model_type == "gemma3_text":
        rope, local = rope["full_attention"], rope["sliding_attention"]
        if local["rope_theta"] != 1e4:
            writer.add_float32("gemma3.rope.freq_base_swa", local["rope_theta"])
        if config.layer_types[0] == "full_attention":
            writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config.layer_types])
    if getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "longrope":
        original = rope["original_max_position_embeddings"]
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_scaling_attn_factors(
            math.sqrt(1 + math.log(config.max_position_embeddings / original) / math.log(original))
        )
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])


def add_tokenizer(writer: gguf.GGUFWriter) -> None:
    """The tiny tokenizer, and a chat template."""
    model = json.loads(tiny_tokenizer().to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([control if token in CONTROL_TOKENS else normal for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_eos_token_id(END_ID)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _rope_factors(model: PreTrainedModel) -> list[float]:
    """Llama 3: by how much each frequency is divided. Empty for other RoPE types."""
    rope = model.config.rope_parameters
    if rope.get("rope_type") != "llama3":
        return []
    scaled_R = model.model.rotary_emb.inv_freq.double()
    plain_R = rope["rope_theta"] ** -(torch.arange(len(scaled_R), dtype=torch.float64) / len(scaled_R))
    return [float(factor) for factor in plain_R / scaled_R]


def _n_heads(name: str, config: object) -> int:
    """Heads of a tensor whose rows are reordered, else 0."""
    if "q_proj" in name:
        return int(config.num_attention_heads)
    return int(config.num_key_value_heads) if "k_proj" in name else 0


def _interleaved(values: NDArray[np.float32], n_heads: int) -> NDArray[np.float32]:
    """Rows (head, half, pair) in the order (head, pair, half)."""
    rows = np.arange(len(values)).reshape(n_heads, 2, -1).transpose(0, 2, 1).reshape(-1)
    return values[rows]
