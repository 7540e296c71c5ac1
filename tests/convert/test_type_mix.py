"""Types per tensor, against what `llama_model_quantize` chooses for the same model."""

from pathlib import Path

import gguf
import pytest

from samovar.convert.quantise import quantise_model
from samovar.convert.type_mix import MIXES
from samovar.kernels.native import native_ops
from samovar.llm.random_model import Shape, write_random_model
from tests.packages import needs_llama_cpp

DENSE = Shape(n_layers=16, d_model=256, n_heads=4, d_ffn=512, is_tied=True, n_kv_heads=1, vocab_size=512, max_context=256)
WIDE = Shape(n_layers=9, d_model=288, n_heads=2, d_ffn=544, is_tied=False, n_kv_heads=1, vocab_size=512, max_context=256)
SPARSE = Shape(
    n_layers=8, d_model=256, n_heads=2, d_ffn=512, is_tied=False, n_kv_heads=1, vocab_size=512, max_context=256,
    n_experts=4, n_chosen=2, d_expert=256,
)  # fmt: skip
EIGHT = Shape(
    n_layers=2, d_model=256, n_heads=2, d_ffn=512, is_tied=False, n_kv_heads=1, vocab_size=512, max_context=256,
    n_experts=8, n_chosen=2, d_expert=256,
)  # fmt: skip


def types_of(path: Path) -> dict[str, str]:
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}


@pytest.mark.slow
@pytest.mark.parametrize("shape", [DENSE, WIDE, SPARSE, EIGHT], ids=["tied", "narrow blocks", "experts", "8 experts"])
@pytest.mark.parametrize("name", sorted(MIXES.keys() - {"samovar-int4"}))
def test_each_tensor_takes_the_type_that_llama_cpp_gives_it(name: str, shape: Shape, tmp_path: Path) -> None:
    needs_llama_cpp()
    import llama_cpp

    source, ours, theirs = tmp_path / "f32.gguf", tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
    write_random_model(source, shape, "f32")
    quantise_model(source, ours, MIXES[name], native_ops())
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = MIXES[name].file_type
    settings.nthread = 2
    assert llama_cpp.llama_model_quantize(bytes(source), bytes(theirs), settings) == 0
    assert types_of(ours) == types_of(theirs)
