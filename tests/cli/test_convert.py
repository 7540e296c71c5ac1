"""`samovar convert`: what it says, and what it refuses."""

from pathlib import Path

import pytest

from tests.cli.fakes import samovar
from tests.models.tiny_checkpoints import VARIANTS, random_model, write_folder


def test_what_other_programs_ignore_is_told_on_stderr(tmp_path: Path) -> None:
    folder = write_folder(random_model(VARIANTS["mistral-window"]), tmp_path / "folder")
    ended = samovar("convert", str(folder), str(tmp_path / "m.gguf"))
    assert (ended.code, ended.out) == (0, f"{tmp_path / 'm.gguf'}\n")
    assert "warning: llama.cpp and programs built on it ignore llama.attention.sliding_window" in ended.err


def test_a_folder_is_not_replaced_with_force_either(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    ended = samovar("convert", str(tiny_model), str(tmp_path / "folder"), "--force")
    assert ended.code == 1
    assert "folders are never replaced" in ended.err
    assert "folders are never replaced" in " ".join(samovar("convert", "--help").out.split())


def test_an_interrupted_run_keeps_nothing_before_a_shard_is_whole(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("samovar.convert.to_folder.write_safetensors", interrupt)
    ended = samovar("convert", str(tiny_model), str(tmp_path / "folder"))
    assert (ended.code, ended.err) == (130, "samovar: interrupted; nothing was done that is kept\n")
