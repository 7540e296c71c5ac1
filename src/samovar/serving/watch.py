"""The outermost layer: gives every request an id, and tells the log and the metrics when it is over."""

import re
import uuid
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from samovar.serving.log import LOG, REQUEST_ID, log_request
from samovar.serving.metrics import Metrics
from samovar.serving.record import Record

_SANE_ID: Final = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:-]{7,127}")


class Watch:
    """Keeps a `Record` of each request in its state, beside `request_id`, and returns the id as x-request-id."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and remember how it went."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = _record(scope)
        scope.setdefault("state", {}).update(request_id=record.request_id, record=record)
        is_whole = False

        async def sending(message: Message) -> None:
            nonlocal is_whole
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", record.request_id.encode())]
            elif not message.get("more_body", False):
                is_whole = True
            await send(message)

        async def receiving() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect" and not is_whole:
                record.is_client_gone = True
            return message

        token = REQUEST_ID.set(record.request_id)
        try:
            await self._app(scope, receiving, sending)
        except Exception as error:  # a bug of ours, in a place where no reply could be made of it
            LOG.error("internal error", exc_info=error)
            raise
        finally:
            record.end()
            self._metrics.observe(record)
            log_request(record)
            REQUEST_ID.reset(token)


def _record(scope: Scope) -> Record:
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    return Record(
        request_id=given.decode() if _SANE_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}",
        method=scope["method"],
        path=scope["path"],
        client=scope["client"][0] if scope.get("client") else "",
    )
