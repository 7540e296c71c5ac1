"""Embedding models and rerankers from folders to GGUF and back: vectors and scores stay; llama.cpp and `transformers` agree."""

import json

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForSequenceClassification

from samovar.convert.to_folder import write_folder
from samovar.convert.to_gguf import write_gguf_file
from samovar.formats.gguf import read_gguf
from samovar.formats.hf_folder import read_hf_folder
from samovar.kernels.reference import ReferenceOps
from samovar.llm import LLM
from tests.llm.recipe_models import (
    DOCUMENTS,
    END,
    PREFIX,
    PROMPTS,
    QUERIES,
    SUFFIX,
    TASK,
    CardReranker,
    card_embeddings,
    card_tokenizer,
    instruct,
    write_classifier,
    write_embedder,
    write_embedder_gguf,
    write_reranker,
    write_reranker_gguf,
    write_sentence_files,
)
from tests.packages import needs_llama_cpp

pytestmark = pytest.mark.slow  # there and back, each file opened: half a second a test
PAIRS = [(query, document) for query in QUERIES[:2] for document in DOCUMENTS[:2]]


def to_gguf(folder, path):
    return write_gguf_file(read_hf_folder(folder), path, ReferenceOps(), lambda *_: None)


def to_folder(path, folder):
    return write_folder(read_gguf(path), folder, lambda *_: None)


def opened(path):
    return LLM(path, n_threads=1, cache=False, speculation="off", long_context="off", kv_type="f32")


def vectors(path):
    llm = opened(path)
    found = np.concatenate([llm.embed(QUERIES, kind="query"), llm.embed(DOCUMENTS, kind="document")])
    recipe = llm.card.recipe
    llm.close()
    return found, recipe


def scores(path):
    llm = opened(path)
    found, capabilities = llm.prepare_rerank(PAIRS).run(), llm.card.capabilities
    llm.close()
    assert "rerank" in capabilities
    return found


def metadata(path):
    """The keys of a file, but for its vocabulary's long lists, as the package `gguf` reads them."""
    fields = gguf.GGUFReader(path).fields
    return {
        key: field.contents() for key, field in fields.items() if not key.startswith(("tokenizer.ggml.to", "tokenizer.ggml.me"))
    }


def published(root):
    folder = write_embedder(root / "model")
    write_sentence_files(folder)
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 500, "do_lower_case": False}))
    return folder


EMBEDDERS = {
    "as published": published,
    "by its name alone": lambda root: write_embedder(root / "Qwen3-Embedding-0.6B"),
    "with a head": lambda root: write_embedder(root / "qwen3-embedding-0.6b-tuned", is_bare=False),
    "with a head of its own": lambda root: write_embedder(root / "Qwen3-Embedding-8B", is_bare=False, is_tied=False),
    "untied, without a head": lambda root: write_embedder(root / "Qwen3-Embedding-8B", is_tied=False),
    "without the end in its tokenizer": lambda root: write_embedder(root / "Qwen3-Embedding-0.6B", appends=None),
}


@pytest.mark.parametrize("form", EMBEDDERS)
def test_vectors_and_prompts_stay_both_ways(form, tmp_path):
    folder = EMBEDDERS[form](tmp_path)
    to_gguf(folder, tmp_path / "m.gguf")
    to_folder(tmp_path / "m.gguf", tmp_path / "back")
    before, recipe = vectors(folder)
    for path in (tmp_path / "m.gguf", tmp_path / "back"):
        found, its_recipe = vectors(path)
        assert np.array_equal(found, before)
        assert (its_recipe.prompts, its_recipe.end_ids, its_recipe.min_dimensions, its_recipe.max_tokens) == (
            recipe.prompts, recipe.end_ids, recipe.min_dimensions, recipe.max_tokens,
        )  # fmt: skip
    tensors, returned = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "back"))
    plain = {name.removeprefix("model."): values for name, values in returned.items()}
    assert {name.removeprefix("model.") for name in tensors} - plain.keys() <= {"lm_head.weight"}
    for name, values in tensors.items():
        assert name == "lm_head.weight" or torch.equal(values, plain[name.removeprefix("model.")]), name


def test_the_files_of_sentence_transformers_come_back(tmp_path):
    folder = write_embedder(tmp_path / "model", appends="<|im_end|>")
    prompts = {"query": "ask: ", "passage": "tell: ", "title": ""}
    write_sentence_files(folder, prompts=prompts)
    to_gguf(folder, tmp_path / "m.gguf")
    said = metadata(tmp_path / "m.gguf")
    assert said["qwen3.pooling_type"] == gguf.PoolingType.LAST
    assert said["tokenizer.ggml.add_eos_token"] is True
    assert said["sentence_transformers.prompt_names"] == [*prompts]
    to_folder(tmp_path / "m.gguf", tmp_path / "back")
    assert read_hf_folder(tmp_path / "back").vectors == read_hf_folder(folder).vectors
    assert (tmp_path / "back/1_Pooling/config.json").exists()
    assert [m["type"].rpartition(".")[2] for m in json.loads((tmp_path / "back/modules.json").read_text())] == [
        "Transformer", "Pooling", "Normalize",
    ]  # fmt: skip


def test_a_file_of_llama_cpps_converter_becomes_the_folder_that_was_published(tmp_path):
    to_folder(write_embedder_gguf(tmp_path / "a.gguf", name="Qwen3-Embedding"), tmp_path / "folder")
    said = json.loads((tmp_path / "folder/config_sentence_transformers.json").read_text())
    assert said["prompts"] == PROMPTS
    model, tokenizer = AutoModel.from_pretrained(tmp_path / "folder", dtype=torch.float32), card_tokenizer(appends=END)
    batch = tokenizer([instruct(QUERIES[0])], return_tensors="pt")
    with torch.inference_mode():
        states = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    found = torch.nn.functional.normalize(states[:, -1], dim=1)
    assert torch.allclose(found, card_embeddings([instruct(QUERIES[0])]), atol=1e-6)


YES_NO = {"classifier_from_token": ["no", "yes"]}
RERANKERS = {
    "as published": lambda root: write_reranker(root / "Qwen3-Reranker-0.6B"),
    "untied": lambda root: write_reranker(root / "Qwen3-Reranker-8B", is_tied=False),
    "of one label": lambda root: write_classifier(root / "model", n_labels=1, **YES_NO),
    "of two labels": lambda root: write_classifier(root / "model", n_labels=2, **YES_NO),
}


@pytest.mark.parametrize("form", RERANKERS)
def test_scores_stay_both_ways(form, tmp_path):
    folder = RERANKERS[form](tmp_path)
    to_gguf(folder, tmp_path / "m.gguf")
    to_folder(tmp_path / "m.gguf", tmp_path / "back")
    before = scores(folder)
    assert before == pytest.approx(CardReranker(is_tied=form != "untied").scores(PAIRS), rel=1e-3, abs=1e-9)
    for path in (tmp_path / "m.gguf", tmp_path / "back"):
        assert scores(path) == pytest.approx(before, rel=1e-5), path
    tensors, returned = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "back"))
    assert tensors.keys() == returned.keys()
    assert all(torch.equal(values, returned[name]) for name, values in tensors.items())
    said = metadata(tmp_path / "m.gguf")
    assert said["qwen3.pooling_type"] == gguf.PoolingType.RANK
    task = f"<Instruct>: {TASK}\n<Query>: {{query}}\n<Document>: {{document}}"
    assert said["tokenizer.chat_template.rerank"] == PREFIX + task + SUFFIX


@pytest.mark.parametrize("form", ["as published", "untied", "of two labels"])
def test_llama_cpp_scores_the_file_as_the_model_card_does(form, tmp_path):
    needs_llama_cpp()
    import llama_cpp

    told = to_gguf(RERANKERS[form](tmp_path), tmp_path / "m.gguf")
    assert told == ()
    model = llama_cpp.Llama(
        str(tmp_path / "m.gguf"), embedding=True, pooling_type=llama_cpp.LLAMA_POOLING_TYPE_RANK, n_ctx=1024, verbose=False
    )
    cut = model.tokenize
    model.tokenize = lambda text, **_: cut(text, add_bos=False, special=True)
    template = metadata(tmp_path / "m.gguf")["tokenizer.chat_template.rerank"]
    labels = metadata(tmp_path / "m.gguf")["qwen3.classifier.output_labels"]
    for (query, document), expected in zip(PAIRS, CardReranker(is_tied=form != "untied").scores(PAIRS), strict=True):
        prompt = template.replace("{query}", query).replace("{document}", document)
        found = model.embed(prompt)[labels.index("yes")]
        assert found == pytest.approx(expected, abs=0.01)
    model.close()


def test_a_file_of_llama_cpps_converter_becomes_a_classifier_of_transformers(tmp_path):
    path = write_reranker_gguf(tmp_path / "a.gguf", labels=("no", "yes"))
    rows = read_gguf(path).tensors["cls.output.weight"].stored().data.tobytes()
    to_folder(path, tmp_path / "folder")
    assert scores(tmp_path / "folder") == pytest.approx(scores(path), rel=1e-5)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "folder", dtype=torch.float32)
    assert model.config.id2label == {0: "no", 1: "yes"}
    assert model.score.weight.detach().numpy().tobytes() == rows


def test_one_label_is_told_to_be_a_constant_in_llama_cpp(tmp_path):
    (told,) = to_gguf(RERANKERS["of one label"](tmp_path), tmp_path / "m.gguf")
    assert "llama.cpp" in told
    assert "always 1" in told
