"""Quantised Hugging Face folders against `transformers` on the same weights, dequantised by the test."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, FineGrainedFP8Config, PreTrainedModel

from samovar import LLM
from samovar.formats import open_checkpoint
from samovar.kernels.native import native_missing_reason
from tests.formats.quantised_parts import METHODS, Method, write_quantised
from tests.matrices import slow_but
from tests.models.tiny_checkpoints import Variant, random_ids, random_model, witness_logits, write_folder

WIDE = Variant(
    model_type="qwen3",
    settings={
        "hidden_size": 128,
        "intermediate_size": 256,
        "head_dim": 32,
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    },
)
SPARSE = Variant(
    model_type="qwen3_moe",
    settings=WIDE.settings
    | {
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 128,
        "norm_topk_prob": True,
        "mlp_only_layers": [1],
    },
)
NEXT = Variant(
    model_type="qwen3_next",
    settings={
        "hidden_size": 128,
        "head_dim": 32,
        "num_hidden_layers": 2,
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
        "num_experts": 5,
        "num_experts_per_tok": 5,  # all, so that inputs rounded to 8 bits change no choice
        "moe_intermediate_size": 128,
        "shared_expert_intermediate_size": 128,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25},
    },
)
OF_EXPERTS = [
    "awq-g32", "awq-g128", "gptq-4", "gptq-4-ordered", "gptq-8-asym-ordered", "fp8-blocks", "fp8-channel", "packed-4-group",
    "packed-4-group-asym", "int-8-channel", "float-block",
]  # fmt: skip
N_TOKENS = 33


def quantised_folder(folder: Path, method: Method, variant: Variant = WIDE) -> PreTrainedModel:
    """Write a checkpoint whose projections are quantised; returns the model with the values that they stand for."""
    model = random_model(variant)
    write_folder(model, folder)
    values = write_quantised(folder, load_file(folder / "model.safetensors"), method)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": method.config}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(values[name] if name in values else stacked(values, name, len(parameter)))
    return model


def stacked(values: dict[str, torch.Tensor], name: str, n_experts: int) -> torch.Tensor:
    """A parameter of all experts, as `transformers` keeps it, out of the tensors of each."""
    module, part = name.rsplit(".", 1)
    parts = ("gate_proj", "up_proj") if part == "gate_up_proj" else (part,)
    return torch.stack([torch.cat([values[f"{module}.{i}.{p}.weight"] for p in parts]) for i in range(n_experts)])


def difference(ours_TV: np.ndarray, theirs_TV: np.ndarray) -> float:
    return float((np.abs(ours_TV - theirs_TV).max(axis=1) / np.abs(theirs_TV).max(axis=1)).max())


@pytest.mark.parametrize("name", METHODS)
def test_logits_equal_those_of_transformers_on_the_dequantised_weights(name: str, tmp_path: Path) -> None:
    model = quantised_folder(tmp_path, METHODS[name])
    ids = random_ids(N_TOKENS)
    wanted_TV = witness_logits(model, ids)
    assert difference(LLM(tmp_path, isa="numpy").logits(ids), wanted_TV) <= 2e-4
    if native_missing_reason() is None:
        is_float = "fp8" in name or "float" in name
        # beside integers, the input of each layer is rounded to 8 bits, as beside the types of GGUF
        assert difference(LLM(tmp_path).logits(ids), wanted_TV) <= (2e-4 if is_float else 5e-2)


@pytest.mark.parametrize("name", OF_EXPERTS)
def test_logits_of_quantised_experts_equal_those_of_transformers_on_the_dequantised_weights(name: str, tmp_path: Path) -> None:
    model = quantised_folder(tmp_path, METHODS[name], SPARSE)
    kinds = {t.type.name for n, t in open_checkpoint(tmp_path).tensors.items() if ".mlp." in n}
    assert len(kinds) == 2, "the router is in floats, and every expert in one type"
    ids = random_ids(N_TOKENS)
    wanted_TV = witness_logits(model, ids)
    assert difference(LLM(tmp_path, isa="numpy").logits(ids), wanted_TV) <= 2e-4
    if native_missing_reason() is None and ("fp8" in name or "float" in name):
        assert difference(LLM(tmp_path).logits(ids), wanted_TV) <= 2e-4


@pytest.mark.skipif(native_missing_reason() is not None, reason="the native kernels are not built")
@pytest.mark.parametrize("name", [name for name in OF_EXPERTS if "fp8" not in name and "float" not in name])
def test_native_products_of_experts_in_integers_are_near_those_of_transformers(name: str, tmp_path: Path) -> None:
    # each token takes all experts: inputs rounded to 8 bits would change a choice between two that are nearly equal
    all_chosen = replace(SPARSE, settings=SPARSE.settings | {"num_experts_per_tok": 5})
    model, ids = quantised_folder(tmp_path, METHODS[name], all_chosen), random_ids(N_TOKENS)
    assert difference(LLM(tmp_path).logits(ids), witness_logits(model, ids)) <= 5e-2


@pytest.mark.parametrize("name", ["fp8-blocks", "awq-g128", "gptq-4-ordered", "packed-4-group", "int-8-channel"])
def test_matrices_that_mix_rows_of_several_are_taken_apart_in_quantised_types_too(name: str, tmp_path: Path) -> None:
    model, ids = quantised_folder(tmp_path, METHODS[name], NEXT), random_ids(N_TOKENS)
    kinds = {t.type.name for n, t in open_checkpoint(tmp_path).tensors.items() if n.endswith(("q_proj.weight", "qkvz.weight"))}
    assert len(kinds) == 1
    assert not kinds & {"F32", "F16", "BF16"}
    wanted_TV = witness_logits(model, ids)
    assert difference(LLM(tmp_path, isa="numpy").logits(ids), wanted_TV) <= 2e-4
    if native_missing_reason() is None:
        assert difference(LLM(tmp_path).logits(ids), wanted_TV) <= (2e-4 if "fp8" in name else 5e-2)


LEFT_OUT: dict[str, dict[str, object]] = {  # as published mixtures of experts say that the router is not quantised
    "awq-g128": {"modules_to_not_convert": ["mlp.gate"]},
    "gptq-4": {"dynamic": {"-:.*mlp\\.gate$": {}}},
    "fp8-blocks": {"modules_to_not_convert": ["lm_head", "model.layers.0.mlp.gate", "model.layers.0.input_layernorm"]},
    "packed-4-group": {"ignore": ["lm_head", "re:.*mlp.gate$", "model.layers.0.mlp.gate"]},
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_routers_may_be_listed_as_not_quantised_without_their_names_beginning_those_of_experts(
    name: str, tmp_path: Path
) -> None:
    method = METHODS[name]
    model = quantised_folder(tmp_path, replace(method, config=method.config | LEFT_OUT[name]), SPARSE)
    ids = random_ids(N_TOKENS)
    assert difference(LLM(tmp_path, isa="numpy").logits(ids), witness_logits(model, ids)) <= 2e-4


@pytest.mark.parametrize("name", slow_but(["awq-g32", "gptq-4", "fp8-blocks"], METHODS))
def test_the_resident_weights_take_the_bytes_of_their_format(name: str, tmp_path: Path) -> None:
    quantised_folder(tmp_path, METHODS[name])
    checkpoint = open_checkpoint(tmp_path)
    quantised = [t for n, t in checkpoint.tensors.items() if n.endswith("_proj.weight")]
    bits = 8 * sum(t.size_bytes for t in quantised) / sum(t.n_elements for t in quantised)
    code_bits = 4 if any(part in name for part in ("awq", "gptq-2", "gptq-3", "gptq-4", "packed-4")) else 8
    assert code_bits < bits <= code_bits + 1.5


def test_transformers_dequantises_the_same_fp8_folder_to_the_same_model(tmp_path: Path) -> None:
    quantised_folder(tmp_path, METHODS["fp8-blocks"])
    config = FineGrainedFP8Config(dequantize=True, weight_block_size=(128, 128))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, quantization_config=config)
    ids = random_ids(N_TOKENS)
    assert difference(LLM(tmp_path, isa="numpy").logits(ids), witness_logits(theirs, ids)) <= 2e-4
