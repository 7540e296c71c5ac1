"""A model whose layers are rounded to int4 when it is loaded."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from samovar.errors import BadRequest, UnsupportedModel
from samovar.formats.hub import default_cache
from samovar.kernels.native import available_isas
from samovar.llm import LLM
from samovar.llm.random_model import Shape, write_random_model
from samovar.models import packing
from tests.cli.fakes import samovar

pytestmark = pytest.mark.skipif(not available_isas(), reason="native kernels are not built")
SHAPE = Shape(
    n_layers=2, d_model=128, n_heads=2, d_ffn=320, n_kv_heads=1, d_head=64, is_tied=False, vocab_size=600, max_context=256
)
IDS = [int(i) for i in np.random.default_rng(3).integers(0, 500, 40)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("int4") / "random.gguf"
    write_random_model(path, SHAPE, "q8_0")
    return path


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMOVAR_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(packing, "_MIN_CACHED_BYTES", 0)


def test_logits_are_those_of_the_rounded_weights(model: Path) -> None:
    wanted = LLM(model, weights="int4", isa="numpy").logits(IDS)
    found = LLM(model, weights="int4", cache=False).logits(IDS)
    exact = LLM(model, isa="numpy").logits(IDS)
    assert np.abs(found - wanted).mean() < 0.2 * np.abs(exact - wanted).mean()


def test_a_token_has_the_same_logits_in_a_longer_prompt_and_on_every_instruction_set(model: Path) -> None:
    whole = LLM(model, weights="int4", cache=False).logits(IDS)
    for isa in available_isas():
        llm = LLM(model, weights="int4", cache=False, isa=isa, n_threads=1)
        for n in (1, 2, 7, 33):
            assert np.array_equal(llm.logits(IDS[:n]), whole[:n]), (isa, n)


def test_int4_weights_come_from_the_cache_apart_from_the_stored_ones(model: Path) -> None:
    logits = {}
    for weights in ("stored", "int4", "stored", "int4"):
        llm = LLM(model, weights=weights)  # type: ignore[arg-type]
        found = llm.logits(IDS)
        llm.packer.join()
        assert np.array_equal(logits.setdefault(weights, found), found)
    assert not np.array_equal(logits["stored"], logits["int4"])
    kinds = [entry.header.kind for entry in default_cache().entries() if entry.header]
    assert {"weights", "rounded"} <= set(kinds)
    assert kinds.count("rounded") == 1


def test_a_draft_model_is_rounded_too(model: Path) -> None:
    sizes = {weights: LLM(model, weights=weights, cache=False).model.packed_bytes for weights in ("stored", "int4")}
    llm = LLM(model, weights="int4", draft=model, cache=False)
    assert llm.draft is not None
    assert llm._local.draft.model.packed_bytes == sizes["int4"] < sizes["stored"]
    llm.logits(IDS)


def test_widths_that_int4_cannot_hold_are_refused_by_name(tmp_path: Path) -> None:
    write_random_model(tmp_path / "narrow.gguf", replace(SHAPE, d_ffn=352), "q8_0")
    with pytest.raises(
        UnsupportedModel, match=r"narrow\.gguf: tensor 'blk\.0\.ffn_down\.weight' has rows of 352 .* multiple of 64"
    ):
        LLM(tmp_path / "narrow.gguf", weights="int4")


def test_another_form_is_refused(model: Path) -> None:
    with pytest.raises(BadRequest, match="weights is 'int8'; expected stored or int4"):
        LLM(model, weights="int8")  # type: ignore[arg-type]


def test_the_command_line_asks_for_it_too(model: Path) -> None:
    options = ("-p", "a", "--max-tokens", "3", "--temperature", "0", "--weights", "int4")
    assert samovar("generate", str(model), *options).code == 0
    refused = samovar("generate", str(model), "-p", "a", "--weights", "int3")
    assert refused.code == 2
    assert "int4" in refused.err
