"""One HTTP request for bytes of a file: ranges, redirects, and which failures may pass. HTTP by `httpx2`.

Nothing is decoded on the way, so sizes are those of the file. A redirect to another host loses the token, and one from https
or from this machine to http elsewhere is refused.
"""

import ipaddress
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from samovar.errors import DownloadError

if TYPE_CHECKING:
    import httpx2

_TIMEOUT_S: Final = 30.0
_CONNECT_TIMEOUT_S: Final = 15.0
_TEMPORARY: Final = (408, 425, 429, 500, 502, 503, 504)
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_NO_RANGE: Final = re.compile(r"bytes \*/(\d+)")


class TemporaryFailure(Exception):
    """A request failed in a way that may pass. `wait_s` is what the server asks to wait."""

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class Unreachable(TemporaryFailure):
    """There was no connection at all: a wrong name, no network, or a server that is down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """A reply. `start` is the offset of its first byte in the file, `total_bytes` the whole file's size where it is said."""

    start: int
    total_bytes: int | None
    validator: str | None
    is_partial: bool
    chunks: Iterator[bytes]


class HttpFetcher:
    """Connections to servers, for use by several threads; close it when done."""

    def __init__(self) -> None:
        import httpx2

        self._client = httpx2.Client(
            follow_redirects=True,
            timeout=httpx2.Timeout(_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S),
            headers={"Accept-Encoding": "identity", "User-Agent": "samovar"},
            event_hooks={"response": [_refuse_downgrade]},
        )

    def close(self) -> None:
        """Cut all connections."""
        self._client.close()

    @contextmanager
    def get(
        self, url: str, headers: Mapping[str, str], *, start: int = 0, end: int | None = None, validator: str | None = None
    ) -> Iterator[Body]:
        """Ask for the bytes [start, end) of a file, or all of it. The server may send all of it in either case.

        With `validator` it does so where the file has changed. Raises TemporaryFailure; DownloadError for what will not pass.
        """
        import httpx2

        asked = dict(headers)
        if start or end is not None:
            asked["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
            if validator:
                asked["If-Range"] = validator
        try:
            with self._client.stream("GET", url, headers=asked) as response:
                if response.status_code not in (200, 206):
                    raise _refusal(response, url, start)
                yield _body(response, url, start)
        except httpx2.TooManyRedirects:
            raise DownloadError(f"{_shown(url)}: the server redirects in a circle") from None
        except (httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:
            raise DownloadError(f"{_shown(url)}: no address that can be fetched: {error}") from None
        except httpx2.ConnectError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise DownloadError(
                    f"{_shown(url)}: the server cannot prove who it is ({error}); where your network has a certificate of its "
                    "own, name it in SSL_CERT_FILE"
                ) from None
            raise Unreachable(f"{_shown(url)}: {str(error) or 'no connection'}") from None
        except httpx2.HTTPError as error:
            raise TemporaryFailure(f"{_shown(url)}: {str(error) or type(error).__name__}") from None


def _body(response: "httpx2.Response", url: str, start: int) -> Body:
    headers = response.headers
    validator = headers.get("ETag") if not headers.get("ETag", "W/").startswith("W/") else headers.get("Last-Modified")
    if (coding := headers.get("Content-Encoding", "identity").lower()) != "identity":
        raise DownloadError(f"{_shown(url)}: the server sends it encoded as {coding}; the plain bytes were asked for")
    if response.status_code == 200:
        length = headers.get("Content-Length", "")
        total = int(length) if length.isdigit() else None
        return Body(start=0, total_bytes=total, validator=validator, is_partial=False, chunks=response.iter_raw())
    found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    if not found or int(found[1]) != start:
        sent = headers.get("Content-Range", "others")
        raise DownloadError(f"{_shown(url)}: bytes from {start} on were asked for, and the server sends {sent!r}")
    total = None if found[3] == "*" else int(found[3])
    return Body(start=start, total_bytes=total, validator=validator, is_partial=True, chunks=response.iter_raw())


def _refusal(response: "httpx2.Response", url: str, start: int) -> Exception:
    status, where = response.status_code, _shown(url)
    if status in _TEMPORARY:
        after = response.headers.get("Retry-After", "")
        return TemporaryFailure(f"{where}: the server answers {status}", float(after) if after.isdigit() else 0.0)
    if status in (401, 403):
        return AccessDenied(f"{where}: the server answers {status}, access denied")
    if status in (404, 410):
        return DownloadError(f"{where}: the server answers {status}, there is no such file")
    if status == 416:
        found = _NO_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        return PastEnd(f"{where}: the server answers 416, there are no bytes from {start} on", int(found[1]) if found else None)
    return DownloadError(f"{where}: the server answers {status}; the file is expected")


class AccessDenied(DownloadError):
    """The server wants a token, or one that is allowed more."""


class PastEnd(DownloadError):
    """The bytes that were asked for lie past the file's end. `total_bytes` is its size where the server says it."""

    def __init__(self, message: str, total_bytes: int | None) -> None:
        super().__init__(message)
        self.total_bytes = total_bytes


def _refuse_downgrade(response: "httpx2.Response") -> None:
    asked = response.request.url
    if not response.has_redirect_location or (asked.scheme != "https" and not is_loopback(asked.host)):
        return  # from an address that was not encrypted either, which was allowed
    following = asked.join(response.headers["Location"])
    if following.scheme != "https" and (asked.scheme == "https" or not is_loopback(following.host)):
        raise DownloadError(f"{_shown(str(asked))}: redirects to {_shown(str(following))}, which is not encrypted; refused")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its name or address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _shown(url: str) -> str:
    """An address without its query, which may hold a signature."""
    return url.partition("?")[0]
