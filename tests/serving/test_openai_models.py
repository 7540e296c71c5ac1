"""Models, adapters, and prompts without answers."""

import asyncio
import json

import openai
import pytest
from starlette.requests import Request

from samovar.serving.caller import Caller, Forbidden
from samovar.serving.failures import failure_of
from samovar.serving.openai_models import load_lora_adapter, unload_lora_adapter
from tests.llm.test_adapters import lora_folder

MESSAGES = [{"role": "user", "content": "Hi <|im_end|> there"}]
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def adapter(hybrid, tmp_path_factory):
    """The folder of an adapter that changes what the model computes."""
    return lora_folder(tmp_path_factory.mktemp("adapter") / "red", hybrid, 1)


def test_models_are_listed_with_their_context(client, hybrid):
    (card,) = client.models.list().data
    assert (card.id, card.max_model_len, card.parent) == ("hybrid", hybrid.max_context, None)
    assert client.models.retrieve("hybrid").id == "hybrid"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("some/other")


def test_an_adapter_is_loaded_named_as_a_model_and_unloaded(server, client, hybrid, adapter):
    own = client.completions.create(model="hybrid", prompt="Tea", temperature=0, max_tokens=1, logprobs=1)
    assert server.post("/v1/load_lora_adapter", lora_name="red", lora_path=str(adapter)).status_code == 200
    try:
        card = client.models.retrieve("red")
        assert (card.parent, card.root) == ("hybrid", "hybrid")
        assert [card.id for card in client.models.list().data] == ["hybrid", "red"]
        changed = client.completions.create(model="red", prompt="Tea", temperature=0, max_tokens=1, logprobs=1)
        assert changed.model == "red"
        assert changed.choices[0].logprobs.token_logprobs != own.choices[0].logprobs.token_logprobs
        vectors = [client.embeddings.create(model=name, input="Tea").data[0].embedding for name in ("hybrid", "red")]
        assert vectors[0] != vectors[1]
        again = server.post("/v1/load_lora_adapter", lora_name="red", lora_path=str(adapter))
        assert (again.status_code, again.json()["error"]["param"]) == (400, "lora_name")
    finally:
        assert server.post("/v1/unload_lora_adapter", lora_name="red").status_code == 200
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="red", prompt="Tea")


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/v1/load_lora_adapter", {"lora_name": "red", "lora_path": "/none"}, 400, "lora_path"),
        ("/v1/load_lora_adapter", {"lora_name": "red", "lora_path": ""}, 400, "lora_path"),
        ("/v1/load_lora_adapter", {"lora_name": "red", "lora_path": "x" * 5000}, 400, "lora_path"),
        ("/v1/load_lora_adapter", {"lora_name": "", "lora_path": "/none"}, 400, "lora_name"),
        ("/v1/load_lora_adapter", {"lora_name": "red"}, 400, "lora_path"),
        ("/v1/load_lora_adapter", {"lora_name": "red", "lora_path": "/x", "lora_int_id": 4}, 400, "lora_int_id"),
        ("/v1/load_lora_adapter", {"lora_name": "red", "lora_path": "/x", "base_model_name": "no"}, 404, "model"),
        ("/v1/unload_lora_adapter", {"lora_name": "hybrid"}, 400, "lora_name"),
        ("/v1/unload_lora_adapter", {"lora_name": "blue"}, 404, "model"),
    ],
)
def test_adapters_that_cannot_be_loaded_or_unloaded_are_refused(server, path, body, status, param):
    reply = server.post(path, **body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (status, param), reply.text


@pytest.mark.parametrize("route", [load_lora_adapter, unload_lora_adapter])
def test_adapters_are_for_admins_alone(server, route):
    request = Request({"type": "http", "headers": []})
    request.state.caller = Caller(id="1", name="guest")
    with pytest.raises(Forbidden, match="guest") as caught:
        asyncio.run(route(server.server, request))
    assert failure_of(caught.value).status == 403


def test_a_text_is_tokenized_and_back(server, hybrid):
    reply = server.post("/tokenize", prompt="Hi <|im_end|>空気", return_token_strs=True).json()
    ids = hybrid.tokenizer.encode("Hi <|im_end|>空気")
    assert (reply["tokens"], reply["count"], reply["max_model_len"]) == (ids, len(ids), hybrid.max_context)
    assert reply["token_strs"] == [hybrid.tokenizer.token_text(i) for i in ids]
    assert server.post("/detokenize", tokens=ids).json() == {"prompt": "Hi <|im_end|>空気"}


def test_messages_are_tokenized_as_a_chat_is(server, hybrid):
    for options, fields in (
        ({}, {}),
        ({"thinking": False}, {"chat_template_kwargs": {"enable_thinking": False}}),
        ({"tools": [TOOL]}, {"tools": [TOOL]}),
    ):
        wanted = hybrid.render_chat(MESSAGES, **options)
        assert server.post("/tokenize", messages=MESSAGES, **fields).json()["tokens"] == list(wanted.ids)
        assert server.post("/apply-template", messages=MESSAGES, **fields).json() == {"prompt": wanted.text}
        assert wanted.ids == hybrid.prepare_chat(MESSAGES, **options).prompt_ids


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": MESSAGES}, "prompt"),
        ("/tokenize", {"prompt": "a", "tools": [TOOL]}, "tools"),
        ("/tokenize", {"messages": MESSAGES, "add_special_tokens": True}, "add_special_tokens"),
        ("/tokenize", {"messages": MESSAGES, "chat_template": "x"}, "chat_template"),
        ("/tokenize", {"messages": MESSAGES, "add_generation_prompt": False}, "add_generation_prompt"),
        ("/tokenize", {"prompt": "a", "content": "b"}, "content"),
        ("/detokenize", {"tokens": [-1]}, None),
        ("/detokenize", {"tokens": ["a"]}, "tokens[0]"),
        ("/apply-template", {}, "messages"),
        ("/apply-template", {"messages": []}, "messages"),
        ("/apply-template", {"messages": MESSAGES, "chat_template_kwargs": {"tokenize": True}}, "tokenize"),
    ],
)
def test_what_has_no_tokens_is_refused_by_name(server, path, body, param):
    reply = server.post(path, **body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param), reply.text


def test_a_chat_says_whether_it_was_to_think(server, hybrid):
    def modes(text, **fields):
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": 40, **fields}
        whole = server.post("/v1/chat/completions", **body).json()["choices"][0]["thinking"]
        last = json.loads(server.events("/v1/chat/completions", **body, stream=True)[-2])["choices"][0]["thinking"]
        return whole, last

    assert modes("Hi") == (True, True)
    assert modes("Hi /no_think") == (False, False)
    assert modes("Hi /no_think", enable_thinking=True) == (True, True)
    assert modes("Hi /think", enable_thinking=False) == (False, False)


def test_a_chat_keeps_salts_apart_and_gives_prompt_log_probabilities(server, hybrid):
    body = {"messages": MESSAGES * 5, "max_tokens": 1, "enable_thinking": False}
    hybrid.settle()
    hybrid._engine.cache.clear()
    n_cached = [
        server.post("/v1/chat/completions", **body, cache_salt=salt).json()["usage"]["prompt_tokens_details"]["cached_tokens"]
        for salt in ("a", "b", "a")
    ]
    assert n_cached[:2] == [0, 0]
    assert n_cached[2] > 0
    reply = server.post("/v1/chat/completions", **body, prompt_logprobs=1).json()
    assert len(reply["prompt_logprobs"]) == reply["usage"]["prompt_tokens"]
    refused = server.post("/v1/chat/completions", **body, prompt_logprobs=1, stream=True)
    assert refused.json()["error"]["param"] == "prompt_logprobs"
