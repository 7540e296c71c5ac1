"""The witness itself: faults that a model file could have must show in its logits, far above the tolerance for ours."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tests.models.tiny_checkpoints import VARIANTS, random_ids, random_model, witness_logits

Weights = dict[str, Tensor]


def _exchange(first: str, second: str) -> Callable[[Weights], None]:
    def fault(weights: Weights) -> None:
        for name in [name for name in weights if first in name]:
            other = name.replace(first, second)
            a, b = weights[name].clone(), weights[other].clone()
            weights[name].copy_(b)
            weights[other].copy_(a)

    return fault


def _zero_biases(name: str) -> Callable[[Weights], None]:
    def fault(weights: Weights) -> None:
        for key, weight in weights.items():
            if key.endswith(f"{name}.bias"):
                weight.zero_()

    return fault


def _roll_kv_heads(weights: Weights) -> None:
    for key, weight in weights.items():
        if "k_proj" in key or "v_proj" in key:
            weight.copy_(weight.roll(len(weight) // 2, 0))


def _roll_experts(name: str) -> Callable[[Weights], None]:
    def fault(weights: Weights) -> None:
        for key, weight in weights.items():
            if key.endswith(name):
                weight.copy_(weight.roll(1, 0))

    return fault


def _swap_halves(weights: Weights) -> None:
    for key, weight in weights.items():
        if key.endswith("gate_up_proj"):
            weight.copy_(weight.roll(weight.shape[1] // 2, 1))


def _scaled_logits(model: PreTrainedModel, n_tokens: int) -> np.ndarray:
    logits = witness_logits(model, random_ids(n_tokens))
    return logits / np.abs(logits).max(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("qwen3-untied", _exchange("gate_proj", "up_proj")),
        ("qwen3-untied", _exchange("q_norm", "k_norm")),
        ("qwen3-untied", _exchange("input_layernorm", "post_attention_layernorm")),
        ("qwen3-moe", _roll_experts("mlp.gate.weight")),
        ("qwen3-moe", _roll_experts("down_proj")),
        ("qwen3-moe", _swap_halves),
        ("qwen3-biased", _zero_biases("o_proj")),
        ("qwen2-tied", _zero_biases("q_proj")),
        ("qwen2-tied", _zero_biases("v_proj")),
        ("llama-biased", _zero_biases("down_proj")),
        ("llama3", _roll_kv_heads),
    ],
)
def test_a_fault_in_the_weights_shows_in_the_logits(name: str, fault: Callable[[Weights], None]) -> None:
    model = random_model(VARIANTS[name])
    right = _scaled_logits(model, 33)
    with torch.no_grad():
        fault(dict(model.named_parameters()))
    assert np.abs(_scaled_logits(model, 33) - right).max() > 0.01


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("qwen3-untied", {"rope_theta": 11_000.0}),
        ("qwen3-yarn", {"rope_type": "default"}),
        ("qwen3-yarn", {"attention_factor": 1.0}),
        ("qwen2-yarn", {"attention_factor": None}),
        ("llama-yarn", {"truncate": True}),
        ("llama-yarn", {"mscale": None}),
        ("llama-yarn", {"beta_fast": 32.0, "beta_slow": 1.0}),
        ("llama3", {"rope_type": "default"}),
        ("llama3", {"high_freq_factor": 2.0}),
        ("llama-linear", {"rope_type": "default"}),
    ],
)
def test_a_fault_in_the_rotation_shows_in_the_logits(name: str, change: dict[str, object]) -> None:
    variant = VARIANTS[name]
    rope = variant.settings["rope_parameters"]
    assert isinstance(rope, dict)
    changed = {key: value for key, value in (rope | change).items() if value is not None}
    if changed["rope_type"] == "default":
        changed = {"rope_type": "default", "rope_theta": changed["rope_theta"]}
    right = _scaled_logits(random_model(variant), 100)
    wrong = _scaled_logits(random_model(variant, rope_parameters=changed), 100)
    assert np.abs(wrong - right).max() > 0.002


@pytest.mark.parametrize("change", [{"norm_topk_prob": False}, {"num_experts_per_tok": 3}, {"num_experts_per_tok": 1}], ids=str)
def test_a_fault_in_the_choice_of_experts_shows_in_the_logits(change: dict[str, object]) -> None:
    variant = VARIANTS["qwen3-moe"]
    right, wrong = _scaled_logits(random_model(variant), 33), _scaled_logits(random_model(variant, **change), 33)
    assert np.abs(wrong - right).max() > 0.01
