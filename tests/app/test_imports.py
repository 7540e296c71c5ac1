"""Chats out of ChatGPT's and Open WebUI's exports."""

import json

import pytest

from samovar.app import import_routes
from tests.app.app_client import served_app
from tests.app.documents import zipped
from tests.app.foreign import gpt_branches, gpt_chat, gpt_node, webui_branches, webui_chat, webui_message
from tests.app.test_accounts import error_of


@pytest.fixture
def page(hybrid, tmp_path):
    with served_app({"hybrid": hybrid}, tmp_path) as running:
        yield running


def send(page, data, name="conversations.json"):
    data = data if isinstance(data, bytes) else json.dumps(data).encode()
    return page.client.post("/app/api/import", files={"file": (name, data)})


def imported(page, data, name="conversations.json"):
    reply = send(page, data, name)
    assert reply.status_code == 200, reply.text
    return reply.json()


def only_chat(page):
    (chat,) = page.get("/chats").json()["chats"]
    return chat, page.messages(chat)["messages"]


def test_a_chatgpt_chat_keeps_its_branches_thoughts_and_code(page):
    found = imported(page, [gpt_branches()])
    assert (found["n_chats"], found["n_messages"]) == (1, 5)
    assert found["skipped"] == [{"title": "Tea and \U0001f600", "why": "pictures are left out (1)"}]
    chat, path = only_chat(page)
    assert (chat["title"], chat["created_ms"], chat["updated_ms"]) == ("Tea and \U0001f600", 1700000000500, 1700000100250)
    assert [(m["role"], m["content"]) for m in path] == [
        ("user", "How much is sencha?"),
        ("assistant", "```python\nprint(6 * 2)\n```\n\n```\n12\n```\n\nIt is 12."),
        ("user", "And this one?"),
        ("assistant", "A teapot."),
    ]
    assert (path[1]["thoughts"], path[1]["model"]) == ("They ask again.", "o3")
    assert len(path[1]["siblings"]) == 2
    other = page.messages(chat, leaf=path[1]["siblings"][0])["messages"]
    assert [m["content"] for m in other] == ["How much is sencha?", "12 euros."]
    assert other[1]["model"] == "gpt-4o"


def test_an_imported_chat_is_found_and_goes_on(page):
    imported(page, [gpt_branches()])
    assert len(page.get("/chats", query="teapot").json()["chats"]) == 1
    chat, path = only_chat(page)
    reply = page.post(f"/chats/{chat['id']}/messages", parent_id=path[-1]["id"], content="Thanks", answer=False)
    assert reply.status_code == 200, reply.text


def test_chatgpts_zip_is_read_in_all_its_parts(page):
    parts = {
        "conversations-000.json": json.dumps([gpt_branches()]).encode(),
        "data/conversations-001.json": json.dumps([{**gpt_branches(), "conversation_id": "c-2"}]).encode(),
        "chat.html": b"<html>",
        "shared_conversations.json": b"[",
    }
    assert imported(page, zipped(parts), "export.zip")["n_chats"] == 2


def test_importing_twice_does_not_double(page):
    imported(page, [gpt_branches(), webui_branches()])
    again = imported(page, [gpt_branches(), webui_branches()])
    assert (again["n_chats"], again["n_messages"]) == (0, 0)
    assert [one["why"] for one in again["skipped"] if "left out" not in one["why"]] == ["it is there already"] * 2
    assert len(page.get("/chats").json()["chats"]) == 2


def test_chats_without_ids_are_told_apart_by_their_first_messages(page):
    roots = [gpt_node("client-created-root", None), gpt_node("client-created-root", None)]
    chats = [
        gpt_chat(root, gpt_node(f"u{i}", root["id"], "user", "Hi"), current=f"u{i}", chat_id=None)
        for i, root in enumerate(roots)
    ]
    assert imported(page, chats)["n_chats"] == 2
    assert imported(page, chats)["n_chats"] == 0


def test_an_open_webui_chat_keeps_its_branches_and_thoughts(page):
    found = imported(page, [webui_branches()], "chat-export.json")
    assert found["skipped"] == [{"title": "Kettle", "why": "files are not in the export, and left out (1)"}]
    chat, path = only_chat(page)
    assert (chat["title"], chat["system"], chat["is_pinned"]) == ("Kettle", "Be brief.", True)
    assert (chat["created_ms"], chat["updated_ms"]) == (1700000000000, 1700000100000)
    assert [(m["role"], m["content"], m["model"]) for m in path] == [
        ("user", "How hot?", None),
        ("assistant", "Hot.", "qwen3:8b"),
    ]
    other = page.messages(chat, leaf=path[1]["siblings"][1])["messages"][1]
    assert (other["content"], other["thoughts"]) == ("About 90 degrees.", "Is 3 < 4? Yes.\nGood.")


def test_this_apps_own_json_is_taken_back(page):
    imported(page, [webui_branches()])
    chat, _ = only_chat(page)
    exported = page.get(f"/chats/{chat['id']}/export", form="json").content
    assert imported(page, exported, "chat.json")["skipped"][0]["why"] == "it is there already"
    page.delete(f"/chats/{chat['id']}")
    assert imported(page, exported, "chat.json")["n_messages"] == 3


def test_what_cannot_be_read_is_named_and_the_rest_is_kept(page):
    loop = gpt_chat(gpt_node("a", "b", "user", "x"), gpt_node("b", "a", "assistant", "y"), current="a", title="Loop")
    lost = gpt_chat(gpt_node("a", "gone", "user", "x"), current="a", title="Lost")
    empty = gpt_chat(gpt_node("root", None), current="root", title="Empty")
    odd = {"title": "Odd", "mapping": {"a": {"message": {"author": 3}}}}
    sound = gpt_chat(gpt_node("a", None, "user", "kept"), current="nowhere", title="Sound")
    found = imported(page, [loop, lost, empty, odd, {"title": "Alien"}, 7, webui_chat({}, None, title="Hollow"), sound])
    assert found["n_chats"] == 1
    told = {one["title"]: one["why"] for one in found["skipped"]}
    assert "circle" in told["Loop"]
    assert "is not there" in told["Lost"]
    assert told["Empty"] == told["Hollow"] == "it has no messages"
    assert "cannot be read" in told["Odd"]
    assert "no form that is known here" in told["Alien"]
    chat, path = only_chat(page)
    assert chat["title"] == "Sound"
    assert [m["content"] for m in path] == ["kept"]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "no list of chats in JSON"),
        (b"[1, 2", "no list of chats in JSON"),
        (b"[" * 100_000, "no list of chats in JSON"),
        (b"\xff\xfe\x00", "no list of chats in JSON"),
        (b"[]", "has no chats in it"),
        (zipped({"chat.html": b"x"}), "has no conversations.json in it"),
        (zipped({"conversations.json": b"[]"})[:-30], "damaged zip"),
        (b"PK\x03\x04" + b"x" * 100, "damaged zip"),
        (zipped({"conversations.json": b"{"}), "no list of chats in JSON"),
    ],
    ids=["empty", "cut", "deep", "bytes", "none", "other zip", "cut zip", "no zip", "bad inside"],
)
def test_files_that_are_no_export_are_refused(page, data, what):
    reply = send(page, data)
    assert error_of(reply, 400) in ("file_kind", "file_unreadable")
    assert what in reply.json()["error"]["message"]
    assert page.get("/chats").json()["chats"] == []


def test_a_zip_bomb_is_refused(page, monkeypatch):
    monkeypatch.setattr(import_routes, "_MAX_UNPACKED_BYTES", 1 << 20)
    reply = send(page, zipped({"conversations.json": b" " * (50 << 20)}))
    assert "unpacks to more" in reply.json()["error"]["message"]


def test_long_and_deep_chats_are_taken(page):
    nodes = [gpt_node("0", None)]
    nodes += [gpt_node(str(i), str(i - 1), "user" if i % 2 else "assistant", f"turn {i}") for i in range(1, 5001)]
    assert imported(page, [gpt_chat(*nodes, current="5000")])["n_messages"] == 5000
    chat, path = only_chat(page)
    assert path[-1]["content"] == "turn 5000"
    assert page.messages(chat)["n_path"] == 5000


def test_messages_that_are_too_long_are_cut_and_that_is_said(page):
    chat = gpt_chat(gpt_node("a", None, "user", "x" * 1_000_001), current="a", title="Long")
    assert imported(page, [chat])["skipped"] == [{"title": "Long", "why": "messages are cut after 1,000,000 characters (1)"}]
    assert len(only_chat(page)[1][0]["content"]) == 1_000_000


def test_an_answer_in_pieces_without_end_stays_within_the_bound(page):
    nodes = [gpt_node("0", None, "user", "go")]
    nodes += [gpt_node(str(i), str(i - 1), "assistant", "x" * 1000) for i in range(1, 3001)]
    imported(page, [gpt_chat(*nodes, current="3000")])
    _, path = only_chat(page)
    assert [message["role"] for message in path] == ["user", "assistant", "assistant", "assistant", "assistant"]
    assert all(len(message["content"]) < 1_010_000 for message in path)


@pytest.mark.parametrize(
    "change",
    [{"created_ms": -1}, {"updated_ms": 10**30}, {"created_ms": 10**17}, {"leaf_id": "gone"}, {"title": None},
     {"settings": {"heat": 1}}],
)  # fmt: skip
def test_copies_with_values_that_are_none_are_refused(page, change):
    message = {"id": "m", "parent_id": None, "role": "user", "content": "x", "created_ms": 1}
    copy = {"id": "c", "title": "T", "created_ms": 1, "updated_ms": 1, "messages": [message], **change}
    (told,) = imported(page, [copy])["skipped"]
    assert told["why"].startswith("it cannot be read: ")
    files = [{"name": "a", "media_type": "image/png", "n_bytes": 1, "image": "no base64!"}]
    for wrong in ({"created_ms": 10**30}, {"files": files}, {"files": [{**files[0], "n_bytes": 10**30, "image": None}]}):
        sound = {"id": "c", "title": "T", "created_ms": 1, "updated_ms": 1, "messages": [{**message, **wrong}]}
        assert imported(page, [sound])["n_chats"] == 0


def test_halves_of_characters_are_replaced(page):
    parts = '["x \\ud83d y \\ud83d\\ude00 \\\\ud83d", null, {"content_type": "new_thing"}]'
    content = '{"content_type": "text", "parts": ' + parts + "}"
    node = '{"parent": null, "message": {"author": {"role": "user"}, "create_time": null, "content": ' + content + "}}"
    found = imported(page, ('[{"title": "A \\ud800 b", "mapping": {"a": ' + node + "}}]").encode())
    assert found["n_chats"] == 1
    assert "parts of the kind 'new_thing' are left out" in str(found["skipped"])
    chat, path = only_chat(page)
    assert chat["title"] == "A \ufffd b"
    assert path[0]["content"] == "x \ufffd y \U0001f600 \\ud83d"


def test_other_users_chats_are_of_no_matter(page):
    imported(page, [webui_branches()])
    ada, bob, _ = page.with_accounts()
    assert bob.post("/import", files={"file": ("a.json", json.dumps([webui_branches()]).encode())}).json()["n_chats"] == 1
    one, other = (client.get("/chats").json()["chats"][0]["id"] for client in (ada, bob))
    assert one != other
    assert bob.get(f"/chats/{one}").status_code == 404


def test_a_message_of_an_unknown_role_is_told(page):
    odd = webui_chat({"a": webui_message("a", None, "wizard", "x", 1), "b": webui_message("b", "a", "user", "y", 2)}, "b")
    assert imported(page, [odd])["skipped"] == [{"title": "Kettle", "why": "messages of the role 'wizard' are left out (1)"}]
