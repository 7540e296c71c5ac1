"""What a connection may do before a request is there."""

import socket
import time

import pytest

from samovar.serving import bodies
from samovar.serving.connection import BoundedConnection


@pytest.fixture
def connect(server):
    host, _, port = server.url.removeprefix("http://").partition(":")
    made = []

    def connected():
        made.append(socket.create_connection((host, int(port)), timeout=10))
        return made[-1]

    yield connected
    for one in made:
        one.close()


def read_all(connection):
    data = b""
    while more := connection.recv(65_536):
        data += more
    return data


def read_replies(connection, n):
    data = b""
    while data.count(b'"status":"ok"') < n:
        more = connection.recv(65_536)
        assert more, data
        data += more
    assert data.count(b"HTTP/1.1 200 ") == n


@pytest.mark.parametrize("said", [b"", b"GET /hea", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "])
def test_a_head_that_does_not_come_to_its_end_is_not_waited_for(connect, monkeypatch, said):
    monkeypatch.setattr(BoundedConnection, "head_s", 0.2)
    connection, started = connect(), time.monotonic()
    connection.sendall(said)
    assert read_all(connection) == b""
    assert 0.15 < time.monotonic() - started < 5


def test_a_head_without_end_is_refused(connect):
    connection = connect()
    connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ")
    with pytest.raises(OSError, match=r"reset|pipe"):
        connection.sendall(b"x" * 40_000_000)


def test_a_large_head_is_told_of(connect):
    connection = connect()
    connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ")
    time.sleep(0.05)
    connection.sendall(b"x" * 60_000)
    time.sleep(0.05)
    connection.sendall(b"x" * 6_000)
    assert read_all(connection).startswith(b"HTTP/1.1 431 ")


def test_requests_one_after_the_other_each_have_their_time(connect, monkeypatch):
    monkeypatch.setattr(BoundedConnection, "head_s", 0.3)
    connection = connect()
    for _ in range(3):
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        time.sleep(0.15)
        connection.sendall(b"\r\n")
        read_replies(connection, 1)
    connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 3)  # and at once
    read_replies(connection, 3)


def test_a_body_that_trickles_is_given_up(connect, monkeypatch):
    monkeypatch.setattr(bodies, "_PATIENCE_S", 0.2)
    connection = connect()
    connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{")
    assert connection.recv(65_536).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("said", [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"hello\r\n\r\n", b"GET  HTTP/9.9\r\n\r\n", b"OPTIONS * HTTP/1.1\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /%ff%fe HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET http://localhost/no HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /no HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"GET /no HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
])  # fmt: skip
def test_what_is_odd_is_refused(connect, said):
    connection = connect()
    connection.sendall(said)
    assert connection.recv(100)[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 403", b"HTTP/1.1 404", b"HTTP/1.1 413")
