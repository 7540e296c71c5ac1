"""Vectors that folders and GGUF files hold in two forms, with values that one of the forms rounds.

`transformers`, `safetensors`, `gguf` and llama.cpp read what is kept beside them.
"""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from samovar import LLM
from samovar.convert.forms import KEPT_OF_FILE, KEPT_OF_FOLDER
from samovar.convert.quantise import quantise_model
from samovar.convert.to_folder import write_folder as write_converted_folder
from samovar.convert.to_gguf import write_gguf_file
from samovar.convert.type_mix import MIXES
from samovar.errors import UnsupportedModel
from samovar.formats.gguf import read_gguf
from samovar.formats.hf_folder import read_hf_folder
from samovar.kernels.reference import ReferenceOps
from samovar.models.qwen3_next import rates
from tests.convert.changed_files import with_vector
from tests.models.tiny_checkpoints import VARIANTS, random_ids, random_model, witness_logits, write_folder
from tests.packages import needs_llama_cpp

# of norms: 1 more has no place for their last bits, or for the sign of 0
NORMS = torch.tensor([-0.0, 1e-9, 3e-5, 0.3, -0.2, 1.7, 1e-5 - 1, 12.3])
# of A_log: rates are 0, or not to be told apart, or no logarithm's
LOGARITHMS = torch.tensor([-200.0, 1e-7, 0.1, 2.7])
NORM, RATES = "model.layers.0.input_layernorm.weight", "model.layers.0.linear_attn.A_log"


def _quiet(_done: int, _total: int, _what: str) -> None:
    """No progress bar."""


def _model(name: str, dtype: torch.dtype) -> PreTrainedModel:
    one_width = {"linear_value_head_dim": 16} if name == "qwen3-next" else {}  # as llama.cpp needs it, or else it is told
    return random_model(VARIANTS[name], dtype, **one_width)


def _folder(name: str, path: Path, dtype: torch.dtype = torch.float32) -> Path:
    """A folder with the values above in its first layer."""
    model = _model(name, dtype)
    with torch.no_grad():
        layer = model.model.layers[0]
        layer.input_layernorm.weight[: len(NORMS)] = NORMS
        if name == "qwen3-next":
            layer.linear_attn.A_log[: len(LOGARITHMS)] = LOGARITHMS
    return write_folder(model, path)


def _to_file(folder: Path, path: Path) -> Path:
    assert write_gguf_file(read_hf_folder(folder), path, ReferenceOps(), _quiet) == ()
    return path


def _values(path: Path) -> dict[str, NDArray[np.float32]]:
    return {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}


def _are_same(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether all bits are equal."""
    return first.dtype == second.dtype and torch.equal(first.view(torch.uint8), second.view(torch.uint8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("name", ["gemma3", "qwen3-next"])
def test_values_that_the_file_rounds_come_back_to_the_bit(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    folder = _folder(name, tmp_path / "folder", dtype)
    file = _to_file(folder, tmp_path / "m.gguf")
    assert write_converted_folder(read_gguf(file), tmp_path / "back", _quiet) == ()
    before, after = (load_file(tmp_path / which / "model.safetensors") for which in ("folder", "back"))
    assert all(_are_same(tensor, before[key]) for key, tensor in after.items())
    ids = random_ids(20)
    both = [LLM(path, isa="numpy", kv_type="f32").logits(ids) for path in (folder, file)]
    assert np.array_equal(*both)


def test_nothing_is_kept_where_all_values_come_back(tmp_path: Path) -> None:
    for name in ("gemma3", "qwen3-next"):
        folder = write_folder(_model(name, torch.bfloat16), tmp_path / name)
        file = read_gguf(_to_file(folder, tmp_path / f"{name}.gguf"))
        assert not [key for key in file.metadata if key.startswith(KEPT_OF_FOLDER)]
        write_converted_folder(file, tmp_path / f"{name}-back", _quiet)
        with safe_open(tmp_path / f"{name}-back" / "model.safetensors", "pt") as back:
            assert back.metadata() == {"format": "pt"}


def test_values_that_the_folder_rounds_are_told_and_come_back_to_the_bit(tmp_path: Path) -> None:
    file = _to_file(_folder("qwen3-next", tmp_path / "folder"), tmp_path / "m.gguf")
    held = _values(file)
    with_vector(file, "blk.0.attn_norm.weight", held["blk.0.attn_norm.weight"] * np.float32(1e-3))
    with_vector(file, "blk.0.ssm_a", np.minimum(held["blk.0.ssm_a"], -1) * np.float32(1.0001))
    (told,) = write_converted_folder(read_gguf(file), tmp_path / "back", _quiet)
    assert told.startswith("2 vectors are rounded in the folder")
    again = _values(_to_file(tmp_path / "back", tmp_path / "again.gguf"))
    changed = _values(file)
    assert again.keys() == changed.keys()
    assert all(np.array_equal(again[name].view(np.uint8), changed[name].view(np.uint8)) for name in changed)
    folder = load_file(tmp_path / "back" / "model.safetensors")
    assert np.allclose(1 + folder[NORM].numpy(), changed["blk.0.attn_norm.weight"], rtol=0, atol=2**-24)
    assert np.allclose(-rates(folder[RATES].numpy()), changed["blk.0.ssm_a"], rtol=2**-20, atol=0)


def test_what_was_kept_of_another_tensor_than_lies_there_is_passed_over(tmp_path: Path) -> None:
    """As where another program has trained or merged the model and kept the metadata."""
    file = _to_file(_folder("gemma3", tmp_path / "folder"), tmp_path / "m.gguf")
    other = np.full_like(_values(file)["blk.0.attn_norm.weight"], 1.5)
    write_converted_folder(with_vector(file, "blk.0.attn_norm.weight", other), tmp_path / "other", _quiet)
    assert set(load_file(tmp_path / "other" / "model.safetensors")[NORM].tolist()) == {0.5}
    with_vector(file, "blk.0.attn_norm.weight", other * np.float32(1e-3))
    write_converted_folder(read_gguf(file), tmp_path / "kept", _quiet)
    weights = tmp_path / "kept" / "model.safetensors"
    with safe_open(weights, "pt") as old:
        metadata = old.metadata()
    assert [key for key in metadata if key.startswith(KEPT_OF_FILE)] == [f"{KEPT_OF_FILE}blk.0.attn_norm.weight"]
    save_file(load_file(weights) | {NORM: torch.full((len(other),), 0.25)}, weights, metadata)
    assert set(_values(_to_file(tmp_path / "kept", tmp_path / "again.gguf"))["blk.0.attn_norm.weight"].tolist()) == {1.25}


@pytest.mark.parametrize("text", ["", "no base64!", "AAAA", "AACAfw=="])
def test_a_text_that_keeps_nothing_of_use_is_passed_over(text: str, tmp_path: Path) -> None:
    folder = _folder("gemma3", tmp_path / "folder")
    metadata = {"format": "pt", f"{KEPT_OF_FILE}blk.0.attn_norm.weight": text}
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors", metadata)
    held = _values(_to_file(folder, tmp_path / "m.gguf"))["blk.0.attn_norm.weight"]
    assert np.array_equal(held, load_file(folder / "model.safetensors")[NORM].numpy() + 1)


def test_transformers_and_llama_cpp_read_what_has_values_kept_beside_it(tmp_path: Path) -> None:
    needs_llama_cpp()
    import llama_cpp

    file = _to_file(_folder("gemma3", tmp_path / "folder"), tmp_path / "m.gguf")
    ids = random_ids(20)
    theirs = llama_cpp.Llama(str(file), n_ctx=64, logits_all=True, verbose=False, n_threads=1)
    assert f"{KEPT_OF_FOLDER}blk.0.attn_norm.weight" in theirs.metadata
    theirs.eval(ids)
    wanted_TV = witness_logits(AutoModelForCausalLM.from_pretrained(tmp_path / "folder", dtype=torch.float32), ids)
    assert np.abs(np.array(theirs.scores[:20]) - wanted_TV).max() <= 0.02 * np.abs(wanted_TV).max()
    theirs.close()
    held = _values(file)["blk.0.attn_norm.weight"]
    write_converted_folder(with_vector(file, "blk.0.attn_norm.weight", held / 1000), tmp_path / "back", _quiet)
    with safe_open(tmp_path / "back" / "model.safetensors", "pt") as back:
        assert f"{KEPT_OF_FILE}blk.0.attn_norm.weight" in back.metadata()
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "back", dtype=torch.float32)
    assert np.isfinite(witness_logits(again, ids)).all()


def test_a_logarithm_whose_rate_no_float32_holds_is_refused_by_its_value(tmp_path: Path) -> None:
    folder = _folder("qwen3-next", tmp_path / "folder")
    weights = load_file(folder / "model.safetensors")
    weights[RATES][2] = 90.0
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UnsupportedModel, match=r"A_log' holds 90\.0, .* infinite here: .* use the folder itself"):
        write_gguf_file(read_hf_folder(folder), tmp_path / "m.gguf", ReferenceOps(), _quiet)


def test_a_quantised_file_keeps_what_its_folder_had(tmp_path: Path) -> None:
    folder = _folder("qwen3-next", tmp_path / "folder")
    quantise_model(folder, tmp_path / "q.gguf", MIXES["q8_0"], ReferenceOps())
    write_converted_folder(read_gguf(tmp_path / "q.gguf"), tmp_path / "back", _quiet)
    before, after = (load_file(tmp_path / which / "model.safetensors") for which in ("folder", "back"))
    assert _are_same(before[RATES], after[RATES])
    assert _are_same(before[NORM], after[NORM])
