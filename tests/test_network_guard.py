"""The suite's own promise: no test can reach another machine."""

import socket

import pytest

from tests.conftest import NetworkBlocked


def test_a_socket_to_another_machine_is_refused() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, pytest.raises(Exception, match="only reach loopback"):
        sock.connect(("192.0.2.1", 9))  # documentation address; connecting a datagram socket sends nothing


def test_a_name_of_another_machine_is_not_looked_up() -> None:
    with pytest.raises(Exception, match="only reach loopback"):
        socket.getaddrinfo("example.invalid", 443)


def test_loopback_is_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()


def test_the_refusal_is_no_oserror_that_a_library_would_swallow() -> None:
    assert not issubclass(NetworkBlocked, OSError)
