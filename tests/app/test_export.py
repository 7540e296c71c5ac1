"""Chats to take away, and calls that run."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.app.test_accounts import error_of
from tests.engine.scripted import by_position
from tests.llm.scripted import scripted, spelled

NASTY = "It's \"quoted\" $HOME `id` \\n \\\\ '''\nEND\n</details> ```py\nx = '\u2028 \U0001f600'\n``` 茶"
TOOL = {"type": "function", "function": {"name": "get_tea", "description": "Tea's price", "parameters": {"type": "object"}}}


@pytest.fixture
def chat(app, hybrid):
    """A chat with a file, branches, and texts that quote everything."""
    settings = {"mode": "fast", "temperature": 0.25, "top_k": 7, "seed": 3, "max_tokens": 20}
    chat = app.new_chat(title='Tea: "prices"/\n2026', system=f"Be brief. {NASTY}", settings=settings)
    file = app.client.post("/app/api/files", files={"file": ("tea's list.txt", NASTY.encode())}).json()
    body = {"content": NASTY, "parent_id": None, "files": [file["id"]]}
    with scripted(hybrid, by_position(spelled(hybrid, "First."))):
        reply = app.post(f"/chats/{chat['id']}/messages", **body).json()
        app.ended(reply["answer"])
    with scripted(hybrid, by_position(spelled(hybrid, "Second."))):
        answer = app.post(f"/messages/{reply['answer']['id']}/regenerate").json()["answer"]
        app.ended(answer)
    return chat


def export(app, chat, form):
    reply = app.get(f"/chats/{chat['id']}/export", form=form)
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-disposition"].startswith('attachment; filename="Tea-prices-2026.')
    return reply.text


def test_markdown_shows_the_branch_that_is_open(app, chat):
    text = export(app, chat, "markdown")
    assert text.startswith('# Tea: "prices"/ 2026\n')
    assert f"*File: tea's list.txt, {len(NASTY)} characters*" in text
    assert "Second." in text
    assert "First." not in text
    assert "hybrid" in text


def test_json_has_all_branches_and_files(app, chat):
    copy = json.loads(export(app, chat, "json"))
    assert [message["content"] for message in copy["messages"]] == [NASTY, "First.", "Second."]
    assert copy["messages"][0]["files"][0]["text"] == NASTY
    assert copy["leaf_id"] == copy["messages"][2]["id"]
    assert copy["settings"]["top_k"] == 7


def run(hybrid, command, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "SAMOVAR_API_KEY"}
    with scripted(hybrid, by_position(spelled(hybrid, "Third."))):
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_curl_call_runs_and_asks_what_the_chat_asked(app, chat, hybrid, tmp_path):
    if shutil.which("curl") is None:
        pytest.skip("there is no curl on this machine")
    (tmp_path / "call.sh").write_text(export(app, chat, "curl"))
    reply = json.loads(run(hybrid, ["sh", "call.sh"], tmp_path))
    assert reply["choices"][0]["message"]["content"] == "Third."
    message = app.ended(app.post(f"/messages/{app.messages(chat)['messages'][-1]['id']}/regenerate").json()["answer"])
    assert reply["usage"]["prompt_tokens"] == message["stats"]["n_prompt"]


@pytest.mark.slow
def test_the_python_call_runs_with_openais_client(app, chat, hybrid, tmp_path):
    (tmp_path / "call.py").write_text(export(app, chat, "python"))
    assert run(hybrid, [sys.executable, "call.py"], tmp_path) == "Third.\n"


def test_the_calls_say_what_was_said_letter_by_letter(app, chat):
    script = export(app, chat, "python")
    names = {}
    exec(script[script.index("messages = ") : script.index("answer = ")], names)
    shell = export(app, chat, "curl")
    body = json.loads(shell[shell.index("<<'END'\n") + 8 : shell.rindex("\nEND\n")])
    assert names["messages"] == body["messages"]
    assert body["messages"][0] == {"role": "system", "content": f"Be brief. {NASTY}"}
    assert body["messages"][1]["content"].endswith(NASTY)
    assert body["messages"][-1]["role"] == "user"
    assert (body["temperature"], body["top_k"], body["seed"], body["enable_thinking"]) == (0.25, 7, 3, False)


def test_schema_and_tools_go_along(app, hybrid, tmp_path):
    schema = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"], "additionalProperties": False}
    chat = app.new_chat(title="Tea: prices 2026", settings={"mode": "fast", "json_schema": schema})
    app.post(f"/chats/{chat['id']}/messages", parent_id=None, content="x", answer=False)
    (tmp_path / "call.py").write_text(export(app, chat, "python"))
    with scripted(hybrid, by_position(spelled(hybrid, '{"a":1}'))):
        done = subprocess.run([sys.executable, "call.py"], capture_output=True, text=True, cwd=tmp_path, timeout=60, check=True)
    assert json.loads(done.stdout) == {"a": 1}
    app.patch(f"/chats/{chat['id']}", settings={"tools": [TOOL]})
    assert '"get_tea"' in export(app, chat, "curl")


def test_what_cannot_be_exported_is_said(app):
    chat = app.new_chat()
    assert error_of(app.get(f"/chats/{chat['id']}/export", form="curl"), 409) == "nothing_to_ask"
    assert error_of(app.get(f"/chats/{chat['id']}/export", form="word"), 400) == "invalid_value"
    assert error_of(app.get(f"/chats/{chat['id']}/export"), 400) == "invalid_value"
    assert app.get(f"/chats/{chat['id']}/export", form="markdown").text == "# A chat\n"
