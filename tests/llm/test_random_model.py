"""Random models: files that our reader and the independent one of `gguf` understand, with sane values of every type."""

from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize

from samovar.errors import BadRequest, StoreError
from samovar.kernels.dequantise import dequantise
from samovar.llm import LLM
from samovar.llm.random_blocks import random_blocks
from samovar.llm.random_model import (
    QUANTS,
    SHAPES,
    NetShape,
    Shape,
    made_up_vocabulary,
    random_model_bytes,
    write_random_model,
)
from samovar.tensors.dtypes import TYPE_BY_NAME

TINY = Shape(n_layers=8, d_model=256, n_heads=2, d_ffn=512, is_tied=True, n_kv_heads=1, vocab_size=1024, max_context=256)
# Of these layers `llama_model_quantize` (llama.cpp in llama-cpp-python 0.3.36) keeps attn_v and ffn_down in Q6_K.
BETTER_LAYERS = {0, 3, 6, 7}


@pytest.mark.parametrize("name", sorted({t.name for q in QUANTS.values() for t in (q.layers, q.head)}))
def test_random_blocks_have_the_mean_and_deviation_asked_for(name: str) -> None:
    type_ = TYPE_BY_NAME[name]
    data = random_blocks(type_, 256 * 256, 0.02, seed=1)
    if name in ("Q1_0", "Q2_0"):  # which `gguf` does not decode
        values = dequantise(type_, data)
    else:
        stored = data.view(f"<f{type_.block_bytes}") if name in ("F16", "F32") else data.reshape(1, -1)
        values = dequantize(stored, gguf.GGMLQuantizationType(type_.ggml_id))
    assert values.size == 256 * 256
    assert abs(values.mean()) < 0.0005
    assert 0.018 < values.std() < 0.022
    assert (data == random_blocks(type_, 256 * 256, 0.02, seed=1)).all()
    assert (data != random_blocks(type_, 256 * 256, 0.02, seed=2)).any()


@pytest.mark.parametrize("quant", QUANTS)
def test_a_random_model_of_every_mix_computes_finite_logits_that_depend_on_the_prompt(quant: str, tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_random_model(path, TINY.with_layers(2), quant)
    llm = LLM(path, cache=False)
    first, second = (llm.logits(ids)[-1] for ids in ([5, 6, 7], [7, 6, 7]))
    assert np.isfinite(first).all()
    assert 0.3 < first.std() < 3
    assert not np.array_equal(first, second)
    assert len(llm.generate("abc", max_tokens=4, temperature=0).token_ids) == 4


@pytest.mark.parametrize("quant", ["q4_0", "q5_0", "q8_0", "q4_k_m"])
def test_prompts_have_answers_of_their_own(quant: str, tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_random_model(path, replace(TINY, d_model=1024, d_ffn=1024), quant)
    llm = LLM(path, cache=False)
    answers = {int(llm.logits([index, 2 * index + 1, 3 * index + 2])[-1].argmax()) for index in range(16)}
    assert len(answers) > 8


def test_an_independent_reader_finds_the_types_that_llama_quantize_chooses(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_random_model(path, TINY, "q4_k_m")
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}
    assert types["token_embd.weight"] == "Q6_K"
    assert "output.weight" not in types
    for layer in range(8):
        better = "Q6_K" if layer in BETTER_LAYERS else "Q4_K"
        assert types[f"blk.{layer}.attn_v.weight"] == types[f"blk.{layer}.ffn_down.weight"] == better
        assert types[f"blk.{layer}.attn_q.weight"] == types[f"blk.{layer}.ffn_up.weight"] == "Q4_K"
        assert types[f"blk.{layer}.attn_norm.weight"] == "F32"


def test_a_shape_with_delta_nets_has_the_types_that_llama_quantize_chooses_and_loads(tmp_path: Path) -> None:
    net = NetShape(n_key_heads=2, n_value_heads=4, d_key=64, d_value=64, d_rotary=32, d_shared=256)
    shape = Shape(
        n_layers=4, d_model=256, n_heads=4, d_ffn=256, is_tied=False, n_kv_heads=2, vocab_size=600, n_experts=4, n_chosen=2,
        d_expert=256, net=net,
    )  # fmt: skip
    assert shape.with_layers(2).net == replace(net, interval=2)
    path = tmp_path / "next.gguf"
    write_random_model(path, shape, "q4_k_m")
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}
    assert [types[f"blk.{layer}.attn_qkv.weight"] for layer in range(3)] == ["Q4_K", "Q4_K", "Q6_K"]
    assert types["blk.0.attn_gate.weight"] == types["blk.0.ssm_out.weight"] == types["blk.3.attn_q.weight"] == "Q4_K"
    assert types["blk.0.ssm_conv1d.weight"] == types["blk.0.ffn_gate_inp_shexp.weight"] == "F32"
    assert "blk.3.ssm_a" not in types
    assert np.isfinite(LLM(path, cache=False).logits([1, 2, 3, 4, 5])).all()


def test_published_shapes_have_the_published_numbers_of_parameters() -> None:
    n_parameters = {name: random_model_bytes(shape, "f32") / 4e9 for name, shape in SHAPES.items()}
    published = {
        "qwen3-0.6b": 0.596, "qwen3-1.7b": 1.721, "qwen3-4b": 4.022, "qwen3-8b": 8.191, "qwen3-30b-a3b": 30.532,
        "qwen3-235b-a22b": 235.094, "qwen3-coder-30b-a3b": 30.532, "qwen3-coder-480b-a35b": 480.155,
        "qwen3-14b": 14.768, "qwen3-32b": 32.762, "qwen3-4b-2507": 4.022, "qwen3-30b-a3b-2507": 30.532,
        "qwen3-235b-a22b-2507": 235.094, "qwen3-next-80b-a3b": 79.674,
    }  # fmt: skip
    assert n_parameters == pytest.approx(published, abs=5e-4)


def test_the_made_up_vocabulary_encodes_any_text_without_loss(tmp_path: Path) -> None:
    vocabulary = made_up_vocabulary(151_936)
    tokens, kinds = vocabulary["tokenizer.ggml.tokens"], vocabulary["tokenizer.ggml.token_type"]
    assert isinstance(tokens, list)
    assert isinstance(kinds, list)
    assert len(tokens) == len(kinds) == len(set(map(str, tokens))) == 151_936
    path = tmp_path / "tiny.gguf"
    write_random_model(path, Shape(n_layers=1, d_model=32, n_heads=1, d_ffn=32, is_tied=True, n_kv_heads=1, d_head=32), "q8_0")
    tokenizer = LLM(path, max_context=64, cache=False).tokenizer
    assert len(tokenizer.encode("the cat")) < len("the cat")
    for text in ("the cat", "Grüße, 世界 \U0001f600\n\n", "x" * 50):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_an_unknown_quantisation_is_refused_with_the_ones_there_are(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"'q5'.*q4_0.*q4_k_m"):
        write_random_model(tmp_path / "x.gguf", TINY, "q5")


def test_a_model_too_large_for_the_disk_is_refused_with_the_sizes(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"need [0-9.]+ GiB on disk, [0-9.]+ GiB are free"):
        write_random_model(tmp_path / "x.gguf", replace(SHAPES["qwen3-8b"], d_ffn=1 << 30), "f32")
    assert not list(tmp_path.iterdir())
