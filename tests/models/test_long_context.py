"""Contexts beyond the native one: which factor covers what, and logits against `transformers` with the same YaRN."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel
from transformers.models.qwen3.modeling_qwen3 import Qwen3Config, Qwen3RotaryEmbedding
from transformers.utils import logging

from samovar.llm import LLM
from samovar.models.config import DecoderConfig, read_decoder_config
from tests.kernels.native_cases import ISAS
from tests.matrices import slow_but
from tests.models.tiny_checkpoints import VARIANTS, random_ids, random_model, witness_greedy, witness_logits, write_folder
from tests.models.tiny_gguf import write_gguf

NATIVE, TOLERANCE = 64, 5e-5
NAMES = ("qwen3-tied-8-to-1", "qwen2-8-to-1", "qwen3-moe")


def witness(name: str, factor: int) -> PreTrainedModel:
    """The model of a small native context, as it has to be loaded into `transformers` for one that is `factor` times longer."""
    rope = dict(VARIANTS[name].config().rope_parameters)
    if factor > 1:
        rope |= {"rope_type": "yarn", "factor": float(factor), "original_max_position_embeddings": NATIVE}
    return random_model(VARIANTS[name], max_position_embeddings=NATIVE, rope_parameters=rope)


@pytest.fixture(scope="module", params=slow_but(NAMES[:1], NAMES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    logging.disable_progress_bar()
    return write_folder(witness(name, 1), tmp_path_factory.mktemp("long") / name)


@pytest.mark.parametrize("isa", [*ISAS[-1:], "numpy"])
@pytest.mark.parametrize(("n_tokens", "factor"), [(NATIVE, 1), (NATIVE + 1, 2), (2 * NATIVE, 2), (2 * NATIVE + 1, 4), (256, 4)])
def test_logits_are_those_of_transformers_with_the_smallest_factor_that_covers_the_text(
    name: str, folder: Path, n_tokens: int, factor: int, isa: str
) -> None:
    ids = random_ids(n_tokens)
    ours_TV = LLM(folder, isa=isa).logits(ids)
    assert np.abs(ours_TV - witness_logits(witness(name, factor), ids)).max() < TOLERANCE
    for other in {1, 2, 4} - {factor}:
        assert np.abs(ours_TV - witness_logits(witness(name, other), ids)).max() > 0.1


@pytest.mark.parametrize(
    ("n_prompt", "max_tokens", "factor"), [(40, 24, 1), (40, 25, 2), (90, 30, 2), (90, 90, 4), (150, 9, 4)]
)
def test_an_answer_that_needs_more_is_that_of_transformers_from_its_first_token_on(
    name: str, folder: Path, n_prompt: int, max_tokens: int, factor: int
) -> None:
    ids = random_ids(n_prompt)
    result = LLM(folder).prepare_generate(tuple(ids), temperature=0, max_tokens=max_tokens).run()
    assert result.usage.yarn_factor == factor
    assert list(result.token_ids) == witness_greedy(witness(name, factor), ids, max_tokens)


def test_a_gguf_file_goes_as_far_with_the_same_logits(tmp_path: Path) -> None:
    llm = LLM(write_gguf(witness("qwen3-tied-8-to-1", 1), tmp_path / "tiny.gguf", "F32"))
    ids = random_ids(200)
    assert llm.max_context == 4 * NATIVE
    assert np.abs(llm.logits(ids) - witness_logits(witness("qwen3-tied-8-to-1", 4), ids)).max() < TOLERANCE


def config_of(model_type: str, n_context: int, **more: object) -> DecoderConfig:
    sizes = {
        "model_type": model_type, "hidden_size": 512, "num_attention_heads": 4, "num_hidden_layers": 2,
        "intermediate_size": 512, "vocab_size": 100, "head_dim": 128, "rope_theta": 1e6, "max_position_embeddings": n_context,
    }  # fmt: skip
    return read_decoder_config(sizes | more, "config.json")


def test_factors_reach_what_the_model_cards_say() -> None:
    qwen3, qwen2 = (config_of(*of).long_context for of in (("qwen3", 40_960), ("qwen2", 32_768)))
    for long in (qwen3, qwen2):
        assert long is not None
        assert (long.trained, long.reach(2), long.longest) == (32_768, 65_536, 131_072)
        reached = {n: long.factor_for(n) for n in (1, long.native, long.native + 1, 65_536, 65_537, 131_072, 1 << 40)}
        assert list(reached.values()) == [1, 1, 2, 2, 4, 4, 4]
    assert qwen3 is not None
    assert qwen3.native == 40_960
    instruct = config_of("qwen3_moe", 262_144).long_context
    assert instruct is not None
    assert [instruct.reach(factor) for factor in (1, 2, 4)] == [262_144, 524_288, 1_048_576]


@pytest.mark.parametrize("factor", [2, 4])
def test_the_angles_of_qwen3_are_those_of_transformers_with_the_parameters_of_its_model_card(factor: int) -> None:
    rope = {"rope_type": "yarn", "rope_theta": 1e6, "factor": float(factor), "original_max_position_embeddings": 32_768}
    config = Qwen3Config(head_dim=128, max_position_embeddings=40_960, rope_parameters=rope)
    positions = np.array([0, 1, 999, 32_768, 40_960, 65_535])
    theirs = Qwen3RotaryEmbedding(config)(torch.zeros(1), torch.tensor(positions)[None])
    long = config_of("qwen3", 40_960).long_context
    assert long is not None
    for ours_TR, reference in zip(long.tables(positions, np.full(6, factor)), theirs, strict=True):
        np.testing.assert_allclose(ours_TR, reference[0, :, :64].numpy(), atol=1e-2)  # an angle of 65,535 has 24 bits
        np.testing.assert_allclose(ours_TR[:3], reference[0, :3, :64].numpy(), atol=2e-4)


@pytest.mark.parametrize("model_type", ["llama", "mistral"])
def test_architectures_that_yarn_is_not_known_to_work_for_keep_their_own_context(model_type: str) -> None:
    assert config_of(model_type, 4096).long_context is None


@pytest.mark.parametrize("scaling", [
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768}, {"rope_type": "linear", "factor": 2.0},
])  # fmt: skip
def test_a_model_whose_config_scales_already_keeps_its_own_context(scaling: dict[str, object]) -> None:
    assert config_of("qwen3", 131_072, rope_scaling=scaling).long_context is None
