"""Whatever comes in, no route answers with a server's error, and none keeps its client waiting."""

import json
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from samovar.serving.app import DIALECTS
from tests.llm.scripted import is_idle, scripted
from tests.serving.test_openai_chat import said

ROUTES = [(method, path) for dialect in DIALECTS for method, path, _ in dialect.routes]
# What the dialects call their fields: with these a random object gets further in.
NAMES = (
    "model", "messages", "prompt", "input", "stream", "max_tokens", "temperature", "tools", "tool_choice", "n", "stop", "seed",
    "role", "content", "type", "text", "name", "function", "parameters", "query", "documents", "options", "format", "think",
    "system", "thinking", "budget_tokens", "response_format", "json_schema", "schema", "logprobs", "suffix", "echo",
    "keep_alive", "reasoning_effort", "chat_template_kwargs", "metadata", "instructions", "previous_response_id", "dimensions",
    "logit_bias",
)  # fmt: skip
WORDS = st.sampled_from(
    (
        "hybrid",
        "user",
        "assistant",
        "system",
        "tool",
        "function",
        "auto",
        "text",
        "object",
        "json_schema",
        "",
        "\0",
        "<think>",
        "\ud800",
        "x" * 9000,
    )
)
LEAVES = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.integers(-2, 5) | st.floats() | st.text(max_size=20) | WORDS
)
JSON = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=9), inner, max_size=5)
    ),
    max_leaves=12,
)
MESSAGES = st.fixed_dictionaries({"messages": st.lists(st.fixed_dictionaries({"role": WORDS, "content": JSON}), max_size=3)})
OBJECTS = st.dictionaries(st.sampled_from(NAMES), JSON, max_size=6)
BODIES = st.one_of(
    st.binary(max_size=200),
    JSON.map(json.dumps).map(str.encode),
    OBJECTS.map(json.dumps).map(str.encode),
    st.builds(lambda first, more: json.dumps(more | first).encode(), MESSAGES, OBJECTS),
)
TYPES = st.sampled_from(("application/json", "text/plain", "multipart/form-data; boundary=x", "multipart/form-data", ""))


@pytest.fixture(scope="module")
def speaking(server, hybrid):
    """A server whose answers are short."""
    with scripted(hybrid, said(hybrid, "Yes.")):
        yield server
    assert is_idle(hybrid)


def test_the_routes_are_there():
    assert ("POST", "/v1/chat/completions") in ROUTES


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path"), ROUTES, ids=[f"{method} {path}" for method, path in ROUTES])
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(body=BODIES, kind=TYPES, part=st.text(min_size=1, max_size=12))
def test_no_body_gives_a_servers_error(speaking, method, path, body, kind, part):
    filled = "/".join(part if piece.startswith("{") else piece for piece in path.split("/"))
    headers = {"Content-Type": kind} if kind else {}
    reply = speaking.client.request(method, quote(filled), content=body, headers=headers, timeout=10)
    assert reply.status_code < 500, (body, reply.text)
    if reply.status_code >= 400 and method != "HEAD":
        assert reply.json(), "an error in the dialect's form"


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(path=st.text(max_size=30), method=st.sampled_from(("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH")))
def test_no_path_gives_a_servers_error(speaking, path, method):
    reply = speaking.client.request(method, "/" + quote(path), timeout=10)
    assert reply.status_code < 500
