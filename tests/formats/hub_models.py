"""Models for a stub hub to offer, and what the tests of pulling share."""

import json
from pathlib import Path

import numpy as np

from samovar.formats.gguf_writer import TensorPlan, write_gguf
from samovar.formats.transfer import TransferSettings
from samovar.tensors.dtypes import TENSOR_TYPES
from tests.formats.hub_stub import HubStub

SEGMENT = 10_000
QUICK = TransferSettings(n_streams=3, segment_bytes=SEGMENT, n_tries=3, first_wait_s=0.001)
REPO = "Qwen/Qwen3-0.6B-GGUF"
FILE = "Qwen3-0.6B-Q8_0.gguf"
F32 = next(kind for kind in TENSOR_TYPES if kind.name == "F32")


def gguf_bytes(folder: Path, n_values: int = 16_000, **metadata: str) -> bytes:
    """A GGUF file with one tensor of random values."""
    values = np.random.default_rng(n_values).standard_normal(n_values).astype(np.float32)
    plan = TensorPlan(name="token_embd.weight", type=F32, shape=(n_values,), fill=lambda: [values.view(np.uint8)])
    write_gguf(folder / "made.gguf", {"general.architecture": "qwen3", **metadata}, [plan])
    return (folder / "made.gguf").read_bytes()


def safetensors_bytes(name: str, n_values: int) -> bytes:
    data = np.arange(n_values, dtype=np.float32).tobytes()
    header = json.dumps({name: {"dtype": "F32", "shape": [n_values], "data_offsets": [0, len(data)]}}).encode()
    return len(header).to_bytes(8, "little") + header + data


def folder_files() -> dict[str, bytes]:
    """A repository as Qwen's are: two shards, what belongs to them, and what must not be fetched."""
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    return {
        "README.md": b"x" * 3000,
        "LICENSE": b"Apache",
        "config.json": b'{"model_type": "qwen3", "auto_map": {"AutoModel": "modeling.Evil"}}',
        "generation_config.json": b"{}",
        "tokenizer.json": b"{}" + b" " * 5000,
        "tokenizer_config.json": b"{}",
        "chat_template.jinja": b"{{ messages }}",
        "model.safetensors.index.json": json.dumps({"weight_map": weight_map}).encode(),
        "model-00001-of-00002.safetensors": safetensors_bytes("a", 9_000),
        "model-00002-of-00002.safetensors": safetensors_bytes("b", 4_000),
        "pytorch_model.bin": b"pickle" * 1000,
        "modeling.py": b"import os",
        "original/consolidated.safetensors": b"?" * 5000,
        "onnx/model.onnx": b"?" * 5000,
    }


def silent(done_bytes: int, total_bytes: int, what: str) -> None:
    """Reports nothing."""


def fetched(hub: HubStub) -> set[str]:
    """Names of the files that were asked for with GET."""
    return {a.path.rpartition("/")[2] for a in hub.asked if a.method == "GET" and "/resolve/" in a.path}


def nothing_looks_whole(store: Path) -> bool:
    return not list((store / "models").rglob("*")) if (store / "models").exists() else True
