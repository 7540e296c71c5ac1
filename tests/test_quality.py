"""The real models: as near to the exact model as llama.cpp is, and an answer that everybody knows."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.changed_models import divergences, hidden_states, unchanged
from benchmarks.exact_model import ExactFile, exact_logits, load_exact_model
from benchmarks.quality import (
    N_WINDOWS,
    SCORED_TOKENS,
    WINDOW_TOKENS,
    Scores,
    StoredScores,
    cut_into_windows,
    ratio_interval,
    score,
)
from benchmarks.quantisers import KINDS, Subject
from samovar.convert.type_mix import MIXES
from samovar.kernels.native import native_ops
from samovar.llm import LLM
from tests.models.tiny_checkpoints import VARIANTS, VOCAB_SIZE, random_ids, random_model, witness_logits
from tests.models.tiny_gguf import round_weights, write_gguf
from tests.packages import needs_llama_cpp
from tests.real_models import QWEN_CODER, SMOLLM2, real_model


@pytest.fixture(scope="module", params=[SMOLLM2, QWEN_CODER])
def model(request: pytest.FixtureRequest) -> str:
    """A catalogue name."""
    return str(request.param)


@pytest.fixture(scope="module")
def path(model: str) -> Path:
    return real_model(model)


@pytest.fixture(scope="module")
def llm(path: Path) -> LLM:
    return LLM(path, max_context=2048)


@pytest.mark.slow
def test_the_stored_windows_are_the_text_as_we_encode_it(model: str, llm: LLM) -> None:
    np.testing.assert_array_equal(
        cut_into_windows(lambda text: list(llm.tokenizer.encode(text))), StoredScores.load(model).windows
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a minute where nothing else runs
def test_probabilities_are_as_near_to_the_exact_ones_as_those_of_llama_cpp(model: str, path: Path, llm: LLM) -> None:
    """On every second window; `benchmarks.quality` takes them all."""
    stored = StoredScores.load(model)
    kl_N, agrees_N = (x.reshape(N_WINDOWS, -1)[::2].reshape(-1) for x in (stored.scores.kl_N, stored.scores.agrees_N))
    theirs = Scores(kl_N=kl_N, agrees_N=agrees_N)
    ours = score(load_exact_model(path), stored.windows[::2], {"samovar": llm.logits})["samovar"]
    _, high = ratio_interval(ours.kl_N, theirs.kl_N)
    print(f"{model}: KL {ours.mean_kl:.6f} against {theirs.mean_kl:.6f}, ratio at most {high:.3f}; ", end="")
    print(f"same first token {ours.top_1:.2f} % against {theirs.top_1:.2f} %")
    assert len(ours.kl_N) == 2000
    assert high <= 1.10
    assert ours.top_1 >= theirs.top_1 - 0.5


@pytest.mark.slow
def test_the_capital_of_france_is_paris(llm: LLM) -> None:
    assert "Paris" in llm.chat("What is the capital of France?", temperature=0, max_tokens=40).text


@pytest.mark.parametrize("name", ["llama2", "qwen2-8-to-1", "qwen2-tied"])
def test_the_exact_model_is_that_of_the_dequantised_tensors(name: str, tmp_path: Path) -> None:
    model = random_model(VARIANTS[name])
    round_weights(model, "Q8_0")
    exact = load_exact_model(write_gguf(model, tmp_path / "tiny.gguf", "Q8_0"))
    ids = random_ids(100)
    found = np.concatenate([piece.numpy() for piece in exact_logits(exact, ids)])
    np.testing.assert_allclose(found, witness_logits(model, ids), atol=2e-5)


@pytest.mark.parametrize("name", ["llama2", "qwen2-tied"])
def test_divergences_a_layer_at_a_time_are_those_of_whole_models(name: str, tmp_path: Path) -> None:
    exact, coarse = random_model(VARIANTS[name]), random_model(VARIANTS[name])
    with torch.no_grad():
        for parameter in coarse.parameters():
            parameter.copy_(_in_steps(parameter) if parameter.ndim > 1 else parameter)
    windows = np.random.default_rng(5).integers(3, VOCAB_SIZE, (2, 40), np.int32)
    log_p_NV, log_q_NV = (
        torch.from_numpy(np.concatenate([witness_logits(model, w) for w in windows.tolist()])).double().log_softmax(dim=1)
        for model in (exact, coarse)
    )
    path = write_gguf(exact, tmp_path / "tiny.gguf", "F32")
    file = ExactFile(path)
    exact_ND = hidden_states(file, windows)
    kept_N, found_N = (
        divergences(file, exact_ND, hidden_states(file, windows, change), change)
        for change in (unchanged, lambda _name, rows: _in_steps(rows))
    )
    np.testing.assert_allclose(found_N, (log_p_NV.exp() * (log_p_NV - log_q_NV)).sum(dim=1), rtol=2e-3, atol=1e-6)
    assert found_N.mean() > 1e-3
    assert np.abs(kept_N).max() < 1e-9


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """The smaller real model; what its exact one computes, and the importance of its columns, are found once."""
    needs_llama_cpp()
    return Subject(path=real_model(SMOLLM2), ops=native_ops(), folder=tmp_path_factory.mktemp("subject"))


@pytest.mark.slow
@pytest.mark.parametrize("type_name", ["iq4_nl", "q4_0"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_model_is_as_near_to_its_source_as_one_by_the_quantiser_of_llama_cpp(
    type_name: str, kind: str, subject: Subject
) -> None:
    ours_N, theirs_N = subject.compare(StoredScores.load(SMOLLM2).windows[:2], MIXES[type_name], kind)
    assert ours_N.mean() <= 1.02 * theirs_N.mean()


def _in_steps(values: torch.Tensor) -> torch.Tensor:
    return (values * 16).round() / 16


def test_a_score_is_the_divergence_at_the_last_positions_of_each_window() -> None:
    model = random_model(VARIANTS["qwen2-tied"])
    windows = np.random.default_rng(2).integers(3, VOCAB_SIZE, (N_WINDOWS, WINDOW_TOKENS), np.int32)
    noise_TV = np.random.default_rng(4).normal(0, 0.3, (WINDOW_TOKENS, VOCAB_SIZE)).astype(np.float32)
    exact = {tuple(window): witness_logits(model, list(window)).astype(np.float64) for window in windows.tolist()}
    found = score(
        model,
        windows,
        {"itself": lambda ids: witness_logits(model, ids), "noisy": lambda ids: witness_logits(model, ids) + noise_TV},
    )
    assert found["itself"].mean_kl == pytest.approx(0, abs=1e-6)
    assert found["itself"].top_1 == 100

    def divergence(exact_TV: np.ndarray) -> np.ndarray:
        p_TV, q_TV = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (exact_TV, exact_TV + noise_TV))
        return (p_TV * np.log(p_TV / q_TV)).sum(axis=1)[-SCORED_TOKENS:]

    expected_N = np.concatenate([divergence(exact[tuple(window)]) for window in windows.tolist()])
    np.testing.assert_allclose(found["noisy"].kl_N, expected_N, rtol=1e-3, atol=1e-6)
    assert 50 < found["noisy"].top_1 < 100


def test_the_interval_of_a_ratio_is_that_of_paired_positions() -> None:
    rng = np.random.default_rng(3)
    kl_N = rng.gamma(0.3, 0.01, 4000).astype(np.float32)
    low, high = ratio_interval(2 * kl_N, kl_N)
    assert low == pytest.approx(2, rel=1e-5)
    assert high == pytest.approx(2, rel=1e-5)
    noisy_N = kl_N * rng.uniform(0.5, 1.5, 4000).astype(np.float32)
    low, high = ratio_interval(noisy_N, kl_N)
    assert 0.9 < low < 1 < high < 1.1
