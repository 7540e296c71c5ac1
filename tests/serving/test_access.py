"""Who may use a server: keys, hosts, origins, and how much of it."""

import contextlib
import threading

import httpx
import openai
import pytest

from samovar.serving.guard import Guard, host_name, is_loopback
from samovar.serving.keys import KeyFile, Keys
from tests.llm.remote_processes import until
from tests.llm.scripted import is_idle, scripted
from tests.serving.served import served
from tests.serving.test_openai_chat import QUESTION, said

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return KeyFile(tmp_path_factory.mktemp("keys") / "keys.json")


@pytest.fixture(scope="module")
def guarded(hybrid, file):
    """A server that asks for keys, lets one origin in, and takes small bodies."""
    guard = Guard(keys=Keys(file), needs_key=True, origins=("https://good.example",), max_body_bytes=5000)
    with served({"hybrid": hybrid}, guard=guard) as running:
        yield running


@pytest.fixture(scope="module")
def key(file):
    return file.create("bob")


@contextlib.contextmanager
def held(llm):
    """Let answers begin, and go on only when the context ends."""
    release, script = threading.Event(), said(llm, "One two three four five six.")

    def wanted(prompt_ids, generated_ids):
        assert len(generated_ids) < 2 or release.wait(20)
        return script(prompt_ids, generated_ids)

    with scripted(llm, wanted):
        try:
            yield
        finally:
            release.set()


def error(reply):
    return reply.status_code, reply.json()["error"]["type"]


def test_every_path_but_health_asks_for_a_key(guarded):
    assert guarded.client.get("/health").status_code == 200
    for method, path in (
        ("POST", CHAT),
        ("GET", "/metrics"),
        ("GET", "/nowhere"),
        ("PUT", CHAT),
        ("GET", "/health/"),
        ("GET", "//health"),
    ):
        reply = guarded.client.request(method, path)
        assert error(reply) == (401, "authentication_error"), path
        assert reply.headers["www-authenticate"] == "Bearer"
        assert reply.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer {}"},
        {"authorization": "bearer  {}"},
        {"x-api-key": "{}"},
        {"Authorization": "Basic YQ==", "x-api-key": "{}"},
    ],
)
def test_a_key_is_taken_from_where_the_dialects_put_it(guarded, key, headers):
    for text, status in ((key, 200), (key + "x", 401), (key[:-1], 401)):
        filled = {name: value.format(text) for name, value in headers.items()}
        assert guarded.client.get("/metrics", headers=filled).status_code == status
    assert guarded.client.get("/metrics", params={"api_key": key}).status_code == 401


def test_the_official_client_raises_what_its_users_expect(guarded, hybrid, key):
    with (
        openai.OpenAI(base_url=f"{guarded.url}/v1", api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.chat.completions.create(model="hybrid", messages=QUESTION)
    with (
        scripted(hybrid, said(hybrid, "Yes.")),
        openai.OpenAI(base_url=f"{guarded.url}/v1", api_key=key, max_retries=0) as client,
    ):
        reply = client.chat.completions.create(model="hybrid", messages=QUESTION, reasoning_effort="none")
        assert reply.choices[0].message.content == "Yes."


def test_without_any_key_this_machine_is_asked_for_none_until_there_is_one(hybrid, tmp_path):
    file = KeyFile(tmp_path / "keys.json")
    with served({"hybrid": hybrid}, guard=Guard(keys=Keys(file))) as open_one:
        assert open_one.client.get("/metrics", headers={"Authorization": "Bearer none"}).status_code == 200
        for name in ("X-Forwarded-For", "Forwarded", "Via"):  # whoever it is, it is not this machine
            assert error(open_one.client.get("/metrics", headers={name: "1.2.3.4"})) == (401, "authentication_error")
        key = file.create("bob")
        assert open_one.client.get("/metrics").status_code == 401
        assert open_one.client.get("/metrics", headers={"x-api-key": key}).status_code == 200
        assert open_one.client.get("/metrics", headers={"x-api-key": key, "Via": "proxy"}).status_code == 200


@pytest.mark.parametrize(("host", "status"), [
    ("localhost", 200), ("LOCALHOST:1", 200), ("127.0.0.1:80", 200), ("[::1]:8000", 200), ("[::1]", 200),
    ("evil.example", 403), ("localhost.evil.example", 403), ("127.0.0.1.nip.io:8000", 403), ("localhost:80:80", 403), ("", 403),
    ("evil.example@localhost", 403), ("0.0.0.0", 403),
])  # fmt: skip
def test_a_server_answers_to_its_own_names_alone(server, host, status):
    reply = server.client.get("/metrics", headers={"Host": host})
    assert reply.status_code == status
    if status == 403:
        assert reply.json()["error"]["type"] == "permission_error"
        assert "--allow-host" in reply.json()["error"]["message"]


@pytest.mark.parametrize(("origin", "status"), [
    (None, 400), ("{url}", 400), ("https://evil.example", 403), ("null", 403), ("http://127.0.0.1", 403),
    ("http://127.0.0.1:1", 403), ("http://[", 403), ("file://", 403),
])  # fmt: skip
def test_pages_of_other_origins_change_nothing(server, origin, status):
    headers = {} if origin is None else {"Origin": origin.format(url=server.url)}
    simple = {"Content-Type": "text/plain"} | headers  # what a page may send without asking
    assert server.client.post(CHAT, content=b"{}", headers=simple).status_code == status
    reply = server.client.get("/metrics", headers=headers)
    assert reply.status_code == 200
    assert not any(name.startswith("access-control") for name in reply.headers)


def test_an_origin_that_is_allowed_may_ask_and_read(guarded, key):
    good = {"Origin": "https://good.example"}
    asked = guarded.client.options(
        CHAT, headers=good | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    )
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == "https://good.example"
    refused = guarded.client.options(CHAT, headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"})
    assert "access-control-allow-origin" not in refused.headers
    for headers, status in (({}, 401), ({"x-api-key": key}, 400)):
        reply = guarded.client.post(CHAT, content=b"{}", headers=good | headers)
        assert reply.status_code == status
        assert reply.headers["access-control-allow-origin"] == "https://good.example"  # a page can read the reason


def pieces(n_bytes, size=700):
    yield b'{"messages": "'
    for at in range(0, n_bytes, size):
        yield b"x" * min(size, n_bytes - at)


@pytest.mark.parametrize("n_bytes", [5001, 300_000])
def test_a_body_that_is_too_large_is_refused_whether_its_size_is_said_or_not(guarded, key, n_bytes):
    for content in (b"x" * n_bytes, pieces(n_bytes)):
        reply = guarded.client.post(CHAT, content=content, headers={"x-api-key": key})
        assert reply.status_code == 413
        assert reply.json()["error"]["code"] == "request_too_large"
        assert "5000 bytes" in reply.json()["error"]["message"]
    assert guarded.client.post(CHAT, content=b"x" * 5000, headers={"x-api-key": key}).status_code == 400
    assert guarded.client.post(CHAT, content=b"x" * n_bytes).status_code in (401, 413)


def test_bodies_together_are_bounded_and_their_room_is_given_back(hybrid):
    with served({"hybrid": hybrid}, guard=Guard(max_held_bytes=3000)) as small:
        for _ in range(5):
            assert small.client.post(CHAT, content=b"x" * 2900).status_code == 400
        reply = small.client.post(CHAT, content=b"x" * 3100)
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "overloaded")
    assert int(reply.headers["retry-after"]) > 0


def test_more_requests_than_there_is_room_for_are_told_to_come_later(hybrid):
    with served({"hybrid": hybrid}, guard=Guard(max_open=1)) as small, held(hybrid):
        with small.client.stream("POST", CHAT, json={"messages": QUESTION, "stream": True}) as reply:
            lines = reply.iter_lines()  # which holds the connection
            next(lines)
            with httpx.Client(base_url=small.url) as other:
                refused = other.post(CHAT, json={"messages": QUESTION})
                assert other.get("/health").status_code == 200
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
    assert is_idle(hybrid)


def test_limits_of_a_key_are_told_with_the_time_to_wait(hybrid, tmp_path):
    file = KeyFile(tmp_path / "keys.json")
    headers = {"x-api-key": file.create("bob", max_streams=1)}
    few = {"x-api-key": file.create("eve", requests_per_minute=1)}
    body = {"messages": QUESTION, "enable_thinking": False}
    with served({"hybrid": hybrid}, guard=Guard(keys=Keys(file))) as limited:
        assert limited.client.post(CHAT, json=body | {"max_tokens": 1}, headers=few).status_code == 200
        again = limited.client.post(CHAT, json=body, headers=few)
        with held(hybrid), limited.client.stream("POST", CHAT, json=body | {"stream": True}, headers=headers) as reply:
            lines = reply.iter_lines()  # which holds the connection
            next(lines)
            with httpx.Client(base_url=limited.url) as other:
                refused = other.post(CHAT, json=body, headers=headers)
        assert error(refused) == error(again) == (429, "rate_limit_error")
        assert 1 <= int(refused.headers["retry-after"]) < 5
        assert 30 < int(again.headers["retry-after"]) <= 60
        hybrid.settle()
        until(
            lambda: limited.client.post(CHAT, json=body | {"max_tokens": 1}, headers=headers).status_code == 200
        )  # it is free


@pytest.mark.parametrize(("host", "is_local"), [
    ("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("[::1]", True), ("localhost", True), ("0.0.0.0", False),
    ("::", False), ("192.168.0.1", False),
])  # fmt: skip
def test_what_only_this_machine_reaches_is_known_by_its_address(host, is_local):
    assert is_loopback(host) is is_local
    assert host_name("::1") == "[::1]"
