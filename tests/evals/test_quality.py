"""Perplexity and divergence of models, against `transformers` and llama.cpp on the same tokens."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from samovar.errors import BadRequest, OutOfMemory, UnsupportedModel
from samovar.evals import quality
from samovar.evals.quality import Settings, measure
from samovar.evals.states import KeptStates, StateSource
from samovar.evals.windows import Windows, cut, default_text
from samovar.formats import open_checkpoint
from samovar.llm import LLM
from samovar.llm.model_text import read_model_text
from tests.evals.conftest import TEXT, log_softmax, tiny_model
from tests.models.tiny_checkpoints import witness_logits
from tests.packages import needs_llama_cpp
from tests.real_models import SMOLLM2, real_model

SETTINGS = Settings(text=TEXT, text_name="text", window=100, n_skipped=20)
SILENT = lambda done, total, what: None  # noqa: E731


def windows_of(folder: Path, settings: Settings = SETTINGS) -> Windows:
    tokenizer = read_model_text(open_checkpoint(folder), None).tokenizer
    return cut(
        tokenizer, settings.text, window=settings.window, n_skipped=settings.n_skipped, n_tokens=settings.n_tokens, where="text"
    )


def witness_log_probs(model: object, windows: Windows) -> np.ndarray:
    """[P, V]: by `transformers`, at the scored positions of all windows."""
    n = windows.n_skipped
    rows = [witness_logits(model, list(ids))[n - 1 : len(ids) - 1] for ids in windows.ids]  # type: ignore[arg-type]
    return log_softmax(np.concatenate(rows))


def test_figures_are_those_of_transformers(folder: Path, noisy_folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    windows = windows_of(folder)
    assert len(windows.ids) > 3
    assert len(windows.ids[-1]) < 100, "a last window that is shorter"
    next_P = np.concatenate([ids[windows.n_skipped :] for ids in windows.ids])
    log_p_PV = witness_log_probs(tiny_model(), windows)
    log_q_PV = witness_log_probs(AutoModelForCausalLM.from_pretrained(noisy_folder), windows)
    surprise_P = -log_q_PV[np.arange(len(next_P)), next_P]
    (found,) = measure([str(noisy_folder)], replace(SETTINGS, against=str(folder)), SILENT)
    assert found.n_tokens == len(next_P)
    assert found.perplexity.value == pytest.approx(math.exp(surprise_P.mean()), rel=1e-4)
    n_bytes = len(TEXT.encode()) * len(next_P) / sum(map(len, windows.ids))  # tokens of 20 and more a window are left out
    assert found.bits_per_byte.value == pytest.approx(surprise_P.sum() / math.log(2) / n_bytes, rel=0.02)
    assert found.beside is not None
    divergence_P = (np.exp(log_p_PV) * (log_p_PV - log_q_PV)).sum(axis=1)
    assert found.beside.kl.value == pytest.approx(divergence_P.mean(), rel=1e-3)
    assert found.beside.kl_99 == pytest.approx(np.quantile(divergence_P, 0.99), rel=1e-3)
    assert found.beside.top_1.value == pytest.approx((log_p_PV.argmax(1) == log_q_PV.argmax(1)).mean(), abs=0.01)
    assert 0.5 < found.beside.top_1.value < 1
    reference_P = -log_p_PV[np.arange(len(next_P)), next_P]
    assert found.beside.perplexity_ratio.value == pytest.approx(math.exp((surprise_P - reference_P).mean()), rel=1e-4)


@pytest.mark.parametrize("isa", [None, "numpy"])
def test_a_model_is_at_no_distance_from_itself(isa: str | None, folder: Path) -> None:
    (found,) = measure([str(folder)], replace(SETTINGS, against=str(folder), isa=isa), SILENT)
    assert found.beside is not None
    assert found.beside.kl.value == 0
    assert found.beside.top_1.value == 1
    assert found.beside.perplexity_ratio.value == 1


def test_coarser_weights_and_keys_are_measured_as_asked(folder: Path) -> None:
    exact = replace(SETTINGS, is_exact=True)
    plain, rounded = (measure([str(folder)], settings, SILENT)[0] for settings in (exact, replace(exact, weights="int4")))
    assert plain.beside is not None
    assert rounded.beside is not None
    assert plain.kv_type == "f32"
    assert plain.beside.kl.value < 1e-8 < 1e-3 < rounded.beside.kl.value
    assert (plain.weights, rounded.weights) == ("stored", "int4")
    assert plain.bits_per_weight == pytest.approx(32, rel=0.01)  # norms are not packed
    assert rounded.bits_per_weight < plain.bits_per_weight - 10  # the head stays as it is
    (coarse_keys,) = measure([str(folder)], replace(exact, kv_type="int8"), SILENT)
    assert coarse_keys.beside is not None
    assert coarse_keys.kv_type == "int8"
    assert coarse_keys.beside.kl.value > 1e-6


def test_several_models_are_measured_one_by_one_and_progress_is_told(folder: Path, noisy_folder: Path) -> None:
    said: list[tuple[int, int, str]] = []
    found = measure([str(folder), str(noisy_folder)], SETTINGS, lambda *what: said.append(what))
    assert [quality.model for quality in found] == [str(folder), str(noisy_folder)]
    assert all(quality.beside is None for quality in found)
    for name in (folder, noisy_folder):
        of_model = [(done, total) for done, total, what in said if what == str(name)]
        assert of_model[0][0] == 0
        assert of_model[-1][0] == of_model[-1][1] > 0


def test_models_of_different_vocabularies_have_no_divergence_and_comparable_bits(folder: Path, other_vocabulary: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"different vocabularies \(token \d+ is '.' and '.'\).*bits per byte"):
        measure([str(other_vocabulary)], replace(SETTINGS, against=str(folder)), SILENT)
    found = measure([str(folder), str(other_vocabulary)], SETTINGS, SILENT)
    assert all(quality.bits_per_byte.value > 0 for quality in found)


def test_a_window_beyond_the_context_is_refused(folder: Path) -> None:
    with pytest.raises(BadRequest, match="takes at most 128 tokens"):
        measure([str(folder)], replace(SETTINGS, window=200), SILENT)


def test_a_model_larger_than_the_memory_is_refused_before_it_is_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "available_bytes", lambda: 100 << 20)
    with pytest.raises(OutOfMemory, match="100 MiB are free"):
        measure([str(folder)], SETTINGS, SILENT)


@pytest.mark.parametrize("window", [100, 40])
def test_logits_are_those_of_the_engine_to_the_bit(window: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("samovar.evals.states._STEP_TOKENS", 32)
    monkeypatch.setattr("samovar.evals.states.PIECE_ROWS", 7)
    windows = windows_of(folder, replace(SETTINGS, window=window, n_skipped=35))
    llm = LLM(folder, cache=False)
    wanted_PV = np.concatenate([llm.logits(ids)[34:-1] for ids in windows.ids])
    source = StateSource(llm.model, llm.ops, llm.kv_type, window)
    found_PV = np.concatenate([piece for ids in windows.ids for piece in source.pieces(source.states(ids, 35))])
    np.testing.assert_array_equal(found_PV, wanted_PV)
    with KeptStates(source, windows, lambda n: None) as kept:
        np.testing.assert_array_equal(kept.logits(3, 20), wanted_PV[3:20])


@pytest.mark.slow
def test_the_perplexity_of_a_real_model_is_that_of_llama_cpp() -> None:
    path = real_model(SMOLLM2)
    needs_llama_cpp()
    from benchmarks.llama_cpp_peer import LlamaCpp

    settings = Settings(text=default_text(), text_name="text", window=256, n_skipped=32, n_tokens=1024)
    windows, peer = windows_of(path, settings), LlamaCpp(path, n_threads=2, n_context=256, all_logits=True)
    surprises = []
    for ids in windows.ids:
        log_probs_TV = log_softmax(peer.logits(list(ids)))
        surprises += [-log_probs_TV[i - 1, ids[i]] for i in range(32, len(ids))]
    (found,) = measure([str(path)], settings, SILENT)
    assert found.n_tokens == len(surprises)
    assert found.perplexity.value == pytest.approx(math.exp(np.mean(surprises)), rel=0.01)


@pytest.mark.slow
def test_a_real_model_is_as_near_to_the_exact_one_as_the_benchmark_says() -> None:
    # benchmarks.quality: mean KL 0.000964 over 4,000 positions, with the exact model by `gguf` and `transformers`
    settings = Settings(text=default_text(), text_name="text", window=256, n_skipped=32, n_tokens=768, is_exact=True)
    (found,) = measure([str(real_model(SMOLLM2))], settings, SILENT)
    assert found.beside is not None
    assert 0.0005 < found.beside.kl.value < 0.002
    assert found.beside.top_1.value > 0.97
