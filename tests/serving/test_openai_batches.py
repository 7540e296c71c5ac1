"""Files and batches in OpenAI's dialect, against the official client."""

import asyncio
import json
import time

import httpx
import openai
import pytest

from samovar.errors import EngineFailed, Overloaded, StoreError
from samovar.serving.app import build_app
from samovar.serving.kept_work import kept_work
from samovar.serving.limits import LimitReached
from samovar.serving.records import Records
from samovar.serving.registry import Offered, Registry
from samovar.serving.server import Server
from tests.engine.scripted import by_position
from tests.llm.scripted import is_idle, scripted
from tests.serving.served import given_away

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def client(keeper):
    with openai.OpenAI(base_url=f"{keeper.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def said(llm, text, pause_s=0.0):
    script = by_position([*llm.tokenizer.encode(text), llm.tokenizer.eos_id])

    def wanted(prompt_ids, generated):
        time.sleep(pause_s)
        return script(prompt_ids, generated)

    return wanted


def line(custom_id, url=CHAT, **body):
    chat = {"messages": [{"role": "user", "content": f"Say {custom_id}."}], "enable_thinking": False}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": chat | body}


def text_of(lines):
    return "".join(given if isinstance(given, str) else json.dumps(given) + "\n" for given in lines).encode()


def begun(client, lines, endpoint=CHAT, **fields):
    file = client.files.create(file=("in.jsonl", text_of(lines)), purpose="batch")
    return client.batches.create(**{"input_file_id": file.id, "endpoint": endpoint, "completion_window": "24h"} | fields)


def ended(client, batch):
    while (now := client.batches.retrieve(batch.id)).status in ("validating", "in_progress"):
        time.sleep(0.01)
    return now


def results(client, file_id):
    return [json.loads(text) for text in client.files.content(file_id).text.splitlines()] if file_id else []


def test_a_file_can_be_kept_found_read_and_deleted(client, keeper):
    data = text_of([line("a")]) * 5_000  # more than the parser holds in memory
    made = client.files.create(file=("in.jsonl", data), purpose="batch")
    assert (made.bytes, made.filename, made.purpose, made.status) == (len(data), "in.jsonl", "batch", "processed")
    assert client.files.retrieve(made.id) == made
    assert client.files.content(made.id).content == data
    other = client.files.create(file=("b.jsonl", b"x"), purpose="batch")
    assert [f.id for f in client.files.list(limit=1, purpose="batch")][:2] == [other.id, made.id], "page by page"
    assert client.files.list(purpose="batch_output", after=made.id).data == []
    kept = keeper.server.records.folder / "files" / made.id
    assert kept.stat().st_mode & 0o777 == 0o600
    assert client.files.delete(made.id).deleted
    assert not kept.exists()
    with pytest.raises(openai.NotFoundError):
        client.files.content(made.id)


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"purpose": (None, "assistants"), "file": ("a", b"x")}, "purpose"),
        ({"purpose": (None, "batch")}, "file"),
        ({"purpose": (None, "batch"), "file": (None, "x")}, "file"),
        ({"purpose": (None, "batch"), "file": ("a", b"x"), "foo": (None, "1")}, "foo"),
        ({"purpose": (None, "batch"), "file": ("a", b"x"), "expires_after[seconds]": (None, "1")}, "expires_after[seconds]"),
    ],
)
def test_an_upload_that_cannot_be_honoured_is_refused_by_name(keeper, form, param):
    reply = keeper.client.post("/v1/files", files=form)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param


def test_an_upload_beyond_the_bound_is_refused(keeper, monkeypatch):
    monkeypatch.setattr("samovar.serving.openai_files.MAX_FILE_BYTES", 1000)
    reply = keeper.client.post("/v1/files", files={"purpose": (None, "batch"), "file": ("a", b"x" * 100_000)})
    assert reply.status_code == 400
    assert "too large" in reply.json()["error"]["message"]
    assert keeper.client.post("/v1/files", content=b"x", headers={"content-type": "multipart/form-data"}).status_code == 400
    assert keeper.post("/v1/files", purpose="batch").status_code == 400


def test_a_batch_answers_every_line(client, hybrid):
    with scripted(hybrid, said(hybrid, "Yes.")):
        batch = begun(client, [line(f"n{i}") for i in range(30)], metadata={"a": "b"})
        assert batch.status == "validating"
        done = ended(client, batch)
    assert (done.status, done.metadata, done.error_file_id) == ("completed", {"a": "b"}, None)
    assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (30, 30, 0)
    assert done.created_at <= done.in_progress_at <= done.finalizing_at <= done.completed_at <= done.expires_at
    found = results(client, done.output_file_id)
    assert sorted(r["custom_id"] for r in found) == sorted(f"n{i}" for i in range(30))
    assert {r["response"]["body"]["choices"][0]["message"]["content"] for r in found} == {"Yes."}
    assert all(r["response"]["status_code"] == 200 and r["error"] is None for r in found)
    assert client.files.retrieve(done.output_file_id).purpose == "batch_output"
    assert is_idle(hybrid)


def test_a_bad_line_harms_no_other(client, hybrid):
    bad = {
        "no json\n": None,
        "[1]\n": None,
        json.dumps({"method": "POST", "url": CHAT, "body": {}}) + "\n": None,
        json.dumps(line("get") | {"method": "GET"}) + "\n": "get",
        json.dumps(line("other", url="/v1/embeddings")) + "\n": "other",
        json.dumps(line("streams", stream=True)) + "\n": "streams",
        json.dumps(line("good")) + "\n": "good",  # for the second time
        json.dumps(line("unknown", foo=1)) + "\n": "unknown",
        json.dumps(line("extra") | {"foo": 1}) + "\n": "extra",
        "\n": "skipped",
        b"\xff".decode("latin-1") + "\n": None,
    }
    with scripted(hybrid, said(hybrid, "Yes.")):
        done = ended(client, begun(client, [line("good"), *bad, line("last")]))
    assert done.status == "completed"
    assert sorted(r["custom_id"] for r in results(client, done.output_file_id)) == ["good", "last"]
    errors = results(client, done.error_file_id)
    wanted = [custom_id for custom_id in bad.values() if custom_id != "skipped"]
    assert sorted(str(r["custom_id"]) for r in errors) == sorted(str(custom_id) for custom_id in wanted)
    of_route = next(r for r in errors if r["custom_id"] == "unknown")
    assert (of_route["response"]["status_code"], of_route["response"]["body"]["error"]["param"]) == (400, "foo")
    assert all(r["error"]["message"].startswith("line ") for r in errors if r is not of_route)
    assert (done.request_counts.completed, done.request_counts.failed) == (2, len(wanted))


def test_responses_can_be_had_in_batches(client, hybrid):
    lines = [
        {"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": {"input": "?", "reasoning": {"effort": "none"}}},
        {"custom_id": "b", "method": "POST", "url": "/v1/responses", "body": {"input": "?", "background": True}},
    ]
    with scripted(hybrid, said(hybrid, "Yes.")):
        done = ended(client, begun(client, lines, endpoint="/v1/responses"))
    (found,) = results(client, done.output_file_id)
    assert client.responses.retrieve(found["response"]["body"]["id"]).output_text == "Yes."
    assert results(client, done.error_file_id)[0]["custom_id"] == "b"


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [("/v1/completions", {"prompt": "One", "max_tokens": 1}), ("/v1/embeddings", {"input": "One"})],
)
def test_other_routes_can_be_had_in_batches(client, endpoint, body):
    lines = [{"custom_id": "a", "method": "POST", "url": endpoint, "body": body}]
    done = ended(client, begun(client, lines, endpoint=endpoint))
    assert done.request_counts.completed == 1, results(client, done.error_file_id)


def test_a_batch_lets_others_go_first(client, hybrid):
    seen = []
    submit = hybrid._client.submit

    def watched(request, *args, **kwargs):
        if request.task == "generate":  # not what is computed ahead for a next turn
            seen.append(request.priority)
        return submit(request, *args, **kwargs)

    hybrid._client.submit = watched
    try:
        with scripted(hybrid, said(hybrid, "Yes.")):
            ended(client, begun(client, [line("a"), line("b", priority=7), line("c", priority=-70)]))
    finally:
        del hybrid._client.submit
    assert sorted(seen) == [-70, -50, -50]


def test_a_cancelled_batch_hands_over_what_is_there(client, hybrid):
    with scripted(hybrid, said(hybrid, "Yes.", pause_s=0.01)):
        batch = begun(client, [line(f"n{i}") for i in range(500)])
        with pytest.raises(openai.BadRequestError, match="still reads this file"):
            client.files.delete(batch.input_file_id)
        time.sleep(0.2)
        done = client.batches.cancel(batch.id)
        assert is_idle(hybrid)
    assert (done.status, client.batches.retrieve(batch.id)) == ("cancelled", done)
    assert done.cancelling_at <= done.cancelled_at
    assert len(results(client, done.output_file_id)) == done.request_counts.completed < 500
    with pytest.raises(openai.BadRequestError, match="is cancelled"):
        client.batches.cancel(batch.id)
    assert client.files.delete(batch.input_file_id).deleted


def test_a_batch_whose_time_is_over_says_so_for_each_line_that_is_left(client, hybrid, monkeypatch):
    monkeypatch.setattr("samovar.serving.openai_batches._SECONDS", {"h": 0.3})
    with scripted(hybrid, said(hybrid, "Yes.", pause_s=0.01)):
        done = ended(client, begun(client, [line(f"n{i}") for i in range(300)], completion_window="1h"))
        assert is_idle(hybrid)
    good, bad = results(client, done.output_file_id), results(client, done.error_file_id)
    assert done.status == "expired"
    assert len({r["custom_id"] for r in good + bad}) == len(good) + len(bad) == 300
    assert {r["error"]["code"] for r in bad} == {"batch_expired"}


def test_a_file_without_requests_fails_the_batch(client):
    done = ended(client, begun(client, ["\n\n"]))
    assert (done.status, done.errors.data[0].code) == ("failed", "invalid_input_file")


def test_batches_come_in_pages(client, hybrid):
    with scripted(hybrid, said(hybrid, "Yes.")):
        made = [ended(client, begun(client, [line("a")])) for _ in range(3)]
    assert [b.id for b in client.batches.list(limit=2)][:3] == [b.id for b in reversed(made)]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"endpoint": "/v1/files"}, "endpoint"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after"),
        ({"foo": 1}, "foo"),
        ({"metadata": {"a": 1}}, "metadata"),
    ],
)
def test_a_batch_that_cannot_be_honoured_is_refused_by_name(keeper, fields, param):
    body = {"input_file_id": "file-x", "endpoint": CHAT, "completion_window": "24h"} | fields
    reply = keeper.post("/v1/batches", **body)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"].startswith(param)


def test_another_callers_files_and_batches_look_like_none(client, keeper, hybrid):
    with scripted(hybrid, said(hybrid, "Yes.")):
        batch = ended(client, begun(client, [line("a")]))
    file = f"/v1/files/{batch.output_file_id}"
    with given_away(keeper.server.records):
        replies = [
            keeper.client.get(file),
            keeper.client.get(f"{file}/content"),
            keeper.client.delete(file),
            keeper.client.get(f"/v1/files?after={batch.output_file_id}"),
            keeper.client.get(f"/v1/batches/{batch.id}"),
            keeper.client.get(f"/v1/batches?after={batch.id}"),
            keeper.post(f"/v1/batches/{batch.id}/cancel"),
            keeper.post("/v1/batches", input_file_id=batch.input_file_id, endpoint=CHAT, completion_window="24h"),
        ]
        lists = [keeper.client.get(path).json()["data"] for path in ("/v1/files", "/v1/batches")]
    assert [r.status_code for r in replies] == [404] * len(replies)
    assert lists == [[], []]
    assert client.batches.retrieve(batch.id) == batch


def test_a_line_waits_for_room_and_outlives_an_engine_that_breaks_down(client, keeper, hybrid, monkeypatch):
    errors = [Overloaded(3, 0), LimitReached("so many", 0.001), EngineFailed("gone")]
    route = keeper.server.endpoints[CHAT]

    async def flaky(server, request):
        if errors:
            raise errors.pop()
        return await route(server, request)

    monkeypatch.setitem(keeper.server.endpoints, CHAT, flaky)
    monkeypatch.setattr("samovar.serving.batch_run._LONGEST_WAIT_S", 0.01)
    with scripted(hybrid, said(hybrid, "Yes.")):
        done = ended(client, begun(client, [line("a")]))
    assert (done.request_counts.completed, errors) == (1, [])
    errors += [EngineFailed("gone")] * 3
    done = ended(client, begun(client, [line("a")]))
    assert results(client, done.error_file_id)[0]["response"]["body"]["error"]["code"] == "engine_failed"


def test_a_server_without_records_says_so(server):
    for reply in (server.client.get("/v1/files"), server.post("/v1/files"), server.client.get("/v1/batches/x")):
        assert reply.status_code == 400
        assert "keeps no records" in reply.json()["error"]["message"]


def test_a_batch_goes_on_after_a_restart_without_doing_a_line_twice(hybrid, tmp_path):
    n_lines = 60

    def fresh():
        offered = {"hybrid": Offered(name="hybrid", open_model=lambda: hybrid, keep_alive_s=None, llm=hybrid)}
        state = Server(registry=Registry(offered), records=Records(tmp_path))
        transport = httpx.ASGITransport(build_app(state))
        return state, httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")

    async def first():
        state, http = fresh()
        async with http, kept_work(state):
            form = {"purpose": (None, "batch"), "file": ("in", text_of(line(f"n{i}") for i in range(n_lines)))}
            file = (await http.post("/v1/files", files=form)).json()
            body = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"}
            batch = (await http.post("/v1/batches", json=body)).json()
            while not any(b'"status_code":200' in p.read_bytes() for p in (tmp_path / "files").iterdir()):
                await asyncio.sleep(0.01)
        return batch["id"]

    async def second(batch_id):
        state, http = fresh()
        async with http, kept_work(state):
            while (batch := (await http.get(f"/v1/batches/{batch_id}")).json())["status"] == "in_progress":
                await asyncio.sleep(0.01)
            return batch, (await http.get(f"/v1/files/{batch['output_file_id']}/content")).text.splitlines()

    with scripted(hybrid, said(hybrid, "Yes.", pause_s=0.005)):
        batch_id = asyncio.run(first())
        assert is_idle(hybrid)
    (partial,) = [p for p in (tmp_path / "files").iterdir() if 0 < p.read_bytes().count(b'"status_code":200') < n_lines]
    whole = partial.read_bytes()
    partial.write_bytes(whole + b'{"id":"batch_req_')  # as a kill in the middle of a write leaves it
    with scripted(hybrid, said(hybrid, "No.")):
        batch, lines = asyncio.run(second(batch_id))
    assert batch["status"] == "completed"
    assert "\n".join(lines).encode().startswith(whole.rstrip()), "what was there is as it was"
    assert sorted(json.loads(text)["custom_id"] for text in lines) == sorted(f"n{i}" for i in range(n_lines))
    assert batch["request_counts"] == {"total": n_lines, "completed": n_lines, "failed": 0}


def test_records_are_for_one_server_at_a_time_and_for_this_user_alone(tmp_path):
    records = Records(tmp_path / "a")
    assert {p.stat().st_mode & 0o777 for p in records.folder.iterdir()} == {0o600}
    with pytest.raises(StoreError, match="another server uses it"):
        Records(tmp_path / "a")
    records.close()
    Records(tmp_path / "a").close()


def test_records_that_are_old_and_finished_are_forgotten(tmp_path, monkeypatch):
    async def ids(records):
        return [value["id"] for value in await records.page("x", "me", limit=9, after=None, is_oldest_first=True)]

    async def work(records):
        for record_id, is_open in (("old", False), ("open", True)):
            await records.put("x", record_id, "me", {"id": record_id}, is_open=is_open)
        monkeypatch.setattr("time.time", lambda: 1e10)
        await records.put("x", "new", "me", {"id": "new"})
        await records.put("x", "new", "you", {"id": "taken over"})
        await records.forget_older("x", 60)
        return await ids(records), await records.unfinished("x")

    records = Records(tmp_path)
    try:
        assert asyncio.run(work(records)) == (["open", "new"], [("open", "me", {"id": "open"})])
    finally:
        records.close()
