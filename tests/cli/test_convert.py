"""`samovar convert`: what it says, and what it refuses."""

from pathlib import Path

import gguf
import pytest

from tests.cli.fakes import samovar
from tests.models.tiny_checkpoints import CHAT_TEMPLATE, CONTROL_TOKENS, VARIANTS, VOCAB_SIZE, random_model, write_folder
from tests.models.tiny_gguf import add_tokenizer, write_gguf


def test_what_other_programs_ignore_is_told_on_stderr(tmp_path: Path) -> None:
    folder = write_folder(random_model(VARIANTS["mistral-window"]), tmp_path / "folder")
    ended = samovar("convert", str(folder), str(tmp_path / "m.gguf"))
    assert (ended.code, ended.out) == (0, f"{tmp_path / 'm.gguf'}\n")
    assert "warning: llama.cpp and programs built on it ignore llama.attention.sliding_window" in ended.err


@pytest.mark.parametrize(
    ("template", "end_kind", "is_told"),
    [
        ("{{ messages }}", gguf.TokenType.CONTROL, True),
        (CHAT_TEMPLATE, gguf.TokenType.CONTROL, False),  # what a template has is markup
        ("{{ messages }}", gguf.TokenType.USER_DEFINED, False),  # a writer that tells one such token apart, tells all
    ],
)
def test_tokens_that_a_gguf_file_cannot_tell_from_text_are_named(
    template: str, end_kind: gguf.TokenType, is_told: bool, tmp_path: Path
) -> None:
    def describe(writer: gguf.GGUFWriter) -> None:
        add_tokenizer(writer)
        writer.add_chat_template(template)
        kinds = [gguf.TokenType.CONTROL if i < len(CONTROL_TOKENS) else gguf.TokenType.NORMAL for i in range(VOCAB_SIZE)]
        writer.add_token_types([end_kind, *kinds[1:]])

    path = write_gguf(random_model(VARIANTS["qwen3-untied"]), tmp_path / "m.gguf", "F32", describe=describe)
    ended = samovar("convert", str(path), str(tmp_path / "folder"))
    assert ended.code == 0
    assert ("special in the folder, as in the GGUF file: <|im_start|>;" in ended.err) is is_told
    assert ended.err.count("\n") == int(is_told)


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
