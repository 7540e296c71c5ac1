"""A server that listens: sockets, TLS, signals."""

import contextlib
import os
import resource
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from samovar.errors import SamovarError
from samovar.serving.connection import BoundedConnection
from samovar.serving.server import Server

_BACKLOG: Final = 1024
_MAX_FILES: Final = 65_536
_LAST_S: Final = 5


class CannotListen(SamovarError):
    """An address, a port or a certificate is of no use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenSettings:
    """Where and how to listen. `trusted_proxies` are addresses or networks whose X-Forwarded headers are believed."""

    drain_timeout_s: float = 30.0
    trusted_proxies: tuple[str, ...] = ()
    tls: ssl.SSLContext | None = None


def bind(host: str, port: int) -> socket.socket:
    """A socket of an address, which does not listen yet. Port 0 takes any that is free. Raises CannotListen."""
    try:
        family, *_, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise CannotListen(f"the host {host!r} leads nowhere ({error.strerror}); give an address of this machine") from None
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address[0] != "::"))
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise CannotListen(f"cannot listen at {host}:{port}: {error.strerror}; choose another with --host or --port") from None
    return bound


def listen(app: ASGIApp, server: Server, bound: socket.socket, settings: ListenSettings, on_ready: Callable[[], None]) -> None:
    """Serve until a signal says otherwise: with the first what is open may end, the second ends all at once.

    `on_ready` is called once clients can connect.
    """
    _allow_many_connections()
    config = uvicorn.Config(
        app,
        http=BoundedConnection,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=",".join(settings.trusted_proxies),
        backlog=_BACKLOG,
        timeout_graceful_shutdown=_LAST_S,
    )
    config.load()
    config.ssl = settings.tls
    _Running(config, server, settings.drain_timeout_s, on_ready).run(sockets=[bound])


def tls_context(cert: Path, key: Path | None) -> ssl.SSLContext:
    """What TLS needs, from a certificate and its key, which may be in one file. Raises CannotListen."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, key, password=_refuse_password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise CannotListen(f"{cert}: {error}; expected a certificate and its key in PEM form") from None
    return context


class _Running(uvicorn.Server):
    """uvicorn's server with an end of its own. While it drains it goes on to listen, so that it can say that it does."""

    def __init__(self, config: uvicorn.Config, server: Server, drain_timeout_s: float, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._server, self._drain_timeout_s, self._on_ready = server, drain_timeout_s, on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        self._on_ready()

    async def main_loop(self) -> None:
        """Serve, and then wait for what is open."""
        await super().main_loop()
        await self._server.drain.finish(self._drain_timeout_s, self._server.registry)

    def handle_exit(self, sig: int, _: FrameType | None) -> None:
        """The first signal drains. The second ends at once; the models' processes end by themselves."""
        if self.should_exit:
            os._exit(128 + sig)
        self._server.drain.begin()
        self.should_exit = True


def _refuse_password() -> str:
    raise ValueError("the key is locked with a password")


def _allow_many_connections() -> None:
    """Each connection is an open file, and the usual limit is low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_FILES if hard == resource.RLIM_INFINITY else min(_MAX_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
