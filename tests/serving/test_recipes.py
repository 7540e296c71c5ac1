"""Embedding models and rerankers behind the HTTP routes: what they are asked reaches their recipe, and what they cannot do is
refused with what to do."""

import numpy as np
import openai
import pytest

from samovar.llm import LLM
from tests.llm.recipe_models import DOCUMENTS, END_ID, QUERIES, write_classifier, write_embedder, write_sentence_files
from tests.serving.served import served

TASK = "Find tea"


@pytest.fixture(scope="module")
def llms(tmp_path_factory, require):
    root = tmp_path_factory.mktemp("recipes")
    folder = write_embedder(root / "Qwen3-Embedding-0.6B")
    write_sentence_files(folder)
    classifier = write_classifier(root / "Qwen3-Reranker-0.6B-seq-cls", n_labels=1)
    made = {
        "embedder": LLM(folder, n_threads=1, cache=False, long_context="off"),
        "reranker": LLM(classifier, n_threads=1, cache=False),
    }
    yield made
    for llm in made.values():
        llm.close()


@pytest.fixture(scope="module")
def server(llms, hybrid):
    with served({**llms, "chat": hybrid}) as running:
        yield running


def vectors(reply):
    assert reply.status_code == 200, reply.text
    body = reply.json()
    return np.float32(body["embeddings"] if "embeddings" in body else [one["embedding"] for one in body["data"]])


ASKS = [
    ({}, {}),
    ({"input_type": "query"}, {"kind": "query"}),
    ({"input_type": "search_query"}, {"kind": "query"}),
    ({"input_type": "document"}, {"kind": "document"}),
    ({"input_type": "passage"}, {"kind": "document"}),
    ({"input_type": "search_document"}, {"kind": "document"}),
    ({"instruction": TASK}, {"kind": "query", "instruction": TASK}),
    ({"input_type": "query", "instruction": TASK, "dimensions": 32}, {"instruction": TASK, "dimensions": 32}),
]


@pytest.mark.parametrize(("fields", "options"), ASKS)
def test_what_a_client_says_of_its_texts_reaches_the_recipe(server, llms, fields, options):
    wanted = llms["embedder"].embed(QUERIES, **options)
    for path in ("/v1/embeddings", "/api/embed"):
        assert vectors(server.post(path, model="embedder", input=QUERIES, **fields)).tobytes() == wanted.tobytes()


def test_the_official_client_asks_in_base64_and_by_token_ids(server, llms):
    llm = llms["embedder"]
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        reply = client.embeddings.create(
            model="embedder", input=QUERIES, dimensions=40, extra_body={"input_type": "query", "instruction": TASK}
        )
        wanted = llm.embed(QUERIES, instruction=TASK, dimensions=40)
        assert np.float32([one.embedding for one in reply.data]).tobytes() == wanted.tobytes()
        ids = [llm.tokenizer.encode(text) for text in DOCUMENTS]
        reply = client.embeddings.create(model="embedder", input=ids)
        assert np.float32([one.embedding for one in reply.data]).tobytes() == llm.embed(DOCUMENTS).tobytes()
        assert reply.usage.prompt_tokens == sum(map(len, ids))


def test_the_end_of_a_text_is_cut_only_where_the_client_says_so_and_told(server, llms):
    text = "tea " * 1100
    n_tokens = len(llms["embedder"].tokenizer.encode(text))
    for path in ("/v1/embeddings", "/api/embed"):
        reply = server.post(path, model="embedder", input=["a", text], truncate=True)
        assert reply.json()["truncated"] == [{"index": 1, "tokens": n_tokens}]
        assert vectors(reply).tobytes() == llms["embedder"].embed(["a", text], truncate=True).tobytes()
        refused = server.post(path, model="embedder", input=["a", text], truncate=False)
        assert refused.status_code == 400
        assert f"text 1 has {n_tokens} tokens, and the context holds 1024" in refused.text
        assert "truncated" not in server.post(path, model="embedder", input="a", truncate=True).json()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input_type": "clustering"}, "input_type"),
        ({"input_type": "document", "instruction": TASK}, "instruction"),
        ({"dimensions": 31}, "dimensions"),
        ({"input": [1, 2, 3]}, "input"),
        ({"input": [END_ID], "input_type": "query"}, "input_type"),
    ],
)
def test_what_the_recipe_has_no_place_for_is_refused_by_name(server, fields, param):
    reply = server.post("/v1/embeddings", **{"model": "embedder", "input": "a"} | fields)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param), reply.text


def test_documents_are_ranked_by_a_classifier_in_the_form_of_jina_and_cohere(server, llms):
    scores = llms["reranker"].rerank(QUERIES[0], DOCUMENTS, instruction=TASK)
    order = sorted(range(3), key=lambda index: -scores[index])
    for path in ("/v1/rerank", "/v2/rerank"):
        reply = server.post(path, model="reranker", query=QUERIES[0], documents=DOCUMENTS, instruction=TASK, top_n=2)
        found = [(one["index"], one["relevance_score"]) for one in reply.json()["results"]]
        assert found == [(index, scores[index]) for index in order[:2]]
    reply = server.post("/v1/score", model="reranker", text_1=QUERIES[0], text_2=DOCUMENTS, instruction=TASK)
    assert [one["score"] for one in reply.json()["data"]] == scores


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/v1/embeddings", {"model": "chat", "input": "a"}, "--any-model-scores"),
        ("/api/embed", {"model": "chat", "input": "a"}, "--any-model-scores"),
        ("/v1/embeddings", {"model": "reranker", "input": "a"}, "is a reranker"),
        ("/v1/rerank", {"model": "chat", "query": "a", "documents": ["b"]}, "--any-model-scores"),
        ("/v1/score", {"model": "chat", "text_1": "a", "text_2": "b"}, "--any-model-scores"),
        ("/v1/rerank", {"model": "embedder", "query": "a", "documents": ["b"]}, "use a reranker"),
        ("/v1/chat/completions", {"model": "embedder", "messages": [{"role": "user", "content": "a"}]}, "use a chat model"),
        ("/v1/completions", {"model": "embedder", "prompt": "a"}, "use a chat model"),
        ("/v1/responses", {"model": "embedder", "input": "a"}, "use a chat model"),
        ("/api/chat", {"model": "reranker", "messages": [{"role": "user", "content": "a"}]}, "writes no text"),
        ("/api/generate", {"model": "embedder", "prompt": "a"}, "use a chat model"),
        (
            "/v1/messages",
            {"model": "embedder", "max_tokens": 5, "messages": [{"role": "user", "content": "a"}]},
            "use a chat model",
        ),
    ],
)
def test_a_model_is_asked_for_what_it_was_made_for_or_refused_with_what_to_do(server, path, body, says):
    reply = server.post(path, **body)
    assert reply.status_code == 400, reply.text
    assert says in reply.text


def test_what_a_model_can_do_is_told(server):
    assert server.post("/api/show", model="embedder").json()["capabilities"] == ["embedding"]
    assert server.post("/api/show", model="reranker").json()["capabilities"] == ["rerank"]
