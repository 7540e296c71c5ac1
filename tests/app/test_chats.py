"""Chats and their trees of messages, and what all routes have in common."""

import time

import pytest

from samovar.app import message_rows
from samovar.app.database import new_id
from samovar.app.titles import title_of
from tests.app.app_client import read_events, served_app, wait_for
from tests.engine.scripted import by_position
from tests.llm.scripted import scripted, spelled

N_LONG = 10_000


def tell(app, chat, content, parent=None):
    """A message without an answer."""
    reply = app.post(f"/chats/{chat['id']}/messages", parent_id=parent, content=content, answer=False)
    assert reply.status_code == 200, reply.text
    return reply.json()["message"]


def contents(app, chat, **query):
    return [message["content"] for message in app.messages(chat, **query)["messages"]]


@pytest.fixture
def fresh(hybrid, tmp_path):
    """An app with no chats."""
    with served_app({"hybrid": hybrid}, tmp_path) as running:
        yield running


def test_a_chat_is_made_changed_and_listed(fresh):
    made = fresh.new_chat(
        title=" Tea ", folder="Kitchen", system="Be kind.", model="hybrid", settings={"mode": "fast", "top_k": 3}
    )
    assert (made["title"], made["folder"], made["n_messages"], made["is_answering"]) == ("Tea", "Kitchen", 0, False)
    changed = fresh.patch(f"/chats/{made['id']}", folder=None, model=None, is_pinned=True, settings={"seed": 1}).json()
    assert changed == {**made, "folder": None, "model": None, "is_pinned": True, "settings": {"seed": 1}}
    listed = fresh.get("/chats").json()
    assert listed == {"chats": [changed], "next": None, "folders": []}
    assert fresh.get(f"/chats/{made['id']}").json() == changed
    assert fresh.delete(f"/chats/{made['id']}").status_code == 200
    assert fresh.get(f"/chats/{made['id']}").status_code == 404


def test_pinned_chats_come_first_then_the_one_written_in_last_page_by_page(fresh):
    chats = [fresh.new_chat(title=str(i)) for i in range(7)]
    fresh.patch(f"/chats/{chats[1]['id']}", is_pinned=True)
    fresh.patch(f"/chats/{chats[5]['id']}", is_archived=True)
    time.sleep(0.002)
    tell(fresh, chats[0], "I am the last")
    shown, cursor = [], None
    while True:
        page = fresh.get("/chats", limit=2, **({} if cursor is None else {"before": cursor})).json()
        shown += [chat["title"] for chat in page["chats"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert shown[:2] == ["1", "0"]
    assert sorted(shown) == ["0", "1", "2", "3", "4", "6"]
    assert [chat["title"] for chat in fresh.get("/chats", archived=1).json()["chats"]] == ["5"]
    assert fresh.get("/chats", before="nonsense").status_code == 400


def test_folders_hold_chats(fresh):
    fresh.new_chat(title="a", folder="Work")
    fresh.new_chat(title="b")
    assert [c["title"] for c in fresh.get("/chats", folder="Work").json()["chats"]] == ["a"]
    assert [c["title"] for c in fresh.get("/chats", folder="").json()["chats"]] == ["b"]
    assert fresh.get("/chats").json()["folders"] == ["Work"]


def test_an_edit_is_another_branch_that_one_can_walk_to(app):
    chat = app.new_chat()
    first = tell(app, chat, "one")
    second = tell(app, chat, "two", first["id"])
    third = tell(app, chat, "three", second["id"])
    edited = tell(app, chat, "TWO", first["id"])
    assert edited["siblings"] == [second["id"], edited["id"]]
    assert contents(app, chat) == ["one", "TWO"]
    assert app.post(f"/chats/{chat['id']}/walk", message_id=second["id"]).json() == {"leaf_id": third["id"]}
    assert contents(app, chat) == ["one", "two", "three"]
    assert contents(app, chat, leaf=edited["id"]) == ["one", "TWO"]
    root = tell(app, chat, "ONE")
    assert root["siblings"] == [first["id"], root["id"]]


def test_walking_goes_to_the_newest_leaf(app):
    chat = app.new_chat()
    root = tell(app, chat, "root")
    old = tell(app, chat, "old", root["id"])
    new = tell(app, chat, "new", root["id"])
    newest = tell(app, chat, "newest", old["id"])
    assert app.post(f"/chats/{chat['id']}/walk", message_id=root["id"]).json() == {"leaf_id": newest["id"]}
    assert app.post(f"/chats/{chat['id']}/walk", message_id=new["id"]).json() == {"leaf_id": new["id"]}


def test_deleting_a_message_takes_all_below_it_and_leaves_a_branch(app):
    chat = app.new_chat()
    root = tell(app, chat, "root")
    kept = tell(app, chat, "kept", root["id"])
    gone = tell(app, chat, "gone", root["id"])
    tell(app, chat, "below", gone["id"])
    after = app.delete(f"/messages/{gone['id']}").json()
    assert (after["leaf_id"], after["n_messages"]) == (kept["id"], 2)
    assert contents(app, chat) == ["root", "kept"]
    assert app.delete(f"/messages/{root['id']}").json()["leaf_id"] is None
    assert contents(app, chat) == []


def test_what_is_deleted_leaves_no_bytes(fresh, tmp_path):
    secret = "Xylophonquark"
    chat = fresh.new_chat(title="Gone")
    one = tell(fresh, chat, f"the {secret} one")
    two = tell(fresh, chat, f"the {secret} two", one["id"])
    tell(fresh, fresh.new_chat(), "something that stays")
    files = list((tmp_path / "app").iterdir())

    def holds(word):
        return any(word.encode() in path.read_bytes() for path in files)

    assert holds(secret)
    assert fresh.delete(f"/messages/{two['id']}").status_code == 200
    assert fresh.delete(f"/chats/{chat['id']}").status_code == 200
    wait_for(lambda: not fresh.app.jobs._tasks)
    assert not holds(secret)
    assert not holds(secret.lower())
    assert fresh.read("PRAGMA secure_delete") == [{"secure_delete": 1}], "which not every build of SQLite has by itself"
    assert not holds("xyl"), "nor do parts of words stay in the index"
    assert fresh.read("SELECT count(*) AS n FROM messages_fts") == [{"n": 1}]


def long_chat(app, chat):
    def write(file):
        parent = None
        for i in range(N_LONG):
            its_id = new_id()
            file.execute(
                "INSERT INTO messages (id, chat_id, parent_id, role, content, created_ms) VALUES (?, ?, ?, ?, ?, ?)",
                (its_id, chat["id"], parent, "assistant" if i % 2 else "user", f"message {i} says something", i),
            )
            parent = its_id
        file.execute("UPDATE chats SET leaf_id = ? WHERE id = ?", (parent, chat["id"]))
        return parent

    return app.write(write)


@pytest.mark.alone
@pytest.mark.slow
def test_a_chat_of_ten_thousand_messages_is_quick_and_can_be_deleted(fresh):
    chat = fresh.new_chat()
    long_chat(fresh, chat)

    def timed(work, most_s):
        start = time.perf_counter()
        found = work()
        took = time.perf_counter() - start
        assert took < most_s, took
        return found

    page = timed(lambda: fresh.messages(chat), 0.5)
    assert (len(page["messages"]), page["n_path"], page["has_more"]) == (100, N_LONG, True)
    assert page["messages"][-1]["content"] == f"message {N_LONG - 1} says something"
    before = timed(lambda: fresh.messages(chat, before=page["messages"][0]["id"]), 0.5)
    assert before["messages"][-1]["content"] == f"message {N_LONG - 101} says something"
    first = fresh.read("SELECT id FROM messages WHERE parent_id IS NULL")[0]["id"]
    timed(lambda: fresh.post(f"/chats/{chat['id']}/walk", message_id=first).json(), 1)
    assert timed(lambda: fresh.get("/chats", query="says something").json(), 1)["hits"]
    assert timed(lambda: fresh.get("/chats", query="99").json(), 1)["hits"]
    assert timed(lambda: fresh.delete(f"/messages/{page['messages'][0]['id']}"), 2).status_code == 200
    assert timed(lambda: fresh.delete(f"/chats/{chat['id']}"), 2).status_code == 200
    assert fresh.read("SELECT count(*) AS n FROM messages") == [{"n": 0}]


def test_all_messages_of_a_long_branch_come_in_pages(app):
    chat, parent = app.new_chat(), None
    for i in range(7):
        parent = tell(app, chat, str(i), parent)["id"]
    last = app.messages(chat, limit=3)
    middle = app.messages(chat, limit=3, before=last["messages"][0]["id"])
    first = app.messages(chat, limit=3, before=middle["messages"][0]["id"])
    assert [[m["content"] for m in page["messages"]] for page in (first, middle, last)] == [
        ["0"],
        ["1", "2", "3"],
        ["4", "5", "6"],
    ]
    assert [page["has_more"] for page in (first, middle, last)] == [False, True, True]
    assert {page["n_path"] for page in (first, middle, last)} == {7}


def test_a_chat_is_named_after_its_first_message_and_then_by_the_model(fresh, hybrid):
    chat = fresh.post("/chats", settings={"mode": "fast"}).json()
    prompts = []

    def say(ids, generated):
        prompts.append(hybrid.tokenizer.decode(ids))
        script = spelled(hybrid, 'Title: **"Tea for two"**' if "Write a title" in prompts[-1] else "Boil it.")
        return script[min(len(generated), len(script) - 1)]

    with scripted(hybrid, say):
        answer = fresh.ask(chat, "How do I make tea?\nPlease")
        assert fresh.get(f"/chats/{chat['id']}").json()["title"] == "How do I make tea?"
        names = []
        with fresh.client.stream("GET", "/app/api/events") as reply:
            for name, data in read_events(reply):
                names.append((name, data.get("title")))
                if ("chat", "Tea for two") in names:
                    break
        fresh.ended(answer)
        assert fresh.get(f"/chats/{chat['id']}").json()["title"] == "Tea for two"
        assert prompts[-1].rstrip().endswith("</think>"), "without thoughts"
        fresh.patch(f"/chats/{chat['id']}", title="Mine")
        assert fresh.post(f"/chats/{chat['id']}/title").json() == {"title": "Tea for two"}
    assert fresh.post(f"/chats/{fresh.new_chat()['id']}/title").status_code == 400


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Teas of the world", "Teas of the world"),
        ("Two to six words", "Which tea is best?"),
        ("Write a title", "Which tea is best?"),
        ("I'm sorry, but I can't assist", "Which tea is best?"),
        ("I’m sorry", "Which tea is best?"),
        ("对不起，我不能", "Which tea is best?"),
        ("Boiling soft eggs", "Which tea is best?"),
        ("The best tea is a matter of what one likes and of the time of day", "Which tea is best?"),
        ("", "Which tea is best?"),
    ],
)
def test_what_is_no_title_gives_way_to_the_question(text, title):
    assert title_of(text, "Which tea is best?", is_cut=False) == title
    assert title_of(text, "Which tea is best?", is_cut=True) == "Which tea is best?"


def test_a_title_of_its_users_own_stays(fresh, hybrid):
    chat = fresh.new_chat(title="Mine", settings={"mode": "fast"})
    with scripted(hybrid, by_position(spelled(hybrid, "Yes."))):
        fresh.ended(fresh.ask(chat))
        hybrid.settle()
    assert fresh.get(f"/chats/{chat['id']}").json()["title"] == "Mine"


def test_two_tabs_hear_of_what_happens_in_either(fresh, hybrid):
    with fresh.client.stream("GET", "/app/api/events") as reply:
        events = read_events(reply)
        assert next(events) == ("hello", {})
        chat = fresh.new_chat(settings={"mode": "fast"})
        assert next(events) == ("chat", chat)
        with scripted(hybrid, by_position(spelled(hybrid, "Yes."))):
            answer = fresh.ask(chat)
            seen = []
            while ("message", answer["id"], "done") not in seen:
                name, data = next(events)
                seen.append((name, data.get("message_id"), data.get("status")))
        assert ("message", answer["id"], "writing") in seen
        fresh.delete(f"/chats/{chat['id']}")
        while (event := next(events))[0] != "chat_deleted":
            pass
        assert event == ("chat_deleted", {"id": chat["id"]})


def test_a_request_without_the_apps_header_changes_nothing(app):
    reply = app.client.post("/app/api/chats", json={}, headers={"X-Samovar-App": ""})
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "csrf")
    foreign = app.client.post("/app/api/chats", json={}, headers={"Origin": "https://evil.example"})
    assert foreign.status_code == 403
    assert set(foreign.json()["error"]) == {"code", "message"}


def test_errors_have_the_apps_form_everywhere(app):
    for reply, status in (
        (app.get("/nothing"), 404),
        (app.client.put("/app/api/chats"), 405),
        (app.client.post("/app/api/chats", content=b"{"), 400),
        (app.client.post("/app/api/chats", content=b'{"title": "\\ud800"}'), 400),
        (app.get("/chats", sort="up"), 400),
        (app.client.get("/app/api/chats", headers={"Host": "evil.example"}), 403),
        (app.client.get("/app/api/chats", headers={"X-Forwarded-For": "1.2.3.4"}), 401),
    ):
        assert reply.status_code == status, reply.text
        assert set(reply.json()["error"]) == {"code", "message"}


def test_models_say_what_they_can(app):
    found = app.get("/models").json()
    assert found["default"] == "hybrid"
    (model,) = found["models"]
    assert (model["thinking"], model["is_open"], model["has_auto"], model["takes_images"]) == ("choice", True, False, False)
    assert model["defaults"]["temperature"] > 0


ROUTES = [
    ("GET", "/chats/{chat}", None),
    ("PATCH", "/chats/{chat}", {"title": "Mine"}),
    ("DELETE", "/chats/{chat}", None),
    ("POST", "/chats/{chat}/title", {}),
    ("GET", "/chats/{chat}/messages", None),
    ("POST", "/chats/{chat}/messages", {"parent_id": None, "content": "x"}),
    ("POST", "/chats/{own}/messages", {"parent_id": "{message}", "content": "x"}),
    ("POST", "/chats/{own}/messages", {"parent_id": None, "content": "x", "files": ["{file}"]}),
    ("PATCH", "/chats/{own}", {"leaf_id": "{message}"}),
    ("GET", "/chats/{own}/messages?leaf={message}", None),
    ("GET", "/chats/{own}/messages?before={message}", None),
    ("POST", "/chats/{chat}/walk", {"message_id": "{message}"}),
    ("POST", "/chats/{own}/walk", {"message_id": "{message}"}),
    ("POST", "/messages/{message}/regenerate", {}),
    ("POST", "/messages/{message}/continue", {}),
    ("POST", "/messages/{message}/stop", {}),
    ("GET", "/messages/{message}/events", None),
    ("DELETE", "/messages/{message}", None),
    ("GET", "/chats/{chat}/export?form=json", None),
    ("GET", "/files/{file}/text", None),
    ("GET", "/files/{file}/image", None),
    ("DELETE", "/files/{file}", None),
]


@pytest.fixture(scope="module")
def shared(hybrid, tmp_path_factory):
    """An app with two users, and the ids of what belongs to the one that its page is not."""
    with served_app({"hybrid": hybrid}, tmp_path_factory.mktemp("shared")) as app:
        _, _, bob = app.with_accounts()

        def write(file):
            file.execute(
                "INSERT INTO chats (id, user_id, title, created_ms, updated_ms) VALUES ('theirs', ?, 'Theirs', 0, 0)", (bob,)
            )
            message_id = message_rows.insert(
                file, chat_id="theirs", parent_id=None, role="assistant", content="hush", status="length"
            )
            file.execute(
                "INSERT INTO files (id, user_id, message_id, name, media_type, n_bytes, created_ms) "
                "VALUES ('their-file', ?, ?, 'a.txt', 'text/plain', 1, 0)",
                (bob, message_id),
            )
            return message_id

        yield app, {"chat": "theirs", "message": app.write(write), "file": "their-file", "own": app.new_chat()["id"]}


def filled(value, ids):
    if isinstance(value, str):
        return value.format(**ids)
    if isinstance(value, list):
        return [filled(one, ids) for one in value]
    return {name: filled(one, ids) for name, one in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
def test_another_users_ids_are_as_unknown_as_those_that_do_not_exist(shared, method, path, body):
    app, others = shared
    before = app.read("SELECT * FROM messages WHERE chat_id = 'theirs'"), app.read("SELECT * FROM chats WHERE id = 'theirs'")
    theirs = app.client.request(method, f"/app/api{path.format(**others)}", json=filled(body, others))
    nobody = {**dict.fromkeys(others, "0" * 22), "own": others["own"]}
    unknown = app.client.request(method, f"/app/api{path.format(**nobody)}", json=filled(body, nobody))
    assert (theirs.status_code, theirs.json()["error"]["code"]) == (404, "not_found")
    assert unknown.status_code == 404

    def told(reply, ids):
        text = reply.json()["error"]["message"]
        return [text.replace(ids[kind], "ID") for kind in ("chat", "message", "file") if ids[kind] in text]

    assert told(theirs, others)[0] == told(unknown, nobody)[0]
    after = app.read("SELECT * FROM messages WHERE chat_id = 'theirs'"), app.read("SELECT * FROM chats WHERE id = 'theirs'")
    assert after == before
    assert "hush" not in theirs.text


def test_every_route_with_an_id_is_in_the_list_above():
    from samovar.app import mount

    listed = {
        (method, path.partition("?")[0].replace("{chat}", "{id}").replace("{message}", "{id}")) for method, path, _ in ROUTES
    }
    ours = ("/chats", "/messages")
    with_id = {(method, path) for method, path, _ in mount.ROUTES if "{id}" in path and path.startswith(ours)}
    assert with_id <= listed
