"""Files over HTTP, presets, preferences, prices, the dashboard: what stands beside the conversation."""

import asyncio
import json
import os

import pytest

from samovar.app.dashboard import Dashboard
from samovar.app.process_load import ProcessLoad, cpu_share, process_load
from tests.app.app_client import served_app, wait_for
from tests.app.documents import pdf
from tests.app.test_accounts import error_of
from tests.app.test_answers import slowly
from tests.engine.scripted import by_position
from tests.llm.scripted import scripted, spelled


@pytest.fixture(scope="module")
def people(hybrid, tmp_path_factory):
    """A server with accounts: its page, and clients of an admin and of another user."""
    with served_app({"hybrid": hybrid}, tmp_path_factory.mktemp("app")) as page:
        ada, bob, _ = page.with_accounts()
        yield page, ada, bob


@pytest.fixture
def ada(people):
    return people[1]


@pytest.fixture
def bob(people):
    return people[2]


def send(client, name, data):
    return client.post("/files", files={"file": (name, data)})


def test_a_file_is_sent_read_and_deleted(ada):
    made = send(ada, "report.pdf", pdf("Two spoons of tea", ""))
    assert made.status_code == 201, made.text
    info = made.json()
    assert (info["name"], info["media_type"], info["n_chars"]) == ("report.pdf", "application/pdf", 17)
    assert info["note"] == "pages without text, which may be pictures: 2"
    text = ada.get(f"/files/{info['id']}/text")
    assert text.text == "Two spoons of tea"
    assert text.headers["content-type"] == "text/plain; charset=utf-8"
    assert error_of(ada.get(f"/files/{info['id']}/image"), 404) == "not_found"
    assert ada.delete(f"/files/{info['id']}").status_code == 200
    assert error_of(ada.get(f"/files/{info['id']}/text"), 404) == "not_found"


def test_a_files_name_is_no_path_and_one_line(ada):
    for given, kept in (
        ("../../etc/passwd", "passwd"),
        ("C:\\docs\\a.txt", "a.txt"),
        ("x" * 300, "x" * 200),
        ("é日.txt", "é日.txt"),
    ):
        assert send(ada, given, b"text").json()["name"] == kept


def test_files_that_cannot_be_read_are_refused_with_a_reason(ada):
    assert error_of(send(ada, "a.png", b"\x89PNG\r\n\x1a\n"), 400) == "file_kind"
    assert "a.png is an image" in send(ada, "a.png", b"\x89PNG\r\n\x1a\n").json()["error"]["message"]
    assert error_of(send(ada, "a.txt", b""), 400) == "file_empty"
    assert error_of(ada.post("/files", json={}), 400) == "invalid_value"
    assert error_of(ada.post("/files", files={"other": ("a", b"b")}), 400) == "invalid_value"
    assert error_of(ada.post("/files", data={"file": "text"}, files={"more": ("a", b"b")}), 400) == "invalid_value"
    large = send(ada, "a.txt", b"x" * (26 << 20))
    assert error_of(large, 413) == "file_too_large"


def test_a_file_of_a_message_goes_with_it_alone(ada):
    file_id = send(ada, "a.txt", b"text").json()["id"]
    chat = ada.post("/chats", json={"title": "x"}).json()
    body = {"parent_id": None, "content": "read", "files": [file_id], "answer": False}
    assert ada.post(f"/chats/{chat['id']}/messages", json=body).status_code == 200
    assert error_of(ada.delete(f"/files/{file_id}"), 400) == "invalid_value"
    ada.delete(f"/chats/{chat['id']}")
    assert error_of(ada.get(f"/files/{file_id}/text"), 404) == "not_found"


def test_files_that_no_message_took_do_not_pile_up(people, bob):
    page, _, _ = people
    for _ in range(100):
        assert send(bob, "a.txt", b"text").status_code == 201
    assert error_of(send(bob, "a.txt", b"text"), 400) == "invalid_value"
    page.write(lambda file: file.execute("UPDATE files SET created_ms = 1 WHERE message_id IS NULL"))
    assert send(bob, "a.txt", b"text").status_code == 201
    assert page.read("SELECT count(*) AS n FROM files WHERE message_id IS NULL")[0]["n"] == 1


def test_presets_are_made_changed_and_deleted(ada):
    made = ada.post("/presets", json={"name": "Pirate", "system": "Arr.", "settings": {"temperature": 0.3}})
    assert made.status_code == 201
    preset = made.json()
    assert preset["settings"] == {"temperature": 0.3}
    changed = ada.patch(f"/presets/{preset['id']}", json={"name": "Captain", "settings": {"mode": "fast"}}).json()
    assert (changed["name"], changed["system"], changed["settings"]) == ("Captain", "Arr.", {"mode": "fast"})
    assert ada.get("/presets").json() == {"presets": [changed]}
    for body in ({"name": ""}, {"name": "x", "settings": {"temperature": -1}}, {"name": "x", "settings": {"heat": 1}}, {}):
        assert error_of(ada.post("/presets", json=body), 400) == "invalid_value"
    assert ada.delete(f"/presets/{preset['id']}").status_code == 200
    assert ada.get("/presets").json() == {"presets": []}


def test_preferences_are_kept_as_they_are(ada, bob):
    assert ada.get("/preferences").json() == {}
    wanted = {"locale": "ar", "theme": "dark", "nested": {"a": [1, None]}}
    assert ada.put("/preferences", json=wanted).status_code == 200
    assert ada.get("/preferences").json() == wanted
    assert bob.get("/preferences").json() == {}
    for body in (b"[]", b"{", b'"x"', b"", json.dumps({"x": "y" * 70_000}).encode()):
        assert error_of(ada.put("/preferences", content=body), 400) == "invalid_value"
    assert ada.get("/preferences").json() == wanted


def test_no_user_reaches_what_belongs_to_another(ada, bob):
    file_id = send(ada, "secret.txt", b"secret").json()["id"]
    preset_id = ada.post("/presets", json={"name": "mine"}).json()["id"]
    chat_id = ada.post("/chats", json={"title": "mine"}).json()["id"]
    for method, path, body in (
        ("GET", "/files/{}/text", None), ("GET", "/files/{}/image", None), ("DELETE", "/files/{}", None),
        ("PATCH", "/presets/{}", {"name": "x"}), ("DELETE", "/presets/{}", None), ("GET", "/chats/{}/export?form=json", None),
    ):  # fmt: skip
        theirs = {"files": file_id, "presets": preset_id, "chats": chat_id}[path.split("/")[1]]
        foreign = bob.request(method, path.format(theirs), json=body)
        unknown = bob.request(method, path.format("A" * 22), json=body)
        assert error_of(foreign, 404) == error_of(unknown, 404) == "not_found"
        assert foreign.text.replace(theirs, "A" * 22) == unknown.text
    assert ada.get(f"/files/{file_id}/text").text == "secret"
    assert ada.get("/presets").json()["presets"][0]["name"] == "mine"
    assert bob.get("/presets").json() == {"presets": []}


def test_prices_are_examples_until_an_admin_changes_them(people, ada, bob):
    page, _, _ = people
    prices = bob.get("/prices").json()
    assert "check them" in prices["note"]
    assert prices["date"] >= "2025"
    assert all(0 < model["cached_input"] <= model["input"] <= model["output"] for model in prices["models"])
    mine = {
        **prices,
        "watts": 65.0,
        "price_per_kwh": 0.3,
        "models": [{"name": "X", "input": 1, "cached_input": 0, "output": 2}],
    }
    assert error_of(bob.put("/prices", json=mine), 403) == "needs_admin"
    assert ada.put("/prices", json=mine).status_code == 200
    assert bob.get("/prices").json() == mine
    for wrong in ({"date": "soon"}, {"currency": "dollars"}, {"watts": -1}, {"models": [{"name": "X"}]}, {"more": 1}):
        assert error_of(ada.put("/prices", json={**mine, **wrong}), 400) == "invalid_value"
    assert bob.get("/prices").json() == mine
    file = page.app.database.path.parent / "prices.json"
    assert json.loads(file.read_text())["watts"] == 65.0
    file.write_text("{")
    assert "prices.json is no sound file of prices" in bob.get("/prices").json()["error"]["message"]
    file.unlink()
    assert bob.get("/prices").json() == prices


def test_the_dashboard_shows_load_and_totals(people, hybrid, ada, bob):
    page, _, _ = people
    dashboard = Dashboard()
    asyncio.run(dashboard.sample(page.app.server))
    assert not dashboard.series
    before = bob.get("/dashboard").json()
    assert before["models"][0].keys() == {"name", "is_open", "n_running", "memory_bytes"}
    assert (before["models"][0]["name"], before["models"][0]["is_open"]) == ("hybrid", True)
    with scripted(hybrid, by_position(spelled(hybrid, "Hello."))):
        body = {"model": "hybrid", "messages": [{"role": "user", "content": "Hi"}], "enable_thinking": False}
        usage = page.client.post("/v1/chat/completions", json=body).json()["usage"]
    asyncio.run(dashboard.sample(page.app.server))
    totals = ada.get("/dashboard").json()["totals"]
    assert totals["n_requests"] == before["totals"]["n_requests"] + 1
    assert totals["n_completion"] == before["totals"]["n_completion"] + usage["completion_tokens"]
    assert totals["n_prompt"] == before["totals"]["n_prompt"] + usage["prompt_tokens"]
    (sample,) = dashboard.series
    assert sample.tokens_per_s > 0
    assert 0 <= sample.cpu_share <= 1
    assert 0 <= sample.cache_hit_share <= 1
    assert sample.memory_bytes > 10 << 20


def test_the_dashboard_counts_tokens_while_they_are_written(app, hybrid):
    dashboard = Dashboard()
    asyncio.run(dashboard.sample(app.app.server))
    with scripted(hybrid, slowly(by_position(spelled(hybrid, "no end in sight " * 40)))):
        answer = app.ask(app.new_chat(settings={"mode": "fast"}))
        wait_for(lambda: len(app.app.live[answer["id"]].message.content) > 5)
        asyncio.run(dashboard.sample(app.app.server))
        app.post(f"/messages/{answer['id']}/stop")
    assert dashboard.series[0].tokens_per_s > 0
    assert not app.app.server.registry.growing


def test_the_ring_holds_an_hour():
    assert Dashboard().series.maxlen == 360


def test_load_counts_processes_that_come_and_go():
    before = ProcessLoad({1: 10.0, 2: 5.0}, 0)
    after = ProcessLoad({1: 11.0, 3: 0.5}, 0)
    assert cpu_share(before, after, 1e6) == pytest.approx(1.5 / 1e6 / os.cpu_count())
    assert cpu_share(before, ProcessLoad({1: 1e9}, 0), 1.0) == 1.0
    assert os.getpid() in process_load().cpu_s
