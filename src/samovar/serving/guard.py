"""What a server demands of every request, before any route sees it."""

import contextlib
import ipaddress
import socket
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from samovar.errors import BadRequest
from samovar.serving.auth import Headers
from samovar.serving.caller import Forbidden
from samovar.serving.keys import Keys

LOOPBACK_NAMES: Final = frozenset(("localhost", "127.0.0.1", "[::1]"))
MAX_UPLOAD_BYTES: Final = 256 << 20  # a batch's input may have 200 MB
OPEN_PATHS: Final = frozenset(("/health",))
_UPLOAD_PATHS: Final = frozenset(("/v1/files",))
_SAFE_METHODS: Final = frozenset(("GET", "HEAD", "OPTIONS"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """Bounds and rules. `needs_key` asks for a key even where there is none; else one is asked for as soon as there is one.

    `hosts` are the names that the server may be called by, None for any; `origins` those of pages that may use it.
    """

    keys: Keys | None = None
    needs_key: bool = False
    hosts: frozenset[str] | None = LOOPBACK_NAMES
    origins: tuple[str, ...] = ()
    max_body_bytes: int = 32 << 20
    max_upload_bytes: int = MAX_UPLOAD_BYTES
    max_held_bytes: int = 1 << 30
    max_open: int = 2048

    def body_bytes(self, path: str) -> int:
        """The most bytes that a route's body may have."""
        return self.max_upload_bytes if path in _UPLOAD_PATHS else self.max_body_bytes

    def check_host(self, headers: Headers) -> None:
        """Raises Forbidden where the request calls the server by a name that is not its own.

        A foreign page can have a name of its own lead to this machine (DNS rebinding); the browser sends that name.
        """
        if self.hosts is None:
            return
        given = [value.decode("latin-1") for name, value in headers if name == b"host"]
        if not given or any(_without_port(host) not in self.hosts for host in given):
            found = ", ".join(map(repr, given)) or "missing"
            raise Forbidden(f"the Host header is {found}, which is no name of this server; allow it with --allow-host NAME")

    def check_origin(self, method: str, headers: Headers) -> None:
        """Raises Forbidden for a request that changes something and comes from a page of another origin.

        A browser sends simple requests without asking first, whatever CORS says about their replies.
        """
        found = {name: value.decode("latin-1") for name, value in headers if name in (b"host", b"origin")}
        origin = found.get(b"origin")
        if method in _SAFE_METHODS or origin is None or origin in self.origins:
            return
        if origin_host(origin) != found.get(b"host", "").lower():
            raise Forbidden(f"pages of {origin!r} may not use this server; allow them with --cors-origin {origin}")


def is_loopback(host: str) -> bool:
    """Whether an address or name leads to this machine alone. Raises BadRequest for a name that leads nowhere."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    try:
        found = {str(address[0]) for *_, address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError as error:
        raise BadRequest(f"the host {host!r} leads nowhere ({error.strerror}); give an address of this machine") from None
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found)


def host_name(host: str) -> str:
    """A name or address as it stands in a Host header."""
    return f"[{host.strip('[]')}]".lower() if ":" in host else host.lower()


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()


def origin_host(origin: str) -> str:
    """The host and port of an Origin header; empty for one that has none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
