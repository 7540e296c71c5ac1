"""Weights that hold no numbers: small ones are refused at loading, others by whatever computes on them."""

import math
import shutil

import pytest
from safetensors.torch import load_file
from safetensors.torch import save_file as save_torch

from samovar.errors import FormatError, SamovarError
from samovar.llm import LLM
from tests.llm.recipe_models import write_classifier

IDS = [5, 9, 30, 7, 100, 200]
MATRIX = "model.layers.1.mlp.up_proj.weight"


def spoilt(folder, target, name, value):
    """A copy of a folder with another value in one place."""
    shutil.copytree(folder, target)
    tensors = load_file(target / "model.safetensors")
    tensors[name].view(-1)[3] = value
    save_torch(tensors, target / "model.safetensors")
    return target


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_matrices_that_hold_no_numbers_are_told_by_all_that_computes_on_them(value, tiny_folder, tmp_path):
    llm = LLM(spoilt(tiny_folder, tmp_path / "model", MATRIX, value))
    for ask in (
        lambda: llm.logits(IDS),
        lambda: llm.generate("tea", max_tokens=1),
        lambda: llm.generate("tea", max_tokens=1, prompt_logprobs=1),
        lambda: llm.embed("tea", any_model=True),
        lambda: llm.log_likelihoods([("tea", " is hot")]),
    ):
        with pytest.raises(SamovarError, match=r"is (nan|inf), expected a number: the model's file is damaged"):
            ask()
    llm.close()


def test_a_classifier_that_holds_no_numbers_gives_no_scores(tmp_path):
    sound = write_classifier(tmp_path / "Qwen3-Reranker-0.6B-seq-cls", n_labels=1)
    llm = LLM(spoilt(sound, tmp_path / "spoilt", "score.weight", -math.inf))
    with pytest.raises(SamovarError, match=r"a label's logit is (nan|-?inf), expected a number"):
        llm.rerank("tea", ["hot", "cold"], any_model=True)
    llm.close()


def test_an_unsound_text_of_several_ends_none_of_the_others(tiny_folder, tmp_path):
    folder = spoilt(tiny_folder, tmp_path / "model", "model.embed_tokens.weight", math.nan)  # of token 0 alone
    llm = LLM(folder)
    for text in ((0, 5), (5, 0)):
        with pytest.raises(SamovarError, match="a value of the text's vector is nan"):
            llm.prepare_embed([(5, 6), text], any_model=True).run()
    assert llm.embed("tea", any_model=True).shape == (llm.config.d_model,)
    assert llm.logits(IDS).shape == (len(IDS), llm.config.vocab_size)
    llm.close()


@pytest.mark.parametrize("isa", [None, "numpy"])
@pytest.mark.parametrize(
    "name", ["model.layers.1.input_layernorm.weight", "model.layers.0.self_attn.q_norm.weight", "model.norm.weight"]
)
def test_norms_that_hold_no_numbers_are_refused_at_loading(name, isa, tiny_folder, tmp_path):
    folder = spoilt(tiny_folder, tmp_path / "model", name, math.nan)
    with pytest.raises(FormatError, match=f"tensor {name!r} holds infinite values or such as are no numbers"):
        LLM(folder, isa=isa)
