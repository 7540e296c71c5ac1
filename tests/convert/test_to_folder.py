"""GGUF files to Hugging Face folders; `transformers`, `safetensors` and `tokenizers` read what was written."""

import fcntl
import json
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import tokenizers
import torch
from gguf.quants import dequantize
from transformers import AutoModelForCausalLM

from samovar import LLM
from samovar.convert.llama3_rope import llama3_settings
from samovar.convert.to_folder import is_begun, write_folder
from samovar.errors import BadRequest, FormatError, SamovarError, StoreError, UnsupportedModel
from samovar.formats.gguf import read_gguf
from samovar.models.rope import read_rope
from samovar.text.tokenizer import Tokenizer
from tests.convert.variants import quickly
from tests.models.tiny_checkpoints import VARIANTS, random_ids, random_model, witness_logits
from tests.models.tiny_gguf import TYPES, round_weights, write_gguf
from tests.real_models import QWEN_CODER, SMOLLM2, real_model

# Left out: settings of YaRN that the test's writer leaves out, widths that do not suit Q8_0.
_LEFT_OUT = ("qwen2-yarn", "llama-yarn", "qwen3-moe-8-of-13")
_UNSAID = (
    "qwen2-window",
    "qwen3-window",
    "qwen3-moe-window",
    "gemma3-other-scale",
    "qwen3-next-other-sizes",
)  # what GGUF has no words for
_VARIANTS = [name for name in VARIANTS if name not in (*_LEFT_OUT, *_UNSAID)]
_TEXT = "Tea at 5 o'clock: 茶、чай, شاي\n\n  e\u0301\u00e9 <|im_start|>user\n1234567 don't  \t x"


def _quiet(_done: int, _total: int, _what: str) -> None:
    """No progress bar."""


@pytest.mark.parametrize("type_name", ["F16", pytest.param("Q8_0", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", quickly(_VARIANTS))
def test_transformers_computes_from_the_folder_what_it_computes_from_the_weights(
    name: str, type_name: str, tmp_path: Path
) -> None:
    model = random_model(VARIANTS[name])
    round_weights(model, type_name)
    write_folder(read_gguf(write_gguf(model, tmp_path / "m.gguf", type_name)), tmp_path / "folder", _quiet)
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "folder", dtype=torch.float32)
    if (scale := getattr(model.model.embed_tokens, "embed_scale", None)) is not None:
        found.model.embed_tokens.embed_scale.copy_(scale)  # rounded to the type that weights are loaded in
    ids = random_ids(40)
    assert np.array_equal(witness_logits(found, ids), witness_logits(model, ids))
    ours = [LLM(tmp_path / path, isa="numpy", kv_type="f32").logits(ids) for path in ("folder", "m.gguf")]
    if name in ("llama3", "qwen3-next"):  # settings in one, divisors in the other; exponentials of two programs
        assert np.allclose(*ours, rtol=1e-4, atol=1e-4)
    elif (name, type_name) != ("gemma3-scaled", "Q8_0"):  # whose factor is rounded to the folder's type, see below
        assert np.array_equal(*ours)


def test_quantised_weights_become_exactly_their_float32_values(tmp_path: Path) -> None:
    checkpoint = read_gguf(write_gguf(random_model(VARIANTS["qwen3-untied"]), tmp_path / "m.gguf", "Q8_0"))
    write_folder(checkpoint, tmp_path / "folder", _quiet)
    found = safetensors.torch.load_file(tmp_path / "folder" / "model.safetensors")
    tensor = checkpoint.tensors["blk.1.ffn_up.weight"]
    expected = dequantize(tensor.rows(), TYPES["Q8_0"])
    assert np.array_equal(found["model.layers.1.mlp.up_proj.weight"].numpy(), expected)


def test_vectors_take_the_type_of_the_matrices_only_where_no_value_changes(tmp_path: Path) -> None:
    model = random_model(VARIANTS["qwen3-untied"])
    with torch.no_grad():
        exact = model.model.norm.weight
        exact.copy_(exact.to(torch.bfloat16))
    write_folder(read_gguf(write_gguf(model, tmp_path / "m.gguf", "BF16")), tmp_path / "folder", _quiet)
    found = safetensors.torch.load_file(tmp_path / "folder" / "model.safetensors")
    assert found["model.norm.weight"].dtype == torch.bfloat16
    inexact = found["model.layers.0.input_layernorm.weight"]
    assert inexact.dtype == torch.float32
    assert torch.equal(inexact, model.model.layers[0].input_layernorm.weight)


def test_a_factor_that_the_type_of_the_folder_rounds_otherwise_is_told(tmp_path: Path) -> None:
    for type_name, expected in (
        ("Q8_0", "multiplied by 9.8125 with these weights, and by 9.79796 with the folder's"),
        ("F16", ""),
    ):
        path = write_gguf(random_model(VARIANTS["gemma3-scaled"]), tmp_path / f"{type_name}.gguf", type_name)
        told = write_folder(read_gguf(path), tmp_path / type_name, _quiet)
        assert [expected in line for line in told] == ([True] if expected else [])


@pytest.mark.slow
@pytest.mark.parametrize("name", [SMOLLM2, QWEN_CODER])
def test_the_tokenizer_of_a_real_model_cuts_texts_as_before(name: str, tmp_path: Path) -> None:
    checkpoint = read_gguf(real_model(name))
    write_folder(checkpoint, tmp_path / "folder", _quiet)
    ours = Tokenizer.from_gguf(checkpoint.metadata)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "folder" / "tokenizer.json"))
    assert theirs.encode(_TEXT).ids == ours.encode(_TEXT)
    assert theirs.decode(theirs.encode(_TEXT).ids, skip_special_tokens=False) == ours.decode(ours.encode(_TEXT))
    question = "What is the capital of France?"
    answers = [LLM(path).chat(question, temperature=0, max_tokens=8).text for path in (real_model(name), tmp_path / "folder")]
    assert answers[0] == answers[1] == "The capital of France is Paris."


def test_large_models_are_cut_into_shards_with_an_index(tmp_path: Path) -> None:
    model = random_model(VARIANTS["qwen3-untied"])
    write_folder(read_gguf(write_gguf(model, tmp_path / "m.gguf", "F32")), tmp_path / "folder", _quiet, max_shard_bytes=60_000)
    index = json.loads((tmp_path / "folder" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "folder", dtype=torch.float32)
    assert np.array_equal(witness_logits(found, random_ids(9)), witness_logits(model, random_ids(9)))


def test_an_interrupted_conversion_goes_on_where_it_stopped(tmp_path: Path) -> None:
    checkpoint = read_gguf(write_gguf(random_model(VARIANTS["qwen3-untied"]), tmp_path / "m.gguf", "F32"))
    seen: list[int] = []

    def interrupt(done: int, total: int, _what: str) -> None:
        seen.append(done)
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_folder(checkpoint, tmp_path / "folder", interrupt, max_shard_bytes=60_000)
    assert not (tmp_path / "folder").exists()
    half = seen[-1]
    seen.clear()
    write_folder(checkpoint, tmp_path / "folder", lambda done, _t, _w: seen.append(done), max_shard_bytes=60_000)
    assert half // 2 < seen[0] <= half + 60_000
    assert not list((tmp_path / "folder").glob("*.part"))
    LLM(tmp_path / "folder", isa="numpy").logits(random_ids(3))


def test_what_another_source_left_is_not_gone_on_from(tmp_path: Path) -> None:
    first, second = (
        read_gguf(write_gguf(random_model(VARIANTS[name]), tmp_path / f"{name}.gguf", "F32"))
        for name in ("qwen2-tied", "qwen3-untied")
    )

    def interrupt(done: int, total: int, _what: str) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_folder(first, tmp_path / "folder", interrupt, max_shard_bytes=60_000)
    write_folder(second, tmp_path / "folder", _quiet)
    assert json.loads((tmp_path / "folder" / "config.json").read_text())["model_type"] == "qwen3"
    LLM(tmp_path / "folder", isa="numpy")
    assert not list((tmp_path / "folder").glob("model-*"))


@pytest.mark.parametrize("what", ["a folder", "with a note of its own", "a file", "a link"])
def test_what_another_program_left_under_the_name_of_the_part_is_refused_and_stays(what: str, tmp_path: Path) -> None:
    path = write_gguf(random_model(VARIANTS["qwen3-untied"]), tmp_path / "m.gguf", "F32")
    part, mine = tmp_path / "folder.part", tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("precious")
    if what == "with a note of its own":
        (mine / ".source").write_text("https://example.org/thesis")
    if what == "a file":
        part.write_text("precious")
    elif what == "a link":
        part.symlink_to(mine)
    else:
        mine.rename(part)
    error = _refusal(path, tmp_path / "folder")
    assert isinstance(error, StoreError)
    assert f"{part}: a " in str(error)
    assert "move it away, or choose another name" in str(error)
    assert (part if what == "a file" else part / "thesis.txt").read_text() == "precious"


def test_a_part_counts_as_begun_when_a_shard_of_it_is_whole(tmp_path: Path) -> None:
    checkpoint = read_gguf(write_gguf(random_model(VARIANTS["qwen3-untied"]), tmp_path / "m.gguf", "F32"))

    def interrupt(done: int, total: int, _what: str) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    for name, shard_bytes, expected in (("one", 1 << 30, False), ("many", 60_000, True)):
        with pytest.raises(KeyboardInterrupt):
            write_folder(checkpoint, tmp_path / name, interrupt, max_shard_bytes=shard_bytes)
        assert is_begun(tmp_path / name) == expected


def _refusal(path: Path, target: Path) -> SamovarError:
    with pytest.raises(SamovarError) as caught:
        write_folder(read_gguf(path), target, _quiet)
    assert not target.exists()
    return caught.value


def test_a_target_that_is_there_is_left_alone(tmp_path: Path) -> None:
    path = write_gguf(random_model(VARIANTS["qwen3-untied"]), tmp_path / "m.gguf", "F32")
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadRequest, match="is there already, and folders are never replaced"):
        write_folder(read_gguf(path), tmp_path / "folder", _quiet)


def test_two_processes_do_not_write_one_folder(tmp_path: Path) -> None:
    path = write_gguf(random_model(VARIANTS["qwen3-untied"]), tmp_path / "m.gguf", "F32")
    part = tmp_path / "folder.part"
    part.mkdir()
    held = os.open(part, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        error = _refusal(path, tmp_path / "folder")
    finally:
        os.close(held)
    assert isinstance(error, StoreError)
    assert "another process" in str(error)


def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path: Path) -> None:
    model = random_model(VARIANTS["qwen3-untied"])
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3, 5] = float("nan")
    error = _refusal(write_gguf(model, tmp_path / "m.gguf", "F32"), tmp_path / "folder")
    assert isinstance(error, FormatError)
    assert "blk.1.ffn_down.weight" in str(error)
    assert not (tmp_path / "folder.part").exists()


@pytest.mark.parametrize(
    ("d_head", "theta", "factor", "low", "original"),
    [(128, 5e5, 8.0, 1.0, 8192), (64, 5e5, 32.0, 1.0, 8192), (128, 1e6, 16.0, 1.5, 4096), (32, 5e5, 8.0, 1.0, 32)],
)
def test_settings_of_llama_3_s_scaling_come_back_from_its_divisors(
    d_head: int, theta: float, factor: float, low: float, original: int
) -> None:
    plain = {"rope_theta": theta}
    settings = {
        "rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": 4.0,
        "original_max_position_embeddings": original,
    }  # fmt: skip
    plain_R, scaled_R = (
        read_rope(keys, d_rotary=d_head, max_context=131_072, where="x").inv_freq_R for keys in (plain, plain | settings)
    )
    assert llama3_settings(plain_R, (plain_R / scaled_R).astype(np.float32)) == settings


def test_divisors_that_no_settings_make_are_refused(tmp_path: Path) -> None:
    path = write_gguf(random_model(VARIANTS["llama3"]), tmp_path / "m.gguf", "F32")
    data, stored = bytearray(path.read_bytes()), read_gguf(path).tensors["rope_freqs.weight"].stored()
    at = data.index(stored.data.tobytes())
    data[at : at + 4] = np.array([1.5], np.float32).tobytes()
    path.write_bytes(data)
    error = _refusal(path, tmp_path / "folder")
    assert isinstance(error, UnsupportedModel)
    assert "a config.json has no way to say this model's rope" in str(error)
