"""Our logits against those of `transformers`, on random tiny checkpoints of every architecture and variant."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from samovar.kernels.native import native_missing_reason
from samovar.llm import LLM
from tests.matrices import slow_but
from tests.models.conftest import TinyCheckpoints
from tests.models.tiny_checkpoints import (
    ORIGINAL_CONTEXT,
    VARIANTS,
    exact_twin,
    random_ids,
    random_model,
    rewrite_config_as_transformers_4,
    witness_greedy,
    witness_logits,
    write_folder,
)
from tests.models.tiny_gguf import round_weights, write_gguf
from tests.packages import missing

LENGTHS = (1, 31, 33, 100)
TOLERANCE = 2e-4


@pytest.fixture(params=["native", pytest.param("numpy", marks=pytest.mark.slow)])
def isa(request: pytest.FixtureRequest) -> str | None:
    """Both implementations of the operations; None chooses the native ones for this machine."""
    if request.param == "numpy":
        return "numpy"
    if (reason := native_missing_reason()) is not None:
        missing(f"the native kernels: {reason}")
    return None


def difference(ours_TV: NDArray[np.float32], theirs_TV: NDArray[np.float32]) -> float:
    """The largest over all positions of: largest difference over largest magnitude."""
    assert ours_TV.shape == theirs_TV.shape
    return float((np.abs(ours_TV - theirs_TV).max(axis=1) / np.abs(theirs_TV).max(axis=1)).max())


def root_mean_square(x: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean(x.astype(np.float64) ** 2)))


@pytest.mark.parametrize("name", VARIANTS)
def test_f32_logits_equal_those_of_transformers(name: str, isa: str | None, tiny_checkpoints: TinyCheckpoints) -> None:
    folder, model = tiny_checkpoints.get(name)
    llm = LLM(folder, isa=isa)
    assert max(LENGTHS) > ORIGINAL_CONTEXT
    for n_tokens in LENGTHS:
        ids = random_ids(n_tokens)
        assert difference(llm.logits(ids), witness_logits(model, ids)) <= TOLERANCE, n_tokens


@pytest.mark.parametrize("name", ["qwen3-moe", "qwen3-moe-every-second", "qwen3-next"])
def test_experts_as_transformers_5_keeps_them_in_memory_give_the_same_logits(
    name: str, tmp_path: Path, isa: str | None, tiny_checkpoints: TinyCheckpoints
) -> None:
    _, model = tiny_checkpoints.get(name)
    folder = write_folder(model, tmp_path / "fused", save_original_format=False)
    assert any(key.endswith("mlp.experts.gate_up_proj") for key in load_file(folder / "model.safetensors"))
    ids = random_ids(33)
    assert difference(LLM(folder, isa=isa).logits(ids), witness_logits(model, ids)) <= TOLERANCE


@pytest.mark.parametrize(
    "name",
    ["qwen3-tied-8-to-1", "qwen3-moe-8-of-13", "qwen3-next", "qwen2-8-to-1", "llama3", "mistral", "mistral-window", "gemma3"],
)
def test_bf16_logits_are_as_near_to_f32_as_those_of_transformers(
    name: str, isa: str | None, tiny_checkpoints: TinyCheckpoints
) -> None:
    folder, model = tiny_checkpoints.get(name, torch.bfloat16)
    exact_model = exact_twin(VARIANTS[name], torch.bfloat16)
    ids = random_ids(100)
    exact_TV = witness_logits(exact_model, ids)
    our_error = root_mean_square(LLM(folder, isa=isa).logits(ids) - exact_TV)
    assert our_error <= 1.2 * root_mean_square(witness_logits(model, ids) - exact_TV)


@pytest.mark.parametrize("name", ["qwen3-untied", "qwen2-tied", "llama2"])
def test_f16_logits_equal_those_of_the_same_weights_in_f32(
    name: str, isa: str | None, tiny_checkpoints: TinyCheckpoints
) -> None:
    folder, _ = tiny_checkpoints.get(name, torch.float16)
    exact_model = exact_twin(VARIANTS[name], torch.float16)
    ids = random_ids(33)
    assert difference(LLM(folder, isa=isa, kv_type="f32").logits(ids), witness_logits(exact_model, ids)) <= TOLERANCE


@pytest.mark.parametrize("name", VARIANTS)
def test_a_config_as_transformers_4_writes_it_means_the_same(
    name: str, tmp_path: Path, tiny_checkpoints: TinyCheckpoints
) -> None:
    _, model = tiny_checkpoints.get(name)
    folder = write_folder(model, tmp_path / name)
    rewrite_config_as_transformers_4(folder)
    ids = random_ids(60)
    assert difference(LLM(folder).logits(ids), witness_logits(model, ids)) <= TOLERANCE


def test_a_sharded_checkpoint_gives_the_same_logits(tmp_path: Path, tiny_checkpoints: TinyCheckpoints) -> None:
    _, model = tiny_checkpoints.get("qwen3-untied")
    folder = write_folder(model, tmp_path / "sharded", max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    ids = random_ids(33)
    assert difference(LLM(folder).logits(ids), witness_logits(model, ids)) <= TOLERANCE


@pytest.mark.parametrize(
    "name",
    [
        *("qwen3-tied-8-to-1", "qwen3-moe", "qwen3-next", "qwen3-yarn", "qwen2-8-to-1", "llama3", "mistral", "mistral-window"),
        "gemma3",
    ],
)
def test_greedy_decoding_gives_the_tokens_of_transformers(
    name: str, isa: str | None, tiny_checkpoints: TinyCheckpoints
) -> None:
    folder, model = tiny_checkpoints.get(name)
    llm = LLM(folder, isa=isa)
    prompt = "Nobody remembers whose samovar it was, or who carried it home."
    prompt_ids = llm.tokenizer.encode(prompt)
    assert len(prompt_ids) < ORIGINAL_CONTEXT
    result = llm.generate(prompt, temperature=0, max_tokens=40)
    assert list(result.token_ids) == witness_greedy(model, list(prompt_ids), 40)


@pytest.mark.parametrize("type_name", slow_but(["F16"], ["F32", "F16", "BF16"]))
@pytest.mark.parametrize(
    "name",
    [
        "qwen3-tied-8-to-1",
        "qwen3-yarn",
        "qwen2-8-to-1",
        "llama2",
        "llama3",
        "llama-linear",
        "llama-biased",
        "mistral",
        "qwen3-moe",
        "qwen3-moe-8-of-13",
        "qwen3-moe-1-of-5",
        "qwen3-moe-every-second",
        "mistral-window",
        "gemma3",
        "gemma3-scaled",
        "phi3",
        "phi3-long",
        "phi3-partial",
        "qwen3-next",
    ],
)
def test_a_gguf_file_gives_the_logits_of_its_weights(name: str, type_name: str, tmp_path: Path) -> None:
    model = random_model(VARIANTS[name])
    round_weights(model, type_name)
    llm = LLM(write_gguf(model, tmp_path / f"{name}.gguf", type_name), kv_type="f32")
    ids = random_ids(100)
    assert difference(llm.logits(ids), witness_logits(model, ids)) <= TOLERANCE


@pytest.mark.parametrize("name", ["qwen3-tied-8-to-1", "qwen3-moe", "qwen3-next", "qwen2-8-to-1", "llama3"])
def test_q8_0_weights_are_taken_exactly_by_the_definition(name: str, tmp_path: Path) -> None:
    model = random_model(VARIANTS[name])
    round_weights(model, "Q8_0")
    llm = LLM(write_gguf(model, tmp_path / f"{name}.gguf", "Q8_0"), isa="numpy", kv_type="f32")
    ids = random_ids(33)
    assert difference(llm.logits(ids), witness_logits(model, ids)) <= TOLERANCE


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("qwen3-tied-8-to-1", {}),
        ("qwen3-moe", {"num_experts_per_tok": 8}),  # all of them, so that rounding makes no other choice
        (
            "qwen3-next",
            {"num_experts_per_tok": 8, "num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"]},
        ),
        ("qwen2-8-to-1", {}),
        ("llama3", {}),
    ],
)
def test_q8_0_weights_cost_the_native_kernels_no_more_than_rounded_activations(
    name: str, changes: dict[str, object], tmp_path: Path
) -> None:
    if (reason := native_missing_reason()) is not None:
        missing(f"the native kernels: {reason}")
    model = random_model(VARIANTS[name], **changes)
    round_weights(model, "Q8_0")
    llm = LLM(write_gguf(model, tmp_path / f"{name}.gguf", "Q8_0"))
    ids = random_ids(100)
    exact_TV = witness_logits(model, ids)
    assert root_mean_square(llm.logits(ids) - exact_TV) <= 0.025 * root_mean_square(exact_TV)


def test_a_split_gguf_file_gives_the_same_logits(tmp_path: Path) -> None:
    model = random_model(VARIANTS["llama3"])
    first = write_gguf(model, tmp_path / "split.gguf", "F32", tensors_per_file=8)
    assert len(list(tmp_path.glob("*.gguf"))) > 2
    ids = random_ids(33)
    assert difference(LLM(first).logits(ids), witness_logits(model, ids)) <= TOLERANCE
