"""Mixtures of experts as whole models: packed in the background and mapped again, rounded to int4, beside llama.cpp."""

import json
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from samovar.formats import open_checkpoint
from samovar.formats.hub import default_cache
from samovar.kernels.native import NativeOps, available_isas
from samovar.llm import LLM
from samovar.llm.random_model import QUANTS, SHAPES, Shape, write_random_model
from samovar.models import packing
from samovar.models.loader import read_config
from tests.cli.fakes import samovar

pytestmark = pytest.mark.skipif(not available_isas(), reason="native kernels are not built")
SHAPE = Shape(
    n_layers=2, d_model=256, n_heads=2, d_ffn=512, is_tied=False, n_kv_heads=1, vocab_size=600, max_context=256,
    n_experts=12, n_chosen=3, d_expert=256,
)  # fmt: skip
ROOT = Path(__file__).parents[2]
IDS = [int(i) for i in np.random.default_rng(3).integers(0, 500, 40)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("experts") / "random.gguf"
    write_random_model(path, SHAPE, "q4_0")
    return path


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMOVAR_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(packing, "_MIN_CACHED_BYTES", 0)


@pytest.mark.parametrize("quant", QUANTS)
def test_a_random_model_of_every_mix_computes_finite_logits_that_depend_on_the_prompt(quant: str, tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_random_model(path, SHAPE, quant)
    llm = LLM(path, cache=False)
    first, second = (llm.logits(ids)[-1] for ids in ([5, 6, 7], [7, 6, 7]))
    assert np.isfinite(first).all()
    assert 0.3 < first.std() < 3
    assert not np.array_equal(first, second)
    assert len(llm.generate("abc", max_tokens=4, temperature=0).token_ids) == 4


@pytest.mark.parametrize("weights", ["stored", "int4"])
def test_the_second_start_packs_nothing_and_computes_the_same(
    weights: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled: list[str] = []
    fill = NativeOps._fill_members
    monkeypatch.setattr(NativeOps, "_fill_members", lambda ops, *given: (filled.append(given[1].name), fill(ops, *given))[1])
    found = []
    for _ in range(2):
        llm = LLM(model, weights=weights)  # type: ignore[arg-type]
        found.append(llm.logits(IDS))
        assert llm.packer is not None
        llm.packer.join()
    assert np.array_equal(*found)
    assert len(filled) == len(set(filled)) == 2 * 8 + 1
    assert len(default_cache().entries()) == 1


def test_int4_rounds_the_experts_and_leaves_the_router(model: Path) -> None:
    exact, rounded = (LLM(model, weights=w, cache=False) for w in ("stored", "int4"))  # type: ignore[arg-type]
    for llm in (exact, rounded):
        llm.logits(IDS)
    was, now = exact.model.layers[0].mlp, rounded.model.layers[0].mlp  # type: ignore[attr-defined]
    assert not was.experts.up.is_int4
    assert now.experts.up.is_int4
    assert np.array_equal(was.router.packed_bytes(), now.router.packed_bytes())


@pytest.mark.parametrize("quant", ["f32", "q4_0", "q4_k_m", "q8_0"])
def test_prompts_in_one_go_and_token_by_token_have_the_same_logits(quant: str, tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_random_model(path, SHAPE, quant)
    llm = LLM(path, cache=False, n_threads=2)
    whole = llm.logits(IDS)
    for n in (1, 2, 17):
        assert np.array_equal(llm.logits(IDS[:n]), whole[:n])
    for isa in available_isas():
        assert np.array_equal(LLM(path, cache=False, isa=isa, n_threads=1).logits(IDS), whole)


LLAMA_CPP = """
import sys, numpy as np
from pathlib import Path
from benchmarks.llama_cpp_peer import LlamaCpp
np.save(sys.argv[2], LlamaCpp(Path(sys.argv[1]), n_threads=1, n_context=64, all_logits=True).logits([*map(int, sys.argv[3:])]))
"""


def test_logits_of_a_gguf_file_are_those_of_llama_cpp(tmp_path: Path) -> None:
    if find_spec("llama_cpp") is None:
        pytest.skip("llama-cpp-python is not there: `make bench` builds it, in ten minutes or more")
    path, found = tmp_path / "tiny.gguf", tmp_path / "logits.npy"
    write_random_model(path, replace(SHAPE, vocab_size=1024), "f32")
    ids = IDS[:30]  # after which two experts are so near each other that rounding keys to f16 decides between them
    subprocess.run([sys.executable, "-c", LLAMA_CPP, path, found, *map(str, ids)], check=True, cwd=ROOT, capture_output=True)
    theirs, ours = np.load(found), LLM(path, cache=False, kv_type="f16").logits(ids)
    assert np.abs(ours - theirs).max() <= 3e-3 * np.abs(theirs).max()


def test_one_token_needs_the_bytes_of_its_own_experts_alone(model: Path) -> None:
    llm = LLM(model, cache=False)
    llm.logits(IDS)
    layer = llm.model.layers[0].mlp  # type: ignore[attr-defined]
    of_experts = sum(stack.size_bytes for stack in (layer.experts.gate, layer.experts.up, layer.experts.down))
    assert of_experts == 12 * 3 * 256 * 256 // 32 * 18
    assert llm.model.packed_bytes - llm.model.read_bytes == SHAPE.n_layers * of_experts * 9 // 12


def test_products_of_a_token_are_those_of_the_published_model() -> None:
    """Of 30B-A3B: 3.35 billion active parameters, embedding, head, routers and norms among them."""
    shape = SHAPES["qwen3-30b-a3b"]
    embeddings, routers = 2 * shape.vocab_size * shape.d_model, shape.n_layers * shape.d_model * shape.n_experts
    attention = shape.n_layers * shape.d_model * (2 * shape.n_heads + 2 * shape.n_kv_heads) * shape.d_head
    active = attention + shape.n_layers * 3 * shape.d_model * shape.n_chosen * shape.d_expert
    assert (active + embeddings + routers) / 1e9 == pytest.approx(3.35, abs=0.01)


def test_the_config_counts_what_a_token_is_multiplied_with(model: Path) -> None:
    config = read_config(open_checkpoint(model))
    assert config.product_weights == 2 * (256 * (4 + 2) * 128 + 3 * 256 * 3 * 256)


def test_inspect_shows_the_experts(model: Path) -> None:
    shown = samovar("inspect", str(model))
    assert "12 experts of width 256, 3 for each token" in shown.out
    report = json.loads(samovar("inspect", str(model), "--json").out)
    assert report["config"]["experts"] == {
        "n_experts": 12, "n_chosen": 3, "d_ffn": 256, "is_renormalised": True, "n_dense_layers": 0,
    }  # fmt: skip
    assert report["is_supported"]
