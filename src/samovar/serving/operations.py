"""The server itself: `/health`, `/metrics`, and models that nobody uses."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from samovar import __version__
from samovar.errors import SamovarError
from samovar.llm import LLM
from samovar.llm.engine_stats import EngineStats
from samovar.serving.replies import json_reply
from samovar.serving.server import LOG, Server

_PATIENCE_S: Final = 1.0
_IDLE_CHECK_S: Final = 1.0


async def health(server: Server, _: Request) -> Response:
    """That the server is there: 200, or 503 when it is about to end. It waits for nothing, and asks for no key."""
    status = "draining" if server.drain.is_draining else "ok"
    return json_reply({"status": status, "version": __version__}, 503 if server.drain.is_draining else 200)


async def metrics(server: Server, _: Request) -> Response:
    """Prometheus's text format. Any key will do."""
    n_offered, found = len(server.registry.models), await open_stats(server)
    body = server.metrics.text(n_open=server.drain.n_open, n_offered=n_offered, stats=found)
    return Response(body, media_type=None, headers={"content-type": CONTENT_TYPE_LATEST})


async def open_stats(server: Server) -> dict[str, EngineStats | None]:
    """What the engines of the open models say of themselves, None for one that is down, or does not answer in time."""
    opened = {name: offered.llm for name, offered in server.registry.models.items() if offered.llm is not None}
    return dict(zip(opened, await asyncio.gather(*(_stats(llm) for llm in opened.values())), strict=True))


@asynccontextmanager
async def closing_idle(server: Server) -> AsyncIterator[None]:
    """While it lasts, close models whose time is up."""

    async def close() -> None:
        while True:
            await asyncio.sleep(_IDLE_CHECK_S)
            try:
                await server.registry.close_idle()
            except Exception as error:  # the other models still have to be looked after
                LOG.error("a model could not be closed", exc_info=error)

    closing = asyncio.create_task(close())
    try:
        yield
    finally:
        closing.cancel()


async def _stats(llm: LLM) -> EngineStats | None:
    try:
        return await asyncio.to_thread(llm.stats, _PATIENCE_S)
    except SamovarError:
        return None
