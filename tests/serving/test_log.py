"""Lines of the log."""

import io
import json
import logging

import pytest

from samovar.serving.log import LOG, REQUEST_ID, log_request, start_log
from samovar.serving.record import Record


@pytest.fixture(params=["json", "text"])
def form(request):
    return request.param


@pytest.fixture
def log(form):
    """What is logged, in either form; the loggers are as they were afterwards."""
    loggers = [logging.getLogger(name) for name in ("samovar", "uvicorn", "asyncio")]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    stream = io.StringIO()
    start_log(stream, form)
    yield stream
    for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def record(**more):
    made = Record(**({"request_id": "req_1", "method": "POST", "path": "/v1/x", "client": "127.0.0.1", "status": 200} | more))
    made.end()
    return made


def test_a_request_is_one_line_whatever_its_client_put_into_it(log, form):
    log_request(record(path="/a\nfake line\u2028\x1b[2J\udc80", status=404))
    log_request(record(route="/v1/x", model="small", n_prompt=3, n_completion=4, is_client_gone=True))
    first, second = log.getvalue().splitlines()
    assert "\x1b" not in first
    if form == "json":
        assert json.loads(first)["path"].startswith("/a\nfake")
        assert json.loads(second).items() >= {"model": "small", "completion_tokens": 4, "client_gone": True}.items()
    else:
        assert "small: 3 + 4 tokens" in second
        assert "client gone" in second


def test_who_watches_over_the_server_fills_no_log(log):
    log_request(record(path="/health", route="/health"))
    assert log.getvalue() == ""
    log_request(record(path="/health", route="/health", status=503))
    assert log.getvalue()


def test_a_bug_is_logged_with_its_traceback_and_the_id_of_its_request(log, form):
    token = REQUEST_ID.set("req_7")
    try:
        raise ValueError("a bug")
    except ValueError as error:
        LOG.error("internal error", exc_info=error)
    finally:
        REQUEST_ID.reset(token)
    text = log.getvalue()
    assert all(part in text for part in ("req_7", "Traceback", "ValueError: a bug"))
    if form == "json":
        assert len(text.splitlines()) == 1


@pytest.mark.parametrize("given", ["short", "x" * 129, "with space1", 'quote"1234', "-leading0", "é" * 9])
def test_an_id_of_a_client_that_is_not_sane_is_replaced(server, given):
    reply = server.client.get("/health", headers={b"x-request-id": given.encode()})
    assert reply.headers["x-request-id"].startswith("req_")
    for sane in ("trace-id:0123.4567", "a" * 128):
        assert server.client.get("/health", headers={"x-request-id": sane}).headers["x-request-id"] == sane


def test_a_bug_in_a_route_is_a_500_that_tells_nothing_but_the_id(server, monkeypatch, caplog):
    from samovar.serving import openai_chat

    def broken(*_):
        raise RuntimeError("secret inner state")

    monkeypatch.setattr(openai_chat, "chat_ask", broken)
    reply = server.post("/v1/chat/completions", messages=[])
    assert reply.status_code == 500
    assert "secret" not in reply.text
    assert reply.json()["error"]["code"] == "internal_error"
    assert "secret inner state" in caplog.text
