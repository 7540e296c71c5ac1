"""Files that were quantised or converted from a release's have its names, heads and ends in other forms, and pass."""

from dataclasses import replace

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import quantize

from samovar.doctor.finding import Status
from samovar.kernels.dequantise import dequantise
from samovar.tensors.dtypes import TYPE_BY_NAME
from tests.doctor.claimed import failing, folder_model, gguf_model, lines, report_on, stored, with_data, with_metadata
from tests.doctor.test_faults import SMALL, finding, refuse


@pytest.mark.parametrize("inside", ["Qwen3 0.6B AWQ", "Qwen3-0.6B-GPTQ-Int4", "Qwen3 0.6B FP8", "Qwen3 0.6B Q4_K_M"])
def test_what_a_gguf_file_was_made_from_says_nothing_of_its_types(inside):
    made = gguf_model(SMALL)
    for file_name in ("m.gguf", "Qwen3-0.6B-AWQ.gguf"):
        report = report_on(replace(made, names=(("general.name", inside), ("the file's name", file_name))))
        assert finding(report, "quantisation").status is Status.PASS
    assert failing(replace(made, names=(("general.name", inside), ("the file's name", "Qwen3-0.6B-Q4_K_M.gguf")))) == {
        "weights: quantisation"
    }


def test_without_a_file_type_the_name_inside_is_held_against_the_types():
    made = with_metadata(gguf_model(SMALL), general__file_type=None)
    for inside, expected in (("Qwen3 0.6B Q8_0", set()), ("Qwen3 0.6B Q4_K_M", {"weights: quantisation"})):
        assert failing(replace(made, names=(("general.name", inside), ("the file's name", "m.gguf")))) == expected


def test_the_name_of_a_folder_says_which_gguf_file_it_was_made_from_and_nothing_of_its_types():
    made = folder_model(SMALL)
    for name, expected in (("Qwen3-0.6B-Q4_K_M", set()), ("Qwen3-0.6B-FP8", {"weights: quantisation"})):
        assert failing(replace(made, names=(("the folder's name", name),))) == expected


def with_head(made, values_ND, kind="BF16"):
    """The model with an embedding of 512 random rows, and a head of its own that holds `values_ND`."""
    names = ("token_embd.weight", "output.weight") if made.is_gguf else ("model.embed_tokens.weight", "lm_head.weight")
    embedding, head = stored(names[0], "BF16"), with_data(names[1], TYPE_BY_NAME[kind], (512, 256), encoded(values_ND, kind))
    listed = {**made.listed, names[1]: replace(made.listed[names[0]], type=kind)}
    return replace(made, listed=listed, tensors={**made.tensors, names[0]: embedding, names[1]: head})


def encoded(values_ND, kind):
    return np.ascontiguousarray(quantize(values_ND, GGMLQuantizationType[kind])).view(np.uint8).reshape(-1)


def embedding_values():
    found = stored("any", "BF16")
    return dequantise(found.type, found.data).reshape(512, 256)


@pytest.mark.parametrize("kind", ["BF16", "Q8_0", "Q4_0"])
@pytest.mark.parametrize("of", [gguf_model, folder_model])
def test_a_copy_of_a_tied_head_may_be_stored_apart_in_any_type(of, kind):
    made = with_head(of(SMALL), embedding_values(), kind)
    report = report_on(replace(made, config={**made.config, "tie_word_embeddings": False}))
    assert lines(report, Status.FAIL) == set()
    assert "a copy of the embedding" in finding(report, "output head").found


@pytest.mark.parametrize("of", [gguf_model, folder_model])
def test_another_head_than_the_tied_one_is_caught(of):
    made = with_head(of(SMALL), np.roll(embedding_values(), 1, axis=0))
    assert failing(replace(made, config={**made.config, "tie_word_embeddings": False})) == {"weights: output head"}


def test_a_folder_may_end_answers_at_other_ends_of_texts_but_at_nothing_else():
    made = folder_model("Qwen3-Embedding-0.6B")
    for ids, expected in (([151643, 151645], Status.PASS), ([151643, 151667], Status.FAIL)):
        report = report_on(replace(made, generation_config={"eos_token_id": ids}), open_model=refuse)
        assert finding(report, "stop ids").status is expected
    chat = replace(folder_model(SMALL), generation_config={"eos_token_id": [151645, 151643, 151667]})
    assert failing(chat) == {"tokens: stop ids"}
