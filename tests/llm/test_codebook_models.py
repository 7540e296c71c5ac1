"""Models that llama.cpp's own quantiser has made, in the types IQ1 to IQ3, TQ, Q1_0 and Q2_0: our logits beside llama.cpp's."""

import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from samovar.formats.gguf import read_gguf
from samovar.formats.gguf_writer import TensorPlan, write_gguf
from samovar.kernels.dequantise import dequantise
from samovar.kernels.native import native_missing_reason
from samovar.llm import LLM
from samovar.llm.random_model import write_random_model
from samovar.tensors.dtypes import TYPE_BY_NAME, TensorType
from tests.ggml import load_ggml
from tests.models.test_every_quantisation import relative_error
from tests.models.typed_gguf import SHAPE, write_twin

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(native_missing_reason() is not None, reason="the native kernels are not built"),
    pytest.mark.skipif(find_spec("llama_cpp") is None, reason="llama-cpp-python is not there: `make bench` builds it"),
]
ROOT = Path(__file__).parents[2]
NAMES = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "TQ1_0", "TQ2_0", "Q1_0", "Q2_0")
TINY = replace(SHAPE, n_layers=1, vocab_size=1024)  # llama.cpp wants room for all bytes
IDS = [int(i) for i in np.random.default_rng(3).integers(0, 500, 24)]
PROMPT = "The capital of France is Paris. The capital of Italy is"
LLAMA_CPP = """
import sys, numpy as np
from pathlib import Path
from benchmarks.llama_cpp_peer import LlamaCpp
np.save(sys.argv[2], LlamaCpp(Path(sys.argv[1]), n_threads=1, n_context=256, all_logits=True).logits([*map(int, sys.argv[3:])]))
"""
QUANTISE = """
import ctypes, sys
import numpy as np
from pathlib import Path
from llama_cpp import llama_cpp as api
from samovar.formats.gguf import read_gguf
tensors = [t for t in read_gguf(Path(sys.argv[1])).tensors.values() if len(t.shape) == 2]
importance = np.ones(1 << 16, np.float32).ctypes.data_as(ctypes.POINTER(ctypes.c_float))
entries = (api.llama_model_imatrix_data * (len(tensors) + 1))()
for entry, tensor in zip(entries, tensors):
    entry.name, entry.data, entry.size = tensor.name.encode(), importance, tensor.shape[-1]
params = api.llama_model_quantize_default_params()
params.ftype, params.nthread, params.imatrix = int(sys.argv[3]), 1, entries
assert api.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(params)) == 0
"""


def llama_cpp_logits(path: Path, ids: list[int]) -> np.ndarray:
    """In a process of its own: its library keeps threads, and memory."""
    found = path.with_suffix(".npy")
    command = [sys.executable, "-c", LLAMA_CPP, path, found, *map(str, ids)]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    return np.load(found)


def requantise(source: Path, path: Path, type_: TensorType, *suffixes: str) -> None:
    """Write the model again, the matrices whose names end so quantised by ggml."""
    checkpoint, ggml = read_gguf(source), load_ggml()
    plans = []
    for tensor in checkpoint.tensors.values():
        kind, data = tensor.type, tensor.data
        if tensor.name.endswith(suffixes) and len(tensor.shape) == 2:
            kind, data = type_, ggml.quantise(type_, dequantise(kind, data).reshape(tensor.shape))
        plans.append(TensorPlan(name=tensor.name, type=kind, shape=tensor.shape, fill=lambda data=data: [data]))
    write_gguf(path, dict(checkpoint.metadata), plans)


def assert_as_near_as_llama_cpp(path: Path, tmp_path: Path) -> None:
    """Both round the inputs of such layers; neither may be further from float32 arithmetic than that explains."""
    write_twin(path, tmp_path / "twin.gguf")
    exact = LLM(tmp_path / "twin.gguf", cache=False, kv_type="f32").logits(IDS)
    theirs, ours = llama_cpp_logits(path, IDS), LLM(path, cache=False, kv_type="f16").logits(IDS)
    assert relative_error(ours, exact) <= 1.2 * relative_error(theirs, exact)
    assert relative_error(theirs, exact) <= 0.05


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_as_near_to_the_exact_ones_as_those_of_llama_cpp(name: str, tmp_path: Path) -> None:
    write_random_model(tmp_path / "plain.gguf", TINY, "f32")
    path = tmp_path / "model.gguf"
    requantise(tmp_path / "plain.gguf", path, TYPE_BY_NAME[name], ".weight")
    assert {t.type.name for t in read_gguf(path).tensors.values()} == {name, "F32"}
    assert_as_near_as_llama_cpp(path, tmp_path)


@pytest.mark.parametrize(("name", "file_type"), [("IQ2_XS", 20), ("IQ3_S", 26)])
def test_files_of_llama_quantize_compute_what_they_do_in_llama_cpp(name: str, file_type: int, tmp_path: Path) -> None:
    plain, path = tmp_path / "plain.gguf", tmp_path / "model.gguf"
    write_random_model(plain, TINY, "f32")
    subprocess.run([sys.executable, "-c", QUANTISE, plain, path, str(file_type)], check=True, cwd=ROOT, capture_output=True)
    assert name in {t.type.name for t in read_gguf(path).tensors.values()}
    assert_as_near_as_llama_cpp(path, tmp_path)


# Of SmolLM2, in some layers: coarse enough to matter, and still a language model.
ROUNDED = tuple(f"blk.{layer}.ffn_down.weight" for layer in (5, 11, 17, 23))


@pytest.mark.parametrize("name", ["IQ1_M", "IQ2_XS", "IQ3_S", "TQ2_0"])
def test_with_real_weights_no_prediction_is_further_from_the_exact_one_than_llama_cpp_is(
    name: str, smollm2: Path, tmp_path: Path
) -> None:
    path = tmp_path / "smollm2.gguf"
    requantise(smollm2, path, TYPE_BY_NAME[name], *ROUNDED)
    llm = LLM(path, cache=False)
    ids = llm.tokenizer.encode(PROMPT)
    exact, ours = LLM(path, cache=False, isa="numpy", kv_type="f32").logits(ids), llm.logits(ids)
    theirs, unrounded = llama_cpp_logits(path, ids), LLM(smollm2, cache=False).logits(ids)
    assert relative_error(unrounded, exact) > 0.2, "the rounded layers have to matter"
    assert relative_error(ours, exact) <= relative_error(theirs, exact)
    best = exact.argmax(axis=1)
    assert (ours.argmax(axis=1) == best).sum() >= (theirs.argmax(axis=1) == best).sum()
