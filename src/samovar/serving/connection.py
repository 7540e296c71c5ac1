"""HTTP connections, with bounds on the head of a request: how long it may take, and how large it may be."""

from asyncio import Transport
from asyncio.events import TimerHandle
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_HEAD_S: Final = 20.0
_MAX_HEAD_BYTES: Final = 64 << 10
_TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class BoundedConnection(HttpToolsProtocol):
    """uvicorn's protocol, which by itself waits for ever for the rest of a head, however long it has become."""

    head_s = _HEAD_S
    _timer: TimerHandle | None = None
    _n_head = 0
    _is_in_head = True

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """A client is there, and has to say something."""
        super().connection_made(transport)
        self._start_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is there any more."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head that is not whole."""
        self._n_head = self._n_head + len(data) if self._is_in_head else 0
        super().data_received(data)
        if self._is_in_head and self._n_head > _MAX_HEAD_BYTES and not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def on_message_begin(self) -> None:
        """A request's first byte."""
        super().on_message_begin()
        self._start_head()

    def on_headers_complete(self) -> None:
        """A request's head is whole."""
        self._is_in_head = False
        self._stop_timer()
        super().on_headers_complete()

    def _start_head(self) -> None:
        self._is_in_head = True
        if self._timer is None:
            self._timer = self.loop.call_later(self.head_s, self.timeout_keep_alive_handler)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
