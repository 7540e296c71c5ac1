"""The real models: as near to the exact model as llama.cpp is, and an answer that everybody knows."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.exact_model import load_exact_model
from benchmarks.quality import Scores, StoredScores, cut_into_windows, ratio_interval, score
from samovar.llm import LLM
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
def test_probabilities_are_as_near_to_the_exact_ones_as_those_of_llama_cpp(model: str, path: Path, llm: LLM) -> None:
    theirs = StoredScores.load(model)
    ours = score(load_exact_model(path), theirs.windows, {"samovar": llm.logits})["samovar"]
    _, high = ratio_interval(ours, theirs.scores)
    print(f"{model}: KL {ours.mean_kl:.6f} against {theirs.scores.mean_kl:.6f}, ratio at most {high:.3f}; ", end="")
    print(f"same first token {ours.top_1:.2f} % against {theirs.scores.top_1:.2f} %")
    assert len(ours.kl_N) == 4000
    assert high <= 1.10
    assert ours.top_1 >= theirs.scores.top_1 - 0.5


@pytest.mark.slow
def test_the_capital_of_france_is_paris(llm: LLM) -> None:
    assert "Paris" in llm.chat("What is the capital of France?", temperature=0, max_tokens=40).text


def test_the_interval_of_a_ratio_is_that_of_paired_positions() -> None:
    rng = np.random.default_rng(3)
    kl_N = rng.gamma(0.3, 0.01, 4000).astype(np.float32)
    agrees_N = np.ones(4000, np.bool_)
    low, high = ratio_interval(Scores(kl_N=2 * kl_N, agrees_N=agrees_N), Scores(kl_N=kl_N, agrees_N=agrees_N))
    assert low == pytest.approx(2, rel=1e-5)
    assert high == pytest.approx(2, rel=1e-5)
    noisy_N = kl_N * rng.uniform(0.5, 1.5, 4000).astype(np.float32)
    low, high = ratio_interval(Scores(kl_N=noisy_N, agrees_N=agrees_N), Scores(kl_N=kl_N, agrees_N=agrees_N))
    assert 0.9 < low < 1 < high < 1.1
