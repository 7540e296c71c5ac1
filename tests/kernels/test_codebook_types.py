"""The types IQ1 to IQ3, TQ, Q1_0 and Q2_0: against ggml's own code, their packed sizes, and what is refused."""

import sys
from dataclasses import replace

import gguf
import numpy as np
import pytest

from samovar.errors import FormatError, SamovarError
from samovar.kernels.codebooks import CODEBOOK_TYPES, codebook
from samovar.kernels.dequantise import dequantise
from samovar.kernels.reference import ReferenceOps
from samovar.tensors.dtypes import F32, TENSOR_TYPES, TYPE_BY_NAME, TensorType
from tests.ggml import load_ggml
from tests.kernels.native_cases import ISAS, PACKED_BITS, ops_on, random_weight, spread_scale

NAMES = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "TQ1_0", "TQ2_0", "Q1_0", "Q2_0")
SCALE_AT = {"TQ1_0": 52, "TQ2_0": 64}  # else 0
native = pytest.mark.skipif(not ISAS, reason="the native kernels are not built")


def type_of(name: str) -> TensorType:
    return TYPE_BY_NAME[name]


@pytest.mark.parametrize("type_", [t for t in TENSOR_TYPES if t.block_elements > 1], ids=lambda t: t.name)
def test_random_blocks_have_the_values_that_ggml_gives_them(type_: TensorType) -> None:
    weight = random_weight(type_, 40, 1024)
    assert np.array_equal(dequantise(type_, weight.data), load_ggml().dequantise(type_, weight.data))


@native
@pytest.mark.parametrize("name", NAMES)
def test_packed_weights_take_the_bits_that_their_layout_says(name: str) -> None:
    weight = random_weight(type_of(name), 64, 1024)
    assert ops_on(ISAS[0]).pack(weight).size_bytes * 8 == PACKED_BITS[name] * weight.n_elements
    assert weight.type.packed_block_bytes * 8 == PACKED_BITS[name] * weight.type.block_elements


def with_scale(name: str, scale: float) -> np.ndarray:
    """Blocks of a row of 1024, one of which has this scale."""
    weight = random_weight(type_of(name), 1, 1024)
    blocks = weight.data.reshape(-1, weight.type.block_bytes).copy()
    if name == "IQ1_M":
        spread_scale(blocks[-1:], np.array([scale], np.float16))
    else:
        at = SCALE_AT.get(name, 0)
        blocks[-1, at : at + 2] = np.array([scale], np.float16).view(np.uint8)
    return blocks.reshape(-1)


@pytest.mark.parametrize("isa", ["numpy", *ISAS])
@pytest.mark.parametrize("scale", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("name", [*NAMES, "Q4_0", "Q8_0", "IQ4_XS"])
def test_a_scale_that_is_no_number_is_refused_by_tensor_and_file(name: str, scale: float, isa: str) -> None:
    weight = random_weight(type_of(name), 1, 1024)
    weight.data[:] = with_scale(name, scale)
    ops = ReferenceOps() if isa == "numpy" else ops_on(isa)
    with pytest.raises(FormatError, match=f"test: tensor 'w' \\({name}\\) has a scale that is infinite or no number"):
        ops.pack(weight)


@native
@pytest.mark.parametrize("name", NAMES)
def test_stacked_experts_are_packed_one_by_one(name: str) -> None:
    ops = ops_on(ISAS[-1])
    weights = tuple(random_weight(type_of(name), 24, 512, seed=i) for i in range(3))
    stacked = ops.pack_stack(weights)
    each = b"".join(ops.pack(weight).packed_bytes().tobytes() for weight in weights)
    assert stacked.size_bytes == len(each)
    assert sorted(stacked.packed_bytes().tobytes()) == sorted(each)  # payloads of all come first, then heads, then scales


@native
@pytest.mark.parametrize("name", NAMES)
def test_int4_rounds_the_same_values(name: str) -> None:
    weight = random_weight(type_of(name), 20, 512)
    values = replace(weight, type=F32, data=dequantise(weight.type, weight.data).view(np.uint8))
    ops = ops_on(ISAS[-1])
    assert np.array_equal(ops.pack(weight, "int4").packed_bytes(), ops.pack(values, "int4").packed_bytes())


@pytest.mark.parametrize("name", sorted(CODEBOOK_TYPES))
def test_codebooks_hold_each_entry_once(name: str) -> None:
    codes = codebook(name).codes
    assert len(np.unique(codes, axis=0)) == len(codes)
    assert codes.max() == len(codebook(name).values) - 1


def test_without_gguf_such_a_file_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    codebook.cache_clear()
    monkeypatch.setitem(sys.modules, "gguf.quants", None)
    with pytest.raises(SamovarError, match=r"IQ2_XS need the package gguf.*pip install gguf"):
        codebook("IQ2_XS")


def test_a_table_of_another_size_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    codebook.cache_clear()
    monkeypatch.setattr(gguf.quants.IQ3_S, "grid_hex", gguf.quants.IQ3_S.grid_hex[:-2])
    with pytest.raises(SamovarError, match=r"no table of \(512, 4\) for IQ3_S: pip install -U gguf"):
        codebook("IQ3_S")


@native
def test_the_engine_refuses_a_codebook_of_another_size_or_with_codes_that_its_type_does_not_have() -> None:
    ops = ops_on(ISAS[0])
    codes = codebook("IQ2_XS").codes.reshape(-1)
    for wrong in (codes[:-8], np.full_like(codes, 3)):
        with pytest.raises(ValueError, match=r"codebook of another size|code that the type does not have"):
            ops._engine.take_codebook(type_of("IQ2_XS").ggml_id, np.ascontiguousarray(wrong))
