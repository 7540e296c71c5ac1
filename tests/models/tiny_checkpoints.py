"""Random tiny checkpoints, written and computed by `transformers`: the independent witness of the models.

Weights are drawn wider than a training run would start with, norms around 1 and biases off 0, so that a wrong rotation, a
swapped pair of matrices, a forgotten bias or a wrong head mapping shows in the first digit of the logits. Sequences of up to
`MAX_CONTEXT` tokens run past `ORIGINAL_CONTEXT`, which the scaled RoPE variants are stretched from.
"""

import copy
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCAB_SIZE, MAX_CONTEXT, ORIGINAL_CONTEXT = 320, 128, 32
CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
END_ID = 2
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# the pre-tokenizer of Qwen2
_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_MERGE_TEXT = (
    "The water in the samovar is hot, and the tea that we pour for the others is hotter than the water they pour for us. "
    "Nobody remembers whose samovar it was, or which of the cousins carried it home through the snow one evening in March."
)

_SIZES: dict[str, object] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": MAX_CONTEXT,
    "rms_norm_eps": 1e-2,  # large enough to show
    "bos_token_id": None,
    "eos_token_id": END_ID,
    "pad_token_id": None,
}
_GROUPED_WIDE: dict[str, object] = {"num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 32}
_EXPERTS: dict[str, object] = {
    "head_dim": 16,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "norm_topk_prob": True,
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}
_YARN: dict[str, object] = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": ORIGINAL_CONTEXT,
}
_LLAMA3_ROPE: dict[str, object] = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": ORIGINAL_CONTEXT,
}


_WINDOW_ABOVE: dict[str, object] = {
    "num_hidden_layers": 3, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1,
}  # fmt: skip
_PHI3: dict[str, object] = {"pad_token_id": 0, "bos_token_id": 1}
_GEMMA3: dict[str, object] = {
    "num_hidden_layers": 7,  # the sixth of which is global
    "head_dim": 32,
    "query_pre_attn_scalar": 32,
    "sliding_window": 24,
    "tie_word_embeddings": True,
    "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    },
}


_QWEN3_NEXT: dict[str, object] = {
    "num_hidden_layers": 4,
    "head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 24,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 32,
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25},
}


_LONG_ROPE: dict[str, object] = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0 + 0.1 * i for i in range(8)],
    "long_factor": [1.5 + 0.6 * i for i in range(8)],
    "original_max_position_embeddings": ORIGINAL_CONTEXT,
}


def _plain_rope(theta: float) -> dict[str, object]:
    return {"rope_type": "default", "rope_theta": theta}


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """An architecture, and what its config says beyond the common sizes."""

    model_type: str
    settings: dict[str, object]

    def config(self, **changes: object) -> object:
        """The config as a `transformers` object."""
        return AutoConfig.for_model(self.model_type, **(_SIZES | self.settings | changes))


VARIANTS: dict[str, Variant] = {
    "qwen3-tied-8-to-1": Variant(
        model_type="qwen3", settings={**_GROUPED_WIDE, "tie_word_embeddings": True, "rope_parameters": _plain_rope(1e6)}
    ),
    "qwen3-untied": Variant(
        model_type="qwen3", settings={"head_dim": 16, "tie_word_embeddings": False, "rope_parameters": _plain_rope(1e4)}
    ),
    "qwen3-biased": Variant(
        model_type="qwen3", settings={"head_dim": 32, "attention_bias": True, "rope_parameters": _plain_rope(1e4)}
    ),
    "qwen3-yarn": Variant(
        model_type="qwen3", settings={**_GROUPED_WIDE, "tie_word_embeddings": False, "rope_parameters": _YARN}
    ),
    "qwen3-moe": Variant(model_type="qwen3_moe", settings=_EXPERTS),
    "qwen3-moe-8-of-13": Variant(
        model_type="qwen3_moe",
        settings=_EXPERTS | {"num_experts": 13, "num_experts_per_tok": 8, "moe_intermediate_size": 40, "norm_topk_prob": False},
    ),
    "qwen3-moe-1-of-5": Variant(
        model_type="qwen3_moe", settings=_EXPERTS | {"num_experts": 5, "num_experts_per_tok": 1, "norm_topk_prob": False}
    ),
    "qwen3-moe-every-second": Variant(
        model_type="qwen3_moe",
        settings=_EXPERTS | {"num_hidden_layers": 5, "decoder_sparse_step": 2, "mlp_only_layers": [3], "attention_bias": True},
    ),
    "qwen3-next": Variant(model_type="qwen3_next", settings=_QWEN3_NEXT),
    "qwen3-next-other-sizes": Variant(
        model_type="qwen3_next",
        settings=_QWEN3_NEXT
        | {
            "num_hidden_layers": 5,
            "layer_types": [f"{kind}_attention" for kind in ("full", "linear", "linear", "full", "linear")],
            "num_key_value_heads": 1,
            "linear_num_key_heads": 3,
            "linear_num_value_heads": 3,
            "linear_key_head_dim": 20,
            "linear_value_head_dim": 36,
            "linear_conv_kernel_dim": 3,
            "mlp_only_layers": [2],
            "norm_topk_prob": False,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
        },
    ),
    "qwen2-tied": Variant(model_type="qwen2", settings={"tie_word_embeddings": True, "rope_parameters": _plain_rope(1e6)}),
    "qwen2-8-to-1": Variant(
        model_type="qwen2",
        settings={"num_attention_heads": 8, "num_key_value_heads": 1, "rope_parameters": _plain_rope(1e4)},
    ),
    "qwen2-yarn": Variant(model_type="qwen2", settings={"rope_parameters": _YARN | {"attention_factor": 1.25}}),
    "llama2": Variant(model_type="llama", settings={"num_key_value_heads": 4, "rope_parameters": _plain_rope(1e4)}),
    "llama3": Variant(
        model_type="llama", settings={"head_dim": 32, "tie_word_embeddings": True, "rope_parameters": _LLAMA3_ROPE}
    ),
    "llama-wide-heads": Variant(model_type="llama", settings={**_GROUPED_WIDE, "rope_parameters": _plain_rope(1e4)}),
    "llama-linear": Variant(
        model_type="llama", settings={"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}
    ),
    "llama-yarn": Variant(
        model_type="llama",
        settings={
            "head_dim": 32,
            "rope_parameters": _YARN
            | {"beta_fast": 16.0, "beta_slow": 2.0, "mscale": 1.2, "mscale_all_dim": 0.8, "truncate": False},
        },
    ),
    "llama-biased": Variant(
        model_type="llama", settings={"attention_bias": True, "mlp_bias": True, "rope_parameters": _plain_rope(1e4)}
    ),
    "mistral": Variant(
        model_type="mistral",
        settings={"head_dim": 32, "sliding_window": None, "rope_parameters": _plain_rope(1e4)},
    ),
    "mistral-window": Variant(
        model_type="mistral", settings={"head_dim": 32, "sliding_window": 20, "rope_parameters": _plain_rope(1e4)}
    ),
    "qwen2-window": Variant(
        model_type="qwen2",
        settings={**_WINDOW_ABOVE, "sliding_window": 33, "max_window_layers": 2, "rope_parameters": _plain_rope(1e4)},
    ),
    "qwen3-window": Variant(
        model_type="qwen3",
        settings={
            **_WINDOW_ABOVE,
            "head_dim": 16,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": _plain_rope(1e6),
        },
    ),
    "qwen3-moe-window": Variant(model_type="qwen3_moe", settings=_EXPERTS | _WINDOW_ABOVE),
    "phi3": Variant(
        model_type="phi3",
        settings={"num_key_value_heads": 4, "sliding_window": 29, "rope_parameters": _plain_rope(1e4)} | _PHI3,
    ),
    "phi3-long": Variant(
        model_type="phi3",
        settings=_PHI3 | {"original_max_position_embeddings": ORIGINAL_CONTEXT, "rope_parameters": _LONG_ROPE},
    ),
    "phi3-partial": Variant(
        model_type="phi3",
        settings=_PHI3
        | {
            "tie_word_embeddings": True,
            "original_max_position_embeddings": ORIGINAL_CONTEXT,
            "rope_parameters": _LONG_ROPE
            | {
                "partial_rotary_factor": 0.75,
                "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.6],
                "long_factor": [1.0, 2, 3, 5, 8, 13],
            },
        },
    ),
    "gemma3": Variant(model_type="gemma3_text", settings=_GEMMA3),
    "gemma3-other-scale": Variant(
        model_type="gemma3_text", settings=_GEMMA3 | {"num_hidden_layers": 2, "query_pre_attn_scalar": 20}
    ),
    "gemma3-scaled": Variant(
        model_type="gemma3_text",
        settings=_GEMMA3
        | {
            "hidden_size": 96,  # whose root is no whole number
            "num_hidden_layers": 3,
            "head_dim": 48,
            "query_pre_attn_scalar": 48,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 1e5, "factor": 8.0},
                "sliding_attention": _plain_rope(2e4),
            },
        },
    ),
}


def exact_twin(variant: Variant, dtype: torch.dtype) -> PreTrainedModel:
    """The model that has the weights of `random_model(variant, dtype)` and computes in float32."""
    return _converted(random_model(variant, dtype), torch.float32)


def random_model(variant: Variant, dtype: torch.dtype = torch.float32, **changes: object) -> PreTrainedModel:
    """A model with random weights, rounded to `dtype`; the same ones on every call."""
    generator = torch.Generator().manual_seed(5)
    model = AutoModelForCausalLM.from_config(variant.config(**changes), dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            is_centred = variant.model_type in ("gemma3_text", "qwen3_next") and not name.endswith("linear_attn.norm.weight")
            parameter.copy_(_scaled(name, drawn, is_centred))
    return _converted(model, dtype)


def _converted(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """The weights in `dtype`; RoPE's frequencies stay float32, as in a model that was loaded from a folder."""
    rotary = copy.deepcopy(model.model.rotary_emb)
    model = model.to(dtype)
    model.model.rotary_emb = rotary
    return model.eval()


def _scaled(name: str, drawn: torch.Tensor, has_centred_norms: bool) -> torch.Tensor:
    if name.endswith("norm.weight"):
        return 0.3 * drawn if has_centred_norms else 1 + 0.3 * drawn
    if name.endswith(".bias"):
        return 0.3 * drawn
    if "embed_tokens" in name:
        return 0.5 * drawn
    return 1.2 / drawn.shape[-1] ** 0.5 * drawn


def write_folder(
    model: PreTrainedModel, folder: Path, *, max_shard_size: str = "1GB", save_original_format: bool = True
) -> Path:
    """Save the model with a tokenizer, as `transformers` 5 writes it."""
    model.save_pretrained(folder, max_shard_size=max_shard_size, save_original_format=save_original_format)
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": CONTROL_TOKENS[END_ID],
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    return folder


def rewrite_config_as_transformers_4(folder: Path) -> None:
    """Bring config.json into the older form: `rope_theta` beside `rope_scaling`, and `torch_dtype`."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    if "sliding_attention" in rope:
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    config["rope_theta"] = rope.pop("rope_theta")
    if rope["rope_type"] == "default" and "partial_rotary_factor" in rope:
        config["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.51.0"
    path.write_text(json.dumps(config))


@cache
def tiny_tokenizer() -> Tokenizer:
    """Byte-level BPE with `VOCAB_SIZE` tokens, split as Qwen2 does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        min_frequency=1,
        show_progress=False,
        special_tokens=list(CONTROL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([_MERGE_TEXT], trainer)
    assert tokenizer.get_vocab_size() == VOCAB_SIZE
    return tokenizer


def random_ids(n_tokens: int) -> list[int]:
    """Token ids, none of them a control token."""
    rng = np.random.default_rng(n_tokens)
    return [int(i) for i in rng.integers(len(CONTROL_TOKENS), VOCAB_SIZE, n_tokens)]


def witness_logits(model: PreTrainedModel, ids: list[int]) -> NDArray[np.float32]:
    """Logits [T, V] as `transformers` computes them, in the model's own type."""
    with torch.inference_mode():
        logits: NDArray[np.float32] = model(torch.tensor([ids]), use_cache=False).logits[0].float().numpy()
    return logits


def witness_greedy(model: PreTrainedModel, ids: list[int], n_tokens: int) -> list[int]:
    """The ids that greedy decoding appends, an end token included."""
    prompt = torch.tensor([ids])
    with torch.inference_mode():
        out = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=n_tokens, pad_token_id=END_ID
        )
    return [int(i) for i in out[0, len(ids) :]]
