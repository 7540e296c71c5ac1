"""Weights that get ready in the background, from the cache or from the model file: the same logits whichever way."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from samovar.errors import BadRequest, EngineFailed, FormatError, OutOfMemory, SamovarError
from samovar.formats.cache import CacheWriter
from samovar.formats.hub import default_cache
from samovar.kernels.native import NativeOps, available_isas
from samovar.llm import LLM
from samovar.models import packing

IDS = [1, 5, 9, 30, 7]

pytestmark = pytest.mark.skipif(not available_isas(), reason="native kernels are not built")


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMOVAR_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(packing, "_MIN_CACHED_BYTES", 0)


@pytest.fixture(scope="module")
def expected(tiny_folder):
    llm = LLM(tiny_folder, cache=False)
    return llm.logits(IDS)


@pytest.fixture
def fills(monkeypatch):
    """Names of the tensors that are packed."""
    names = []
    fill = NativeOps.fill

    def count(ops, linear, tensors):
        tensors = list(tensors)
        names.extend(tensor.name for tensor in tensors)
        fill(ops, linear, tensors)

    monkeypatch.setattr(NativeOps, "fill", count)
    return names


def load(path, **options):
    llm = LLM(path, **options)
    logits = llm.logits(IDS)
    llm.packer.join()
    return logits


def weights_file():
    (entry,) = default_cache().entries()  # what else a tiny model has is not worth an entry
    return entry.path


def test_the_second_start_packs_nothing_and_computes_the_same(tiny_folder, expected, fills):
    assert np.array_equal(load(tiny_folder), expected)
    assert fills
    fills.clear()
    assert np.array_equal(load(tiny_folder), expected)
    assert fills == []


def test_without_a_cache_nothing_is_written(tiny_folder, expected):
    assert np.array_equal(load(tiny_folder, cache=False), expected)
    assert default_cache().entries() == []


@pytest.mark.parametrize("place", [70, 5000, -5000])
def test_a_damaged_entry_is_packed_again_and_made_anew(tiny_folder, expected, fills, place):
    load(tiny_folder)
    path = weights_file()
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(raw)
    fills.clear()
    assert np.array_equal(load(tiny_folder), expected)
    assert fills
    load(tiny_folder)
    fills.clear()
    assert np.array_equal(load(tiny_folder), expected)
    assert fills == []


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_an_entry_cut_short_is_packed_again(tiny_folder, expected, share):
    load(tiny_folder)
    path = weights_file()
    raw = path.read_bytes()
    path.write_bytes(raw[: int(share * len(raw))])
    assert np.array_equal(load(tiny_folder), expected)
    assert weights_file().read_bytes() == raw


def test_a_source_of_another_time_or_layout_is_packed_again(tiny_folder, expected, fills, monkeypatch):
    load(tiny_folder)
    file = tiny_folder / "model.safetensors"
    was = file.stat()
    os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns + 1))
    try:
        fills.clear()
        assert np.array_equal(load(tiny_folder), expected)
        assert fills
        weights_file()  # the old entry is gone
    finally:
        os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))
    monkeypatch.setattr(packing, "packed_layout", lambda: -1)
    fills.clear()
    load(tiny_folder)
    assert fills


def test_layers_are_computed_while_later_ones_are_being_packed(tiny_folder, expected, monkeypatch):
    fill, linears, may_go_on, used = NativeOps.fill, NativeOps.linears, threading.Event(), []

    def slow(ops, linear, tensors):
        tensors = list(tensors)
        if ".layers.1." in tensors[0].name:
            may_go_on.wait(60)
        fill(ops, linear, tensors)

    def release(ops, *args, **options):
        used.append(may_go_on.is_set())
        may_go_on.set()
        return linears(ops, *args, **options)

    monkeypatch.setattr(NativeOps, "fill", slow)
    monkeypatch.setattr(NativeOps, "linears", release)
    llm = LLM(tiny_folder)
    assert not llm.packer.is_done
    assert np.array_equal(llm.logits(IDS), expected)
    assert used[0] is False  # the first layer did not wait for the second
    llm.packer.join()
    assert llm.packer.is_done


def test_a_failure_in_the_background_is_raised_by_the_next_use_each_time(tiny_folder, monkeypatch):
    def refuse(ops, linear, weight):
        raise OutOfMemory("no memory for it")

    monkeypatch.setattr(NativeOps, "fill", refuse)
    llm = LLM(tiny_folder)
    for _ in range(2):
        with pytest.raises(OutOfMemory, match="no memory for it"):
            llm.logits(IDS)
    llm.packer.join()
    assert default_cache().entries() == []


def test_packing_stops_when_the_rest_of_loading_fails(tiny_folder):
    with pytest.raises(BadRequest, match="context"):
        LLM(tiny_folder, max_context=10**9)
    assert not [t for t in threading.enumerate() if t.name == "samovar-packing"]


def test_stopped_packing_says_so(tiny_folder, monkeypatch):
    gate, fill = threading.Event(), NativeOps.fill

    def wait(ops, linear, tensors):
        gate.wait(60)
        fill(ops, linear, tensors)

    monkeypatch.setattr(NativeOps, "fill", wait)
    llm = LLM(tiny_folder)
    llm.packer._is_stopping = True
    gate.set()
    llm.packer.join()
    with pytest.raises(SamovarError, match="stopped"):
        llm.logits(IDS)


def test_the_first_prompt_does_not_wait_for_the_cache_to_be_written(tiny_folder, expected, monkeypatch):
    may_go_on, write = threading.Event(), CacheWriter.write

    def slow(writer, name, *parts):
        may_go_on.wait(60)
        write(writer, name, *parts)

    monkeypatch.setattr(CacheWriter, "write", slow)
    llm = LLM(tiny_folder)
    assert np.array_equal(llm.logits(IDS), expected)
    assert [entry.state for entry in default_cache().entries()] == ["being written"]
    may_go_on.set()
    llm.packer.join()
    weights_file()


def _logits_in_child(llm, answers):
    try:
        llm.logits(IDS)
    except SamovarError as error:
        answers.send(str(error))


def test_a_child_forked_while_weights_are_packed_says_so_and_does_not_wait(tiny_folder, expected, monkeypatch):
    gate, fill = threading.Event(), NativeOps.fill

    def wait(ops, linear, tensors):
        gate.wait(60)
        fill(ops, linear, tensors)

    monkeypatch.setattr(NativeOps, "fill", wait)
    llm = LLM(tiny_folder)
    answer, answers = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_logits_in_child, args=(llm, answers))
    child.start()
    assert answer.poll(60)
    assert "forked" in answer.recv()
    child.join()
    gate.set()
    assert np.array_equal(llm.logits(IDS), expected)


def test_a_disk_that_refuses_is_a_warning_and_no_more(tiny_folder, expected, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "cache").write_text("")
    llm = LLM(tiny_folder)
    assert [w for w in llm.warnings if "cache cannot be written" in w]
    assert np.array_equal(llm.logits(IDS), expected)


def test_a_folder_in_place_of_the_weights_is_a_warning_at_each_start(tiny_folder, expected):
    load(tiny_folder)
    path = weights_file()
    path.unlink()
    path.mkdir()
    for _ in range(2):
        llm = LLM(tiny_folder)
        (warning,) = [w for w in llm.warnings if "cache cannot be written" in w]
        assert f"{path.name} in it is a folder" in warning
        assert warning.endswith("make these again: weights")
        assert np.array_equal(llm.logits(IDS), expected)
        llm.packer.join()


PROGRAM = """
import os, sys
from samovar.kernels.native import NativeOps
from samovar.llm import LLM
from samovar.models import packing
packing._MIN_CACHED_BYTES = 0
if sys.argv[2] == "stall":
    fill = NativeOps.fill
    def stall(ops, linear, tensors):
        tensors = list(tensors)
        if ".layers.1." in tensors[0].name:
            print("packing", flush=True)
            sys.stdin.read()
        fill(ops, linear, tensors)
    NativeOps.fill = stall
llm = LLM(sys.argv[1])
sys.stdout.buffer.write(llm.logits([1, 5, 9, 30, 7]).tobytes())
"""


def test_a_process_killed_while_packing_leaves_nothing_that_hurts(tiny_folder, expected):
    command = [sys.executable, "-c", PROGRAM, str(tiny_folder), "stall"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"packing\n"
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert [entry.state for entry in default_cache().entries()] == ["unfinished"]
    assert np.array_equal(load(tiny_folder), expected)
    assert not list(default_cache().folder.glob("*.tmp"))
    weights_file()


@pytest.mark.slow
def test_processes_that_pack_at_the_same_time_compute_the_same(tiny_folder, expected):
    command = [sys.executable, "-c", PROGRAM, str(tiny_folder), "go"]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    for child in children:
        out, _ = child.communicate(timeout=120)
        assert out == expected.tobytes()
    assert np.array_equal(load(tiny_folder), expected)


def test_a_damaged_weight_ends_a_request_without_the_advice_to_send_it_again(tiny_folder, monkeypatch):
    def refuse(ops, linear, weight):
        raise FormatError("model: tensor 'x' is damaged")

    monkeypatch.setattr(NativeOps, "fill", refuse)
    with pytest.raises(EngineFailed) as caught:
        LLM(tiny_folder).generate("tea", max_tokens=1)
    assert str(caught.value) == "the model cannot be computed: model: tensor 'x' is damaged"
