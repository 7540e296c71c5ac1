"""Qwen3-Next between folders and GGUF: llama.cpp, `transformers` and the tests' own writer of GGUF are the witnesses.

What holds for all architectures is in `test_to_gguf`, `test_to_folder` and `test_quantise_model`.
"""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize, quantize
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from samovar import LLM
from samovar.convert.delta_net import logarithms
from samovar.convert.quantise import quantise_model
from samovar.convert.to_folder import write_folder as write_converted_folder
from samovar.convert.to_gguf import write_gguf_file
from samovar.convert.type_mix import MIXES
from samovar.errors import FormatError, UnsupportedModel
from samovar.formats.gguf import GgufCheckpoint, read_gguf
from samovar.formats.hf_folder import HfCheckpoint, read_hf_folder
from samovar.kernels.native import native_ops
from samovar.kernels.reference import ReferenceOps
from samovar.models.qwen3_next import rates
from tests.convert.changed_files import with_vector
from tests.llm.recipe_models import write_sentence_files
from tests.models.test_quantised_folders import METHODS, NEXT, quantised_folder
from tests.models.tiny_checkpoints import VARIANTS, random_ids, random_model, witness_logits, write_folder
from tests.models.tiny_gguf import add_tokenizer, round_weights, write_gguf
from tests.packages import has_llama_cpp, needs_llama_cpp

VARIANT = VARIANTS["qwen3-next"]
ONE_WIDTH: dict[str, object] = {"linear_value_head_dim": 16}  # which llama.cpp takes for granted
# 5 taps, heads of odd numbers and widths, every third layer attention, one dense, a tied head
OTHER_SIZES: dict[str, object] = {
    "num_hidden_layers": 6,
    "layer_types": ["linear_attention", "linear_attention", "full_attention"] * 2,
    "num_key_value_heads": 1,
    "linear_num_key_heads": 3,
    "linear_num_value_heads": 9,
    "linear_key_head_dim": 20,
    "linear_value_head_dim": 12,
    "linear_conv_kernel_dim": 5,
    "mlp_only_layers": [1],
    "norm_topk_prob": False,
    "tie_word_embeddings": True,
}  # fmt: skip
# all experts are chosen: with rounded inputs others might be
WIDE: dict[str, object] = {
    "hidden_size": 256, "linear_key_head_dim": 64, "linear_value_head_dim": 64, "moe_intermediate_size": 256,
    "shared_expert_intermediate_size": 256, "head_dim": 64, "num_experts": 4, "num_experts_per_tok": 4,
}  # fmt: skip


def _quiet(_done: int, _total: int, _what: str) -> None:
    """No progress bar."""


def _folder(model: PreTrainedModel, path: Path) -> HfCheckpoint:
    return read_hf_folder(write_folder(model, path))


def _short_logarithms(**changes: object) -> PreTrainedModel:
    """In float32, but for A_log, and norms that 1 can be added to without rounding."""
    model = random_model(VARIANT, **changes)
    round_weights(model, "F32")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.copy_(parameter.to(torch.bfloat16))
    return model


def _llama_logits(path: Path, ids: list[int]) -> NDArray[np.float32]:
    import llama_cpp

    theirs = llama_cpp.Llama(str(path), n_ctx=128, logits_all=True, verbose=False, n_threads=1)
    theirs.eval(ids)
    found_TV = np.array(theirs.scores[: len(ids)])
    theirs.close()
    return found_TV


def _fields(path: Path) -> dict[str, object]:
    return {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items() if key.startswith("qwen3next.")}


def _tensors(path: Path) -> dict[str, NDArray[np.float32]]:
    return {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("changes", [{}, OTHER_SIZES], ids=["published proportions", "other sizes"])
def test_the_file_of_a_folder_is_that_of_another_writer(changes: dict[str, object], tmp_path: Path) -> None:
    model = _short_logarithms(**changes)
    write_gguf_file(_folder(model, tmp_path / "folder"), tmp_path / "ours.gguf", ReferenceOps(), _quiet)
    theirs = write_gguf(model, tmp_path / "theirs.gguf", "F32")
    assert _fields(tmp_path / "ours.gguf") == _fields(theirs)
    found, wanted = _tensors(tmp_path / "ours.gguf"), _tensors(theirs)
    assert found.keys() == wanted.keys()
    assert "blk.0.attn_gate.weight" in found
    for name, values in wanted.items():
        if name.endswith(".ssm_a"):  # exponentials of two programs
            assert np.allclose(found[name], values, rtol=2e-7, atol=0)
        else:
            assert np.array_equal(found[name].reshape(-1), values.reshape(-1)), name


def test_llama_cpp_computes_from_the_file_what_transformers_computes_from_the_folder(tmp_path: Path) -> None:
    needs_llama_cpp()
    model, ids = random_model(VARIANT, **ONE_WIDTH), random_ids(60)
    assert write_gguf_file(_folder(model, tmp_path / "folder"), tmp_path / "m.gguf", ReferenceOps(), _quiet) == ()
    wanted_TV = witness_logits(model, ids)
    assert (
        np.abs(_llama_logits(tmp_path / "m.gguf", ids) - wanted_TV).max() <= 0.02 * np.abs(wanted_TV).max()
    )  # keys and values in f16


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "do not load this file: keys of delta nets are 16 wide and values 24"),
        (ONE_WIDTH | {"mlp_only_layers": [2]}, "do not load this file: 1 of the 4 layers have no experts"),
        (ONE_WIDTH | {"norm_topk_prob": False}, "ignore qwen3next.expert_weights_norm"),
    ],
)
def test_what_llama_cpp_makes_of_a_file_is_said(changes: dict[str, object], words: str, tmp_path: Path) -> None:
    needs_llama_cpp()
    model, ids = _short_logarithms(**changes), random_ids(60)
    (line,) = write_gguf_file(_folder(model, tmp_path / "folder"), tmp_path / "m.gguf", ReferenceOps(), _quiet)
    assert words in line
    if "do not load" in words:
        with pytest.raises(ValueError, match="Failed to load"):
            _llama_logits(tmp_path / "m.gguf", ids)
        return
    wanted_TV = witness_logits(model, ids)
    assert np.abs(_llama_logits(tmp_path / "m.gguf", ids) - wanted_TV).max() > 0.1 * np.abs(wanted_TV).max()


@pytest.mark.parametrize("changes", [{}, OTHER_SIZES], ids=["published proportions", "other sizes"])
def test_both_ways_give_back_every_bit(changes: dict[str, object], tmp_path: Path) -> None:
    folder = _folder(random_model(VARIANT, torch.bfloat16, **changes), tmp_path / "folder")
    write_gguf_file(folder, tmp_path / "m.gguf", ReferenceOps(), _quiet)
    assert write_converted_folder(read_gguf(tmp_path / "m.gguf"), tmp_path / "back", _quiet) == ()
    before, after = (load_file(tmp_path / which / "model.safetensors") for which in ("folder", "back"))
    assert before.keys() - {"lm_head.weight"} == after.keys() - {"lm_head.weight"}
    assert all(tensor.dtype == torch.bfloat16 and torch.equal(tensor, before[name]) for name, tensor in after.items())
    write_gguf_file(read_hf_folder(tmp_path / "back"), tmp_path / "again.gguf", ReferenceOps(), _quiet)
    first, second = _tensors(tmp_path / "m.gguf"), _tensors(tmp_path / "again.gguf")
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_a_quantised_file_becomes_a_folder_with_its_values(tmp_path: Path) -> None:
    _folder(random_model(VARIANT, torch.bfloat16, **WIDE), tmp_path / "folder")
    quantise_model(tmp_path / "folder", tmp_path / "q.gguf", MIXES["q4_k"], native_ops())
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "q.gguf").tensors}
    assert (types["blk.2.attn_qkv.weight"], types["blk.2.attn_gate.weight"]) == ("Q6_K", "Q4_K")
    for part in ("ssm_a", "ssm_dt.bias", "ssm_conv1d.weight", "ssm_norm.weight", "ffn_gate_inp_shexp.weight"):
        assert types[f"blk.0.{part}"] == "F32"
    write_converted_folder(read_gguf(tmp_path / "q.gguf"), tmp_path / "back", _quiet)
    held = {t.name: dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(tmp_path / "q.gguf").tensors}
    joined = load_file(tmp_path / "back" / "model.safetensors")["model.layers.2.linear_attn.in_proj_qkvz.weight"].numpy()
    # of the second key head: 64 queries, 64 keys, 128 values, 128 z
    qkv, z = held["blk.2.attn_qkv.weight"], held["blk.2.attn_gate.weight"]
    assert np.array_equal(joined[384:], np.concatenate([qkv[64:128], qkv[192:256], qkv[384:512], z[128:256]]))
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "back", dtype=torch.float32)
    ids = random_ids(40)
    ours_TV, theirs_TV = LLM(tmp_path / "q.gguf", isa="numpy", kv_type="f32").logits(ids), witness_logits(again, ids)
    assert np.abs(ours_TV - theirs_TV).max() <= 1e-4 * np.abs(theirs_TV).max()
    if has_llama_cpp():  # which rounds what comes into matrices to 8 bits
        assert np.abs(_llama_logits(tmp_path / "q.gguf", ids) - theirs_TV).max() <= 0.1 * np.abs(theirs_TV).max()


@pytest.mark.parametrize("name", ["q8_0", *(pytest.param(name, marks=pytest.mark.slow) for name in ("q4_k", "samovar-int4"))])
def test_a_folder_and_its_file_are_quantised_alike(name: str, tmp_path: Path) -> None:
    model = random_model(VARIANT, **WIDE)
    folder = _folder(model, tmp_path / "folder")
    write_gguf_file(folder, tmp_path / "f32.gguf", ReferenceOps(), _quiet)
    for source in ("folder", "f32.gguf"):
        quantise_model(tmp_path / source, tmp_path / f"{source}-q.gguf", MIXES[name], native_ops())
    first, second = (read_gguf(tmp_path / f"{source}-q.gguf").tensors for source in ("folder", "f32.gguf"))
    assert first.keys() == second.keys()
    assert all(tensor.type == second[key].type for key, tensor in first.items())
    assert all(np.array_equal(tensor.stored().data, second[key].stored().data) for key, tensor in first.items())
    ids = random_ids(40)
    found_TV = LLM(tmp_path / "folder-q.gguf", kv_type="f32", cache=False).logits(ids)
    wanted_TV = witness_logits(model, ids)
    lost = np.sqrt(np.mean((found_TV - wanted_TV) ** 2)) / np.abs(wanted_TV).max()
    assert lost < (0.02 if name == "q8_0" else 0.15)


@pytest.mark.parametrize("method", ["fp8-blocks", pytest.param("gptq-4-ordered", marks=pytest.mark.slow)])
def test_quantised_folders_become_files_with_their_values(method: str, tmp_path: Path) -> None:
    model = quantised_folder(tmp_path / "folder", METHODS[method], NEXT)
    write_gguf_file(read_hf_folder(tmp_path / "folder"), tmp_path / "m.gguf", ReferenceOps(), _quiet)
    ids = random_ids(40)
    found_TV = LLM(tmp_path / "m.gguf", isa="numpy", kv_type="f32").logits(ids)
    wanted_TV = witness_logits(model, ids)
    assert np.abs(found_TV - wanted_TV).max() <= 2e-4 * np.abs(wanted_TV).max()


def test_importance_is_measured_for_the_matrices_of_delta_nets(tmp_path: Path) -> None:
    from samovar.convert.calibrate import calibrate

    folder = _folder(random_model(VARIANT), tmp_path / "folder")
    text = "The water in the samovar is hot. " * 40
    found = calibrate(folder.path, text, native_ops(), origin="text", max_tokens=128, progress=_quiet).mean_squares
    assert {"blk.0.attn_qkv.weight", "blk.0.attn_gate.weight", "blk.0.ssm_ba.weight", "blk.0.ssm_out.weight"} <= found.keys()
    for name in ("attn_gate", "ssm_ba"):  # which have the same inputs
        np.testing.assert_array_equal(found["blk.0.attn_qkv.weight"], found[f"blk.0.{name}.weight"])


def test_a_file_that_joins_queries_and_z_as_folders_do_becomes_the_folder(tmp_path: Path) -> None:
    model = random_model(VARIANT, torch.bfloat16)
    joined = {name: t.float().numpy() for name, t in model.state_dict().items() if name.endswith("in_proj_qkvz.weight")}
    folder = _folder(model, tmp_path / "folder")
    write_gguf_file(folder, tmp_path / "m.gguf", ReferenceOps(), _quiet)
    source, writer = gguf.GGUFReader(tmp_path / "m.gguf"), gguf.GGUFWriter(tmp_path / "old.gguf", "qwen3next")
    for key, field in source.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            writer.add_key_value(key, field.contents(), field.types[0], field.types[1] if len(field.types) > 1 else None)
    for tensor in source.tensors:
        if "attn_qkv" not in tensor.name and "attn_gate" not in tensor.name:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    for name, values in joined.items():
        kind = gguf.GGMLQuantizationType.BF16
        writer.add_tensor(f"blk.{name.split('.')[2]}.ssm_in.weight", quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    write_converted_folder(read_gguf(tmp_path / "old.gguf"), tmp_path / "back", _quiet)
    before, after = (load_file(tmp_path / which / "model.safetensors") for which in ("folder", "back"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
    assert before.keys() == after.keys()


def test_heads_that_predict_several_tokens_are_left_out_and_it_is_said(tmp_path: Path) -> None:
    model = random_model(VARIANT, torch.bfloat16)
    folder = write_folder(model, tmp_path / "folder")
    weights = load_file(folder / "model.safetensors") | {"mtp.fc.weight": torch.ones(4, 8), "mtp.norm.weight": torch.ones(4)}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    told = write_gguf_file(read_hf_folder(folder), tmp_path / "m.gguf", ReferenceOps(), _quiet)
    assert "tensors that only predict several tokens at once are left out: 2" in told
    assert "are left out: 2" in str(quantise_model(folder, tmp_path / "q.gguf", MIXES["q8_0"], native_ops()).warnings)

    def describe(writer: gguf.GGUFWriter) -> None:
        add_tokenizer(writer)
        writer.add_nextn_predict_layers(1)
        writer.add_block_count(5)

    more = {"blk.4.nextn.eh_proj.weight": np.ones((4, 8), np.float32)}
    file = write_gguf(model, tmp_path / "more.gguf", "BF16", describe=describe, tensors=more)
    told = write_converted_folder(read_gguf(file), tmp_path / "back", _quiet)
    assert "tensors that only predict several tokens at once are left out: 1" in told
    assert load_file(tmp_path / "back" / "model.safetensors").keys() == weights.keys() - {"mtp.fc.weight", "mtp.norm.weight"}


def test_layers_that_the_file_could_not_say_are_told_in_words(tmp_path: Path) -> None:
    kinds = ["linear_attention", "full_attention", "full_attention", "linear_attention"]
    for layer_types, words in (
        (kinds, r"delta net \(layers 0, 3 of linear_attention, the others of full_attention\): .* use the folder itself"),
        (["full_attention"] * 4, "no layer is linear_attention"),
    ):
        folder = _folder(random_model(VARIANT, layer_types=layer_types), tmp_path / words[:5])
        with pytest.raises(UnsupportedModel, match=words):
            write_gguf_file(folder, tmp_path / "m.gguf", ReferenceOps(), _quiet)
    assert not list(tmp_path.glob("m.gguf*"))


def test_logarithms_in_16_bits_come_back_to_the_bit_from_any_programs_exponentials() -> None:
    drawn = torch.randn(4000, generator=torch.Generator().manual_seed(3)) * 1.5
    for short in (drawn.to(torch.bfloat16), drawn.to(torch.float16)):
        log_H = short.float()[short.float().abs() > 2**-10]
        for rate_H in (rates(log_H.numpy()), torch.exp(log_H).numpy()):
            found = np.concatenate([logarithms(rate_H[start : start + 32]) for start in range(0, len(rate_H), 32)])
            assert np.array_equal(found, log_H.numpy())


def test_logarithms_in_float32_come_back_with_the_same_rates() -> None:
    log_H = np.random.default_rng(2).normal(0, 2, 4000).astype(np.float32)
    found = logarithms(rates(log_H))
    assert np.array_equal(rates(found), rates(log_H))
    assert np.array_equal(found[np.abs(log_H) > 1], log_H[np.abs(log_H) > 1])
    assert not np.array_equal(found, log_H)


def _with_rates(path: Path, change: float) -> GgufCheckpoint:
    """The file with the rates of its first layer times `change`."""
    stored = read_gguf(path).tensors["blk.0.ssm_a"].stored()
    return with_vector(path, "blk.0.ssm_a", stored.data.view(np.float32) * np.float32(change))


def test_an_embedder_comes_back_to_the_bit(tmp_path: Path) -> None:
    folder = write_folder(random_model(VARIANT, torch.bfloat16), tmp_path / "folder")
    weights = {
        name.removeprefix("model."): t for name, t in load_file(folder / "model.safetensors").items() if "lm_head" not in name
    }
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UnsupportedModel, match=r"without an output head, .*: the files of sentence-transformers are expected"):
        write_gguf_file(read_hf_folder(folder), tmp_path / "m.gguf", ReferenceOps(), _quiet)
    write_sentence_files(folder)
    write_gguf_file(read_hf_folder(folder), tmp_path / "m.gguf", ReferenceOps(), _quiet)
    write_converted_folder(read_gguf(tmp_path / "m.gguf"), tmp_path / "back", _quiet)
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert back.keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in back.items())


@pytest.mark.parametrize("type_name", ["F32", "BF16"])
def test_rates_without_a_logarithm_are_refused_and_nothing_is_left(type_name: str, tmp_path: Path) -> None:
    file = write_gguf(random_model(VARIANT), tmp_path / "m.gguf", type_name)
    with pytest.raises(UnsupportedModel, match=r"tensor 'blk\.0\.ssm_a' holds .*, and a folder holds the logarithm"):
        write_converted_folder(_with_rates(file, -1), tmp_path / "folder", _quiet)
    assert not list(tmp_path.glob("folder*"))


def test_a_file_without_z_is_refused_by_name(tmp_path: Path) -> None:
    file = write_gguf(random_model(VARIANT), tmp_path / "m.gguf", "F32")
    file.write_bytes(file.read_bytes().replace(b"blk.1.attn_gate.weight", b"blk.9.attn_gate.weight"))
    with pytest.raises(FormatError, match=r"blk\.1\.attn_gate\.weight' is missing"):
        write_converted_folder(read_gguf(file), tmp_path / "folder", _quiet)
