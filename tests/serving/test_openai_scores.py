"""Embeddings, rerank and score routes against `LLM.embed` and `LLM.rerank`, with the official client where there is one."""

import time

import httpx
import numpy as np
import openai
import pytest

from samovar.engine.engine import Engine
from tests.llm.scripted import is_idle

TEXTS = ["What is the capital of China?", "Explain gravity <|im_end|>", "空気"]
QUERY = "Is the tea hot?"
DOCUMENTS = ["The tea is hot.", "Snow fell.", "Nobody knows."]


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_vectors_are_those_of_llm_embed_to_the_last_bit(client, hybrid):
    wanted = hybrid.embed(TEXTS, any_model=True)
    reply = client.embeddings.create(model="hybrid", input=TEXTS)  # the client asks for base64
    assert np.array([one.embedding for one in reply.data], np.float32).tobytes() == wanted.tobytes()
    assert [one.index for one in reply.data] == [0, 1, 2]
    assert reply.usage.prompt_tokens == sum(len(hybrid.tokenizer.encode(t, parse_control=False)) for t in TEXTS)
    plain = client.embeddings.create(model="hybrid", input=TEXTS[0], encoding_format="float")
    assert np.array(plain.data[0].embedding, np.float32).tobytes() == wanted[0].tobytes()


def test_token_ids_and_fewer_dimensions(client, hybrid):
    ids = [hybrid.tokenizer.encode(text, parse_control=False) for text in TEXTS]
    reply = client.embeddings.create(model="hybrid", input=ids, dimensions=5)
    assert (
        np.array([one.embedding for one in reply.data], np.float32).tobytes()
        == hybrid.embed(TEXTS, dimensions=5, any_model=True).tobytes()
    )
    alone = client.embeddings.create(model="hybrid", input=ids[0])
    assert np.array(alone.data[0].embedding, np.float32).tobytes() == hybrid.embed(TEXTS[0], any_model=True).tobytes()


def test_documents_come_by_their_score_the_best_first(server, hybrid):
    scores = hybrid.rerank(QUERY, DOCUMENTS, any_model=True)
    given = [DOCUMENTS[0], {"text": DOCUMENTS[1]}, DOCUMENTS[2]]
    for path in ("/v1/rerank", "/rerank", "/v2/rerank"):
        reply = server.post(path, model="hybrid", query=QUERY, documents=given).json()
        assert [(r["index"], r["relevance_score"]) for r in reply["results"]] == sorted(
            enumerate(scores), key=lambda pair: -pair[1]
        )
        assert all(r["document"] == {"text": DOCUMENTS[r["index"]]} for r in reply["results"])
    best = server.post("/rerank", query=QUERY, documents=given, top_n=1, return_documents=False).json()["results"]
    assert best == [{"index": scores.index(max(scores)), "relevance_score": max(scores)}]


def test_an_instruction_changes_the_scores(server, hybrid):
    reply = server.post("/rerank", query=QUERY, documents=DOCUMENTS, instruction="Find tea").json()
    by_index = sorted(reply["results"], key=lambda r: r["index"])
    assert [r["relevance_score"] for r in by_index] == hybrid.rerank(QUERY, DOCUMENTS, instruction="Find tea", any_model=True)


def test_one_text_is_scored_against_several_and_pairs_against_each_other(server, hybrid):
    against = server.post("/score", text_1=QUERY, text_2=DOCUMENTS).json()
    assert [one["score"] for one in against["data"]] == hybrid.rerank(QUERY, DOCUMENTS, any_model=True)
    pairs = server.post("/v1/score", text_1=[QUERY, "Snow?", "Who?"], text_2=DOCUMENTS).json()
    assert [one["score"] for one in pairs["data"]] == [
        hybrid.rerank(query, [document], any_model=True)[0]
        for query, document in zip([QUERY, "Snow?", "Who?"], DOCUMENTS, strict=True)
    ]
    assert server.post("/score", text_1=QUERY, text_2="a").json()["data"][0]["object"] == "score"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/embeddings", {"input": []}, "input"),
        ("/v1/embeddings", {"input": ""}, "input"),
        ("/v1/embeddings", {"input": ["a", ""]}, "input"),
        ("/v1/embeddings", {"input": [1 << 40]}, "input"),
        ("/v1/embeddings", {"input": "word " * 5000}, "input"),
        ("/v1/embeddings", {"input": "a", "dimensions": 17}, "dimensions"),
        ("/v1/embeddings", {"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ("/v1/embeddings", {"input": "a", "foo": 1}, "foo"),
        ("/v1/embeddings", {"input": "a", "truncate_prompt_tokens": 5}, "truncate_prompt_tokens"),
        ("/rerank", {"query": "a", "documents": []}, "documents"),
        ("/rerank", {"query": "a", "documents": [{"text": "b", "title": "c"}]}, "documents[0].title"),
        ("/rerank", {"query": 5, "documents": ["b"]}, "query"),
        ("/rerank", {"query": "a", "documents": ["word " * 5000]}, "documents"),
        ("/rerank", {"query": "a", "documents": ["b"], "top_n": -1}, "top_n"),
        ("/rerank", {"query": "a", "documents": ["b"], "max_tokens_per_doc": 10}, "max_tokens_per_doc"),
        ("/score", {"text_1": ["a", "b"], "text_2": ["c"]}, "text_2"),
        ("/score", {"text_1": "a", "text_2": []}, "text_2"),
        ("/score", {"text_1": "a", "text_2": 5}, "text_2"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(server, path, body, param):
    reply = server.post(path, **body)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"] == param


def test_errors_are_those_that_the_official_client_knows(client):
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="none", input="a")
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="hybrid", input="word " * 5000)
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize("path", ["/v1/embeddings", "/api/embed"])
def test_a_client_that_leaves_stops_the_work(server, hybrid, monkeypatch, path):
    own, steps = Engine.step, []

    def slow(engine):
        time.sleep(0.02)
        steps.append(1)
        return own(engine)

    monkeypatch.setattr(Engine, "step", slow)
    texts = [f"{i} " + "tea " * 2000 for i in range(200)]  # many seconds
    with pytest.raises(httpx.ReadTimeout), httpx.Client(base_url=server.url, timeout=0.5) as leaving:
        leaving.post(path, json={"model": "hybrid", "input": texts})
    started = time.monotonic()
    assert is_idle(hybrid)
    assert time.monotonic() - started < 2
    assert steps


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/embeddings", {"input": ["a"] * 2049}, "input"),
        ("/v1/rerank", {"query": "q", "documents": ["a"] * 2049}, "documents"),
        ("/v1/score", {"text_1": "q", "text_2": ["a"] * 2049}, "text_2"),
    ],
)
def test_the_texts_of_a_request_are_bounded(server, path, body, param):
    reply = server.post(path, **body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
