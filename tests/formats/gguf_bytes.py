"""GGUF files for tests: one written by the `gguf` package with every type, and raw bytes put together by hand."""

import struct
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from samovar.tensors.dtypes import TENSOR_TYPES

METADATA_COUNT = 20


def write_everything(path: Path) -> dict[str, NDArray[np.uint8]]:
    """A small file with all metadata types and a tensor of each storage type that `gguf` knows; returns each tensor's bytes."""
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_uint8("a.u8", 200)
    writer.add_int8("a.i8", -100)
    writer.add_uint16("a.u16", 60_000)
    writer.add_int16("a.i16", -30_000)
    writer.add_uint32("a.u32", 4_000_000_000)
    writer.add_int32("a.i32", -2_000_000_000)
    writer.add_uint64("a.u64", 1 << 63)
    writer.add_int64("a.i64", -(1 << 62))
    writer.add_float32("a.f32", 0.5)
    writer.add_float64("a.f64", 1e300)
    writer.add_bool("a.yes", True)
    writer.add_bool("a.no", False)
    writer.add_string("a.text", "Grüße, 世界")
    writer.add_array("a.texts", ["a", "", "é", "世界", "x" * 300])
    writer.add_array("a.ints", [1, -2, 3])
    writer.add_array("a.floats", [0.25, -1.5])
    writer.add_array("a.bools", [True, False, True])
    writer.add_array("a.nested", [[1, 2], [3]])
    writer.add_string("tokenizer.chat_template", "{{ messages }}")
    stored: dict[str, NDArray[np.uint8]] = {}
    random = np.random.default_rng(11)
    known = {kind.value for kind in gguf.GGMLQuantizationType}
    for stored_type in (t for t in TENSOR_TYPES if t.ggml_id in known):
        name = f"blk.{stored_type.name}.weight"
        row = stored_type.block_bytes * (256 // stored_type.block_elements)
        stored[name] = random.integers(0, 256, (3, row), np.uint8)
        writer.add_tensor(name, stored[name], raw_dtype=gguf.GGMLQuantizationType(stored_type.ggml_id))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stored


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def metadata(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def array(kind: int, count: int, elements: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + elements


def tensor(name: str, dims: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def assemble(
    entries: tuple[bytes, ...] = (),
    tensors: tuple[bytes, ...] = (),
    data: bytes = b"",
    *,
    version: bytes = struct.pack("<I", 3),
    alignment: int = 32,
) -> bytes:
    """A whole file."""
    head = b"GGUF" + version + struct.pack("<QQ", len(tensors), len(entries)) + b"".join(entries) + b"".join(tensors)
    return head + bytes(-len(head) % alignment) + data
