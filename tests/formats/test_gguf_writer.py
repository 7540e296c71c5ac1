"""The GGUF writer against the `gguf` package, and what happens when writing breaks off."""

import errno
import multiprocessing
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest

from samovar.errors import FormatError, StoreError
from samovar.formats import part_file
from samovar.formats.gguf import read_gguf
from samovar.formats.gguf_header import read_encoded_metadata
from samovar.formats.gguf_values import EncodedValue, encode_as, encode_list
from samovar.formats.gguf_writer import TensorPlan, write_gguf, write_gguf_part
from samovar.formats.mapped_file import MappedFile
from samovar.tensors.dtypes import F32
from tests.formats import gguf_bytes as raw


class Made:
    """Tensors of random values, which counts those that are made, and can break off."""

    def __init__(self, n_tensors: int, n_rows: int = 64) -> None:
        rng = np.random.default_rng(3)
        self.values = [rng.standard_normal((n_rows, 33), np.float32) for _ in range(n_tensors)]
        self.made: list[int] = []
        self.break_at: int | None = None
        self.error: BaseException = KeyboardInterrupt()

    def plans(self) -> list[TensorPlan]:
        return [self._plan(i) for i in range(len(self.values))]

    def _plan(self, index: int) -> TensorPlan:
        def fill() -> Iterator[np.ndarray]:
            self.made.append(index)
            half = len(self.values[index]) // 2
            yield self.values[index][:half].view(np.uint8)
            if index == self.break_at:
                raise self.error
            yield self.values[index][half:].view(np.uint8)

        shape = self.values[index].shape
        return TensorPlan(name=f"t{index}", type=F32, shape=shape, fill=fill, note=lambda: f"note {index}")


def check(path: Path, made: Made) -> None:
    reader = gguf.GGUFReader(path)
    assert [tensor.name for tensor in reader.tensors] == [f"t{i}" for i in range(len(made.values))]
    for tensor, values in zip(reader.tensors, made.values, strict=True):
        np.testing.assert_array_equal(tensor.data, values)
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name]


def test_metadata_of_every_type_comes_through_a_copy_to_the_byte(tmp_path: Path) -> None:
    source, copy = tmp_path / "all.gguf", tmp_path / "copy.gguf"
    raw.write_everything(source)
    encoded = read_encoded_metadata(source, MappedFile(source).memory)
    tensors = read_gguf(source).tensors.values()
    plans = [TensorPlan(name=t.name, type=t.type, shape=t.shape, fill=lambda t=t: [t.data]) for t in tensors]
    write_gguf_part(copy, {key: EncodedValue(value) for key, value in encoded.items()}, plans, job="copy")
    assert copy.read_bytes() == source.read_bytes()


def test_values_have_the_types_that_were_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "typed.gguf"
    metadata = {
        "general.architecture": "llama",
        "a.plain": 3,
        "a.negative": -3,
        "a.large": 1 << 40,
        "a.wide": encode_as("u64", 3),
        "a.byte": encode_as("i8", -3),
        "a.scores": encode_list("f32", [0.5, -1000.0]),
        "a.types": [1, 2, 6],
        "a.tokens": ["a", "é"],
        "a.empty": encode_list("string", []),
        "a.nested": [[1, 2], [3]],
    }
    write_gguf(path, metadata, [])
    kinds = gguf.GGUFValueType
    fields = gguf.GGUFReader(path).fields
    assert fields["a.plain"].types == [kinds.UINT32]
    assert fields["a.negative"].types == [kinds.INT32]
    assert fields["a.large"].types == [kinds.INT64]
    assert fields["a.wide"].types == [kinds.UINT64]
    assert fields["a.byte"].types == [kinds.INT8]
    assert fields["a.scores"].types == [kinds.ARRAY, kinds.FLOAT32]
    assert fields["a.types"].types == [kinds.ARRAY, kinds.INT32]
    assert fields["a.tokens"].contents() == ["a", "é"]
    metadata_read = read_gguf_metadata(path)
    assert metadata_read["a.scores"] == [0.5, -1000.0]
    assert metadata_read["a.empty"] == []
    assert metadata_read["a.nested"] == [[1, 2], [3]]
    with pytest.raises(OverflowError):
        encode_as("u8", 256)


def read_gguf_metadata(path: Path) -> dict[str, object]:
    from samovar.formats.gguf_header import read_header

    return dict(read_header(path, MappedFile(path).memory).metadata)


def test_a_file_shows_only_when_it_is_whole(tmp_path: Path) -> None:
    made, target = Made(4), tmp_path / "model.gguf"
    seen: list[tuple[bool, int]] = []
    notes = write_gguf_part(
        target, {"a": 1}, made.plans(), job="j", progress=lambda done, _total, _what: seen.append((target.exists(), done))
    )
    check(target, made)
    assert notes == [f"note {i}" for i in range(4)]
    assert [exists for exists, _ in seen] == [False] * (len(seen) - 1) + [True]
    assert [done for _, done in seen] == sorted(done for _, done in seen)


def interrupted(target: Path, n: int, *, at: int) -> Made:
    """Tensors whose writing was interrupted before number `at`, and that can be made now."""
    made = Made(n)
    made.break_at = at
    with pytest.raises(KeyboardInterrupt):
        write_gguf_part(target, {"a": 1}, made.plans(), job="j")
    made.break_at = None
    made.made.clear()
    return made


def test_an_interrupted_run_is_gone_on_with(tmp_path: Path) -> None:
    target = tmp_path / "model.gguf"
    made = interrupted(target, 5, at=3)
    assert not target.exists()
    notes = write_gguf_part(target, {"a": 1}, made.plans(), job="j")
    assert made.made == [3, 4]
    assert notes == [f"note {i}" for i in range(5)]
    check(target, made)


@pytest.mark.parametrize("change", ["job", "metadata", "journal", "cut"])
def test_another_job_or_a_damaged_start_begins_anew(change: str, tmp_path: Path) -> None:
    target = tmp_path / "model.gguf"
    made = interrupted(target, 4, at=2)
    if change == "journal":
        (tmp_path / "model.gguf.part.journal").write_bytes(b"0" * 64 + b"\n\xff\xfe")
    if change == "cut":
        os.truncate(tmp_path / "model.gguf.part", 10)
    write_gguf_part(target, {"a": 2 if change == "metadata" else 1}, made.plans(), job="k" if change == "job" else "j")
    assert made.made == [0, 1, 2, 3]
    check(target, made)


@pytest.mark.parametrize(("at", "made_anew"), [("end", [2, 3]), ("start", [0, 1, 2, 3])])
def test_bytes_that_changed_while_it_lay_there_are_made_anew(at: str, made_anew: list[int], tmp_path: Path) -> None:
    target = tmp_path / "model.gguf"
    made = interrupted(target, 4, at=3)
    part, journal = tmp_path / "model.gguf.part", tmp_path / "model.gguf.part.journal"
    damaged = bytearray(part.read_bytes())
    last_boundary = int(journal.read_text().splitlines()[-1].split()[0])
    damaged[last_boundary - 40 if at == "end" else 10] ^= 1
    part.write_bytes(damaged)
    assert write_gguf_part(target, {"a": 1}, made.plans(), job="j") == [f"note {i}" for i in range(4)]
    assert made.made == made_anew
    check(target, made)


@pytest.mark.parametrize("what", ["a file", "with a foreign journal", "a journal alone", "a folder", "a link"])
def test_what_another_program_left_under_the_name_of_the_part_is_refused_and_stays(what: str, tmp_path: Path) -> None:
    target, part, journal = (tmp_path / name for name in ("m.gguf", "m.gguf.part", "m.gguf.part.journal"))
    (tmp_path / "diary").write_bytes(b"precious")
    if what == "a folder":
        part.mkdir()
    elif what == "a link":
        part.symlink_to(tmp_path / "diary")
    elif what != "a journal alone":
        part.write_bytes(b"precious")
    if "journal" in what:
        journal.write_bytes(b"my diary, day one\n")
    before = {path.name: path.is_dir() or path.read_bytes() for path in tmp_path.iterdir()}
    assert not part_file.is_begun(target)
    with pytest.raises(StoreError, match="move it away, or choose another name"):
        write_gguf_part(target, {"a": 1}, Made(2).plans(), job="j", replace=True)
    assert before == {path.name: path.is_dir() or path.read_bytes() for path in tmp_path.iterdir()}


def test_nothing_stays_of_a_run_whose_source_is_damaged(tmp_path: Path) -> None:
    made, target = Made(4), tmp_path / "model.gguf"
    made.break_at, made.error = 2, FormatError("damaged")
    with pytest.raises(FormatError, match="damaged"):
        write_gguf_part(target, {"a": 1}, made.plans(), job="j")
    assert not list(tmp_path.iterdir())


def test_a_part_counts_as_begun_when_something_in_it_is_done(tmp_path: Path) -> None:
    for break_at, is_begun in ((0, False), (1, True)):
        made, target = Made(2), tmp_path / f"{break_at}.gguf"
        assert not part_file.is_begun(target)
        made.break_at = break_at
        with pytest.raises(KeyboardInterrupt):
            write_gguf_part(target, {"a": 1}, made.plans(), job="j")
        assert part_file.is_begun(target) == is_begun


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "free some space and run the command again (what is done is kept), or write elsewhere and start anew"),
        (errno.EACCES, "permission denied; choose a folder"),
        (errno.ENOENT, "the folder takes no such file"),
    ],
)
def test_the_advice_suits_what_the_disk_said(number: int, words: str, tmp_path: Path) -> None:
    made = Made(2)
    made.break_at, made.error = 1, OSError(number, "refused")
    with pytest.raises(StoreError) as caught:
        write_gguf_part(tmp_path / "model.gguf", {"a": 1}, made.plans(), job="j")
    assert words in str(caught.value)
    assert ("kept" in str(caught.value)) == (number == errno.ENOSPC)


def _write_until_killed(target: Path, made: Made) -> None:
    part_file._SYNC_BYTES = 1
    made.break_at, made.error = 3, RuntimeError()
    plans = made.plans()
    fill = plans[3].fill

    def killed() -> Iterator[np.ndarray]:
        yield next(iter(fill()))
        os.kill(os.getpid(), signal.SIGKILL)

    plans[3] = TensorPlan(name="t3", type=F32, shape=plans[3].shape, fill=killed)
    write_gguf_part(target, {"a": 1}, plans, job="j")


def test_a_killed_process_leaves_what_a_later_one_goes_on_from(tmp_path: Path) -> None:
    made, target = Made(5), tmp_path / "model.gguf"
    process = multiprocessing.get_context("fork").Process(target=_write_until_killed, args=(target, made))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    write_gguf_part(target, {"a": 1}, made.plans(), job="j")
    assert made.made == [3, 4]
    check(target, made)


def test_two_writers_at_once_are_refused(tmp_path: Path) -> None:
    made, other, target = Made(2), Made(2), tmp_path / "model.gguf"
    refused: list[str] = []

    def second(done: int, _total: int, _what: str) -> None:
        if not refused and done:
            with pytest.raises(StoreError, match="another process is writing") as caught:
                write_gguf_part(target, {"a": 1}, other.plans(), job="j")
            refused.append(str(caught.value))

    write_gguf_part(target, {"a": 1}, made.plans(), job="j", progress=second)
    assert refused
    check(target, made)


def test_a_file_that_is_there_is_replaced_only_where_asked(tmp_path: Path) -> None:
    made, target = Made(2), tmp_path / "model.gguf"
    target.write_bytes(b"precious")
    with pytest.raises(StoreError, match="--force"):
        write_gguf_part(target, {"a": 1}, made.plans(), job="j")
    assert target.read_bytes() == b"precious"
    write_gguf_part(target, {"a": 1}, made.plans(), job="j", replace=True)
    check(target, made)
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match="a folder"):
        write_gguf_part(tmp_path / "folder", {"a": 1}, made.plans(), job="j", replace=True)
    with pytest.raises(StoreError, match=r"no such folder; make it first$"):
        write_gguf_part(tmp_path / "none" / "model.gguf", {"a": 1}, made.plans(), job="j")


def test_a_disk_without_room_is_refused_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(2)
    usage = part_file.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(part_file.shutil, "disk_usage", lambda _path: usage._replace(free=1000))
    with pytest.raises(StoreError, match="MB are free"):
        write_gguf_part(tmp_path / "model.gguf", {"a": 1}, made.plans(), job="j")
    assert not made.made


def test_a_disk_that_fills_up_is_told_and_the_rest_can_follow(tmp_path: Path) -> None:
    made, target = Made(6, n_rows=1000), tmp_path / "model.gguf"
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, old[1]))
        with pytest.raises(StoreError, match="run the command again"):
            write_gguf_part(target, {"a": 1}, made.plans(), job="j")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert not target.exists()
    made.made.clear()
    write_gguf_part(target, {"a": 1}, made.plans(), job="j")
    assert made.made[0] > 0
    check(target, made)
