"""Tiny checkpoints, each written once a session."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from tests.models.tiny_checkpoints import VARIANTS, random_model, write_folder


class TinyCheckpoints:
    """Writes the folder of a variant on first use."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[str, tuple[Path, PreTrainedModel]] = {}

    def get(self, name: str, dtype: torch.dtype = torch.float32) -> tuple[Path, PreTrainedModel]:
        """The folder of a variant, and the model that was saved in it."""
        key = f"{name}.{dtype}"
        if key not in self._made:
            model = random_model(VARIANTS[name], dtype)
            self._made[key] = write_folder(model, self._folder / key), model
        return self._made[key]


@pytest.fixture(scope="session")
def tiny_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> TinyCheckpoints:
    """Tiny checkpoints by name."""
    logging.disable_progress_bar()
    return TinyCheckpoints(tmp_path_factory.mktemp("tiny-checkpoints"))
