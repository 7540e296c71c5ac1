"""Safetensors reading against the `safetensors` package, and what is refused."""

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from samovar.errors import FormatError, SamovarError, UnsupportedModel
from samovar.formats.safetensors import read_safetensors
from samovar.kernels.dequantise import dequantise


def build(header: object, data: bytes = b"", *, raw: bytes | None = None) -> bytes:
    """A file with this header."""
    text = json.dumps(header).encode() if raw is None else raw
    return struct.pack("<Q", len(text)) + text + data


def entry(begin: int, end: int, shape: tuple[int, ...] = (2, 2), dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tensors_are_read_like_the_reference(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "model.safetensors"
    torch.manual_seed(3)
    written = {"a": torch.randn(5, 3).to(dtype), "b.c": torch.randn(7).to(dtype), "d": torch.randn(2, 1, 3, 2).to(dtype)}
    save_file(written, path, metadata={"format": "pt"})
    ours, theirs = read_safetensors(path), load_file(path)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        mine = ours[name]
        assert mine.shape == tuple(tensor.shape)
        assert torch.equal(torch.from_numpy(dequantise(mine.type, mine.data)).reshape(tensor.shape), tensor.float())
        assert not mine.data.flags.writeable
        mine.release()
        assert mine.data.size == tensor.numel() * tensor.element_size()


def test_tensors_are_listed_in_the_order_of_their_data(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(build({"late": entry(16, 32), "early": entry(0, 16)}, bytes(range(32))))
    tensors = read_safetensors(path)
    assert list(tensors) == ["early", "late"]
    assert tensors["late"].data.tolist() == list(range(16, 32))


REFUSED = {
    "seven bytes": (b"\1" * 7, FormatError, "no safetensors file, or cut short"),
    "huge header": (struct.pack("<Q", 1 << 62) + b"{}", FormatError, "cut short"),
    "cut header": (build({"a": entry(0, 16)}, bytes(16))[:40], FormatError, "cut short"),
    "no object": (build([1, 2]), FormatError, "not with {"),
    "broken json": (build(None, raw=b'{"a":'), FormatError, "not valid JSON"),
    "broken utf-8": (build(None, raw=b'{"a\xff": 1}'), FormatError, "not valid JSON"),
    "deep json": (build(None, raw=b'{"a":' + b"[" * 100_000), FormatError, "nested too deep"),
    "long number": (build(None, raw=b'{"a":' + b"9" * 5000 + b"}"), FormatError, "not valid JSON"),
    "key twice": (
        build(None, bytes(32), raw=b'{"a":%s,"a":%s}' % ((json.dumps(entry(0, 16)).encode(),) * 2)),
        FormatError,
        "key 'a' appears twice",
    ),
    "overlap": (build({"a": entry(0, 16), "b": entry(8, 24)}, bytes(24)), FormatError, "'b' at data offset 8 overlaps"),
    "hole": (build({"a": entry(0, 16), "b": entry(20, 36)}, bytes(36)), FormatError, "leaves 4 bytes unused"),
    "late start": (build({"a": entry(4, 20)}, bytes(20)), FormatError, "leaves 4 bytes unused"),
    "cut data": (build({"a": entry(0, 16)}, bytes(15)), FormatError, "cut short: tensor 'a'"),
    "extra data": (build({"a": entry(0, 16)}, bytes(17)), FormatError, "1 bytes follow the last tensor"),
    "wrong size": (build({"a": entry(0, 12)}, bytes(12)), FormatError, "has 12 bytes; F32 [2, 2] takes 16"),
    "offsets backwards": (build({"a": entry(16, 0)}, bytes(16)), FormatError, "a begin and an end"),
    "negative offset": (build({"a": entry(-16, 0)}, bytes(16)), FormatError, "whole numbers"),
    "bool in shape": (build({"a": {**entry(0, 4), "shape": [True]}}, bytes(4)), FormatError, "whole numbers"),
    "float in shape": (build({"a": {**entry(0, 4), "shape": [1.0]}}, bytes(4)), FormatError, "whole numbers"),
    "missing key": (build({"a": {"dtype": "F32", "shape": [1]}}, bytes(4)), FormatError, "'a' has to hold"),
    "extra key": (build({"a": {**entry(0, 16), "x": 1}}, bytes(16)), FormatError, "'a' has to hold"),
    "entry is no object": (build({"a": 3}), FormatError, "'a' has to hold"),
    "metadata of numbers": (build({"__metadata__": {"a": 1}}), FormatError, "text to text"),
    "fp8": (build({"a": entry(0, 4, (2, 2), "F8_E4M3")}, bytes(4)), UnsupportedModel, "'a' has type F8_E4M3"),
    "int64": (build({"a": entry(0, 32, (2, 2), "I64")}, bytes(32)), UnsupportedModel, "'a' has type I64"),
    "no axes": (build({"a": entry(0, 4, ())}, bytes(4)), SamovarError, "1 to 4 axes"),
    "five axes": (build({"a": entry(0, 4, (1, 1, 1, 1, 1))}, bytes(4)), SamovarError, "1 to 4 axes"),
    "empty tensor": (build({"a": entry(0, 0, (0, 4))}), SamovarError, "none of them empty"),
    "product overflows": (build({"a": entry(0, 16, (1 << 40, 1 << 40))}, bytes(16)), FormatError, "takes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_damaged_and_unread_files_are_refused_by_name(tmp_path: Path, case: str) -> None:
    data, error, said = REFUSED[case]
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    with pytest.raises(error) as caught:
        read_safetensors(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
