"""Whole models: what is written is the model, in the eyes of llama.cpp, of `gguf` and of ourselves."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from samovar.convert.quantise import quantise_model
from samovar.convert.type_mix import MIXES, Mix
from samovar.errors import FormatError, StoreError, UnsupportedModel
from samovar.kernels.native import native_ops
from samovar.llm import LLM
from samovar.llm.random_model import SHAPES, Shape, write_random_model
from samovar.tensors.dtypes import F32
from tests.convert.variants import quickly
from tests.formats import gguf_bytes as raw
from tests.models.tiny_checkpoints import CHAT_TEMPLATE, VARIANTS, random_ids, random_model, witness_logits, write_folder
from tests.models.tiny_gguf import write_gguf
from tests.packages import has_llama_cpp, needs_llama_cpp

EXACT = Mix(name="f32", plain=F32, file_type=0)
TINY = Shape(n_layers=4, d_model=256, n_heads=2, d_ffn=512, is_tied=True, n_kv_heads=1, vocab_size=512, max_context=256)
# what GGUF has no keys for; and what llama.cpp does not run: qwen3moe with dense layers or without renormalisation, biases,
# windows of mistral and phi3, heads of delta nets of two widths
UNSAID = {
    "qwen2-yarn", "llama-yarn", "qwen2-window", "qwen3-window", "qwen3-moe-window", "gemma3-other-scale",
    "qwen3-next-other-sizes",
}  # fmt: skip
OURS_ONLY = {
    "qwen3-moe-every-second",
    "qwen3-moe-8-of-13",
    "qwen3-moe-1-of-5",
    "qwen3-biased",
    "mistral-window",
    "phi3",
    "qwen3-next",
}


def llama_logits(path: Path, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    needs_llama_cpp()
    import llama_cpp

    model = llama_cpp.Llama(str(path), n_ctx=256, logits_all=True, verbose=False, n_threads=1)
    model.eval([int(i) for i in ids])
    logits = np.array(model.scores[: len(ids)])
    model.close()
    return logits


@pytest.mark.parametrize("name", quickly(sorted(VARIANTS.keys() - UNSAID)))
def test_a_folder_becomes_a_file_with_the_same_logits(name: str, tmp_path: Path) -> None:
    model = random_model(VARIANTS[name])
    folder, target = write_folder(model, tmp_path / "model"), tmp_path / "model.gguf"
    quantise_model(folder, target, EXACT, native_ops())
    ids = random_ids(40)
    expected = witness_logits(model, ids)
    ours, original = (LLM(path, kv_type="f32", cache=False) for path in (target, folder))
    np.testing.assert_allclose(ours.logits([int(i) for i in ids]), expected, atol=2e-4)
    for text in ("The samovar is hot.<|im_end|>\n", "12 cousins é", " <|im_start|>user"):
        assert ours.tokenizer.encode(text) == original.tokenizer.encode(text)
    assert ours.tokenizer.eos_ids[:1] == original.tokenizer.eos_ids
    if name not in OURS_ONLY and has_llama_cpp():
        found = llama_logits(target, ids)
        assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()  # llama.cpp keeps keys and values in f16


@pytest.mark.parametrize("layout", ["each expert apart", "all in one"])
def test_experts_are_stacked_from_either_layout(layout: str, tmp_path: Path) -> None:
    model = random_model(VARIANTS["qwen3-moe"])
    folder = write_folder(model, tmp_path / "model", save_original_format=layout == "each expert apart")
    quantise_model(folder, tmp_path / "model.gguf", EXACT, native_ops())
    tensors = {t.name: t.data for t in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    gate_up = model.state_dict()["model.layers.1.mlp.experts.gate_up_proj"].numpy()
    n_rows = gate_up.shape[1] // 2
    np.testing.assert_array_equal(tensors["blk.1.ffn_gate_exps.weight"], gate_up[:, :n_rows])
    np.testing.assert_array_equal(tensors["blk.1.ffn_up_exps.weight"], gate_up[:, n_rows:])


@pytest.mark.parametrize("name", sorted(UNSAID))
def test_what_gguf_cannot_say_is_refused(name: str, tmp_path: Path) -> None:
    folder = write_folder(random_model(VARIANTS[name]), tmp_path / "model")
    with pytest.raises(UnsupportedModel, match=r"GGUF has no way to say this model's (rope|windows|attention scale|delta net)"):
        quantise_model(folder, tmp_path / "model.gguf", EXACT, native_ops())
    assert not list(tmp_path.glob("*.gguf*"))


def test_the_metadata_of_a_folder_are_those_of_llama_cpps_converter(tmp_path: Path) -> None:
    folder = write_folder(random_model(VARIANTS["qwen3-untied"]), tmp_path / "My-Model")
    sampling = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "do_sample": True, "eos_token_id": [2, 0]}
    (folder / "generation_config.json").write_text(json.dumps(sampling))
    quantise_model(folder, tmp_path / "model.gguf", MIXES["q8_0"], native_ops())
    fields = gguf.GGUFReader(tmp_path / "model.gguf").fields
    found = {key: field.contents() for key, field in fields.items()}
    assert found["general.architecture"] == "qwen3"
    assert found["general.name"] == "My-Model"
    assert found["general.file_type"] == 7
    assert found["qwen3.attention.key_length"] == 16
    assert (found["tokenizer.ggml.model"], found["tokenizer.ggml.pre"]) == ("gpt2", "qwen2")
    assert found["tokenizer.ggml.eos_token_id"] == 2
    assert found["tokenizer.ggml.eot_token_id"] == 0
    assert found["tokenizer.ggml.add_bos_token"] is False
    assert found["tokenizer.chat_template"] == CHAT_TEMPLATE
    assert len(found["tokenizer.ggml.tokens"]) == len(found["tokenizer.ggml.token_type"]) == 320
    assert found["tokenizer.ggml.token_type"][:3] == [3, 3, 3]
    assert found["general.sampling.temp"] == pytest.approx(0.6)
    assert found["general.sampling.top_k"] == 20
    assert fields["general.sampling.top_k"].types == [gguf.GGUFValueType.INT32]


@pytest.mark.slow
@pytest.mark.parametrize("type_name", sorted(MIXES.keys() - {"samovar-int4"}))
def test_every_type_loads_in_llama_cpp_and_gives_our_logits(type_name: str, tmp_path: Path) -> None:
    source, target = tmp_path / "f32.gguf", tmp_path / "small.gguf"
    write_random_model(source, TINY, "f32")
    result = quantise_model(source, target, MIXES[type_name], native_ops())
    assert [t.name for t in gguf.GGUFReader(target).tensors] == [t.name for t in result.tensors]
    assert result.size_bytes == target.stat().st_size
    ids = np.arange(5, 45)
    ours, theirs = LLM(target, cache=False, kv_type="f32").logits([int(i) for i in ids]), llama_logits(target, ids)
    exact = LLM(source, cache=False, kv_type="f32").logits([int(i) for i in ids])
    spread = np.abs(exact).max()
    assert np.abs(ours - theirs).max() < 0.1 * spread  # both round inputs to 8 bits, each in its way
    lost = np.sqrt(np.mean((ours - exact) ** 2))
    assert lost < {"q8_0": 0.02, "q6_k": 0.05, "q5_k": 0.1}.get(type_name, 0.2) * spread


def test_a_tensor_that_has_its_type_is_copied_to_the_byte(tmp_path: Path) -> None:
    first, second = tmp_path / "first.gguf", tmp_path / "second.gguf"
    write_random_model(first, TINY, "q4_k_m")
    result = quantise_model(first, second, MIXES["q4_k"], native_ops())
    assert all(tensor.error == 0 for tensor in result.tensors)
    pairs = zip(gguf.GGUFReader(first).tensors, gguf.GGUFReader(second).tensors, strict=True)
    assert all(a.name == b.name and a.data.tobytes() == b.data.tobytes() for a, b in pairs)


def test_metadata_of_a_file_are_kept_and_split_files_joined(tmp_path: Path) -> None:
    first = write_gguf(random_model(VARIANTS["llama3"]), tmp_path / "split.gguf", "F32", tensors_per_file=6)
    quantise_model(first, tmp_path / "whole.gguf", EXACT, native_ops())
    before, after = gguf.GGUFReader(first).fields, gguf.GGUFReader(tmp_path / "whole.gguf").fields
    kept = [key for key in before if not key.startswith(("GGUF.", "split.", "general.file_type"))]
    assert "tokenizer.ggml.merges" in kept
    for key in kept:
        assert (before[key].types, before[key].contents()) == (after[key].types, after[key].contents())
    assert not [key for key in after if key.startswith("split.")]


def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path: Path) -> None:
    model = random_model(VARIANTS["qwen2-tied"])
    for value, words in ((float("nan"), "no number"), (float("inf"), "the value inf"), (1e6, "the value 1e")):
        model.model.layers[1].mlp.up_proj.weight.data[3, 5] = value
        folder = write_folder(model, tmp_path / f"model{words[-3:]}")
        with pytest.raises(FormatError, match=rf"layers.1.mlp.up_proj.weight' holds {words}"):
            quantise_model(folder, tmp_path / "model.gguf", MIXES["q4_0"], native_ops())
    assert not (tmp_path / "model.gguf").exists()


@pytest.mark.parametrize(("mix", "held"), [("q4_k", "q4_k_m"), ("q8_0", "q8_0")])
def test_a_copied_tensor_is_refused_where_a_scale_is_no_number(mix: str, held: str, tmp_path: Path) -> None:
    source = tmp_path / "source.gguf"
    write_random_model(source, TINY, held)
    spoilt = next(tensor for tensor in gguf.GGUFReader(source).tensors if tensor.name == "blk.0.attn_k.weight")
    data = bytearray(source.read_bytes())
    data[spoilt.data_offset : spoilt.data_offset + 2] = np.float16(np.nan).tobytes()
    source.write_bytes(data)
    with pytest.raises(FormatError, match=r"tensor 'blk\.0\.attn_k\.weight' holds no number"):
        quantise_model(source, tmp_path / "out.gguf", MIXES[mix], native_ops())
    assert not (tmp_path / "out.gguf").exists()


def test_a_target_that_is_the_source_or_is_there_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "source.gguf"
    write_random_model(source, TINY, "q8_0")
    before = source.read_bytes()
    (tmp_path / "link.gguf").symlink_to(source)
    for target in (source, tmp_path / "link.gguf"):
        with pytest.raises(StoreError, match="this is the file that is read"):
            quantise_model(source, target, MIXES["q4_0"], native_ops(), replace=True)
    assert source.read_bytes() == before
    (tmp_path / "old.gguf").write_bytes(b"old")
    with pytest.raises(StoreError, match="--force"):
        quantise_model(source, tmp_path / "old.gguf", MIXES["q4_0"], native_ops())


def test_an_architecture_that_is_not_known_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "strange.gguf"
    path.write_bytes(
        raw.assemble((raw.metadata("general.architecture", 8, raw.text("mamba")),), (raw.tensor("w", (4, 2)),), bytes(32))
    )
    with pytest.raises(UnsupportedModel, match="'mamba' is not implemented"):
        quantise_model(path, tmp_path / "out.gguf", MIXES["q8_0"], native_ops())


@pytest.mark.slow
def test_a_killed_run_is_gone_on_with(tmp_path: Path) -> None:
    source, target, whole = tmp_path / "source.gguf", tmp_path / "out.gguf", tmp_path / "whole.gguf"
    write_random_model(source, TINY, "f32")
    quantise_model(source, whole, MIXES["q4_k"], native_ops())
    program = (
        "import os, signal, sys; from pathlib import Path; from samovar.formats import part_file\n"
        "from samovar.convert.quantise import quantise_model; from samovar.convert.type_mix import MIXES\n"
        "from samovar.kernels.native import native_ops\n"
        "part_file._SYNC_BYTES = 1\n"
        "def kill(done, total, what):\n"
        "    if done > total // 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "quantise_model(Path(sys.argv[1]), Path(sys.argv[2]), MIXES['q4_k'], native_ops(), progress=kill)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, source, target], env=os.environ, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not target.exists()
    made: list[int] = []
    result = quantise_model(
        source, target, MIXES["q4_k"], native_ops(), progress=lambda done, total, _what: made.append(100 * done // total)
    )
    assert made[0] >= 30
    assert target.read_bytes() == whole.read_bytes()
    assert all(t.error > 0 for t in result.tensors if t.type != F32)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    shape = replace(SHAPES["qwen3-8b"], n_layers=1, vocab_size=32_768)
    source = tmp_path / "sparse.gguf"
    _write_sparse(source, shape)
    assert source.stat().st_size > 6 << 28
    program = (
        "import re, sys; from pathlib import Path\n"
        "from samovar.convert.quantise import quantise_model; from samovar.convert.type_mix import MIXES\n"
        "from samovar.kernels.native import native_ops\n"
        "quantise_model(Path(sys.argv[1]), Path(sys.argv[2]), MIXES['q4_0'], native_ops())\n"
        # ru_maxrss would start at what the parent takes
        "print(re.search(r'VmHWM:\\s*(\\d+) kB', Path('/proc/self/status').read_text())[1])\n"
    )
    command = [sys.executable, "-c", program, source, tmp_path / "out.gguf"]
    peak_kib = int(subprocess.run(command, env=os.environ, check=True, capture_output=True, text=True).stdout)
    print(f"peak {peak_kib / 1024:.0f} MiB for a source of {source.stat().st_size / 2**20:.0f} MiB; ", end="")
    assert peak_kib < 512 << 10  # a quarter of it, and of the bound


def _write_sparse(path: Path, shape: Shape) -> None:
    """A model of zeros in F32 that takes no room on the disk."""
    small = Shape(n_layers=shape.n_layers, d_model=64, n_heads=2, d_ffn=64, is_tied=False, n_kv_heads=1, vocab_size=512)
    write_random_model(path, small, "f32")
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(path.with_suffix(".tmp"), "qwen3")
    for key, field in reader.fields.items():
        name = key.removeprefix("qwen3.")
        sizes = {
            "embedding_length": shape.d_model,
            "feed_forward_length": shape.d_ffn,
            "attention.head_count": shape.n_heads,
            "attention.head_count_kv": shape.n_kv_heads,
        }
        if not key.startswith("GGUF.") and key != "general.architecture":
            kind = field.types[0]
            sub_kind = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(key, sizes.get(name, field.contents()), kind, sub_kind)
    d, q, k = shape.d_model, shape.n_heads * 128, shape.n_kv_heads * 128
    rows = {
        "token_embd": (shape.vocab_size, d), "output": (shape.vocab_size, d), "output_norm": (d,), "attn_norm": (d,),
        "ffn_norm": (d,), "attn_q_norm": (128,), "attn_k_norm": (128,), "attn_q": (q, d), "attn_k": (k, d), "attn_v": (k, d),
        "attn_output": (d, q), "ffn_gate": (shape.d_ffn, d), "ffn_up": (shape.d_ffn, d), "ffn_down": (d, shape.d_ffn),
    }  # fmt: skip
    total = 0
    for tensor in reader.tensors:
        found = rows[tensor.name.split(".")[-2]]
        n_bytes = 4 * int(np.prod(found))
        writer.add_tensor_info(tensor.name, found, np.dtype(np.float32), n_bytes)
        total += -(-n_bytes // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    path.with_suffix(".tmp").replace(path)
    os.truncate(path, -(-path.stat().st_size // 32) * 32 + total)


def test_types_that_rows_do_not_suit_fall_back_to_finer_ones(tmp_path: Path) -> None:
    source = tmp_path / "source.gguf"
    narrow = Shape(n_layers=1, d_model=96, n_heads=2, d_ffn=200, is_tied=False, n_kv_heads=1, vocab_size=512, max_context=256)
    write_random_model(source, narrow, "f32")
    result = quantise_model(source, tmp_path / "out.gguf", MIXES["q4_k"], native_ops())
    found = {t.name: (t.wanted.name, t.type.name) for t in result.tensors}
    assert found["blk.0.attn_q.weight"] == ("Q4_K", "Q5_0")
    assert found["blk.0.ffn_down.weight"][1] == "F16"
    assert found["blk.0.attn_norm.weight"] == ("F32", "F32")
