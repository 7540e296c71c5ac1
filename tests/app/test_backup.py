"""A user's chats as a zip, and back."""

import io
import json
import zipfile

import pytest

from tests.app.app_client import served_app
from tests.app.documents import pdf, zipped
from tests.app.foreign import gpt_branches


@pytest.fixture
def page(hybrid, tmp_path):
    with served_app({"hybrid": hybrid}, tmp_path / "one") as running:
        yield running


@pytest.fixture
def other(hybrid, tmp_path):
    """Another server, empty."""
    with served_app({"hybrid": hybrid}, tmp_path / "two") as running:
        yield running


@pytest.fixture(scope="module")
def sound(hybrid, tmp_path_factory):
    """A backup of what `fill` makes."""
    with served_app({"hybrid": hybrid}, tmp_path_factory.mktemp("sound")) as running:
        fill(running)
        return running.get("/backup").content


@pytest.fixture(scope="module")
def empty(hybrid, tmp_path_factory):
    """A server that nothing is ever restored on."""
    with served_app({"hybrid": hybrid}, tmp_path_factory.mktemp("empty")) as running:
        yield running


def fill(page):
    """A chat with a file, one with branches, a preset, preferences; the first one's id."""
    file = page.client.post("/app/api/files", files={"file": ("tea.pdf", pdf("Two spoons"))}).json()
    chat = page.new_chat(title="With file", system="Be kind.", folder="Tea", settings={"temperature": 0.5})
    page.patch(f"/chats/{chat['id']}", is_pinned=True)
    page.post(f"/chats/{chat['id']}/messages", parent_id=None, content="Read \U0001f600", files=[file["id"]], answer=False)
    page.client.post("/app/api/import", files={"file": ("c.json", json.dumps([gpt_branches()]).encode())})
    page.post("/presets", name="Pirate", system="Arr.", settings={"mode": "fast"})
    page.client.put("/app/api/preferences", json={"theme": "dark"})
    return chat["id"]


def restore(page, data, name="backup.zip"):
    return page.client.post("/app/api/restore", files={"file": (name, data)})


def all_of(page):
    """What a page can see, without ids."""
    chats = page.get("/chats").json()["chats"]
    found = []
    for chat in chats:
        exported = page.get(f"/chats/{chat['id']}/export", form="json").json()
        number = {message["id"]: i for i, message in enumerate(exported["messages"])}
        exported["leaf_id"] = number[exported["leaf_id"]]
        for message in exported["messages"]:
            message["parent_id"] = number.get(message["parent_id"])
            del message["id"]
        del exported["id"]
        found.append(exported)
    presets = [{**preset, "id": ""} for preset in page.get("/presets").json()["presets"]]
    return found, presets, page.get("/preferences").json()


def test_what_is_restored_elsewhere_is_what_was_there(page, other):
    fill(page)
    backup = page.get("/backup")
    assert backup.headers["content-type"] == "application/zip"
    assert "attachment; filename=" in backup.headers["content-disposition"]
    restored = restore(other, backup.content)
    assert restored.json() == {"n_chats": 2, "n_messages": 6, "skipped": []}
    assert all_of(other) == all_of(page)
    assert other.get("/chats", query="spoons sencha").json()["chats"] == []
    assert len(other.get("/chats", query="sencha").json()["chats"]) == 1


def test_restoring_twice_or_at_home_does_not_double(page, other):
    fill(page)
    backup, before = page.get("/backup").content, all_of(page)
    for server in (page, other, other):
        reply = restore(server, backup)
        assert reply.status_code == 200, reply.text
        assert all_of(server) == before
    assert {one["why"] for one in reply.json()["skipped"]} == {"it is there already"}
    assert restore(page, other.get("/backup").content).status_code == 200


def test_a_deleted_chat_comes_back_and_changed_ones_stay_as_they_are(page):
    chat_id = fill(page)
    backup = page.get("/backup").content
    page.delete(f"/chats/{chat_id}")
    (kept,) = page.get("/chats").json()["chats"]
    page.patch(f"/chats/{kept['id']}", title="Changed since")
    page.client.put("/app/api/preferences", json={"theme": "light"})
    assert restore(page, backup).json()["n_chats"] == 1
    assert {chat["title"] for chat in page.get("/chats").json()["chats"]} == {"With file", "Changed since"}
    assert page.get("/preferences").json() == {"theme": "light"}


def test_a_backup_has_ones_own_and_nobody_elses(page):
    fill(page)
    ada, bob, _ = page.with_accounts()
    with zipfile.ZipFile(io.BytesIO(bob.get("/backup").content)) as archive:
        assert archive.read("chats.jsonl") == archive.read("presets.jsonl") == b""
        assert not any(name.startswith("files/") for name in archive.namelist())
    backup = ada.get("/backup").content
    assert bob.post("/restore", files={"file": ("b.zip", backup)}).json()["n_chats"] == 2
    for client in (ada, bob):
        assert len(client.get("/chats").json()["chats"]) == 2
    ids = [{chat["id"] for chat in client.get("/chats").json()["chats"]} for client in (ada, bob)]
    assert not ids[0] & ids[1]


def broken(backup, /, **entries):
    """The backup with entries replaced; None takes one away."""
    with zipfile.ZipFile(io.BytesIO(backup)) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    for name, change in entries.items():
        full = next(one for one in found if one.startswith(name))
        data = found.pop(full)
        if change is not None:
            found[full] = change(data)
    return zipped(found)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda b: b[: len(b) // 2], "damaged zip"),
        (lambda b: b"not a zip at all", "damaged zip"),
        (lambda b: zipped({"hello.txt": b"x"}), "no backup of this app"),
        (lambda b: broken(b, backup=lambda _: b"{}"), "damaged backup"),
        (lambda b: broken(b, backup=lambda d: d.replace(b'"samovar_backup":1', b'"samovar_backup":9')), "form 9; expected 1"),
        (lambda b: broken(b, chats=None), "lacks backup.json or chats.jsonl"),
        (lambda b: broken(b, chats=lambda d: d + b'{"id": 1}\n'), "chat 3"),
        (lambda b: broken(b, chats=lambda d: d[:-40]), "chat 2"),
        (lambda b: broken(b, chats=lambda d: d.replace(b'"parent_id":null', b'"parent_id":"x"')), "that is not there"),
        (lambda b: broken(b, chats=lambda d: d.replace(b'"role":"user"', b'"role":"admin"', 1)), "damaged backup: chat"),
        (lambda b: broken(b, files=None), "no item named"),
        (lambda b: broken(b, files=lambda _: b"\xff\xfe"), "damaged backup: chat"),
        (lambda b: broken(b, presets=lambda _: b"{"), "damaged backup"),
        (lambda b: broken(b, preferences=lambda _: b"[]"), "preferences"),
        pytest.param(
            lambda b: broken(b, chats=lambda d: d + b" " * (65 << 20)), "more than 64 MB", marks=pytest.mark.slow
        ),
    ],
)  # fmt: skip
def test_a_bad_backup_changes_nothing(sound, empty, change, what):
    reply = restore(empty, change(sound))
    assert reply.json()["error"]["code"] in ("file_kind", "file_unreadable", "file_too_large", "invalid_value")
    assert what in reply.json()["error"]["message"]
    assert all_of(empty) == ([], [], {})


def test_flipped_bytes_of_a_backup_never_break_the_server(page, other):
    fill(page)
    backup = page.get("/backup").content
    for place in range(0, len(backup), max(1, len(backup) // 40)):
        changed = bytearray(backup)
        changed[place] ^= 0x55
        reply = restore(other, bytes(changed))
        assert reply.status_code in (200, 400), reply.text
