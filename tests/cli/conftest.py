"""A tiny random model that the commands run on."""

from pathlib import Path

import pytest

from tests.models.tiny_checkpoints import VARIANTS, random_model
from tests.models.tiny_gguf import write_gguf


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file with two small layers, a tokenizer and a chat template."""
    return write_gguf(random_model(VARIANTS["qwen3-untied"]), tmp_path_factory.mktemp("cli") / "tiny.gguf", "Q8_0")


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty model store."""
    folder = tmp_path / "store"
    monkeypatch.setenv("SAMOVAR_HOME", str(folder))
    return folder
