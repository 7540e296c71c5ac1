"""Tiny models in GGUF whose matrices are all of one storage type, with random blocks, and their twins in float32."""

from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from samovar.formats.gguf import read_gguf
from samovar.formats.gguf_writer import TensorPlan, write_gguf
from samovar.kernels.dequantise import dequantise
from samovar.llm.random_model import Shape, write_random_model
from samovar.tensors.dtypes import F32, TensorType
from samovar.tensors.stored import StoredTensor
from tests.kernels.native_cases import random_weight

SHAPE = Shape(
    n_layers=2, d_model=256, n_heads=2, d_ffn=512, is_tied=False, n_kv_heads=1, vocab_size=600, max_context=256,
)  # fmt: skip
# All experts are chosen: rounded inputs would change a choice between two that are nearly equal.
EXPERTS = Shape(
    n_layers=2, d_model=256, n_heads=2, d_ffn=512, is_tied=False, n_kv_heads=1, vocab_size=600, max_context=256,
    n_experts=3, n_chosen=3, d_expert=256,
)  # fmt: skip
_OWN_WITNESS = ("Q1_0", "Q2_0")  # `gguf` does not decode them; tests.kernels.test_codebook_types holds them against ggml


def write_typed(path: Path, shape: Shape, type_: TensorType) -> None:
    """Matrices but routers are of the type, vectors are ones."""
    plain = path.with_suffix(".plain")
    write_random_model(plain, shape, "f32")
    checkpoint = read_gguf(plain)
    plans = [_plan(tensor, *_blocks(tensor, type_, seed)) for seed, tensor in enumerate(checkpoint.tensors.values())]
    write_gguf(path, checkpoint.facts | dict(checkpoint.metadata), plans)
    plain.unlink()


def write_twin(source: Path, path: Path) -> None:
    """The same model in float32, its values decoded by `gguf`."""
    checkpoint = read_gguf(source)
    plans = [_plan(tensor, F32, _values(tensor).view(np.uint8)) for tensor in checkpoint.tensors.values()]
    write_gguf(path, dict(checkpoint.metadata), plans)


def _blocks(tensor: StoredTensor, type_: TensorType, seed: int) -> tuple[TensorType, NDArray[np.uint8]]:
    if len(tensor.shape) == 1 or tensor.name.endswith("ffn_gate_inp.weight"):
        return tensor.type, tensor.data
    return type_, random_weight(type_, tensor.n_elements // tensor.shape[-1], tensor.shape[-1], seed).data


def _plan(tensor: StoredTensor, type_: TensorType, data: NDArray[np.uint8]) -> TensorPlan:
    return TensorPlan(name=tensor.name, type=type_, shape=tensor.shape, fill=lambda: [data])


def _values(tensor: StoredTensor) -> NDArray[np.float32]:
    if tensor.type.name in _OWN_WITNESS:
        return dequantise(tensor.type, tensor.data)
    kind = gguf.GGMLQuantizationType(tensor.type.ggml_id)
    stored = {"F32": "<f4", "F16": "<f2"}.get(tensor.type.name)
    data = tensor.data.view(stored) if stored else tensor.rows()
    return np.ascontiguousarray(gguf.quants.dequantize(data, kind), np.float32).reshape(-1)
