"""What Ollama's clients ask about models, how long these stay open, and vectors; against the official client."""

import contextlib
import math
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import httpx
import numpy as np
import ollama
import pytest
from starlette.requests import Request

from samovar.errors import DownloadError
from samovar.llm.model_card import card_at
from samovar.serving.caller import Caller, Forbidden
from samovar.serving.ollama_models import API_VERSION
from samovar.serving.ollama_options import check_keep_alive
from samovar.serving.registry import Offered
from tests.llm.scripted import is_idle
from tests.serving.served import served

MODEL = "hybrid"


@pytest.fixture(scope="module")
def client(server):
    made = ollama.Client(host=server.url)
    yield made
    made.close()


@pytest.fixture
def lazy(models, tmp_path, monkeypatch):
    """A server whose models are opened when they are first used, and a client. `seen` can be looked at without that."""
    monkeypatch.setenv("SAMOVAR_HOME", str(tmp_path))
    with served({}, any_model_scores=True) as running:
        opened = []

        def open_model():
            opened.append(models.load("hybrid"))
            return opened[-1]

        def offer(name, **more):
            running.server.registry.models[name] = Offered(name=name, open_model=open_model, keep_alive_s=300, **more)

        offer("unseen")
        offer("seen", read_card=partial(card_at, str(models._folder)))
        with ollama.Client(host=running.url) as made:
            yield running, made
        for llm in opened:
            llm.close()


def test_a_probe_finds_a_server(server):
    assert server.client.get("/").text == "Ollama is running"
    assert server.client.head("/").status_code == 200
    assert server.client.get("/api/version").json()["version"] == API_VERSION


def test_offered_models_are_listed_with_what_they_are(client, hybrid):
    (listed,) = client.list().models
    assert listed.model == MODEL
    assert listed.size == sum(path.stat().st_size for path in hybrid.path.glob("*.safetensors"))
    assert (listed.details.family, listed.details.format, listed.details.quantization_level) == ("qwen3", "safetensors", "F32")
    config = hybrid.config
    assert listed.details.parameter_size == f"{(hybrid.card.n_parameters) / 1e6:.2f}M"
    assert hybrid.card.n_parameters > config.vocab_size * config.d_model
    assert len(listed.digest) == 64
    assert listed.modified_at < datetime.now(UTC)


def test_a_model_is_shown_with_its_context_template_and_capabilities(client, hybrid):
    shown = client.show(f"{MODEL}:latest")
    assert shown.modelinfo["general.architecture"] == "qwen3"
    assert shown.modelinfo["qwen3.context_length"] == hybrid.max_context
    assert shown.modelinfo["general.parameter_count"] == hybrid.card.n_parameters
    assert "enable_thinking" in shown.template
    assert shown.capabilities == ["completion", "tools", "thinking", "insert"]
    assert "temperature 0.6" in shown.parameters.splitlines()
    assert f"num_ctx {hybrid.max_context}" in shown.parameters.splitlines()
    assert 'stop "<|im_end|>"' in shown.parameters.splitlines()
    with pytest.raises(ollama.ResponseError, match="is not offered here") as caught:
        client.show("gpt-0")
    assert caught.value.status_code == 404


def test_capabilities_follow_the_template(models, require):
    for kind, thinks in (("always", True), ("never", False)):
        llm = models.load(kind)
        assert ("thinking" in llm.card.capabilities) is thinks
        llm.close()
    llm = models.load("{% for m in messages %}{{ m.content }}{% endfor %}")
    assert llm.card.capabilities == ("completion", "insert")
    llm.close()


@pytest.mark.slow
def test_a_model_can_be_looked_at_without_being_opened(lazy):
    running, client = lazy
    running.server.registry.models["seen"].adapters["tuned"] = "/nowhere"
    by_name = {listed.model: listed for listed in client.list().models}
    assert by_name["seen"].details.family == "qwen3"
    assert by_name["seen"].size > 0
    assert by_name["tuned"].details.parent_model == "seen"
    assert by_name["tuned"].digest != by_name["seen"].digest
    assert (by_name["unseen"].details.family, by_name["unseen"].size) == ("", 0)
    assert client.show("seen").modelinfo["qwen3.context_length"] == 4096
    assert client.ps().models == []
    assert client.show("unseen").details.family == "qwen3"  # the only way is to open it
    assert [m.model for m in client.ps().models] == ["unseen"]


def test_a_request_without_a_prompt_opens_and_closes_models(lazy):
    running, client = lazy
    loaded = client.generate("unseen")
    assert (loaded.done, loaded.done_reason, loaded.response) == (True, "load", "")
    assert loaded.load_duration > 0
    (open_one,) = client.ps().models
    assert (open_one.model, open_one.size_vram, open_one.context_length) == ("unseen", 0, 4096)
    assert 290 < (open_one.expires_at - datetime.now(UTC)).total_seconds() < 301
    assert client.chat("unseen", keep_alive="1h30m").done_reason == "load"
    assert 5390 < (client.ps().models[0].expires_at - datetime.now(UTC)).total_seconds() < 5401
    client.generate("unseen", keep_alive=-1)
    assert client.ps().models[0].expires_at.year == 9999
    assert client.chat("unseen", keep_alive=0).done_reason == "unload"
    assert client.ps().models == []
    assert running.server.registry.models["unseen"].llm is None


def test_how_long_a_model_stays_open_is_said_with_any_request(lazy):
    running, client = lazy
    offered = running.server.registry.models["unseen"]
    client.chat("unseen", [{"role": "user", "content": "a"}], options={"num_predict": 1}, keep_alive=7)
    assert 0 < offered.expires_s - time.monotonic() <= 7
    client.embed("unseen", "a", keep_alive="500ms")
    assert offered.expires_s - offered.used_s == 0.5


def test_vectors_are_those_of_the_model(client, hybrid):
    reply = client.embed(MODEL, ["one", "two words"])
    np.testing.assert_array_equal(np.float32(reply.embeddings), hybrid.embed(["one", "two words"], any_model=True))
    assert reply.prompt_eval_count == len(hybrid.tokenizer.encode("one")) + len(hybrid.tokenizer.encode("two words"))
    short = client.embed(MODEL, "one", dimensions=4)
    np.testing.assert_array_equal(np.float32(short.embeddings[0]), hybrid.embed("one", dimensions=4, any_model=True))
    np.testing.assert_array_equal(np.float32(client.embeddings(MODEL, "one").embedding), hybrid.embed("one", any_model=True))
    assert client.embed(MODEL, []).embeddings == []
    assert client.embed(MODEL, [f"text {n}" for n in range(40)]).embeddings[39] == client.embed(MODEL, "text 39").embeddings[0]


@pytest.mark.parametrize("truncate", [None, False])
def test_a_text_that_is_too_long_is_refused_with_counts(client, hybrid, truncate):
    text = "word " * 5000
    n_tokens = len(hybrid.tokenizer.encode(text))
    with pytest.raises(ollama.ResponseError, match=f"text 1 has {n_tokens} tokens, and the context holds 4096") as caught:
        client.embed(MODEL, ["a", text], truncate=truncate)
    assert caught.value.status_code == 400
    with pytest.raises(ollama.ResponseError, match="text 0 has 2 tokens, and the context holds 1"):
        client.embed(MODEL, "two words", options={"num_ctx": 1})
    assert is_idle(hybrid)


def test_the_end_of_a_text_is_cut_off_where_the_client_says_so(client, server, hybrid):
    text = "空気 one two three four five six seven 空気" * 3
    ids = hybrid.tokenizer.encode(text)
    body = {"model": MODEL, "input": ["a", text], "truncate": True, "options": {"num_ctx": 12}}
    reply = server.post("/api/embed", **body).json()
    assert reply["truncated"] == [{"index": 1, "tokens": len(ids)}]
    kept = hybrid.embed(hybrid.tokenizer.decode(ids[:12]).rstrip("\ufffd"), any_model=True)
    np.testing.assert_array_equal(np.float32(reply["embeddings"][1]), kept)
    assert "truncated" not in server.post("/api/embed", model=MODEL, input="a", truncate=True).json()


def test_models_are_not_fetched_or_changed_over_http(client, server):
    assert client.pull(MODEL).status == "success"
    assert [part.status for part in client.pull(f"{MODEL}:latest", stream=True)] == ["success"]
    with pytest.raises(ollama.ResponseError, match="samovar pull qwen3:8b") as caught:
        client.pull("qwen3:8b")
    assert caught.value.status_code == 400
    for change in (
        lambda: client.delete(MODEL),
        lambda: client.create("mine", from_=MODEL, stream=False),
        lambda: client.copy(MODEL, "mine"),
        lambda: client.push(MODEL),
    ):
        with pytest.raises(ollama.ResponseError, match="is not supported") as caught:
            change()
        assert caught.value.status_code == 400
    assert server.client.post("/api/blobs/sha256:00", content=b"x").status_code == 400
    assert server.client.head("/api/blobs/sha256:00").status_code == 400


@pytest.mark.parametrize("seconds", [0, math.inf])
def test_only_an_admin_closes_a_model_that_others_use_or_keeps_it_for_ever(seconds):
    def asked_by(*, is_admin):
        caller = Caller(id="k", name="k", is_admin=is_admin)
        return Request({"type": "http", "state": {"caller": caller}})

    check_keep_alive(asked_by(is_admin=True), seconds)
    check_keep_alive(asked_by(is_admin=False), 600)
    with pytest.raises(Forbidden, match="admin's key"):
        check_keep_alive(asked_by(is_admin=False), seconds)


@pytest.fixture
def fetching(lazy, models):
    """A server that fetches one model, slowly; a client; and an event that lets it go on."""
    running, made = lazy
    go_on, ended = threading.Event(), []

    def fetch(name, report):
        if name != "new":
            raise DownloadError(f"{name} could not be fetched")
        try:
            report(10, 100, "")
            while not go_on.wait(0.01):
                report(20, 100, "")
            report(100, 100, "")
        except BaseException as error:
            ended.append(error)
            raise
        return replace(running.server.registry.models["seen"], name="new")

    object.__setattr__(running.server, "fetch", fetch)
    return running, made, go_on, ended


@pytest.mark.slow
def test_a_model_is_fetched_where_the_server_allows_it_and_offered_from_then_on(fetching):
    _, made, go_on, _ = fetching
    seen = []
    for part in made.pull("new", stream=True):
        seen.append(part)
        if part.completed == 20:
            go_on.set()
    assert seen[0].status == "pulling manifest"
    assert (seen[-2].completed, seen[-2].total, seen[-1].status) == (100, 100, "success")
    assert "new" in [m.model for m in made.list().models]
    assert made.pull("new").status == "success"


def test_a_fetch_that_fails_is_told_in_the_stream_and_in_a_plain_reply(fetching):
    _, made, _, _ = fetching
    with pytest.raises(ollama.ResponseError, match="other could not be fetched"):
        list(made.pull("other", stream=True))
    with pytest.raises(ollama.ResponseError, match="other could not be fetched") as caught:
        made.pull("other")
    assert caught.value.status_code == 502


@pytest.mark.parametrize("streams", [True, False])
def test_a_client_that_leaves_ends_its_fetch(fetching, streams):
    running, _, _, ended = fetching
    url, body = f"{running.url}/api/pull", {"model": "new", "stream": streams}
    with (
        contextlib.suppress(httpx.ReadTimeout),
        httpx.stream("POST", url, json=body, timeout=0.5) as reply,
    ):
        next(reply.iter_lines())
    deadline = time.monotonic() + 10
    while not ended:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert "new" not in running.server.registry.models


def test_only_admins_have_models_fetched(fetching, monkeypatch):
    _, made, _, _ = fetching
    caller = Caller(id="a", name="a")
    monkeypatch.setattr("samovar.serving.server.caller_of", lambda _: caller)
    with pytest.raises(ollama.ResponseError, match="takes an admin's key"):
        made.pull("new")
