"""GGUF metadata and tensor names, brought into the form of a Hugging Face config.json and checkpoint.

Source: the GGUF specification, and the key and tensor tables of the `gguf` package. Every `{architecture}.*` key is read,
known to be harmless, or refused by name.
"""

from collections.abc import Mapping

from samovar.errors import FormatError, UnsupportedModel
from samovar.formats.int4_rows import INT4_PREFIX

_SIZES = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.sliding_window": "sliding_window",
    "vocab_size": "vocab_size",
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
    "expert_weights_norm": "norm_topk_prob",
    "full_attention_interval": "full_attention_interval",
    "ssm.conv_kernel": "linear_conv_kernel_dim",
    "ssm.group_count": "linear_num_key_heads",
    "ssm.state_size": "linear_key_head_dim",
    "ssm.time_step_rank": "linear_num_value_heads",
}
# Architectures that have another name in Hugging Face's configs, and the way back.
_MODEL_TYPES = {"gemma3": "gemma3_text", "qwen3moe": "qwen3_moe", "qwen3next": "qwen3_next"}
_ARCHITECTURES = {"gemma3_text": "gemma3", "mistral": "llama", "qwen3_moe": "qwen3moe", "qwen3_next": "qwen3next"}
PREDICTING_LAYERS = "nextn_predict_layers"
_SOFTMAX = 1  # of `expert_gating_func`
# those of pooling are read by `models.outputs` and `llm.recipe`
_HARMLESS = frozenset({"rope.scaling.finetuned", "tensor_data_layout", "pooling_type", "classifier.output_labels"})

_LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.experts.gate_proj": "ffn_gate_exps",
    "mlp.experts.up_proj": "ffn_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "linear_attn.in_proj_qkvz": "ssm_in",
    "linear_attn.in_proj_ba": "ssm_ba",
    "linear_attn.conv1d": "ssm_conv1d",
    "linear_attn.norm": "ssm_norm",
    "linear_attn.out_proj": "ssm_out",
}
_OWN_LAYER_NAMES = {
    "gemma3_text": {
        "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    },
    "phi3": {"self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up"},
    "qwen3_next": {
        "post_attention_layernorm": "post_attention_norm",
        # what a folder joins in in_proj_qkvz
        "linear_attn.in_proj_qkv": "attn_qkv",
        "linear_attn.in_proj_z": "attn_gate",
    },
}
# Names without a kind. A folder has the logarithms of what a file has a minus before.
_WHOLE_NAMES = {"linear_attn.dt_bias": "ssm_dt.bias", "linear_attn.A_log": "ssm_a"}
_WITHOUT_ONES = (".ssm_conv1d.weight", ".ffn_gate_inp_shexp.weight")  # where a folder has axes of length 1
_27B_LAYERS = 62  # the one Gemma 3 whose queries have another scale, and which GGUF files do not say (llama.cpp, `gemma3.cpp`)
_OUTER_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "score.weight": "cls.output.weight",
    "score.bias": "cls.output.bias",
}


def gguf_tensor_name(name: str, model_type: str = "") -> str:
    """The GGUF name of a tensor, given its Hugging Face name. Some names mean another tensor in some types of models."""
    if name in _OUTER_NAMES:
        return _OUTER_NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    if rest in _WHOLE_NAMES:
        return f"blk.{layer}.{_WHOLE_NAMES[rest]}"
    module, _, kind = rest.rpartition(".")
    own = _OWN_LAYER_NAMES.get(_MODEL_TYPES.get(model_type, model_type), {})
    return f"blk.{layer}.{own.get(module) or _LAYER_NAMES[module]}.{kind}"


def folder_tensor_name(name: str, model_type: str = "") -> str:
    """The Hugging Face name of a tensor, given its GGUF name, see `gguf_tensor_name`. Raises KeyError where there is none."""
    outer = {of_file: of_folder for of_folder, of_file in _OUTER_NAMES.items()}
    if name in outer:
        return outer[name]
    parts = name.split(".")
    if len(parts) not in (3, 4) or parts[0] != "blk" or not parts[1].isdecimal():
        raise KeyError(name)
    whole = {of_file: of_folder for of_folder, of_file in _WHOLE_NAMES.items()}
    if (rest := ".".join(parts[2:])) in whole:
        return f"model.layers.{parts[1]}.{whole[rest]}"
    if len(parts) != 4:
        raise KeyError(name)
    own = _OWN_LAYER_NAMES.get(_MODEL_TYPES.get(model_type, model_type), {})
    modules = {of_file: of_folder for of_folder, of_file in (_LAYER_NAMES | own).items()}
    return f"model.layers.{parts[1]}.{modules[parts[2]]}.{parts[3]}"


def is_centred_norm(name: str) -> bool:
    """Whether a tensor of this Hugging Face name is a norm that is centred, in architectures that have such."""
    return name.endswith("norm.weight") and not name.endswith("linear_attn.norm.weight")


def model_type_of(architecture: object) -> object:
    """The `model_type` of a GGUF file's `general.architecture`."""
    architecture = architecture.removeprefix(INT4_PREFIX) if isinstance(architecture, str) else architecture
    return _MODEL_TYPES.get(architecture, architecture) if isinstance(architecture, str) else architecture


def gguf_architecture(model_type: str) -> str:
    """The `general.architecture` of GGUF files for a `model_type`."""
    return _ARCHITECTURES.get(model_type, model_type)


def config_from_gguf(
    metadata: Mapping[str, object], tensor_shapes: Mapping[str, tuple[int, ...]], where: str
) -> dict[str, object]:
    """A raw config in Hugging Face's keys.

    What a config.json states and GGUF only shows is taken from the tensors: tied heads, biases, and the vocabulary size
    where no key gives it. Raises FormatError or UnsupportedModel.
    """
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise FormatError(f"{where}: general.architecture is {architecture!r}; expected a name such as 'qwen3'")
    prefix = architecture.removeprefix(INT4_PREFIX) + "."
    rest = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
    for key in _HARMLESS:
        rest.pop(key, None)
    raw: dict[str, object] = {"model_type": model_type_of(architecture)}
    raw.update({hf_key: rest.pop(key) for key, hf_key in _SIZES.items() if key in rest})
    if "num_experts" in raw:
        _add_experts(raw, rest, tensor_shapes, where)
    if raw["model_type"] == "phi3":
        _add_phi3(raw, rest, where)
    if raw["model_type"] == "qwen3_next":
        _add_qwen3_next(raw, rest, where)
    raw["rope_parameters"] = _rope_parameters(rest, where)
    _check_widths(raw, rest, where)
    if raw["model_type"] == "llama" and raw.get("sliding_window"):
        raw["model_type"] = "mistral"  # whose files are of the same architecture; no Llama has a window
    if raw["model_type"] == "gemma3_text":
        _add_gemma3(raw, rest, where)
    raw["tie_word_embeddings"] = "output.weight" not in tensor_shapes
    raw["attention_bias"] = "blk.0.attn_q.bias" in tensor_shapes
    raw["mlp_bias"] = "blk.0.ffn_gate.bias" in tensor_shapes
    if embedding := tensor_shapes.get("token_embd.weight"):
        raw.setdefault("vocab_size", embedding[0])
    if rest:
        raise UnsupportedModel(f"{where}: metadata keys that this version does not read: {sorted(prefix + k for k in rest)}")
    return raw


def _add_experts(
    raw: dict[str, object], rest: dict[str, object], tensor_shapes: Mapping[str, tuple[int, ...]], where: str
) -> None:
    """What GGUF leaves unsaid of experts: weights sum up to 1, and layers with a plain `ffn_gate` are dense."""
    raw.setdefault("norm_topk_prob", True)
    raw["mlp_only_layers"] = sorted(
        int(parts[1]) for name in tensor_shapes if (parts := name.split("."))[2:] == ["ffn_gate", "weight"]
    )
    for key, accepted in (("expert_gating_func", (_SOFTMAX,)), ("expert_weights_scale", (0, 1))):
        if (value := rest.pop(key, accepted[0])) not in accepted:
            raise UnsupportedModel(f"{where}: {key} {value!r} is not implemented; expected {accepted[-1]}")


def _add_gemma3(raw: dict[str, object], rest: dict[str, object], where: str) -> None:
    """Which layers are local and how they rotate, and the scale of queries."""
    if (base := rest.pop("rope.freq_base_swa", None)) is not None:
        raw["rope_local_base_freq"] = base
    pattern = rest.pop("attention.sliding_window_pattern", None)
    if isinstance(pattern, list):
        raw["layer_types"] = ["sliding_attention" if is_local else "full_attention" for is_local in pattern]
    elif pattern is not None:
        raw["sliding_window_pattern"] = pattern
    d_model, n_heads, d_head = (raw.get(key) for key in ("hidden_size", "num_attention_heads", "head_dim"))
    if not all(isinstance(size, int) and size > 0 for size in (d_model, n_heads, d_head)):
        raise FormatError(
            f"{where}: embedding_length, head_count and key_length are {d_model!r}, {n_heads!r}, {d_head!r}; expected sizes"
        )
    assert isinstance(d_model, int)
    assert isinstance(n_heads, int)
    raw["query_pre_attn_scalar"] = d_model // n_heads if raw.get("num_hidden_layers") == _27B_LAYERS else d_head


def file_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that a tensor, by its GGUF name, has in files, given that in folders."""
    return tuple(size for size in shape if size > 1) if name.endswith(_WITHOUT_ONES) else shape


def folder_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that a tensor has in folders; GGUF files leave out axes of length 1."""
    if name.endswith(".ssm_conv1d.weight") and len(shape) == 2:
        return shape[0], 1, shape[1]
    return (1, *shape) if name.endswith(".ffn_gate_inp_shexp.weight") and len(shape) == 1 else shape


def _add_qwen3_next(raw: dict[str, object], rest: dict[str, object], where: str) -> None:
    """How far heads are rotated, and the width of value heads. Layers at the end that predict several tokens are left out."""
    _add_rotated_part(raw, rest, where)
    n_layers, n_predicting = raw.get("num_hidden_layers"), rest.pop(PREDICTING_LAYERS, 0)
    if not isinstance(n_layers, int) or not isinstance(n_predicting, int) or not 0 <= n_predicting < n_layers:
        raise FormatError(f"{where}: {PREDICTING_LAYERS} is {n_predicting!r} of {n_layers!r} layers; expected fewer")
    raw["num_hidden_layers"] = n_layers - n_predicting
    d_values, n_heads = rest.pop("ssm.inner_size", None), raw.get("linear_num_value_heads")
    if not isinstance(d_values, int) or not isinstance(n_heads, int) or n_heads <= 0 or d_values % n_heads:
        raise FormatError(f"{where}: ssm.inner_size is {d_values!r}, for {n_heads!r} value heads; expected a multiple")
    raw["linear_value_head_dim"] = d_values // n_heads


def _add_phi3(raw: dict[str, object], rest: dict[str, object], where: str) -> None:
    """How far heads are rotated, and from where on by the long factors. The factors themselves are tensors."""
    _add_rotated_part(raw, rest, where)
    for key, hf_key in (
        ("rope.scaling.original_context_length", "original_max_position_embeddings"),
        ("rope.scaling.attn_factor", "attention_factor"),
    ):
        if (value := rest.pop(key, None)) is not None:
            raw[hf_key] = value


def _add_rotated_part(raw: dict[str, object], rest: dict[str, object], where: str) -> None:
    d_model, n_heads = raw.get("hidden_size"), raw.get("num_attention_heads")
    if not isinstance(d_model, int) or not isinstance(n_heads, int) or n_heads <= 0:
        raise FormatError(f"{where}: embedding_length and head_count are {d_model!r} and {n_heads!r}; expected sizes")
    d_head = raw.setdefault("head_dim", d_model // n_heads)
    d_rotary = rest.pop("rope.dimension_count", d_head)
    if not isinstance(d_rotary, int) or not isinstance(d_head, int) or not 0 < d_rotary <= d_head:
        raise FormatError(f"{where}: rope.dimension_count is {d_rotary!r}, and heads are {d_head!r} wide; expected no more")
    raw["partial_rotary_factor"] = d_rotary / d_head


def _check_widths(raw: dict[str, object], rest: dict[str, object], where: str) -> None:
    """Keys and values must be of one width, and all of it rotated."""
    d_model, n_heads = raw.get("hidden_size"), raw.get("num_attention_heads")
    if "head_dim" not in raw and isinstance(d_model, int) and isinstance(n_heads, int) and n_heads > 0:
        raw["head_dim"] = d_model // n_heads
    for key in ("attention.value_length", "rope.dimension_count"):
        if (width := rest.pop(key, raw.get("head_dim"))) != raw.get("head_dim"):
            raise UnsupportedModel(
                f"{where}: {key} is {width!r}, and heads are {raw.get('head_dim')!r} wide; expected the same"
            )


def _rope_parameters(rest: dict[str, object], where: str) -> dict[str, object]:
    """RoPE keys under their Hugging Face names. GGUF's default base is 10,000."""
    parameters: dict[str, object] = {"rope_theta": rest.pop("rope.freq_base", 10_000.0), "rope_type": "default"}
    kind = rest.pop("rope.scaling.type", None)
    factor = rest.pop("rope.scaling.factor", None)
    if (old_factor := rest.pop("rope.scale_linear", None)) is not None:
        kind, factor = "linear", old_factor
    renamed = {
        "rope.scaling.original_context_length": "original_max_position_embeddings",
        "rope.scaling.yarn_beta_fast": "beta_fast",
        "rope.scaling.yarn_beta_slow": "beta_slow",
    }
    scaling = {hf_key: rest.pop(key) for key, hf_key in renamed.items() if key in rest}
    attention_factor = rest.pop("rope.scaling.attn_factor", rest.pop("rope.scaling.yarn_attn_factor", 1.0))
    if attention_factor not in (1, 1.0):
        raise UnsupportedModel(f"{where}: rope.scaling.attn_factor {attention_factor!r} is not implemented; expected 1")
    if kind in (None, "none"):
        return parameters
    parameters |= {"rope_type": kind, "factor": factor}
    return parameters | scaling if kind == "yarn" else parameters
