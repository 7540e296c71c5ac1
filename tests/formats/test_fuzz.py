"""Damaged files: any change of a sound file gives a SamovarError or a load that stays inside the file."""

import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from samovar.errors import SamovarError
from samovar.formats.gguf import read_gguf
from samovar.formats.safetensors import read_safetensors
from samovar.tensors.stored import StoredTensor
from tests.formats import gguf_bytes

MAX_PEAK_BYTES = 4 << 20
ODD_BYTES = (0x00, 0x01, 0x7F, 0x80, 0xFE, 0xFF, 0x22, 0x5B, 0x7B, 0x2D, 0x39)

Reader = Callable[[Path], dict[str, StoredTensor]]


def gguf_tensors(path: Path) -> dict[str, StoredTensor]:
    return read_gguf(path).tensors


@pytest.fixture(scope="module", params=["gguf", "safetensors"])
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, int, Reader, Path]:
    """The bytes of a sound file, where its header ends, its reader, and a path to write to."""
    path = tmp_path_factory.mktemp("fuzz") / "model"
    if request.param == "gguf":
        stored = gguf_bytes.write_everything(path)
        data = path.read_bytes()
        return data, data.index(stored["blk.F32.weight"].tobytes()), gguf_tensors, path
    tensors = {f"layer.{i}": torch.randn(3, 4).to(t) for i, t in enumerate((torch.float32, torch.float16, torch.bfloat16))}
    save_file(tensors, path, metadata={"format": "pt"})
    data = path.read_bytes()
    return data, 8 + int.from_bytes(data[:8], "little"), read_safetensors, path


def loads_or_is_refused(data: bytes, reader: Reader, path: Path) -> bool:
    """Whether it loads. Memory is bounded either way, and every byte of every tensor can be read."""
    path.write_bytes(data)
    tracemalloc.start()
    try:
        tensors = reader(path)
    except SamovarError:
        return False
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < MAX_PEAK_BYTES
    assert sum(tensor.size_bytes for tensor in tensors.values()) <= len(data)
    for tensor in tensors.values():
        assert np.frombuffer(data, np.uint8).size >= tensor.data.size == tensor.size_bytes
        tensor.data.sum()
    return True


def mutate(data: bytes, header_end: int, rng: random.Random) -> bytes:
    """Change, insert, remove or copy a few bytes of the header."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.randrange(header_end)
        kind = rng.randrange(6)
        if kind == 0:
            changed[at] = rng.choice(ODD_BYTES)
        elif kind == 1:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            changed[at : at + 8] = rng.choice((0, 1, 2**31, 2**32, 2**60, 2**63, 2**64 - 1)).to_bytes(8, "little")
        elif kind == 3:
            del changed[at : at + rng.randrange(1, 9)]
        elif kind == 4:
            changed[at:at] = rng.randbytes(rng.randrange(1, 9))
        else:
            source = rng.randrange(header_end)
            changed[at : at + 16] = changed[source : source + 16]
    return bytes(changed)


def test_the_sound_file_loads(sound: tuple[bytes, int, Reader, Path]) -> None:
    data, _, reader, path = sound
    assert loads_or_is_refused(data, reader, path)


def test_every_truncation_of_the_header_is_refused(sound: tuple[bytes, int, Reader, Path]) -> None:
    data, header_end, reader, path = sound
    step = 1 if header_end < 500 else 7
    for size in range(0, header_end, step):
        assert not loads_or_is_refused(data[:size], reader, path), size


def test_truncations_of_the_data_are_refused(sound: tuple[bytes, int, Reader, Path]) -> None:
    data, header_end, reader, path = sound
    last = len(data.rstrip(b"\0")) if reader is gguf_tensors else len(data)  # a GGUF file may end in padding
    for size in np.linspace(header_end, last - 1, 40).astype(int).tolist():
        assert not loads_or_is_refused(data[:size], reader, path), size


def test_mutated_headers_load_or_are_refused(sound: tuple[bytes, int, Reader, Path]) -> None:
    data, header_end, reader, path = sound
    rng = random.Random(5)
    results = [loads_or_is_refused(mutate(data, header_end, rng), reader, path) for _ in range(600)]
    assert any(results)
    assert not all(results)


@pytest.mark.slow
def test_many_mutated_headers_load_or_are_refused(sound: tuple[bytes, int, Reader, Path]) -> None:
    data, header_end, reader, path = sound
    rng = random.Random(6)
    for _ in range(8000):
        loads_or_is_refused(mutate(data, header_end, rng), reader, path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(choices=st.data())
def test_any_splice_of_bytes_loads_or_is_refused(sound: tuple[bytes, int, Reader, Path], choices: st.DataObject) -> None:
    data, header_end, reader, path = sound
    at = choices.draw(st.integers(0, header_end))
    end = choices.draw(st.integers(at, min(at + 64, header_end)))
    piece = choices.draw(st.binary(max_size=64))
    loads_or_is_refused(data[:at] + piece + data[end:], reader, path)
