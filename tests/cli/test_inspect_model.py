"""`samovar inspect`, against what the writer of the file put in."""

import json
from pathlib import Path

import gguf
import numpy as np
import pytest

from tests.cli.fakes import samovar
from tests.models.tiny_checkpoints import CHAT_TEMPLATE, MAX_CONTEXT, VARIANTS, VOCAB_SIZE, random_model, write_folder


def test_json_counts_what_gguf_reads(tiny_model: Path) -> None:
    report = json.loads(samovar("inspect", str(tiny_model), "--json").out)
    witness = gguf.GGUFReader(tiny_model)
    assert report["architecture"] == "qwen3"
    assert report["is_supported"]
    assert report["size_bytes"] == tiny_model.stat().st_size
    assert report["n_parameters"] == sum(int(tensor.n_elements) for tensor in witness.tensors)
    for share in report["types"]:
        group = [tensor for tensor in witness.tensors if tensor.tensor_type.name == share["type"]]
        assert share["n_tensors"] == len(group)
        assert share["size_bytes"] == sum(int(tensor.n_bytes) for tensor in group)
    assert report["template"] == CHAT_TEMPLATE
    assert report["tokenizer"] == {"kind": "gpt2, qwen2", "n_vocabulary": VOCAB_SIZE}
    assert report["config"]["max_context"] == MAX_CONTEXT


def test_a_model_that_makes_vectors_has_no_head(tiny_embedder: Path, tiny_model: Path) -> None:
    assert "none: it makes vectors of texts" in samovar("inspect", str(tiny_embedder)).out
    assert "of its own" in samovar("inspect", str(tiny_model)).out


def test_memory_is_weights_plus_keys_and_values(tiny_model: Path) -> None:
    report = json.loads(samovar("inspect", str(tiny_model), "--json").out)
    (need,) = report["memory"]
    config = report["config"]
    assert need["context"] == MAX_CONTEXT
    assert need["kv_bytes"] == 2 * 2 * config["n_layers"] * config["n_kv_heads"] * config["d_head"] * MAX_CONTEXT
    assert need["weights_bytes"] == sum(share["size_bytes"] for share in report["types"])


def test_the_table_names_every_type(tiny_model: Path) -> None:
    ended = samovar("inspect", str(tiny_model))
    assert ended.code == 0
    for text in ("qwen3", "Q8_0", "8.50", "F32", "128 tokens", "runs here      yes", "gpt2, qwen2"):
        assert text in ended.out


def test_a_hugging_face_folder_is_read_too(tmp_path: Path) -> None:
    folder = write_folder(random_model(VARIANTS["llama2"]), tmp_path / "tiny-llama")
    report = json.loads(samovar("inspect", str(folder), "--json").out)
    assert report["architecture"] == "llama"
    assert report["name"] == "tiny-llama"
    assert [share["type"] for share in report["types"]] == ["F32"]
    (need,) = report["memory"]
    config = report["config"]
    assert need["kv_type"] == "f32"  # as `LLM` has it for such weights
    assert need["kv_bytes"] == 2 * 4 * config["n_layers"] * config["n_kv_heads"] * config["d_head"] * MAX_CONTEXT
    assert "keys+values (f32)" in samovar("inspect", str(folder)).out
    assert report["template"] == CHAT_TEMPLATE


def test_a_model_that_does_not_run_here_is_described_with_the_reason(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "other.gguf", "mamba")
    writer.add_chat_template("evil \x1b[31mred")
    writer.add_tensor("x.weight", np.zeros((4, 32), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ended = samovar("inspect", str(tmp_path / "other.gguf"))
    assert ended.code == 0
    assert "no: " in ended.out
    assert "mamba" in ended.out
    assert "\x1b" not in ended.out
    report = json.loads(samovar("inspect", str(tmp_path / "other.gguf"), "--json").out)
    assert not report["is_supported"]
    assert report["n_parameters"] == 128


@pytest.mark.slow
def test_real_weights_are_described_from_their_headers(smollm2: Path) -> None:
    report = json.loads(samovar("inspect", str(smollm2), "--json").out)
    assert report["architecture"] == "llama"
    assert report["config"]["n_layers"] == 30
    assert report["config"]["d_model"] == 576
    assert {share["type"] for share in report["types"]} == {"Q4_1", "Q8_0", "F32"}
    assert [need["context"] for need in report["memory"]] == [4096, 8192]


def test_a_summary_tells_how_far_a_context_goes_beyond_the_native_one(tiny_model: Path) -> None:
    assert f"{MAX_CONTEXT} tokens, by YaRN up to {4 * MAX_CONTEXT}" in samovar("inspect", str(tiny_model)).out
