"""Files of Samovar's own int4: 4.25 bits a weight, the same codes on every kernel, and refused by others by name."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from samovar.convert.quantise import quantise_model
from samovar.convert.type_mix import MIXES
from samovar.errors import FormatError, UnsupportedModel
from samovar.formats.gguf import read_gguf
from samovar.formats.int4_rows import int4_row_bytes, without_scales
from samovar.kernels.dequantise import dequantise
from samovar.kernels.int4 import dequantise_int4, quantise_int4
from samovar.kernels.native import available_isas, native_ops
from samovar.kernels.quantise import quantise
from samovar.llm import LLM
from samovar.llm.random_model import Shape, write_random_model
from samovar.tensors.dtypes import INT4_ROWS
from tests.convert.test_quantise_model import TINY
from tests.kernels.test_quantise import heavy_tailed

SPARSE = Shape(
    n_layers=2, d_model=128, n_heads=2, d_ffn=512, is_tied=False, n_kv_heads=1, vocab_size=512, max_context=256,
    n_experts=4, n_chosen=2, d_expert=192,
)  # fmt: skip


@pytest.mark.parametrize("isa", available_isas())
def test_blocks_hold_the_codes_of_the_definition(isa: str) -> None:
    x_NK, w_K = heavy_tailed(21, 256)
    for weights_K in (np.ones_like(w_K), w_K):
        blocks = quantise(INT4_ROWS, x_NK, weights_K)
        np.testing.assert_array_equal(native_ops(isa, n_threads=2).quantise(INT4_ROWS, x_NK, weights_K), blocks)
        expected = dequantise_int4(quantise_int4(x_NK, weights_K))
        np.testing.assert_array_equal(dequantise(INT4_ROWS, blocks.reshape(-1)).reshape(x_NK.shape), expected)
    plain = dequantise_int4(quantise_int4(x_NK))
    np.testing.assert_array_equal(dequantise_int4(quantise_int4(x_NK, np.ones_like(w_K))), plain)
    assert (((expected - x_NK) ** 2) * w_K).sum() < (((plain - x_NK) ** 2) * w_K).sum()
    assert without_scales(blocks).shape == (21, int4_row_bytes(256))


@pytest.mark.parametrize("shape", [TINY, SPARSE], ids=["dense", "experts"])
def test_a_file_computes_as_weights_that_are_rounded_when_they_are_loaded(shape: Shape, tmp_path: Path) -> None:
    source, target = tmp_path / "f32.gguf", tmp_path / "int4.gguf"
    write_random_model(source, shape, "f32")
    result = quantise_model(source, target, MIXES["samovar-int4"], native_ops())
    ids = list(range(5, 45))
    stored, reference = LLM(target, cache=False, kv_type="f32"), LLM(target, cache=False, kv_type="f32", isa="numpy")
    assert {t.type.name for t in result.tensors if t.name.startswith("blk.1.attn_q.")} == {"INT4"}
    found, exact = stored.logits(ids), reference.logits(ids)
    spread = np.abs(exact).max()
    if shape is TINY:  # the routes of experts may differ where inputs are rounded
        assert np.abs(found - exact).max() < 0.05 * spread
        rounded = LLM(source, cache=False, kv_type="f32", weights="int4").logits(ids)
        # its head is not rounded
        assert np.abs(found - rounded).max() < 0.1 * spread
    again = LLM(target, cache=False, kv_type="f32").logits(ids)
    np.testing.assert_array_equal(found, again)


def test_a_matrix_takes_four_and_a_quarter_bits_and_a_scale_for_each_row(tmp_path: Path) -> None:
    source, target = tmp_path / "f32.gguf", tmp_path / "int4.gguf"
    write_random_model(source, TINY, "f32")
    quantise_model(source, target, MIXES["samovar-int4"], native_ops())
    tensors = {t.name: t for t in gguf.GGUFReader(target).tensors}
    found = tensors["blk.0.ffn_down.weight"]
    assert found.tensor_type is gguf.GGMLQuantizationType.I8
    assert found.data.shape == (256, 4 + 512 // 32 * 17)
    assert gguf.GGUFReader(target).fields["general.architecture"].contents() == "samovar-int4-qwen3"


def test_an_int4_file_becomes_another_type_and_not_int4_again(tmp_path: Path) -> None:
    source, first = tmp_path / "f32.gguf", tmp_path / "int4.gguf"
    write_random_model(source, TINY, "f32")
    quantise_model(source, first, MIXES["samovar-int4"], native_ops())
    quantise_model(first, tmp_path / "q8.gguf", MIXES["q8_0"], native_ops())
    assert gguf.GGUFReader(tmp_path / "q8.gguf").fields["general.architecture"].contents() == "qwen3"
    ids = list(range(5, 45))
    found, exact = (LLM(p, cache=False, kv_type="f32", isa="numpy").logits(ids) for p in (tmp_path / "q8.gguf", first))
    assert np.abs(found - exact).max() < 0.05 * np.abs(exact).max()
    with pytest.raises(UnsupportedModel, match="already"):
        quantise_model(first, tmp_path / "again.gguf", MIXES["samovar-int4"], native_ops())


def test_damaged_scales_are_refused(tmp_path: Path) -> None:
    source, target = tmp_path / "f32.gguf", tmp_path / "int4.gguf"
    write_random_model(source, TINY, "f32")
    quantise_model(source, target, MIXES["samovar-int4"], native_ops())
    data = bytearray(target.read_bytes())
    tensor = next(t for t in gguf.GGUFReader(target).tensors if t.name == "blk.0.attn_q.weight")
    for offset, broken in ((0, np.float32(np.nan).tobytes()), (0, np.float32(-1).tobytes()), (4, b"\xf0"), (4, b"\x0f")):
        kept = bytes(data[tensor.data_offset + offset : tensor.data_offset + offset + len(broken)])
        data[tensor.data_offset + offset : tensor.data_offset + offset + len(broken)] = broken
        target.write_bytes(data)
        with pytest.raises(FormatError, match=r"blk\.0\.attn_q\.weight' holds"):
            read_gguf(target).tensors["blk.0.attn_q.weight"].stored()
        data[tensor.data_offset + offset : tensor.data_offset + offset + len(broken)] = kept


def test_llama_cpp_refuses_the_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    source, target = tmp_path / "f32.gguf", tmp_path / "int4.gguf"
    write_random_model(source, TINY, "f32")
    quantise_model(source, target, MIXES["samovar-int4"], native_ops())
    with pytest.raises(ValueError, match="Failed to load"):
        llama_cpp.Llama(str(target), verbose=True)
    assert "unknown model architecture: 'samovar-int4-qwen3'" in capfd.readouterr().err
