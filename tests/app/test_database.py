"""The database where things go wrong: another program, a damaged file, a full disk, an end in the middle."""

import asyncio
import os
import random
import signal
import sqlite3
import stat
import time

import httpx
import pytest

from samovar.app.database import Database, DiskFull
from samovar.app.schema import MIGRATIONS
from samovar.errors import StoreError
from tests.app.app_client import HEADER, served_app, wait_for
from tests.app.test_answers import slowly
from tests.engine.scripted import by_position
from tests.llm.scripted import scripted, spelled
from tests.serving.processes import running


def run(database, verb, work):
    return asyncio.run(getattr(database, verb)(work))


def test_only_its_user_can_read_it(tmp_path):
    database = Database(tmp_path / "app")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "app").iterdir()}
    database.close()
    assert stat.S_IMODE((tmp_path / "app").stat().st_mode) == 0o700
    assert set(modes.values()) == {0o600}


def test_a_second_server_is_told_that_there_is_one(tmp_path):
    database = Database(tmp_path)
    with pytest.raises(StoreError, match=r"in use by another program.*--app-data"):
        Database(tmp_path)
    database.close()
    assert [path.name for path in tmp_path.iterdir()] == ["app.sqlite3"], "and nothing was put aside"


def test_a_writer_that_holds_the_file_is_named_too(tmp_path):
    Database(tmp_path).close()
    other = sqlite3.connect(tmp_path / "app.sqlite3")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreError, match="in use by another program"):
        Database(tmp_path)
    other.close()


@pytest.mark.parametrize("damage", ["noise", "middle"])
def test_a_damaged_file_is_put_aside_and_never_written_over(tmp_path, caplog, damage):
    database = Database(tmp_path)
    run(
        database,
        "write",
        lambda file: file.executemany("INSERT INTO shared VALUES (?, ?)", [(i, "x" * 500) for i in range(300)]),
    )
    database.close()
    path = tmp_path / "app.sqlite3"
    whole = path.read_bytes()
    bad = os.urandom(9000) if damage == "noise" else whole[:8192] + os.urandom(len(whole) - 8192)
    for _ in range(2):
        path.write_bytes(bad)
        again = Database(tmp_path)
        assert run(again, "read", lambda file: file.execute("SELECT count(*) FROM shared").fetchone()[0]) == 0
        again.close()
    kept = sorted(tmp_path.glob("app.sqlite3.damaged-*"))
    assert [one.read_bytes() for one in kept] == [bad, bad]
    assert str(kept[0]) in caplog.text


@pytest.mark.parametrize("damage", ["middle", "empty"])
def test_a_damaged_file_and_the_log_of_a_killed_server_are_put_aside_byte_for_byte(tmp_path, damage):
    (live := tmp_path / "live").mkdir()
    database = Database(live)
    run(
        database,
        "write",
        lambda file: file.executemany("INSERT INTO shared VALUES (?, ?)", [(i, "x" * 500) for i in range(300)]),
    )
    asyncio.run(database.scrub())
    run(
        database,
        "write",
        lambda file: file.executemany("INSERT INTO shared VALUES (?, ?)", [(-i, "y" * 500) for i in range(1, 99)]),
    )
    whole, log = (live / "app.sqlite3").read_bytes(), (live / "app.sqlite3-wal").read_bytes()
    database.close()
    assert len(log) > 10_000, "as a killed server leaves it"
    (folder := tmp_path / "damaged").mkdir()
    bad = b"" if damage == "empty" else whole[:8192] + os.urandom(len(whole) - 8192)
    (folder / "app.sqlite3").write_bytes(bad)
    (folder / "app.sqlite3-wal").write_bytes(log)
    (folder / "app.sqlite3-shm").write_bytes(shm := os.urandom(32_768))
    again = Database(folder)
    again.close()
    kept = again.set_aside
    assert [kept.with_name(kept.name + end).read_bytes() for end in ("", "-wal", "-shm")] == [bad, log, shm]


def test_the_log_of_a_killed_server_is_taken_over(tmp_path):
    (live := tmp_path / "live").mkdir()
    database = Database(live)
    run(database, "write", lambda file: file.execute("INSERT INTO shared VALUES ('a', 'b')"))
    (folder := tmp_path / "killed").mkdir()
    for name in ("app.sqlite3", "app.sqlite3-wal"):
        (folder / name).write_bytes((live / name).read_bytes())
    database.close()
    again = Database(folder)
    assert run(again, "read", lambda file: [tuple(row) for row in file.execute("SELECT * FROM shared")]) == [("a", "b")]
    assert again.set_aside is None
    again.close()


def test_a_file_of_a_newer_program_is_left_alone(tmp_path):
    database = Database(tmp_path)
    run(database, "read", lambda file: file.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}"))
    database.close()
    with pytest.raises(StoreError, match="newer samovar"):
        Database(tmp_path)


def test_an_exception_takes_back_all_of_its_transaction(tmp_path):
    database = Database(tmp_path)

    def work(file):
        file.execute("INSERT INTO shared VALUES ('a', '{}')")
        raise KeyError

    with pytest.raises(KeyError):
        run(database, "write", work)
    assert run(database, "read", lambda file: file.execute("SELECT count(*) FROM shared").fetchone()[0]) == 0
    with pytest.raises(StoreError, match="UNIQUE"):
        run(database, "write", lambda file: file.executescript("INSERT INTO shared VALUES ('b', ''), ('b', '')"))
    database.close()


def story(llm, n_tokens):
    """Tokens of long words that do not go round in circles."""
    words = llm.tokenizer.encode(" international environmental understanding development responsibilities characteristics")
    draws = random.Random(1)
    return [draws.choice(words) for _ in range(n_tokens)]


def full(app, is_full=True):
    """Let the file take no further page, as on a disk without room."""

    def work(file):
        n_pages = file.execute("PRAGMA page_count").fetchone()[0] if is_full else 1 << 30
        file.execute(f"PRAGMA max_page_count = {n_pages}")

    asyncio.run(app.app.database.read(work))


def test_a_full_disk_is_told_and_what_was_written_stays(hybrid, tmp_path, monkeypatch):
    monkeypatch.setattr("samovar.app.answering._RETRY_S", 0.2)
    with served_app({"hybrid": hybrid}, tmp_path) as app:
        chat = app.new_chat(settings={"mode": "fast"})
        with scripted(hybrid, slowly(by_position(story(hybrid, 3000)), 0.0003)):
            answer = app.ask(chat)
            wait_for(lambda: app.read("SELECT content FROM messages WHERE id = ?", answer["id"])[0]["content"])
            full(app)
            done = app.ended(answer)
        assert done["status"] == "failed"
        assert done["error_code"] == "disk_full"
        assert "the disk is full" in done["error"]
        kept = app.read("SELECT content FROM messages WHERE id = ?", answer["id"])[0]["content"]
        assert len(kept) > 0
        assert done["content"].startswith(kept)
        assert app.messages(chat)["messages"][-1]["content"] == done["content"], "shown for as long as the server runs"
        refused = app.post(f"/chats/{chat['id']}/messages", parent_id=None, content="x" * 500_000, answer=False)
        assert (refused.status_code, refused.json()["error"]["code"]) == (507, "disk_full")
        refused = app.post(f"/messages/{answer['id']}/continue")
        assert refused.status_code == 507
        assert app.post(f"/messages/{answer['id']}/stop").json()["message"]["content"] == done["content"]
        full(app, is_full=False)
        below = app.post(f"/chats/{chat['id']}/messages", parent_id=answer["id"], content="And?", answer=False)
        assert below.status_code == 200, "it has ended, saved or not"
        wait_for(lambda: not app.app.live)
        row = app.read("SELECT content, status FROM messages WHERE id = ?", answer["id"])[0]
        assert row == {"content": done["content"], "status": "failed"}, "and saved as soon as there is room"


def test_a_full_disk_has_an_error_of_its_own(tmp_path):
    database = Database(tmp_path)

    def work(file):
        file.execute(f"PRAGMA max_page_count = {file.execute('PRAGMA page_count').fetchone()[0]}")

    run(database, "read", work)
    with pytest.raises(DiskFull, match="the disk is full"):
        run(database, "write", lambda file: file.execute("INSERT INTO shared VALUES ('a', ?)", ("x" * 100_000,)))
    database.close()


def test_a_server_that_ends_keeps_what_was_written_and_offers_to_go_on(hybrid, tmp_path):
    with served_app({"hybrid": hybrid}, tmp_path) as app, scripted(hybrid, slowly(by_position(spelled(hybrid, "a" * 3000)))):
        chat = app.new_chat(settings={"mode": "fast"})
        answer = app.ask(chat)
        wait_for(lambda: len(app.messages(chat)["messages"][-1]["content"]) > 3)
        asyncio.run_coroutine_threadsafe(app.app.jobs.stop(), app.app.jobs._tasks[next(iter(app.app.jobs._tasks))].get_loop())
        wait_for(lambda: not app.app.live)
    with served_app({"hybrid": hybrid}, tmp_path) as app:
        kept = app.messages(chat)["messages"][-1]
        assert (kept["status"], set(kept["content"])) == ("interrupted", {"a"})
        with scripted(hybrid, by_position(spelled(hybrid, "!"))):
            app.post(f"/messages/{answer['id']}/continue")
            assert app.ended(answer)["content"] == f"{kept['content']}!"


def post(client, path, **body):
    reply = client.post(f"/app/api{path}", json=body, headers=HEADER)
    assert reply.status_code == 200, reply.text
    return reply.json()


def get(client, path):
    return client.get(f"/app/api{path}").json()


@pytest.mark.slow
def test_a_server_that_is_killed_in_mid_answer_keeps_it(smollm2, tmp_path):
    settings = {"max_tokens": 2000, "temperature": 0}
    with running(tmp_path, str(smollm2)) as first:
        chat = post(first.client, "/chats", title="A chat", settings=settings)
        asked = post(first.client, f"/chats/{chat['id']}/messages", parent_id=None, content="Tell me a very long story.")
        path = f"/chats/{chat['id']}/messages"
        wait_for(lambda: len(get(first.client, path)["messages"][-1]["content"]) > 50, 60)
        time.sleep(1)
        seen = get(first.client, path)["messages"][-1]
        assert seen["status"] == "writing"
        first.process.send_signal(signal.SIGKILL)
        first.ended()
    with running(tmp_path, str(smollm2)) as second:
        kept = get(second.client, path)["messages"][-1]
        assert (kept["status"], kept["id"]) == ("interrupted", asked["answer"]["id"])
        assert len(kept["content"]) > 40
        post(second.client, f"/messages/{kept['id']}/continue")
        wait_for(lambda: len(get(second.client, path)["messages"][-1]["content"]) > len(kept["content"]) + 20, 60)
        stopped = post(second.client, f"/messages/{kept['id']}/stop")["message"]
        assert stopped["content"].startswith(kept["content"])


@pytest.mark.slow
def test_sigterm_waits_for_an_answer_and_not_for_open_pages(smollm2, tmp_path):
    with running(tmp_path, str(smollm2)) as server, httpx.Client(base_url=server.url, timeout=60) as page:
        chat = post(server.client, "/chats", title="A chat", settings={"max_tokens": 60, "temperature": 0})
        with page.stream("GET", "/app/api/events") as events:
            next(events.iter_lines())
            asked = post(server.client, f"/chats/{chat['id']}/messages", parent_id=None, content="Tell me a very long story.")
            server.process.send_signal(signal.SIGTERM)
            start = time.monotonic()
            assert server.ended() == 0
            assert time.monotonic() - start < 15
    with running(tmp_path, str(smollm2)) as again:
        kept = get(again.client, f"/chats/{chat['id']}/messages")["messages"][-1]
        assert (kept["id"], kept["status"]) == (asked["answer"]["id"], "length")


def test_the_database_is_let_go_of_when_the_server_ends(hybrid, tmp_path):
    with served_app({"hybrid": hybrid}, tmp_path) as app:
        app.new_chat()
    file = sqlite3.connect(tmp_path / "app" / "app.sqlite3")
    assert file.execute("SELECT count(*) FROM chats").fetchone() == (1,)
    file.close()
