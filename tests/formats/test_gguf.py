"""GGUF reading against the `gguf` package, and what is refused."""

import os
import struct
import time
from pathlib import Path

import gguf
import numpy as np
import pytest

from samovar.errors import FormatError, ModelNotFound, SamovarError, UnsupportedModel
from samovar.formats.gguf import read_gguf
from tests.formats import gguf_bytes as raw

F32_TENSOR = raw.tensor("w", (4, 2))
F32_DATA = np.arange(8, dtype="<f4").tobytes()


@pytest.fixture
def write(tmp_path: Path):
    def write(data: bytes, name: str = "model.gguf") -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


def test_every_metadata_and_tensor_type_is_read_like_the_reference(tmp_path: Path) -> None:
    path = tmp_path / "all.gguf"
    stored = raw.write_everything(path)
    ours, theirs = read_gguf(path), gguf.GGUFReader(path)
    assert ours.version == 3
    assert ours.size_bytes == path.stat().st_size
    assert len(ours.metadata) == raw.METADATA_COUNT
    own_keys = {key: field for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert ours.metadata.keys() == own_keys.keys()
    for key, field in own_keys.items():
        if key != "a.nested":  # the reference flattens it
            assert ours.metadata[key] == field.contents(), key
            assert type(ours.metadata[key]) is type(field.contents()), key
    assert ours.metadata["a.nested"] == [[1, 2], [3]]
    assert ours.metadata["a.bools"] == [True, False, True]
    assert ours.metadata["a.yes"] is True
    assert [t.name for t in theirs.tensors] == list(ours.tensors)
    for tensor in theirs.tensors:
        mine = ours.tensors[tensor.name]
        assert mine.type.name == tensor.tensor_type.name
        assert mine.shape == tuple(reversed(tensor.shape.tolist())) == (3, 256)
        assert mine.data.tobytes() == stored[tensor.name].tobytes()
        assert not mine.data.flags.writeable
        assert mine.source == str(path)


def test_released_tensors_keep_their_values(tmp_path: Path) -> None:
    path = tmp_path / "big.gguf"
    values = np.random.default_rng(1).standard_normal((300, 1024), np.float32)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("w", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tensor = read_gguf(path).tensors["w"]
    tensor.data.sum()
    before = resident_file_bytes(path)
    tensor.release()
    assert before >= values.nbytes
    assert resident_file_bytes(path) <= before - values.nbytes + 2 * 4096 + 4096
    assert tensor.data.tobytes() == values.tobytes()


def resident_file_bytes(path: Path) -> int:
    """Resident bytes of this process's mappings of a file."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ", 1)[0]:
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


def test_the_identity_of_a_file_that_changed_since_it_was_opened_is_refused(write) -> None:
    path = write(raw.assemble(tensors=(F32_TENSOR,), data=F32_DATA))
    assert read_gguf(path).identity == read_gguf(path).identity
    checkpoint = read_gguf(path)
    os.utime(path, ns=(0, 0))
    with pytest.raises(FormatError, match="was changed while"):
        _ = checkpoint.identity


def test_version_two_is_read(write) -> None:
    checkpoint = read_gguf(write(raw.assemble(tensors=(F32_TENSOR,), data=F32_DATA, version=struct.pack("<I", 2))))
    assert checkpoint.version == 2
    assert checkpoint.tensors["w"].shape == (2, 4)
    assert checkpoint.tensors["w"].data.tobytes() == F32_DATA


def test_the_alignment_of_the_file_is_honoured(write) -> None:
    entries = (raw.metadata("general.alignment", 4, struct.pack("<I", 128)),)
    data = raw.assemble(entries, (F32_TENSOR,), F32_DATA, alignment=128)
    assert read_gguf(write(data)).tensors["w"].data.tobytes() == F32_DATA


@pytest.mark.alone
def test_a_vocabulary_of_qwens_size_is_read_within_a_second(write) -> None:
    strings = b"".join(raw.text(f"token{i}") for i in range(300_000))
    path = write(raw.assemble((raw.metadata("tokens", 9, raw.array(8, 300_000, strings)),)))
    start = time.perf_counter()
    tokens = read_gguf(path).metadata["tokens"]
    assert time.perf_counter() - start < 1
    assert isinstance(tokens, list)
    assert tokens[299_999] == "token299999"


U8, STRING, ARRAY, BOOL = 0, 8, 9, 7
HUGE = 1 << 60
DEEP = raw.array(9, 1, raw.array(9, 1, raw.array(9, 1, raw.array(9, 1, raw.array(0, 1, b"\1")))))
REFUSED = {
    "big-endian": (raw.assemble(version=struct.pack(">I", 3)), UnsupportedModel, "big-endian"),
    "version 1": (raw.assemble(version=struct.pack("<I", 1)), UnsupportedModel, "version 1;"),
    "version 4": (raw.assemble(version=struct.pack("<I", 4)), UnsupportedModel, "version 4;"),
    "key twice": (raw.assemble((raw.metadata("k", U8, b"\1"),) * 2), FormatError, "'k' appears twice"),
    "type 13": (raw.assemble((raw.metadata("k", 13, bytes(8)),)), FormatError, "'k' has type number 13"),
    "bool 2": (raw.assemble((raw.metadata("k", BOOL, b"\2"),)), FormatError, "'k' is a boolean that is neither"),
    "text not utf-8": (
        raw.assemble((raw.metadata("k", STRING, raw.text(b"ab\xff")),)),
        FormatError,
        "no UTF-8 text: byte 0xff",
    ),
    "element not utf-8": (
        raw.assemble((raw.metadata("k", ARRAY, raw.array(STRING, 2, raw.text("a") + raw.text(b"\xc3"))),)),
        FormatError,
        "'k', element 1, is no UTF-8",
    ),
    "huge array": (raw.assemble((raw.metadata("k", ARRAY, raw.array(U8, HUGE)),)), FormatError, f"promises {HUGE} elements"),
    "huge array of texts": (
        raw.assemble((raw.metadata("k", ARRAY, raw.array(STRING, HUGE)),)),
        FormatError,
        "cannot hold them",
    ),
    "huge array of arrays": (
        raw.assemble((raw.metadata("k", ARRAY, raw.array(ARRAY, HUGE)),)),
        FormatError,
        "cannot hold them",
    ),
    "huge text": (raw.assemble((raw.metadata("k", STRING, struct.pack("<Q", HUGE)),)), FormatError, f"needs {HUGE} bytes"),
    "huge key": (raw.assemble((struct.pack("<Q", HUGE),), (), bytes(64)), FormatError, "at most 65535"),
    "deep arrays": (raw.assemble((raw.metadata("k", ARRAY, DEEP),)), FormatError, "more than 4 deep"),
    "many tensors": (b"GGUF" + struct.pack("<IQQ", 3, HUGE, 0), FormatError, f"and {HUGE} tensors; at most"),
    "many keys": (b"GGUF" + struct.pack("<IQQ", 3, 0, HUGE), FormatError, f"promises {HUGE} metadata keys"),
    "more tensors than fit": (b"GGUF" + struct.pack("<IQQ", 3, 100_000, 0), FormatError, "cannot hold them"),
    "more keys than fit": (b"GGUF" + struct.pack("<IQQ", 3, 0, 60_000), FormatError, "cannot hold them"),
    "header of five bytes": (b"GGUF\3", FormatError, "ends inside its header"),
    "alignment 3": (raw.assemble((raw.metadata("general.alignment", 4, struct.pack("<I", 3)),)), FormatError, "power of two"),
    "alignment 0": (raw.assemble((raw.metadata("general.alignment", 4, bytes(4)),)), FormatError, "power of two"),
    "alignment text": (raw.assemble((raw.metadata("general.alignment", 8, raw.text("x")),)), FormatError, "power of two"),
    "tensor twice": (raw.assemble((), (F32_TENSOR,) * 2, F32_DATA), FormatError, "'w' is listed twice"),
    "overlap": (raw.assemble((), (F32_TENSOR, raw.tensor("v", (4, 2))), F32_DATA), FormatError, "'v' and 'w' overlap"),
    "partial overlap": (
        raw.assemble((), (raw.tensor("a", (16,)), raw.tensor("b", (16,), 0, 32)), bytes(96)),
        FormatError,
        "'a' and 'b' overlap",
    ),
    "cut data": (raw.assemble((), (F32_TENSOR,), F32_DATA[:-1]), FormatError, "cut short: tensor 'w'"),
    "offset past the end": (raw.assemble((), (raw.tensor("w", (4, 2), 0, 1 << 40),), F32_DATA), FormatError, "cut short"),
    "offset near 2^64": (raw.assemble((), (raw.tensor("w", (4, 2), 0, (1 << 64) - 32),), F32_DATA), FormatError, "cut short"),
    "offset unaligned": (raw.assemble((), (raw.tensor("w", (4, 2), 0, 4),), F32_DATA * 2), FormatError, "no multiple of 32"),
    "product overflows": (raw.assemble((), (raw.tensor("w", (1 << 32, 1 << 32)),), F32_DATA), FormatError, "cut short"),
    "row of half a block": (raw.assemble((), (raw.tensor("w", (16, 2), 2),), bytes(18)), FormatError, "multiple of 32"),
    "no axes": (raw.assemble((), (raw.tensor("w", ()),), F32_DATA), FormatError, "has 0 axes"),
    "five axes": (raw.assemble((), (raw.tensor("w", (1, 1, 1, 1, 1)),), F32_DATA), FormatError, "has 5 axes"),
    "2^32 axes": (raw.assemble((), (raw.text("w") + b"\xff" * 24,), F32_DATA), FormatError, "4294967295 axes"),
    "empty axis": (raw.assemble((), (raw.tensor("w", (4, 0)),), F32_DATA), SamovarError, "none of them empty"),
    "type Q8_K": (raw.assemble((), (raw.tensor("w", (256,), 15),), bytes(292)), UnsupportedModel, "'w' has type 15 (Q8_K)"),
    "type 999": (raw.assemble((), (raw.tensor("w", (4,), 999),), bytes(66)), UnsupportedModel, "'w' has type 999 (unknown)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_damaged_and_unread_files_are_refused_by_name(write, case: str) -> None:
    data, error, said = REFUSED[case]
    path = write(data)
    with pytest.raises(error) as caught:
        read_gguf(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def write_split(folder: Path, count: int = 3) -> list[Path]:
    """A split model with one tensor a file."""
    paths = [folder / f"m-{i + 1:05}-of-{count:05}.gguf" for i in range(count)]
    for i, path in enumerate(paths):
        entries = (
            raw.metadata("split.no", 2, struct.pack("<H", i)),
            raw.metadata("split.count", 2, struct.pack("<H", count)),
            raw.metadata("split.tensors.count", 5, struct.pack("<i", count)),
        )
        own = (raw.metadata("general.architecture", 8, raw.text("qwen3")),) if i == 0 else ()
        path.write_bytes(raw.assemble(own + entries, (raw.tensor(f"w{i}", (4, 2)),), F32_DATA))
    return paths


@pytest.mark.parametrize("opened", [0, 2])
def test_any_file_of_a_split_model_opens_all(tmp_path: Path, opened: int) -> None:
    paths = write_split(tmp_path)
    checkpoint = read_gguf(paths[opened])
    assert list(checkpoint.tensors) == ["w0", "w1", "w2"]
    assert checkpoint.metadata["general.architecture"] == "qwen3"
    assert checkpoint.size_bytes == sum(p.stat().st_size for p in paths)
    assert checkpoint.tensors["w1"].source == str(paths[1])


def test_a_model_split_by_the_reference_writer_is_read(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "ref", "llama", split_max_tensors=2)
    for i in range(5):
        writer.add_tensor(f"w{i}", np.full((2, 4), i, np.float32))
    writer.write_header_to_file(tmp_path / "ref")
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    checkpoint = read_gguf(tmp_path / "ref-00001-of-00003.gguf")
    assert [t.data.view("<f4")[0] for t in checkpoint.tensors.values()] == [0, 1, 2, 3, 4]


def test_missing_files_of_a_split_model_are_named(tmp_path: Path) -> None:
    paths = write_split(tmp_path)
    paths[1].unlink()
    with pytest.raises(ModelNotFound, match=r"m-00002-of-00003\.gguf"):
        read_gguf(paths[0])


def test_a_renamed_file_of_a_split_model_is_refused(tmp_path: Path) -> None:
    paths = write_split(tmp_path)
    with pytest.raises(FormatError, match=r"NAME-00001-of-00003\.gguf"):
        read_gguf(paths[0].rename(tmp_path / "other.gguf"))


def test_files_in_the_wrong_order_are_refused(tmp_path: Path) -> None:
    paths = write_split(tmp_path)
    second = paths[1].read_bytes()
    paths[1].write_bytes(paths[2].read_bytes())
    paths[2].write_bytes(second)
    with pytest.raises(FormatError, match=r"split\.no is 2"):
        read_gguf(paths[0])


def test_a_split_model_with_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    paths = write_split(tmp_path)
    paths[1].write_bytes(paths[1].read_bytes().replace(b"w1", b"w0"))
    with pytest.raises(FormatError, match="'w0' is also in"):
        read_gguf(paths[0])


def test_a_split_model_that_lacks_tensors_is_refused(tmp_path: Path) -> None:
    paths = write_split(tmp_path)
    for path in paths:
        path.write_bytes(path.read_bytes().replace(struct.pack("<Ii", 5, 3), struct.pack("<Ii", 5, 4)))
    with pytest.raises(FormatError, match=r"3 tensors together, split\.tensors\.count says 4"):
        read_gguf(paths[0])


@pytest.mark.slow
def test_the_real_models_are_read_like_the_reference(smollm2: Path, qwen_coder: Path) -> None:
    for path in (smollm2, qwen_coder):
        ours, theirs = read_gguf(path), gguf.GGUFReader(path)
        for tensor in theirs.tensors:
            mine = ours.tensors[tensor.name]
            assert (mine.type.name, mine.shape) == (tensor.tensor_type.name, tuple(reversed(tensor.shape.tolist())))
            assert np.array_equal(mine.data[:4096], tensor.data.reshape(-1).view(np.uint8)[:4096])
        for key in ("tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.chat_template"):
            assert ours.metadata[key] == theirs.fields[key].contents()
