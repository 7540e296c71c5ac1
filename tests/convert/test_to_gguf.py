"""Hugging Face folders to GGUF files and back: the `gguf` package, llama.cpp and `safetensors` read what was written."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from samovar import LLM
from samovar.convert.quantise import quantise_model
from samovar.convert.to_folder import write_folder as write_converted_folder
from samovar.convert.to_gguf import write_gguf_file
from samovar.convert.type_mix import MIXES
from samovar.errors import FormatError, StoreError, UnsupportedModel
from samovar.formats import open_checkpoint
from samovar.formats.gguf import read_gguf
from samovar.formats.hf_folder import HfCheckpoint, read_hf_folder
from samovar.kernels.reference import ReferenceOps
from tests.convert.variants import quickly
from tests.models.tiny_checkpoints import VARIANTS, random_ids, random_model, write_folder
from tests.models.tiny_gguf import write_gguf

# Left out: settings of YaRN, windows and kinds of layers that a GGUF file cannot state, which are refused.
_REFUSED = [
    "qwen2-yarn", "llama-yarn", "gemma3-other-scale", "qwen2-window", "qwen3-window", "qwen3-moe-window",
    "qwen3-next-other-sizes",
]  # fmt: skip
_VARIANTS = [name for name in VARIANTS if name not in _REFUSED]


def _quiet(_done: int, _total: int, _what: str) -> None:
    """No progress bar."""


def _folder(name: str, path: Path, dtype: torch.dtype = torch.bfloat16) -> HfCheckpoint:
    return read_hf_folder(write_folder(random_model(VARIANTS[name], dtype), path))


@pytest.mark.parametrize("name", quickly(_VARIANTS))
def test_the_file_gives_the_logits_of_the_folder(name: str, tmp_path: Path) -> None:
    folder = _folder(name, tmp_path / "folder")
    write_gguf_file(folder, tmp_path / "m.gguf", ReferenceOps(), _quiet)
    ids = random_ids(40)
    expected = LLM(folder.path, isa="numpy", kv_type="f32").logits(ids)
    found = LLM(tmp_path / "m.gguf", isa="numpy", kv_type="f32").logits(ids)
    if VARIANTS[name].model_type == "llama" and "llama3" in name:  # divisors of frequencies, and not the frequencies themselves
        assert np.allclose(found, expected, rtol=1e-4, atol=1e-4)
    else:
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("name", _REFUSED)
def test_what_the_file_could_not_say_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="no way to say"):
        write_gguf_file(_folder(name, tmp_path / "folder"), tmp_path / "m.gguf", ReferenceOps(), _quiet)
    assert not (tmp_path / "m.gguf").exists()


def test_windows_that_the_file_could_not_say_are_told_in_words(tmp_path: Path) -> None:
    words = r"1 of 3 layers see the last 33 positions, the others all of them\): .* use the folder itself"
    with pytest.raises(UnsupportedModel, match=words):
        write_gguf_file(_folder("qwen2-window", tmp_path / "folder"), tmp_path / "m.gguf", ReferenceOps(), _quiet)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mistral-window", "ignore llama.attention.sliding_window: beyond 20 tokens"),
        ("phi3", "ignore phi3.attention.sliding_window: beyond 29 tokens"),
        ("qwen3-moe-every-second", "do not load this file: 4 of the 5 layers have no experts"),
        ("qwen3-moe-1-of-5", "ignore qwen3moe.expert_weights_norm"),
        ("qwen3-moe", ""),
        ("mistral", ""),
    ],
)
def test_what_other_programs_make_of_the_file_is_said(name: str, words: str, tmp_path: Path) -> None:
    folder = _folder(name, tmp_path / "folder")
    written = write_gguf_file(folder, tmp_path / "m.gguf", ReferenceOps(), _quiet)
    quantised = quantise_model(folder.path, tmp_path / "q.gguf", MIXES["q4_0"], ReferenceOps()).warnings
    assert [words in line for line in written] == ([True] if words else [])
    assert [line for line in quantised if "gains" not in line] == list(written)
    ours = quantise_model(folder.path, tmp_path / "i.gguf", MIXES["samovar-int4"], ReferenceOps()).warnings
    assert not [line for line in ours if "gains" not in line]


def test_matrices_keep_their_type_and_vectors_become_f32(tmp_path: Path) -> None:
    write_gguf_file(_folder("qwen3-untied", tmp_path / "folder"), tmp_path / "m.gguf", ReferenceOps(), _quiet)
    types = {t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert types["blk.0.attn_q.weight"] == types["token_embd.weight"] == "BF16"
    assert types["blk.0.attn_norm.weight"] == types["output_norm.weight"] == "F32"


def test_norms_of_gemma_are_1_more_in_the_file(tmp_path: Path) -> None:
    folder = _folder("gemma3", tmp_path / "folder")
    assert write_gguf_file(folder, tmp_path / "m.gguf", ReferenceOps(), _quiet) == ()
    held = load_file(folder.path / "model.safetensors")
    names = {
        "blk.3.attn_norm": "layers.3.input_layernorm",
        "blk.3.post_attention_norm": "layers.3.post_attention_layernorm",
        "blk.3.ffn_norm": "layers.3.pre_feedforward_layernorm",
        "blk.3.post_ffw_norm": "layers.3.post_feedforward_layernorm",
        "blk.3.attn_k_norm": "layers.3.self_attn.k_norm",
        "output_norm": "norm",
    }
    found = {t.name: t.data for t in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    for of_file, of_folder in names.items():
        assert np.array_equal(found[f"{of_file}.weight"], 1 + held[f"model.{of_folder}.weight"].float().numpy()), of_file


def test_metadata_of_gemma3_and_phi3_are_those_of_llama_cpps_converter(tmp_path: Path) -> None:
    for name in ("gemma3", "gemma3-scaled", "phi3-partial"):
        write_gguf_file(_folder(name, tmp_path / name), tmp_path / f"{name}.gguf", ReferenceOps(), _quiet)
    gemma3, scaled, phi3 = (
        {key: field.contents() for key, field in gguf.GGUFReader(tmp_path / f"{name}.gguf").fields.items()}
        for name in ("gemma3", "gemma3-scaled", "phi3-partial")
    )
    assert gemma3["general.architecture"] == "gemma3"
    assert gemma3["gemma3.attention.sliding_window"] == 24
    assert "gemma3.attention.sliding_window_pattern" not in gemma3
    assert (gemma3["gemma3.rope.freq_base"], gemma3["gemma3.rope.freq_base_swa"]) == (1e6, 1e4)
    assert scaled["gemma3.attention.sliding_window_pattern"] == [False, True, True]
    assert (scaled["gemma3.rope.scaling.type"], scaled["gemma3.rope.scaling.factor"]) == ("linear", 8.0)
    assert (phi3["phi3.context_length"], phi3["phi3.rope.scaling.original_context_length"]) == (128, 32)
    assert phi3["phi3.rope.dimension_count"] == 12
    assert phi3["phi3.rope.scaling.attn_factor"] == pytest.approx((1 + np.log(4) / np.log(32)) ** 0.5)
    long_R = next(t.data for t in gguf.GGUFReader(tmp_path / "phi3-partial.gguf").tensors if "factors_long" in t.name)
    assert long_R.tolist() == [1, 2, 3, 5, 8, 13]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "f32"])
@pytest.mark.parametrize("name", quickly(_VARIANTS))
def test_a_folder_comes_back_to_the_bit(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    folder = _folder(name, tmp_path / "folder", dtype)
    write_gguf_file(folder, tmp_path / "m.gguf", ReferenceOps(), _quiet)
    write_converted_folder(read_gguf(tmp_path / "m.gguf"), tmp_path / "back", _quiet)
    before, after = (load_file(tmp_path / which / "model.safetensors") for which in ("folder", "back"))
    assert before.keys() - {"lm_head.weight"} == after.keys() - {"lm_head.weight"}
    for key, tensor in after.items():
        assert tensor.dtype == before[key].dtype, key
        assert torch.equal(tensor, before[key]), key
    ids = random_ids(9)
    both = [LLM(tmp_path / which, isa="numpy", kv_type="f32").logits(ids) for which in ("folder", "back")]
    assert np.array_equal(*both)


def test_a_file_comes_back_to_the_bit(tmp_path: Path) -> None:
    source = read_gguf(write_gguf(random_model(VARIANTS["llama-biased"]), tmp_path / "m.gguf", "F16"))
    write_converted_folder(source, tmp_path / "folder", _quiet)
    write_gguf_file(read_hf_folder(tmp_path / "folder"), tmp_path / "back.gguf", ReferenceOps(), _quiet)
    back = read_gguf(tmp_path / "back.gguf")
    assert back.tensors.keys() == source.tensors.keys()
    for name, tensor in source.tensors.items():
        assert back.tensors[name].type == tensor.type, name
        assert np.array_equal(back.tensors[name].data, tensor.data), name
    for key in ("tokens", "merges", "token_type", "pre", "model", "eos_token_id"):
        assert back.metadata[f"tokenizer.ggml.{key}"] == source.metadata[f"tokenizer.ggml.{key}"], key


def test_a_file_that_is_there_is_replaced_only_where_asked(tmp_path: Path) -> None:
    folder = _folder("qwen3-untied", tmp_path / "folder")
    (tmp_path / "m.gguf").write_text("mine")
    with pytest.raises(StoreError, match="there"):
        write_gguf_file(folder, tmp_path / "m.gguf", ReferenceOps(), _quiet)
    assert (tmp_path / "m.gguf").read_text() == "mine"
    write_gguf_file(folder, tmp_path / "m.gguf", ReferenceOps(), _quiet, replace=True)
    assert open_checkpoint(tmp_path / "m.gguf").size_bytes > 1000


def test_values_that_are_no_numbers_are_refused_by_name(tmp_path: Path) -> None:
    model = random_model(VARIANTS["qwen3-untied"])
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3, 5] = float("nan")
    folder = read_hf_folder(write_folder(model, tmp_path / "folder"))
    with pytest.raises(FormatError, match=r"layers\.1\.mlp\.down_proj"):
        write_gguf_file(folder, tmp_path / "m.gguf", ReferenceOps(), _quiet)
    assert not (tmp_path / "m.gguf").exists()
