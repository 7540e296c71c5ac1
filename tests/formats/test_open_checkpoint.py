"""What a path holds is told by its content."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from samovar.errors import FormatError, ModelNotFound, SamovarError, StoreError, UnsupportedModel
from samovar.formats import open_checkpoint
from samovar.formats.gguf import GgufCheckpoint
from samovar.formats.hf_folder import HfCheckpoint
from samovar.formats.mapped_file import unreadable
from tests.formats import gguf_bytes as raw

GGUF = raw.assemble(tensors=(raw.tensor("w", (4, 2)),), data=bytes(32))


def refusal(path: Path, error: type[SamovarError]) -> str:
    with pytest.raises(error) as caught:
        open_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_gguf_file_is_known_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "blob-without-suffix"
    path.write_bytes(GGUF)
    assert isinstance(open_checkpoint(path), GgufCheckpoint)


def test_a_folder_with_one_gguf_model_opens_it(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(GGUF)
    (tmp_path / "config.json").write_text("{}")
    assert isinstance(open_checkpoint(tmp_path), GgufCheckpoint)


def test_a_folder_with_safetensors_is_a_hugging_face_folder(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    (tmp_path / "m.gguf").write_bytes(GGUF)
    assert isinstance(open_checkpoint(tmp_path), HfCheckpoint)


def test_a_folder_with_several_gguf_models_asks_for_one(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(GGUF)
    (tmp_path / "b.gguf").write_bytes(GGUF)
    assert "holds 2 GGUF models; give the path of one: a.gguf, b.gguf" in refusal(tmp_path, FormatError)


def test_a_folder_with_one_split_model_counts_as_one(tmp_path: Path) -> None:
    (tmp_path / "m-00001-of-00002.gguf").write_bytes(GGUF)
    (tmp_path / "m-00002-of-00002.gguf").write_bytes(GGUF)
    assert isinstance(open_checkpoint(tmp_path), GgufCheckpoint)


def test_other_folders_say_what_is_expected(tmp_path: Path) -> None:
    assert "config.json with safetensors weights, or a .gguf file" in refusal(tmp_path, FormatError)
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    assert "pickle" in refusal(tmp_path, UnsupportedModel)


def torch_zip(path: Path) -> None:
    torch.save({"a": torch.ones(2)}, path)


def torch_legacy(path: Path) -> None:
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False)


def plain_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"a": 1}))


@pytest.mark.parametrize("write", [torch_zip, torch_legacy, plain_pickle])
def test_pickles_are_refused_whatever_their_name(tmp_path: Path, write) -> None:
    path = tmp_path / "model.gguf"
    write(path)
    said = refusal(path, UnsupportedModel)
    assert "pickle" in said
    assert "convert the model to safetensors" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"<html><body>404", "a web page"),
        (b"lmgg" + bytes(40), "before GGUF"),
        (b"\x1f\x8b\x08" + bytes(40), "unpack it first"),
        (bytes(257) + b"ustar\0", "unpack it first"),
        (b"hello world", "no model: it starts with b'hello wo'"),
        (b"G", "no model"),
        (b"\x80", "no model"),
        (b"GGUF", "ends inside its header"),
    ],
)
def test_files_that_are_no_model_are_named_for_what_they_are(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    assert said in refusal(path, SamovarError)


def test_lone_safetensors_ask_for_their_folder(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    save_file({"a": torch.ones(2)}, path)
    assert "give the folder that holds them" in refusal(path, FormatError)


def test_a_config_file_asks_for_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text("{}")
    assert "give the folder" in refusal(path, FormatError)


def test_absent_paths_are_not_found(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "nowhere", ModelNotFound)
    (tmp_path / "file").write_text("x")
    refusal(tmp_path / "file" / "below", ModelNotFound)
    with pytest.raises(ModelNotFound, match="zero byte"):
        open_checkpoint(Path("a\0b"))
    with pytest.raises(SamovarError):
        open_checkpoint(tmp_path / ("x" * 300))


def test_a_device_or_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero")):
        assert "not a plain file" in refusal(path, FormatError)


def test_what_the_system_refuses_is_said_in_plain_words() -> None:
    path = Path("m.gguf")
    advice = "make it readable for this user (chmod u+r; u+rx for a folder, and for those that hold it)"
    assert str(unreadable(path, PermissionError(13, "x"))) == f"m.gguf: permission denied; {advice}"
    assert isinstance(unreadable(path, PermissionError(13, "x")), StoreError)
    assert isinstance(unreadable(path, FileNotFoundError(2, "x")), ModelNotFound)
    assert "Input/output error" in str(unreadable(path, OSError(5, "Input/output error")))


def test_unreadable_files_say_so(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(GGUF)
    path.chmod(0)
    user = os.geteuid()
    try:
        if user == 0:  # may read everything
            os.seteuid(65534)
        assert "permission denied" in refusal(path, StoreError)
    finally:
        os.seteuid(user)
