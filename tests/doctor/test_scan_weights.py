"""Scales that are no numbers, in every type that is stored; samples of large models; stretches that were never written."""

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize

from samovar.doctor import scan_weights
from samovar.doctor.scan_weights import bytes_to_scan, scan
from samovar.tensors.dtypes import TENSOR_TYPES, TYPE_BY_NAME
from samovar.tensors.stored import AssembledTensor
from tests.doctor.claimed import with_data

N_BLOCKS = 300


def tensor(kind, data, name="blk.0.x.weight"):
    return with_data(name, kind, (data.size // kind.block_bytes, kind.block_elements), data)


def random_blocks(kind, seed=3):
    return np.random.default_rng(seed).integers(0, 256, (N_BLOCKS, kind.block_bytes), np.uint8)


# Types that gguf cannot turn into numbers have their witness in tests/kernels.
WITNESSED = [kind for kind in TENSOR_TYPES if kind.name not in ("Q1_0", "Q2_0")]


@pytest.mark.parametrize("kind", WITNESSED, ids=lambda kind: kind.name)
def test_the_blocks_found_bad_are_those_that_gguf_cannot_turn_into_numbers(kind):
    blocks = random_blocks(kind)
    with np.errstate(all="ignore"):
        values = dequantize(blocks.reshape(N_BLOCKS, -1), gguf.GGMLQuantizationType[kind.name])
    bad = set(np.flatnonzero(~np.isfinite(values.reshape(N_BLOCKS, -1)).all(axis=1)).tolist())
    found = scan({"x": tensor(kind, blocks.reshape(-1))}, is_full=True)
    assert found.is_whole
    if not bad:
        assert found.bad == {}
    else:
        count, first = found.bad["x"]
        assert first == min(bad)
        assert count == len(bad)


def test_a_sample_is_spread_over_each_tensor_and_says_so(monkeypatch):
    monkeypatch.setattr(scan_weights, "_SAMPLED_BYTES", 1 << 20)
    kind = TYPE_BY_NAME["F16"]
    data = np.full(8 << 20, 0x11, np.uint8)
    data[-2:] = [0x00, 0x7C]  # infinite
    tensors = {"a": tensor(kind, data), "b": tensor(kind, np.full(64, 0x11, np.uint8))}
    seen = scan(tensors, is_full=False)
    assert not seen.is_whole
    assert 0.05 < seen.n_seen / seen.n_all < 0.2
    assert seen.bad == {"a": (1, (4 << 20) - 1)}  # the last block is always among the samples
    middle = data.copy()
    middle[-2:] = 0x11
    middle[5_000_001] = 0x7C
    sampled = scan({"a": tensor(kind, middle)}, is_full=False)
    full = scan({"a": tensor(kind, middle)}, is_full=True)
    assert full.is_whole
    assert full.bad["a"][1] == 2_500_000
    assert sampled.n_seen <= bytes_to_scan({"a": tensor(kind, middle)}, is_full=False) + (1 << 17)


def test_progress_goes_up_to_the_end():
    calls = []
    kind = TYPE_BY_NAME["Q8_0"]
    tensors = {name: tensor(kind, random_blocks(kind).reshape(-1) & 0x3B) for name in "abc"}
    scan(tensors, is_full=True, progress=lambda done, total, what: calls.append((done, total, what)))
    assert [what for _, _, what in calls] == ["a", "b", "c", ""]
    assert [done for done, _, _ in calls] == sorted(done for done, _, _ in calls)
    assert calls[-1][0] == calls[-1][1]


@pytest.mark.parametrize(("size", "is_hole"), [(1 << 18, True), (1 << 15, False)])
def test_a_long_run_of_zero_bytes_is_a_hole(size, is_hole):
    kind = TYPE_BY_NAME["Q8_0"]
    data = np.full(34 * 40_000, 0x11, np.uint8)
    data[100_000 : 100_000 + size] = 0
    assert bool(scan({"blk.0.x.weight": tensor(kind, data)}, is_full=True).holes) is is_hole


def test_rows_of_an_embedding_may_be_zero():
    kind = TYPE_BY_NAME["Q8_0"]
    data = np.zeros(34 * 40_000, np.uint8)
    for name in ("token_embd.weight", "model.embed_tokens.weight", "output.weight"):
        assert scan({name: tensor(kind, data, name)}, is_full=True).holes == {}


def test_a_weight_that_cannot_be_put_together_is_told_and_the_rest_is_looked_at():
    from samovar.errors import FormatError

    def refuse():
        raise FormatError("group 3 has no scale")

    kind = TYPE_BY_NAME["F32"]
    broken = AssembledTensor(name="a", type=kind, shape=(4, 4), source="x", make=refuse)
    seen = scan({"a": broken, "b": tensor(kind, np.full(64, 0x11, np.uint8))}, is_full=True)
    assert seen.broken == {"a": "group 3 has no scale"}
    assert seen.n_tensors == 2
    assert seen.n_seen == 64


def test_of_weights_that_have_to_be_made_a_sample_makes_some(monkeypatch):
    monkeypatch.setattr(scan_weights, "_SAMPLED_BYTES", 256)
    kind, made = TYPE_BY_NAME["F32"], []

    def weight(name):
        def make():
            made.append(name)
            return np.full(64, 0x11, np.uint8), None

        return AssembledTensor(name=name, type=kind, shape=(4, 4), source="x", make=make)

    tensors = {f"t{i}": weight(f"t{i}") for i in range(40)}
    sampled = scan(tensors, is_full=False)
    assert made == ["t0", "t10", "t20", "t30"]
    assert (sampled.n_tensors, sampled.n_seen, sampled.n_all) == (4, 4 * 64, 40 * 64)
    made.clear()
    assert scan(tensors, is_full=True).n_tensors == len(made) == 40
