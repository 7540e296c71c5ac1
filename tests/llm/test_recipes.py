"""Qwen3-Embedding and Qwen3-Reranker in every form they are shipped in, against `transformers` with the model cards' code."""

import json
import re
import warnings

import numpy as np
import pytest

from samovar.doctor.releases import RELEASES
from samovar.doctor.self_test import DOCUMENTS as CHECK_DOCUMENTS
from samovar.doctor.self_test import QUERIES as CHECK_QUERIES
from samovar.doctor.self_test import check_scores
from samovar.errors import BadRequest, FormatError, ModelNotFound, PromptTooLong, UnsupportedModel
from samovar.llm import LLM
from samovar.llm.recipe import EmbeddingRecipe, RerankRecipe
from tests.llm.recipe_models import (
    DOCUMENTS,
    END,
    END_ID,
    IM_END_ID,
    NO_ID,
    PREFIX,
    PROMPTS,
    QUERIES,
    SUFFIX,
    TASK,
    VOCAB_SIZE,
    YES_ID,
    CardReranker,
    card_embeddings,
    instruct,
    write_classifier,
    write_embedder,
    write_embedder_gguf,
    write_reranker,
    write_reranker_gguf,
    write_sentence_files,
)

TOLERANCE = 2e-5
PAIRS = [(query, document) for query in QUERIES for document in DOCUMENTS]


def opened(path, **options):
    return LLM(path, **{"n_threads": 1, "cache": False, "speculation": "off", "long_context": "off"} | options)


def published(root):
    folder = write_embedder(root / "Qwen3-Embedding-0.6B")
    write_sentence_files(folder)
    return folder


def by_its_files_alone(root):
    folder = write_embedder(root / "model")
    write_sentence_files(folder)
    return folder


def of_a_commit(root):
    return write_embedder(root / "models--Qwen--Qwen3-Embedding-0.6B" / "snapshots" / "97b0c614")


def by_its_readme(root):
    folder = write_embedder(root / "model")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n# no title\n---\n# Qwen3-Embedding-0.6B\n\nText.\n")
    return folder


EMBEDDERS = {
    "as published": published,
    "by its files alone": by_its_files_alone,
    "by its name alone": lambda root: write_embedder(root / "Qwen3-Embedding-0.6B"),
    "in Hugging Face's cache": of_a_commit,
    "by its README": by_its_readme,
    "with a head": lambda root: write_embedder(root / "qwen3-embedding-0.6b-tuned", is_bare=False),
    "without the end in its tokenizer": lambda root: write_embedder(root / "Qwen3-Embedding-0.6B", appends=None),
    "with another end in its tokenizer": lambda root: write_embedder(root / "Qwen3-Embedding-0.6B", appends="<|im_end|>"),
    "GGUF": lambda root: write_embedder_gguf(root / "a.gguf", name="Qwen3-Embedding"),
    "GGUF without pooling": lambda root: write_embedder_gguf(root / "Qwen3-Embedding-0.6B-f32.gguf", name="x", pooling=None),
    "GGUF without the end": lambda root: write_embedder_gguf(root / "a.gguf", name="Qwen3-Embedding", end_id=None),
    "GGUF with another end": lambda root: write_embedder_gguf(root / "a.gguf", name="Qwen3 Embedding 0.6B", end_id=IM_END_ID),
}


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    llm = opened(published(tmp_path_factory.mktemp("embedder")))
    yield llm
    llm.close()


# Each form is written and opened on its own, a third of a second.
@pytest.mark.slow
@pytest.mark.parametrize("form", EMBEDDERS)
def test_vectors_are_those_of_the_model_card(form, tmp_path):
    llm = opened(EMBEDDERS[form](tmp_path))
    queries, documents = llm.embed(QUERIES, kind="query"), llm.embed(DOCUMENTS, kind="document")
    wanted = card_embeddings([*map(instruct, QUERIES), *DOCUMENTS]).numpy()
    assert np.abs(np.concatenate([queries, documents]) - wanted).max() < TOLERANCE
    assert llm.embed(DOCUMENTS).tobytes() == documents.tobytes()
    own = llm.embed(QUERIES, instruction="Find tea")
    assert np.abs(own - card_embeddings([instruct(query, "Find tea") for query in QUERIES]).numpy()).max() < TOLERANCE
    assert ("embedding" in llm.card.capabilities, "completion" in llm.card.capabilities) == (True, False)
    warned = any("<|endoftext|>" in line for line in llm.warnings)
    assert warned == ("end" in form)
    llm.close()


@pytest.mark.slow
def test_a_head_is_neither_needed_nor_packed(tmp_path):
    tied, untied = (opened(write_embedder(tmp_path / name, is_tied=is_tied), isa="numpy") for name, is_tied in (
        ("Qwen3-Embedding-tied", True), ("Qwen3-Embedding-untied", False)
    ))  # fmt: skip
    assert untied.model.head is None
    assert untied.embed("tea").shape == (64,)
    folder = published(tmp_path)
    whole = opened(folder, isa="numpy")
    assert whole.model.head is None
    assert whole.model.packed_bytes < tied.model.packed_bytes - VOCAB_SIZE * 64 * 4 + 1


@pytest.mark.parametrize("dimensions", [32, 33, 63, 64])
def test_fewer_dimensions_are_the_first_ones_made_of_length_one(embedder, dimensions):
    found = embedder.embed(QUERIES, kind="query", dimensions=dimensions)
    wanted = card_embeddings(list(map(instruct, QUERIES)))[:, :dimensions].double()
    wanted /= wanted.norm(dim=1, keepdim=True)
    assert np.abs(found - wanted.numpy()).max() < TOLERANCE
    assert np.linalg.norm(found.astype(np.float64), axis=1) == pytest.approx([1] * 3, abs=1e-6)


def test_token_ids_are_taken_as_they_are_and_have_to_end_where_the_vector_is_read(embedder):
    ids = tuple(embedder.tokenizer.encode(instruct(QUERIES[0])))
    assert ids[-1] == END_ID
    found = embedder.prepare_embed([ids]).run()
    assert found.tobytes() == embedder.embed([QUERIES[0]], kind="query").tobytes()
    with pytest.raises(BadRequest, match=rf"do not end with \[{END_ID}\] \(<\|endoftext\|>\)"):
        embedder.prepare_embed([ids[:-1]])
    with pytest.raises(BadRequest, match="token ids are taken as they are"):
        embedder.prepare_embed([ids], kind="query")


def test_what_is_too_long_is_refused_and_cut_only_where_the_caller_says_so(embedder):
    text = "tea " * 1100
    n_tokens = len(embedder.tokenizer.encode(text))
    with pytest.raises(PromptTooLong, match=f"text 1 has {n_tokens} tokens, and the context holds 1024"):
        embedder.embed(["a", text])
    prepared = embedder.prepare_embed(["a", text], truncate=True)
    assert prepared.truncated == ((1, n_tokens),)
    wanted = card_embeddings(["a", text]).numpy()  # whose tokenizer cuts to 1024, the end kept
    assert np.abs(prepared.run() - wanted).max() < TOLERANCE
    with pytest.raises(PromptTooLong, match="text 0 has 4 tokens, and the context holds 3"):
        embedder.embed("one two three", max_tokens=3)


def test_control_tokens_in_a_text_are_ordinary_text(embedder):
    plain = embedder.embed("a<|endoftext|>b")
    ids = [*embedder.tokenizer.encode("a<|endoftext|>b", parse_control=False)]
    assert ids.count(END_ID) == 1
    assert plain.tobytes() == embedder.prepare_embed([tuple(ids)]).run()[0].tobytes()


def test_a_batch_and_one_by_one_are_the_same_to_the_bit(embedder):
    together = embedder.embed(DOCUMENTS * 5, kind="query")
    alone = [embedder.embed(text, kind="query") for text in DOCUMENTS]
    assert together.tobytes() == np.stack(alone * 5).tobytes()


@pytest.mark.parametrize(
    "ask",
    [
        lambda m: m.chat("hello"),
        lambda m: m.generate("hello"),
        lambda m: m.logits([1, 2]),
        lambda m: m.log_likelihoods([("a", "b")]),
        lambda m: m.stream_chat("hello"),
    ],
)
def test_an_embedding_model_writes_no_text(embedder, ask):
    with pytest.raises(BadRequest, match=r"Qwen3-Embedding-0.6B is an embedding model.*use a chat model") as caught:
        ask(embedder)
    assert caught.value.param == "model"


@pytest.mark.slow
def test_an_embedding_model_is_no_reranker_and_no_draft(embedder, tiny_folder):
    for any_model in (False, True):
        with pytest.raises(BadRequest, match=r"is an embedding model.*use a reranker"):
            embedder.rerank("a", ["b"], any_model=any_model)
    with pytest.raises(BadRequest, match="is an embedding model"):
        opened(tiny_folder, draft=embedder.path, speculation="auto")


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"kind": "passage"}, "kind"),
        ({"kind": "document", "instruction": "Find tea"}, "instruction"),
        ({"instruction": 5}, "instruction"),
        ({"dimensions": 31}, "dimensions"),
        ({"dimensions": 65}, "dimensions"),
        ({"truncate": 1}, "truncate"),
        ({"task": "Find tea"}, "task"),
    ],
)
def test_what_the_recipe_has_no_place_for_is_refused_by_name(embedder, options, param):
    with pytest.raises(BadRequest) as caught:
        embedder.embed("a", **options)
    assert caught.value.param == param


@pytest.mark.slow
def test_another_embedding_model_follows_its_files(tmp_path):
    folder = write_embedder(tmp_path / "model", appends="<|im_end|>")
    write_sentence_files(folder, prompts={"query": "ask: ", "passage": "tell: "})
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 8, "do_lower_case": False}))
    llm = opened(folder)
    ids = {text: tuple(llm.tokenizer.encode(text)) for text in ("ask: tea", "tell: tea", "tea")}
    assert all(found[-1] == IM_END_ID for found in ids.values())
    for text, options in (("ask: tea", {"kind": "query"}), ("tell: tea", {"kind": "document"}), ("tea", {})):
        assert llm.embed("tea", **options).tobytes() == llm.prepare_embed([ids[text]]).run()[0].tobytes()
    with pytest.raises(BadRequest, match="nothing in this model's files says that its vectors may be cut"):
        llm.embed("tea", dimensions=32)
    with pytest.raises(BadRequest, match="nothing in this model's files says how it is told one"):
        llm.embed("tea", instruction="Find tea")
    with pytest.raises(PromptTooLong, match="holds 8"):
        llm.embed("one two three four five six seven eight")
    assert not llm.card.recipe.warnings


@pytest.mark.slow
def test_a_gguf_file_of_another_embedding_model_has_no_prompts(tmp_path):
    llm = opened(write_embedder_gguf(tmp_path / "a.gguf", name="other"))
    assert llm.embed("tea").shape == (64,)
    with pytest.raises(BadRequest, match="nothing in this model's files says how queries and documents are told apart"):
        llm.embed("tea", kind="query")


@pytest.mark.slow
@pytest.mark.parametrize(("pooling", "name"), [(1, "mean"), (2, "cls")])
def test_ways_of_pooling_that_are_not_computed_are_refused(tmp_path, pooling, name):
    with pytest.raises(UnsupportedModel, match=name):
        opened(write_embedder_gguf(tmp_path / "Qwen3-Embedding.gguf", name="x", pooling=pooling))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "modules.json").write_text("{}"), "a list of modules"),
        (lambda f: (f / "modules.json").write_text("[]"), "a list of modules"),
        (lambda f: (f / "modules.json").write_text('[{"type": "a.Transformer", "path": "../x"}]'), "unsound"),
        (lambda f: (f / "modules.json").write_text('[{"type": "a.Transformer", "path": ""}, {"type": "D.Dense", "path": "2"}]'),
         "'Dense' is not implemented"),
        (lambda f: (f / "1_Pooling/config.json").write_text('{"pooling_mode_cls_token": true}'), "'cls', which is not"),
        (lambda f: (f / "1_Pooling/config.json").write_text('{"pooling_mode": ["mean", "lasttoken"]}'), "pooling modes are"),
        (lambda f: (f / "1_Pooling/config.json").unlink(), "no such file"),
        (lambda f: (f / "config_sentence_transformers.json").write_text('{"prompts": {"query": 5}}'), "expected texts by name"),
        (lambda f: (f / "config_sentence_transformers.json").write_text('{"default_prompt_name": "q"}'), "default_prompt_name"),
        (lambda f: (f / "sentence_bert_config.json").write_text('{"do_lower_case": true}'), "do_lower_case"),
        (lambda f: (f / "sentence_bert_config.json").write_text('{"max_seq_length": -1}'), "max_seq_length"),
    ],
)  # fmt: skip
def test_files_that_are_unsound_or_ask_for_more_are_refused_by_name(tmp_path_factory, embedder, tmp_path, change, message):
    folder = tmp_path / "Qwen3-Embedding"
    folder.mkdir()
    for path in embedder.path.rglob("*"):
        target = folder / path.relative_to(embedder.path)
        target.mkdir() if path.is_dir() else target.symlink_to(path)
    for path in (*folder.glob("*.json"), *folder.glob("1_Pooling/*.json")):
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)
    change(folder)
    with pytest.raises((FormatError, UnsupportedModel, ModelNotFound), match=message):
        opened(folder)


def changed(folder, **config):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


def with_logit_score(folder):
    kinds = (("", "base.modules.transformer.Transformer"), ("1_LogitScore", "cross_encoder.modules.logit_score.LogitScore"))
    modules = [{"idx": i, "name": str(i), "path": p, "type": f"sentence_transformers.{k}"} for i, (p, k) in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_LogitScore").mkdir()
    (folder / "1_LogitScore/config.json").write_text(json.dumps({"true_token_id": YES_ID, "false_token_id": NO_ID}))
    return folder


def named_rerankers():
    yes_no = {"classifier_from_token": ["no", "yes"]}
    return {
        "as published": lambda root: write_reranker(root / "Qwen3-Reranker-0.6B"),
        "untied": lambda root: write_reranker(root / "Qwen3-Reranker-8B", is_tied=False),
        "of one label, by name": lambda root: write_classifier(root / "Qwen3-Reranker-0.6B-seq-cls", n_labels=1),
        "of one label, by its config": lambda root: write_classifier(root / "model", n_labels=1, **yes_no),
        "of two labels": lambda root: write_classifier(root / "model", n_labels=2, **yes_no),
        "of two labels by id2label": lambda root: write_classifier(
            root / "Qwen3-Reranker", n_labels=2, id2label={"0": "no", "1": "yes"}, label2id={"no": 0, "yes": 1}
        ),
        "whose classifier vLLM would make": lambda root: changed(
            write_reranker(root / "model"),
            architectures=["Qwen3ForSequenceClassification"],
            is_original_qwen3_reranker=True,
            **yes_no,
        ),
        "of sentence-transformers": lambda root: with_logit_score(write_reranker(root / "model")),
        "GGUF": lambda root: write_reranker_gguf(root / "a.gguf", prompt=PREFIX + "<Query>: {query}" + SUFFIX),
        "GGUF in the other order": lambda root: write_reranker_gguf(root / "a.gguf", labels=("no", "yes")),
        "GGUF without a classifier": lambda root: write_embedder_gguf(
            root / "qwen3-reranker-0.6b-f32.gguf", name="x", pooling=None, end_id=None
        ),
    }


RERANKERS = named_rerankers()


@pytest.mark.slow
@pytest.mark.parametrize("form", RERANKERS)
def test_scores_are_those_of_the_model_card(form, tmp_path):
    llm = opened(RERANKERS[form](tmp_path))
    witness = CardReranker(is_tied=form != "untied")
    found = llm.prepare_rerank(PAIRS).run()
    assert found == pytest.approx(witness.scores(PAIRS), rel=1e-3, abs=1e-9)
    assert len({f"{score:.2g}" for score in found}) == len(PAIRS)
    own = llm.rerank(QUERIES[0], DOCUMENTS, instruction="Find tea")
    assert own == pytest.approx(witness.scores([(QUERIES[0], d) for d in DOCUMENTS], "Find tea"), rel=1e-3, abs=1e-9)
    assert llm.rerank(QUERIES[0], DOCUMENTS[:1], instruction="Find tea") == own[:1]
    assert "rerank" in llm.card.capabilities
    assert isinstance(llm.card.recipe, RerankRecipe)
    with pytest.raises(BadRequest, match=r"is a reranker.*use an embedding model"):
        llm.embed("a")
    llm.close()


@pytest.mark.slow
def test_a_classifier_writes_no_text(tmp_path):
    llm = opened(RERANKERS["GGUF"](tmp_path))
    with pytest.raises(BadRequest, match=r"is a classifier, which scores texts \(rerank\) and writes no text"):
        llm.chat("hello")


@pytest.mark.slow
def test_a_classifier_that_may_judge_something_else_is_asked_only_where_the_caller_says_so(tmp_path):
    llm = opened(write_classifier(tmp_path / "reward-model", n_labels=1))
    assert llm.card.recipe is None
    with pytest.raises(BadRequest, match="no reranker by its files"):
        llm.rerank("a", ["b"])
    assert llm.rerank(*PAIRS[0][:1], [PAIRS[0][1]], any_model=True) == pytest.approx(
        CardReranker().scores(PAIRS[:1]), rel=1e-3, abs=1e-9
    )


@pytest.mark.slow
def test_labels_and_tensors_that_contradict_each_other_are_refused(tmp_path):
    named = {"id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
    with pytest.raises(FormatError, match=r"score.weight' has shape \[2, 64\]; expected 3 rows"):
        opened(write_classifier(tmp_path / "a", n_labels=2, **named))
    with pytest.raises(UnsupportedModel, match="its labels are"):
        opened(write_classifier(tmp_path / "Qwen3-Reranker", n_labels=2))
    with pytest.raises(UnsupportedModel, match="only Qwen3-Reranker's prompt is implemented"):
        opened(write_reranker_gguf(tmp_path / "c.gguf", prompt="query: {query} document: {document}"))
    with pytest.raises(FormatError, match=r"cls.output.weight' is missing"):
        opened(write_embedder_gguf(tmp_path / "b.gguf", name="x", pooling=4))


def test_a_chat_model_makes_vectors_and_scores_only_where_the_caller_says_so(hybrid_llm):
    with pytest.raises(BadRequest, match=r"no embedding model by its files.*any_model=True") as caught:
        hybrid_llm.embed("a")
    assert caught.value.param == "model"
    with pytest.raises(BadRequest, match=r"no reranker by its files.*any_model=True"):
        hybrid_llm.rerank("a", ["b"])
    assert hybrid_llm.embed("a", any_model=True, dimensions=3).shape == (3,)
    assert 0 < hybrid_llm.rerank("a", ["b"], any_model=True)[0] < 1
    assert hybrid_llm.card.recipe is None


@pytest.mark.slow
def test_a_model_in_a_process_of_its_own_follows_the_same_recipe(tmp_path, embedder):
    far = opened(embedder.path, process=True)
    assert far.embed(QUERIES, kind="query").tobytes() == embedder.embed(QUERIES, kind="query").tobytes()
    far.close()
    far, near = (opened(write_reranker_gguf(tmp_path / "a.gguf"), process=process) for process in (True, False))
    assert far.rerank(*PAIRS[0][:1], DOCUMENTS) == near.rerank(*PAIRS[0][:1], DOCUMENTS)
    far.close()


def test_the_prompt_of_a_published_file_is_the_default_one(embedder):
    recipe = embedder.card.recipe
    assert isinstance(recipe, EmbeddingRecipe)
    assert (recipe.prompts, recipe.end_ids) == (PROMPTS, (embedder.tokenizer.control_tokens[END],))


def llama(path, **options):
    """The file as llama.cpp opens it to make vectors."""
    llama_cpp = pytest.importorskip("llama_cpp")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return llama_cpp.Llama(str(path), embedding=True, n_ctx=512, n_threads=2, verbose=False, **options)


@pytest.mark.slow
def test_vectors_of_a_gguf_file_are_those_of_llama_cpp(tmp_path):
    path = write_embedder_gguf(tmp_path / "a.gguf", name="Qwen3-Embedding")
    ours, theirs = opened(path), llama(path)
    for text in [*map(instruct, QUERIES), *DOCUMENTS]:  # it keeps keys and values in f16
        assert np.abs(ours.embed(text) - np.array(theirs.embed(text, normalize=True))).max() < 1e-3


@pytest.mark.slow
def test_scores_of_a_gguf_file_are_those_of_llama_cpp(tmp_path, monkeypatch):
    path = write_reranker_gguf(tmp_path / "a.gguf")
    ours, theirs = opened(path), llama(path, pooling_type=4)
    encode = theirs.tokenize
    monkeypatch.setattr(theirs, "tokenize", lambda text, *_, **__: encode(text, add_bos=False, special=True))
    for query, document in PAIRS:
        body = f"<Instruct>: {TASK}\n<Query>: {query}\n<Document>: {document}"
        yes, no = theirs.embed(f"{PREFIX}{body}{SUFFIX}")[:2]
        assert yes + no == pytest.approx(1)
        assert ours.rerank(query, [document]) == pytest.approx([yes], rel=0.05)


def test_the_doctors_self_test_finds_the_products_of_the_model_card(embedder):
    release = next(one for one in RELEASES if one.name == "Qwen3-Embedding-0.6B")
    (finding,) = check_scores(release, lambda: embedder)
    queries, documents = card_embeddings(list(map(instruct, CHECK_QUERIES))), card_embeddings(list(CHECK_DOCUMENTS))
    found = [float(number) for number in re.findall(r"-?[01]\.\d{4}", finding.found)]
    assert found == pytest.approx((queries @ documents.T).flatten().tolist(), abs=1e-4)
