"""A tiny random model that the commands run on."""

from pathlib import Path

import gguf
import pytest

from tests.models.tiny_checkpoints import VARIANTS, random_model
from tests.models.tiny_gguf import add_tokenizer, write_gguf


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file with two small layers, a tokenizer and a chat template."""
    return write_gguf(random_model(VARIANTS["qwen3-untied"]), tmp_path_factory.mktemp("cli") / "tiny.gguf", "Q8_0")


@pytest.fixture(scope="session")
def tiny_embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file of a model that makes vectors."""

    def describe(writer: gguf.GGUFWriter) -> None:
        add_tokenizer(writer)
        writer.add_pooling_type(gguf.PoolingType.LAST)

    path = tmp_path_factory.mktemp("cli") / "embedder.gguf"
    return write_gguf(random_model(VARIANTS["qwen3-tied-8-to-1"]), path, "Q8_0", describe=describe)


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty model store."""
    folder = tmp_path / "store"
    monkeypatch.setenv("SAMOVAR_HOME", str(folder))
    return folder
