"""Types per tensor, against what `llama_model_quantize` chooses for the same model."""

from pathlib import Path

import gguf
import pytest

from samovar.convert.quantise import quantise_model
from samovar.convert.to_gguf import write_gguf_file
from samovar.convert.type_mix import MIXES
from samovar.formats.hf_folder import read_hf_folder
from samovar.kernels.native import native_ops
from samovar.llm.random_model import Shape, write_random_model
from tests.models.tiny_checkpoints import VARIANTS, random_model, write_folder
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


NETS = {
    "hidden_size": 256, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
    "moe_intermediate_size": 256, "shared_expert_intermediate_size": 512, "head_dim": 64,
}  # fmt: skip
JOINED = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 8}


def types_of(path: Path) -> dict[str, str]:
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}


@pytest.mark.slow
@pytest.mark.parametrize("shape", [DENSE, WIDE, SPARSE, EIGHT], ids=["tied", "narrow blocks", "experts", "8 experts"])
@pytest.mark.parametrize("name", sorted(MIXES.keys() - {"samovar-int4"}))
def test_each_tensor_takes_the_type_that_llama_cpp_gives_it(name: str, shape: Shape, tmp_path: Path) -> None:
    write_random_model(tmp_path / "f32.gguf", shape, "f32")
    _compare(tmp_path / "f32.gguf", name, tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # tokens that are no UTF-8, in llama.cpp's log
@pytest.mark.parametrize("model", ["phi3", "gemma3"])
@pytest.mark.parametrize("name", sorted(MIXES.keys() - {"samovar-int4"}))
def test_joined_matrices_and_further_norms_take_the_types_that_llama_cpp_gives_them(
    name: str, model: str, tmp_path: Path
) -> None:
    folder = read_hf_folder(write_folder(random_model(VARIANTS[model], **JOINED), tmp_path / "folder"))
    write_gguf_file(folder, tmp_path / "f32.gguf", native_ops(), lambda *_: None)
    _compare(tmp_path / "f32.gguf", name, tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # as above
@pytest.mark.parametrize(("n_experts", "n_layers"), [(4, 16), (8, 4)])
@pytest.mark.parametrize("name", sorted(MIXES.keys() - {"samovar-int4"}))
def test_delta_nets_and_shared_experts_take_the_types_that_llama_cpp_gives_them(
    name: str, n_experts: int, n_layers: int, tmp_path: Path
) -> None:
    model = random_model(VARIANTS["qwen3-next"], num_experts=n_experts, num_hidden_layers=n_layers, **NETS)
    write_gguf_file(
        read_hf_folder(write_folder(model, tmp_path / "folder")), tmp_path / "f32.gguf", native_ops(), lambda *_: None
    )
    _compare(tmp_path / "f32.gguf", name, tmp_path)


def _compare(source: Path, name: str, tmp_path: Path) -> None:
    needs_llama_cpp()
    import llama_cpp

    ours, theirs = tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
    quantise_model(source, ours, MIXES[name], native_ops())
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = MIXES[name].file_type
    settings.nthread = 2
    assert llama_cpp.llama_model_quantize(bytes(source), bytes(theirs), settings) == 0
    assert types_of(ours) == types_of(theirs)
