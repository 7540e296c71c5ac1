"""Hugging Face folders: as `transformers` writes them, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import Qwen3Config, Qwen3ForCausalLM

from samovar.errors import FormatError, ModelNotFound, SamovarError, UnsupportedModel
from samovar.formats.hf_folder import read_hf_folder

INDEX = "model.safetensors.index.json"


def tiny_model() -> Qwen3ForCausalLM:
    config = Qwen3Config(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    return Qwen3ForCausalLM(config)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A hand-made sharded folder: a and b in the first file, c in the second."""
    save_file({"a": torch.ones(2, 3), "b": torch.zeros(4)}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"c": torch.full((3,), 2.0)}, tmp_path / "model-00002-of-00002.safetensors")
    shards = {
        "a": "model-00001-of-00002.safetensors",
        "b": "model-00001-of-00002.safetensors",
        "c": "model-00002-of-00002.safetensors",
    }
    write_json(tmp_path / INDEX, {"metadata": {"total_size": 52}, "weight_map": shards})
    write_json(tmp_path / "config.json", {"model_type": "qwen3"})
    return tmp_path


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def weight_map(folder: Path, **changes: str | None) -> None:
    """Change entries of the index."""
    index = json.loads((folder / INDEX).read_text())
    for name, shard in changes.items():
        if shard is None:
            del index["weight_map"][name]
        else:
            index["weight_map"][name] = shard
    write_json(folder / INDEX, index)


def refusal(folder: Path, error: type[SamovarError]) -> str:
    with pytest.raises(error) as caught:
        read_hf_folder(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("shard_size", ["1GB", "8KB"])
def test_a_folder_written_by_transformers_is_read_whole(tmp_path: Path, shard_size: str) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (tmp_path / INDEX).exists() == (shard_size == "8KB")
    checkpoint = read_hf_folder(tmp_path)
    state = model.state_dict()
    assert checkpoint.tensors.keys() == state.keys()
    for name, value in state.items():
        stored = checkpoint.tensors[name]
        assert stored.shape == tuple(value.shape)
        assert stored.data.tobytes() == value.numpy().tobytes()
    assert checkpoint.config == json.loads((tmp_path / "config.json").read_text())
    assert checkpoint.generation_config == json.loads((tmp_path / "generation_config.json").read_text())
    assert checkpoint.size_bytes == sum(p.stat().st_size for p in tmp_path.glob("*.safetensors"))
    assert checkpoint.tokenizer_json is None
    assert checkpoint.tokenizer_config == {}
    assert checkpoint.chat_template is None


def test_shards_give_each_tensor_from_its_file(folder: Path) -> None:
    tensors = read_hf_folder(folder).tensors
    assert sorted(tensors) == ["a", "b", "c"]
    assert tensors["c"].source == str(folder / "model-00002-of-00002.safetensors")
    assert np.all(tensors["c"].data.view("<f4") == 2)


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "1 of 2 weight files are missing: model-00002-of-00002.safetensors" in refusal(folder, ModelNotFound)


def test_a_tensor_outside_the_index_is_refused(folder: Path) -> None:
    weight_map(folder, b=None)
    assert "holds tensor 'b', which model.safetensors.index.json expects nowhere" in refusal(folder, FormatError)


def test_a_tensor_in_another_file_than_the_index_says_is_refused(folder: Path) -> None:
    weight_map(folder, b="model-00002-of-00002.safetensors")
    assert "holds tensor 'b', which model.safetensors.index.json expects in model-00002" in refusal(folder, FormatError)


def test_a_tensor_that_no_file_holds_is_named(folder: Path) -> None:
    weight_map(folder, d="model-00002-of-00002.safetensors")
    assert "lacks tensor 'd'" in refusal(folder, FormatError)


@pytest.mark.parametrize(
    "shard", ["../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..", ".x.safetensors", "x.bin", ""]
)
def test_an_index_that_leads_out_of_the_folder_is_refused(folder: Path, shard: str) -> None:
    weight_map(folder, c=shard)
    assert "tensor 'c' is said to be in" in refusal(folder, FormatError)


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}, {"weight_map": ["a"]}])
def test_an_index_without_a_weight_map_is_refused(folder: Path, index: object) -> None:
    write_json(folder / INDEX, index)
    assert "weight_map has to map" in refusal(folder, FormatError)


def test_single_and_sharded_weights_side_by_side_are_refused(folder: Path) -> None:
    save_file({"a": torch.ones(2, 3)}, folder / "model.safetensors")
    assert "holds both model.safetensors and" in refusal(folder, FormatError)


def test_a_shard_of_another_set_is_refused(folder: Path) -> None:
    save_file({"x": torch.zeros(2)}, folder / "model-00003-of-00003.safetensors")
    said = refusal(folder, FormatError)
    assert "holds model-00003-of-00003.safetensors, which is no part of model.safetensors.index.json: remove the one" in said
    (folder / INDEX).unlink()
    save_file({"a": torch.ones(2, 3)}, folder / "model.safetensors")
    assert "model-00001-of-00002.safetensors, which is no part of model.safetensors: remove" in refusal(folder, FormatError)


@pytest.mark.parametrize(
    "name", ["consolidated-00001-of-00002.safetensors", "consolidated.safetensors", "model.fp16-00001-of-00002.safetensors"]
)
def test_weights_of_the_same_model_in_another_form_do_not_matter(folder: Path, name: str) -> None:
    save_file({"x": torch.zeros(2)}, folder / name)
    assert sorted(read_hf_folder(folder).tensors) == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt", "last.ckpt"])
def test_a_folder_of_pickles_is_refused_and_nothing_in_it_runs(tmp_path: Path, name: str) -> None:
    write_json(tmp_path / "config.json", {"model_type": "qwen3"})
    bomb = tmp_path / "ran"
    (tmp_path / name).write_bytes(f"cos\nsystem\n(S'touch {bomb}'\ntR.".encode())
    said = refusal(tmp_path, UnsupportedModel)
    assert name in said
    assert "pickle" in said
    assert "safetensors" in said
    assert not bomb.exists()


def test_a_folder_without_weights_says_what_is_expected(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {})
    save_file({"a": torch.ones(1)}, tmp_path / "weights.safetensors")
    said = refusal(tmp_path, FormatError)
    assert "model.safetensors or model.safetensors.index.json is expected" in said
    assert "found weights.safetensors" in said


@pytest.mark.parametrize("method", ["bitsandbytes", "exl2", "hqq"])
def test_folders_quantised_in_ways_that_are_not_read_are_refused_by_method(folder: Path, method: str) -> None:
    write_json(folder / "config.json", {"model_type": "qwen3", "quantization_config": {"quant_method": method}})
    said = refusal(folder, UnsupportedModel)
    assert "quantization_config" in said
    assert f"method {method!r}" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not valid JSON"),
        ("[]", "an object is expected"),
        ("{", "not valid JSON"),
        ('{"a": NaN}', "NaN is no JSON number"),
        ('{"a": -Infinity}', "-Infinity is no JSON number"),
        ('{"a": 1, "a": 2}', "key 'a' appears twice"),
        ('{"a":' * 100_000, "nested too deep"),
    ],
)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_broken_json_is_refused_by_file(folder: Path, name: str, text: str, said: str) -> None:
    (folder / name).write_text(text)
    message = refusal(folder, FormatError)
    assert name in message
    assert said in message


def test_a_config_past_the_size_limit_is_refused(folder: Path) -> None:
    with (folder / "config.json").open("wb") as file:
        file.truncate(65 << 20)
    assert "config.json: larger than" in refusal(folder, FormatError)


def test_remote_code_in_a_config_has_no_effect(folder: Path) -> None:
    write_json(folder / "config.json", {"model_type": "qwen3", "auto_map": {"AutoModel": "evil.Model"}})
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    assert read_hf_folder(folder).tensors.keys() == {"a", "b", "c"}


def test_the_tokenizer_file_is_found(folder: Path) -> None:
    write_json(folder / "tokenizer.json", {})
    assert read_hf_folder(folder).tokenizer_json == folder / "tokenizer.json"


@pytest.mark.parametrize(
    ("in_config", "in_file", "expected"),
    [
        (None, None, None),
        ("from config", None, "from config"),
        ("from config", "from file é", "from file é"),
        ([{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}], None, "d"),
    ],
)
def test_the_chat_template_comes_from_its_file_then_from_the_config(
    folder: Path, in_config: object, in_file: str | None, expected: str | None
) -> None:
    write_json(folder / "tokenizer_config.json", {"chat_template": in_config})
    if in_file is not None:
        (folder / "chat_template.jinja").write_text(in_file, encoding="utf-8")
    assert read_hf_folder(folder).chat_template == expected


@pytest.mark.parametrize(
    "template", [3, {"a": "b"}, [], [{"name": "x", "template": "t"}], [3], [{"name": "default", "template": 4}]]
)
def test_an_unusable_chat_template_is_refused(folder: Path, template: object) -> None:
    write_json(folder / "tokenizer_config.json", {"chat_template": template})
    assert "chat_template" in refusal(folder, FormatError)


def test_a_template_file_that_is_no_text_is_refused(folder: Path) -> None:
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe")
    assert "no UTF-8 text" in refusal(folder, FormatError)
