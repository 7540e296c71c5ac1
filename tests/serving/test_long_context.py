"""A request that asks for more than the native context: every dialect tells so, and the log does."""

import json
import logging

import pytest

from samovar.serving.log import LOG
from tests.engine.scripted import by_position
from tests.llm.remote_processes import until
from tests.llm.scripted import scripted
from tests.serving.served import served

QUESTION = [{"role": "user", "content": "Why is the sky blue? " * 20}]
N_LONG = 5000  # tokens to come; the native context is 4,096


@pytest.fixture(scope="module")
def long(models):
    """A model that goes beyond its native context."""
    llm = models.load("hybrid", long_context="auto")
    yield llm
    llm.close()


@pytest.fixture(scope="module")
def server(long):
    with served({"hybrid": long}) as running:
        yield running


@pytest.fixture(autouse=True)
def answers(long):
    with scripted(long, by_position([*long.tokenizer.encode("Because."), long.tokenizer.eos_id])):
        yield


def openai(server, n_tokens, streams):
    body = {"messages": QUESTION, "max_completion_tokens": n_tokens, "stream": streams, "enable_thinking": False}
    if not streams:
        return server.post("/v1/chat/completions", **body).json()["choices"][0]
    chunks = [json.loads(data) for data in server.events("/v1/chat/completions", **body) if data != "[DONE]"]
    return next(c["choices"][0] for c in chunks if c["choices"] and c["choices"][0].get("finish_reason"))


def completions(server, n_tokens, streams):
    body = {"prompt": "Why? " * 40, "max_tokens": n_tokens, "stream": streams}
    if not streams:
        return server.post("/v1/completions", **body).json()["choices"][0]
    chunks = [json.loads(data) for data in server.events("/v1/completions", **body) if data != "[DONE]"]
    return next(c["choices"][0] for c in chunks if c["choices"] and c["choices"][0].get("finish_reason"))


def responses(server, n_tokens, streams):
    body = {"input": "Why? " * 40, "max_output_tokens": n_tokens, "stream": streams, "store": False}
    if not streams:
        return server.post("/v1/responses", **body).json()
    return json.loads(server.events("/v1/responses", **body)[-1])["response"]


def anthropic(server, n_tokens, streams):
    body = {"model": "hybrid", "messages": QUESTION, "max_tokens": n_tokens, "stream": streams}
    if not streams:
        return server.post("/v1/messages", **body).json()["samovar"]
    events = [json.loads(data) for data in server.events("/v1/messages", **body)]
    return next(event["samovar"] for event in events if event["type"] == "message_delta")


def ollama(server, n_tokens, streams):
    body = {"model": "hybrid", "messages": QUESTION, "options": {"num_predict": n_tokens}, "stream": streams}
    return json.loads(server.post("/api/chat", **body).text.splitlines()[-1])


def factors_logged(caplog):
    return [record.fields["yarn_factor"] for record in caplog.records if record.getMessage() == "request"]


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("dialect", [openai, completions, responses, anthropic, ollama])
def test_a_reply_tells_the_factor_where_there_is_one(server, caplog, dialect, streams):
    with caplog.at_level(logging.INFO, logger=LOG.name):
        assert "yarn_factor" not in dialect(server, 50, streams)
        assert dialect(server, N_LONG, streams)["yarn_factor"] == 2
        told = dialect(server, 10_000, streams)
        until(lambda: len(factors_logged(caplog)) == 3)  # a line may come after its reply
    assert told["yarn_factor"] == 4
    assert "are cached with" in told["cache_miss_reason"]
    assert "takes YaRN factor 4" in told["cache_miss_reason"]
    assert factors_logged(caplog) == [1, 2, 4]


def test_the_models_context_is_offered_as_far_as_memory_goes(server, long):
    assert long.max_context == 4 * 4096
    (listed,) = server.client.get("/v1/models").json()["data"]
    assert listed["max_model_len"] == long.max_context


def test_num_ctx_is_a_bound_and_no_wish(server, long):
    body = {"model": "hybrid", "messages": QUESTION, "stream": False, "options": {"num_ctx": long.max_context}}
    assert "yarn_factor" not in server.post("/api/chat", **body).json()
