"""The server as a process: how it ends, and what becomes of requests when the engine's process is killed."""

import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time

import httpx
import pytest

from tests.serving.processes import children, running
from tests.text.witnesses import template

pytestmark = pytest.mark.slow
ASK = {"messages": [{"role": "user", "content": "A secret question?"}], "ignore_eos": True, "enable_thinking": False}
LONG = ASK | {"stream": True, "max_tokens": 3500}
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def argv(models, tmp_path_factory):
    """A small model, and how it is served."""
    file = tmp_path_factory.mktemp("template") / "chat.jinja"
    file.write_text(template("qwen3"))
    return (f"small={models._folder}", "--chat-template-file", str(file), "--threads", "1", "--no-cache")


class Reader(threading.Thread):
    """Reads a stream, and remembers its events. `begun` once an event is there."""

    def __init__(self, server, body=LONG):
        super().__init__(daemon=True)
        self.events, self.begun, self._url, self._body = [], threading.Event(), server.url, body
        self.start()
        assert self.begun.wait(20)

    def run(self):
        with contextlib.suppress(httpx.RemoteProtocolError):  # the server is gone
            self._read()

    def _read(self):
        with httpx.Client(base_url=self._url, timeout=60) as client, client.stream("POST", CHAT, json=self._body) as reply:
            assert reply.status_code == 200, reply.read()
            for line in reply.iter_lines():
                if line.startswith("data: "):
                    self.events.append(line.removeprefix("data: "))
                    self.begun.set()

    def all(self):
        self.join(30)
        assert not self.is_alive()
        return self.events


def errors_in(events):
    return [json.loads(e)["error"] for e in events if e != "[DONE]" and "error" in json.loads(e)]


def test_a_server_that_is_told_to_end_finishes_its_streams_and_takes_nothing_new(argv, tmp_path):
    with running(tmp_path, *argv) as server:
        reader, engine = Reader(server, LONG | {"max_tokens": 300}), server.engine_pid()
        os.kill(engine, signal.SIGSTOP)
        server.process.send_signal(signal.SIGTERM)
        while (health := server.client.get("/health")).status_code == 200:
            time.sleep(0.01)
        assert (health.status_code, health.json()["status"]) == (503, "draining")
        refused = server.client.post(CHAT, json=ASK)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
        assert int(refused.headers["retry-after"]) > 0
        assert server.process.poll() is None
        os.kill(engine, signal.SIGCONT)
        events = reader.all()
        assert events[-1] == "[DONE]"
        assert errors_in(events) == []
        assert server.ended() == 0
        assert not children(server.process.pid)


def test_a_server_that_drains_hears_a_request_out_before_it_refuses_and_hangs_up(argv, tmp_path):
    with running(tmp_path, *argv) as server:
        reader, engine = Reader(server, LONG | {"max_tokens": 300}), server.engine_pid()
        os.kill(engine, signal.SIGSTOP)
        server.process.send_signal(signal.SIGTERM)
        while server.client.get("/health").status_code == 200:
            time.sleep(0.01)
        host, _, port = server.url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n" % CHAT.encode())
            connection.settimeout(0.3)
            with pytest.raises(TimeoutError):
                connection.recv(1)
            connection.sendall(b"x" * 10)
            assert b"shutting_down" in b"".join(iter(lambda: connection.recv(65_536), b""))
        os.kill(engine, signal.SIGCONT)
        assert reader.all()[-1] == "[DONE]"


def test_streams_that_outlast_the_drain_end_with_one_error_and_the_server_with_success(argv, tmp_path):
    with running(tmp_path, *argv, "--drain-timeout", "0.1") as server:
        readers = [Reader(server) for _ in range(3)]
        server.process.send_signal(signal.SIGTERM)
        for reader in readers:
            events = reader.all()
            assert [e["code"] for e in errors_in(events)] == ["shutting_down"]
            assert "[DONE]" not in events
        assert server.ended() == 0


def test_a_second_signal_ends_the_server_at_once(argv, tmp_path):
    with running(tmp_path, *argv) as server:
        reader, engine = Reader(server), server.engine_pid()
        os.kill(engine, signal.SIGSTOP)
        server.process.send_signal(signal.SIGINT)
        while server.client.get("/health").status_code == 200:
            time.sleep(0.01)
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.ended() == 128 + signal.SIGTERM
        assert time.monotonic() - started < 1
        os.kill(engine, signal.SIGCONT)  # it sees that nobody listens, and ends
        reader.join(10)


def test_a_killed_engine_gives_each_request_one_error_and_the_next_request_works(argv, tmp_path):
    with running(tmp_path, *argv, "--max-streams", "4") as server:
        slow, is_over = [], threading.Event()

        def watch():
            with httpx.Client(base_url=server.url, timeout=5) as client:
                while not is_over.wait(0.02):
                    started = time.monotonic()
                    assert client.get("/health").status_code == 200
                    slow.append(time.monotonic() - started)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            engine = server.engine_pid()
            readers = [Reader(server) for _ in range(8)]  # some of them wait in the queue
            plain = []
            asking = threading.Thread(target=lambda: plain.append(httpx.post(server.url + CHAT, json=ASK, timeout=30)))
            os.kill(engine, signal.SIGSTOP)
            asking.start()
            time.sleep(0.2)
            os.kill(engine, signal.SIGKILL)
            for reader in readers:
                assert [e["code"] for e in errors_in(reader.all())] == ["engine_failed"]
                assert "[DONE]" not in reader.events
            reply = httpx.post(server.url + CHAT, json=ASK | {"max_tokens": 3}, timeout=30)
            assert reply.status_code == 200, reply.text
            asking.join(30)
            assert (plain[0].status_code, plain[0].json()["error"]["code"]) == (500, "engine_failed")
            assert server.engine_pid() != engine
        finally:
            is_over.set()
            watcher.join()
        assert max(slow) < 1
        server.process.terminate()
        assert server.ended() == 0


def test_the_log_has_a_line_for_each_request_and_nothing_of_what_was_said(argv, tmp_path):
    with running(tmp_path, *argv) as server:
        ids = {"x-request-id": "trace-0123456789"}
        reply = server.client.post(CHAT, json=ASK | {"max_tokens": 5}, headers=ids)
        assert reply.headers["x-request-id"] == "trace-0123456789"
        answer = reply.json()["choices"][0]["message"]["content"]
        made_up = server.client.post(CHAT, json={"messages": 7}, headers={"x-request-id": "bad id {}"}).headers["x-request-id"]
        with server.client.stream("POST", CHAT, json=LONG) as left:
            next(left.iter_lines())
        server.client.get("/nowhere\u2028at all")
        server.process.terminate()
        assert server.ended() == 0
        lines = [line for line in server.log_lines() if line["event"] == "request"]
        first, second, *others = lines
        third, fourth = sorted(others, key=lambda line: line["status"])
        assert first.items() >= {
            "request_id": "trace-0123456789", "caller": "local", "route": CHAT, "method": "POST", "status": 200,
            "model": "small", "completion_tokens": 5, "client_gone": False, "level": "info",
        }.items()  # fmt: skip
        assert 0 < first["first_token_s"] <= first["duration_s"]
        assert first["prompt_tokens"] > 5
        assert (second["status"], second["request_id"]) == (400, made_up)
        assert made_up.startswith("req_")
        assert (third["status"], third["client_gone"]) == (200, True)
        assert 0 < third["completion_tokens"] < 3500
        assert (fourth["status"], fourth["route"]) == (404, None)
        text = server.log.read_text()
        assert "secret" not in text
        assert answer not in text


def test_keys_made_and_revoked_while_the_server_runs_count_at_once(argv, tmp_path, monkeypatch):
    from samovar.serving.keys import KeyFile

    own = "an-environment-key-0123456789"
    with running(tmp_path, *argv, "--require-key", environ={"SAMOVAR_API_KEY": own}) as server:
        file = KeyFile(tmp_path / "store" / "keys.json")
        assert server.client.get("/health").status_code == 200
        assert server.client.get("/metrics").status_code == 401
        key = file.create("bob")
        for text in (key, own):
            assert server.client.get("/metrics", headers={"x-api-key": text}).status_code == 200
        file.revoke("bob")
        assert server.client.get("/metrics", headers={"x-api-key": key}).status_code == 401
        assert key not in server.log.read_text()


def test_a_server_with_a_certificate_answers_over_tls_and_believes_its_proxy(argv, tmp_path):
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("openssl is not installed")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
         "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert], check=True, capture_output=True,
    )  # fmt: skip
    own = "an-environment-key-0123456789"
    options = ("--tls-cert", str(cert), "--tls-key", str(key), "--trusted-proxy", "127.0.0.1")
    with running(tmp_path, *argv, *options, environ={"SAMOVAR_API_KEY": own}) as server:
        assert server.url.startswith("https://127.0.0.1:")
        headers = {"x-api-key": own, "X-Forwarded-For": "198.51.100.7"}
        with httpx.Client(base_url=server.url, verify=ssl.create_default_context(cafile=str(cert))) as client:
            assert client.get("/health").status_code == 200
            assert client.get("/metrics", headers=headers).status_code == 200
            assert client.get("/metrics").status_code == 401
        with pytest.raises(httpx.ConnectError):
            server.client.get("/health")  # it knows nothing of the certificate
        server.process.terminate()
        assert server.ended() == 0
        lines = [line for line in server.log_lines() if line["event"] == "request"]
        assert [(line["client"], line["route"]) for line in lines] == [("198.51.100.7", "/metrics"), ("127.0.0.1", "/metrics")]
