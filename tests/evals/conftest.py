"""Tiny checkpoints of one vocabulary: one as it is, one with other weights, one with another vocabulary."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from tests.models.tiny_checkpoints import VARIANTS, random_model, write_folder

TEXT = "The water in the samovar is hot, and the tea that they carried home for us one evening is hotter. " * 12


def tiny_model() -> PreTrainedModel:
    """Random weights, the same ones on every call; wide enough for int4."""
    return random_model(VARIANTS["qwen3-untied"], intermediate_size=128)


def log_softmax(logits_RV: np.ndarray) -> np.ndarray:
    """[R, V] in float64, by `torch`."""
    return torch.log_softmax(torch.from_numpy(logits_RV).double(), dim=1).numpy()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tiny_model(), tmp_path_factory.mktemp("evals") / "one")


@pytest.fixture(scope="session")
def noisy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with a little noise on every weight."""
    model = tiny_model()
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.03 * parameter.std(correction=0) * torch.randn(parameter.shape, generator=generator)
    return write_folder(model, tmp_path_factory.mktemp("evals") / "noisy")


@pytest.fixture(scope="session")
def other_vocabulary(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first model with two of its tokens exchanged."""
    other = write_folder(tiny_model(), tmp_path_factory.mktemp("evals") / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["t"], vocabulary["e"] = vocabulary["e"], vocabulary["t"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    return other


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMOVAR_HOME", str(tmp_path / "home"))
