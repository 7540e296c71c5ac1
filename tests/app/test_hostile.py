"""What a client may send by mistake or on purpose, and what may break under an answer."""

import contextlib
import os
import signal
import time

import pytest

from samovar.serving.guard import Guard
from tests.app.app_client import HEADER, served_app, wait_for
from tests.app.test_answers import slowly
from tests.engine.scripted import by_position
from tests.llm.scripted import is_idle, scripted, spelled
from tests.serving.processes import running

VALUES = [None, True, -1, 1e300, 1 << 70, "", "x" * 5000, "\x00", "%_'\"", "../..", [], [None], [[]], {}, {"a": {}}]
CHAT_FIELDS = ("title", "folder", "is_pinned", "is_archived", "system", "model", "settings", "leaf_id", "id", "user_id")
MESSAGE_FIELDS = ("parent_id", "content", "role", "tool_call_id", "files", "settings", "answer", "status")
SETTINGS = (
    "mode", "thinking_budget", "temperature", "top_p", "top_k", "min_p", "presence_penalty", "repetition_penalty", "max_tokens",
    "seed", "json_schema", "tools", "stop",
)  # fmt: skip


def sound(reply):
    """Answered, or refused with words; and no bug of ours."""
    assert reply.status_code < 500, (reply.request.content, reply.text)
    if reply.status_code >= 400:
        assert set(reply.json()["error"]) == {"code", "message"}
        assert len(reply.json()["error"]["message"]) > 10
    return reply


@pytest.mark.slow
def test_no_value_of_any_field_breaks_the_server(app, hybrid):
    chat = app.new_chat()
    with scripted(hybrid, by_position(spelled(hybrid, "x"))):
        for value in VALUES:
            for name in CHAT_FIELDS:
                sound(app.patch(f"/chats/{chat['id']}", **{name: value}))
                sound(app.post("/chats", **{name: value}))
            for name in MESSAGE_FIELDS:
                sound(
                    app.post(
                        f"/chats/{chat['id']}/messages", **{"parent_id": None, "content": "x", "answer": False, name: value}
                    )
                )
            for name in SETTINGS:
                sound(app.post("/chats", settings={name: value}))
            sound(app.post(f"/chats/{chat['id']}/walk", message_id=value))
        wait_for(lambda: not app.app.live)
    for value in ("", "x" * 5000, "-1", "1.5", "%00", "٣", "0.1.x", "2.1.x", "0.99999999999999999999.x"):
        for name in ("query", "folder", "archived", "before", "limit", "nothing"):
            sound(app.client.get(f"/app/api/chats?{name}={value}"))
        for name in ("leaf", "before", "limit"):
            sound(app.client.get(f"/app/api/chats/{chat['id']}/messages?{name}={value}"))


def test_unsound_schemas_and_tools_end_the_answer_with_words(app):
    for settings in (
        {"json_schema": {"type": "nonsense"}},
        {"json_schema": {"$ref": "https://elsewhere.example/schema"}},
        {"tools": [{"type": "function"}]},
        {"tools": [{"type": "function", "function": {"name": "a b"}}]},
    ):
        reply = app.post(f"/chats/{app.new_chat(settings=settings)['id']}/messages", parent_id=None, content="x")
        if reply.status_code == 200:
            done = app.ended(reply.json()["answer"])
            assert done["status"] == "failed"
            assert len(done["error"]) > 20
        else:
            sound(reply)


def test_a_paste_that_is_too_large_is_refused_before_it_is_read(hybrid, tmp_path):
    with served_app({"hybrid": hybrid}, tmp_path, guard=Guard(max_body_bytes=100_000)) as app:
        chat = app.new_chat()
        body = b'{"parent_id": null, "content": "' + b"x" * 1_000_000 + b'"}'
        reply = sound(app.client.post(f"/app/api/chats/{chat['id']}/messages", content=body))
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "request_too_large")


@pytest.mark.parametrize("what", ["chat", "message"])
def test_deleting_in_mid_answer_ends_the_work(app, hybrid, what):
    chat = app.new_chat(settings={"mode": "fast"})
    with scripted(hybrid, slowly(by_position(spelled(hybrid, "v" * 3000)), 0.01)):
        answer = app.ask(chat)
        wait_for(lambda: app.messages(chat)["messages"][-1]["content"])
        path = f"/chats/{chat['id']}" if what == "chat" else f"/messages/{app.messages(chat)['messages'][0]['id']}"
        assert app.delete(path).status_code == 200
        wait_for(lambda: is_idle(hybrid))
    assert app.read("SELECT id FROM messages WHERE id = ?", answer["id"]) == []
    assert not app.app.live
    assert app.get(f"/messages/{answer['id']}/events").status_code == 404


def api(server):
    def call(method, path, **body):
        reply = server.client.request(method, f"/app/api{path}", json=body or None, headers=HEADER)
        assert reply.status_code == 200, reply.text
        return reply.json()

    return call


@pytest.mark.slow
def test_a_crash_of_the_model_keeps_what_was_written_and_the_next_answer_comes(smollm2, tmp_path):
    with running(tmp_path, str(smollm2)) as server:
        call = api(server)
        chat = call("POST", "/chats", title="A chat", settings={"max_tokens": 2000, "temperature": 0})
        path = f"/chats/{chat['id']}/messages"
        answer = call("POST", path, parent_id=None, content="Tell me a very long story.")["answer"]
        wait_for(lambda: len(call("GET", path)["messages"][-1]["content"]) > 30, 60)
        with contextlib.suppress(ProcessLookupError):
            os.kill(server.engine_pid(), signal.SIGKILL)
        cut = wait_for(lambda: (m := call("GET", path)["messages"][-1])["status"] != "writing" and m, 60)
        assert cut["status"] == "failed"
        assert len(cut["content"]) > 30
        assert cut["error"]
        call("POST", f"/messages/{answer['id']}/continue")
        wait_for(lambda: len(call("GET", path)["messages"][-1]["content"]) > len(cut["content"]) + 10, 60)
        call("POST", f"/messages/{answer['id']}/stop")


@pytest.mark.slow
def test_the_app_can_be_left_out_or_keep_its_chats_elsewhere(smollm2, tmp_path):
    with running(tmp_path, str(smollm2), "--no-app") as server:
        assert server.client.get("/", headers={"Accept": "text/html"}).text == "Ollama is running"
        assert server.client.get("/app/api/chats").status_code == 404
        assert server.client.get("/v1/models").status_code == 200
    assert not (tmp_path / "store" / "app").exists()
    with running(tmp_path, str(smollm2), "--app-data", str(tmp_path / "elsewhere")) as server:
        assert server.client.get("/app/api/chats").status_code == 200
        time.sleep(0.1)
    assert (tmp_path / "elsewhere" / "app.sqlite3").exists()
