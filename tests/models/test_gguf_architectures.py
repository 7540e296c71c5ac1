"""What GGUF files of Gemma 3, Phi-3 and Mistral say in their own way; and the logits of llama.cpp from the same files."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from samovar.errors import FormatError
from samovar.kernels.reference import ReferenceOps
from samovar.llm import LLM
from samovar.models import gemma3
from samovar.models.gguf_config import config_from_gguf, gguf_tensor_name
from samovar.models.weights import WeightSource
from samovar.tensors.dtypes import F32
from tests.kernels.native_cases import random_weight
from tests.models.tiny_checkpoints import VARIANTS, random_ids, random_model
from tests.models.tiny_gguf import write_gguf

ROOT = Path(__file__).parents[2]
GEMMA3 = {
    "general.architecture": "gemma3", "gemma3.context_length": 32768, "gemma3.embedding_length": 640, "gemma3.block_count": 7,
    "gemma3.feed_forward_length": 2048, "gemma3.attention.head_count": 4, "gemma3.attention.head_count_kv": 1,
    "gemma3.attention.key_length": 256, "gemma3.attention.value_length": 256, "gemma3.rope.freq_base": 1e6,
    "gemma3.attention.layer_norm_rms_epsilon": 1e-6, "gemma3.attention.sliding_window": 512,
}  # fmt: skip
SHAPES = {"token_embd.weight": (1000, 640)}
PHI3 = {
    "general.architecture": "phi3", "phi3.embedding_length": 3072, "phi3.attention.head_count": 24, "phi3.block_count": 2,
}  # fmt: skip


def gemma(**changes: object) -> gemma3.DecoderConfig:
    metadata = GEMMA3 | {f"gemma3.{key.replace('__', '.')}": value for key, value in changes.items()}
    return gemma3.read_config(config_from_gguf(metadata, SHAPES, "x.gguf"), "x.gguf")


def test_every_sixth_layer_of_gemma_3_is_global_unless_the_file_says_otherwise() -> None:
    assert gemma().windows == (512, 512, 512, 512, 512, None, 512)
    assert gemma(attention__sliding_window_pattern=2).windows == (512, None) * 3 + (512,)
    assert gemma(attention__sliding_window_pattern=[True, False, False, True, True, False, True]).windows == (
        512, None, None, 512, 512, None, 512,
    )  # fmt: skip


def test_local_layers_of_gemma_3_rotate_by_a_base_of_their_own() -> None:
    config = gemma(rope__scaling__type="linear", rope__scaling__factor=8.0)
    assert config.local_rope is not None
    assert config.local_rope.inv_freq_R[1] == pytest.approx(10_000 ** (-2 / 256))
    assert config.rope.inv_freq_R[1] == pytest.approx(1e6 ** (-2 / 256) / 8)
    other = gemma(rope__freq_base_swa=5e4).local_rope
    assert other is not None
    assert other.inv_freq_R[1] == pytest.approx(5e4 ** (-2 / 256))


def test_queries_of_the_27b_alone_are_scaled_by_width_over_heads() -> None:
    assert gemma().attention_scale == 256**-0.5
    sizes = {"block_count": 62, "embedding_length": 5376, "attention__head_count": 32, "attention__key_length": 128}
    assert gemma(**sizes, attention__value_length=128).attention_scale == 168**-0.5


def test_a_gemma_3_without_sizes_is_refused() -> None:
    with pytest.raises(FormatError, match="head_count"):
        gemma(attention__head_count=0)


def test_a_llama_with_a_window_is_a_mistral() -> None:
    metadata = {"general.architecture": "llama", "llama.attention.sliding_window": 64}
    assert config_from_gguf(metadata, {}, "x")["model_type"] == "mistral"
    assert config_from_gguf(metadata | {"llama.attention.sliding_window": 0}, {}, "x")["model_type"] == "llama"


def test_phi_3_rotates_as_much_of_a_head_as_the_file_says() -> None:
    raw = config_from_gguf(PHI3 | {"phi3.rope.dimension_count": 96, "phi3.rope.scaling.attn_factor": 1.19}, {}, "x")
    assert (raw["head_dim"], raw["partial_rotary_factor"], raw["attention_factor"]) == (128, 0.75, 1.19)
    with pytest.raises(FormatError, match=r"rope\.dimension_count is 130"):
        config_from_gguf(PHI3 | {"phi3.rope.dimension_count": 130}, {}, "x")


def test_one_name_may_mean_another_tensor_in_another_architecture() -> None:
    name = "model.layers.3.post_attention_layernorm.weight"
    assert gguf_tensor_name(name) == gguf_tensor_name(name, "phi3") == "blk.3.ffn_norm.weight"
    assert gguf_tensor_name(name, "gemma3_text") == "blk.3.post_attention_norm.weight"
    assert gguf_tensor_name("model.layers.0.mlp.gate_up_proj.weight", "phi3") == "blk.0.ffn_up.weight"


def test_joined_matrices_are_cut_and_their_pages_released_after_the_last() -> None:
    whole = random_weight(F32, 48, 16)
    source = WeightSource({"x.qkv_proj.weight": whole}, ReferenceOps(), where="test")
    parts = source.split_projection("x.qkv_proj", {"q": 24, "k": 16, "v": 8}, 16)
    x = np.random.default_rng(1).standard_normal((3, 16)).astype(np.float32)
    found = np.concatenate([ReferenceOps().linear(x, part.weight) for part in parts], axis=1)
    np.testing.assert_array_equal(found, ReferenceOps().linear(x, ReferenceOps().pack(whole)))
    assert not source.projections


LLAMA_CPP = """
import sys, numpy as np
from pathlib import Path
from benchmarks.llama_cpp_peer import LlamaCpp
np.save(sys.argv[2], LlamaCpp(Path(sys.argv[1]), n_threads=1, n_context=128, all_logits=True).logits([*map(int, sys.argv[3:])]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "n_tokens"),
    [
        ("gemma3", 100),
        ("gemma3-scaled", 100),
        ("mistral-window", 20),  # llama.cpp has no windows in these architectures
        ("phi3", 29),
        ("phi3-long", 100),
        ("phi3-partial", 100),
    ],
)
def test_logits_of_a_gguf_file_are_those_of_llama_cpp(name: str, n_tokens: int, tmp_path: Path) -> None:
    if find_spec("llama_cpp") is None:
        pytest.skip("llama-cpp-python is not there: `make bench` builds it, in ten minutes or more")
    path, found, ids = tmp_path / "tiny.gguf", tmp_path / "logits.npy", random_ids(n_tokens)
    write_gguf(random_model(VARIANTS[name]), path, "F32")
    subprocess.run([sys.executable, "-c", LLAMA_CPP, path, found, *map(str, ids)], check=True, cwd=ROOT, capture_output=True)
    theirs, ours = np.load(found), LLM(path, cache=False, kv_type="f16").logits(ids)
    assert np.abs(ours - theirs).max() <= 3e-3 * np.abs(theirs).max()
