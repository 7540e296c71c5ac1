"""The server's load over the last hour: a ring of samples in memory. It names models; no user, and nothing of what was said."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from samovar.app.app import App, AppTable
from samovar.app.database import now_ms
from samovar.app.process_load import ProcessLoad, cpu_share, process_load
from samovar.app.users import user_of
from samovar.llm.engine_stats import EngineStats
from samovar.serving.metrics import Totals
from samovar.serving.operations import open_stats
from samovar.serving.replies import json_reply
from samovar.serving.server import LOG, Server

SAMPLE_S: Final = 10.0
_KEPT: Final = 360


class Sample(msgspec.Struct, kw_only=True, frozen=True):
    """The load between a sample and the one before it. An answer's tokens count as they come. `cache_hit_share` is of prompts'
    tokens, None where there was no prompt; `cpu_share` is of all processors, from 0 to 1."""

    t_ms: int
    n_running: int
    n_waiting: int
    tokens_per_s: float
    cache_hit_share: float | None
    cpu_share: float
    memory_bytes: int


class Dashboard:
    """Takes samples while the server runs. Belongs to its event loop."""

    def __init__(self) -> None:
        self.series = deque[Sample](maxlen=_KEPT)
        self._before: tuple[float, Totals, ProcessLoad, int] | None = None

    def table(self) -> AppTable:
        """The route."""
        return (("GET", "/dashboard", self.show),)

    @asynccontextmanager
    async def life(self, server: Server) -> AsyncIterator[None]:
        """While it lasts, take samples."""

        async def look() -> None:
            while True:
                try:
                    await self.sample(server)
                except Exception as error:  # numbers to look at are not worth a server
                    LOG.error("no sample of the load could be taken", exc_info=error)
                await asyncio.sleep(SAMPLE_S)

        looking = asyncio.create_task(look())
        try:
            yield
        finally:
            looking.cancel()

    async def sample(self, server: Server) -> None:
        """Take one; the first look only says from where the next one counts."""
        stats, load = await open_stats(server), await asyncio.to_thread(process_load)
        now_s, totals = time.monotonic(), server.metrics.totals()
        n_written = totals.n_completion + sum(answers.n_tokens for answers in server.registry.growing)
        if self._before is not None:
            before_s, before, load_before, n_written_before = self._before
            seconds, n_prompt = now_s - before_s, totals.n_prompt - before.n_prompt
            known = [found for found in stats.values() if found is not None]
            self.series.append(
                Sample(
                    t_ms=now_ms(),
                    n_running=sum(found.n_running for found in known),
                    n_waiting=sum(found.n_waiting for found in known),
                    tokens_per_s=max(0, n_written - n_written_before) / seconds,
                    cache_hit_share=(totals.n_cached - before.n_cached) / n_prompt if n_prompt else None,
                    cpu_share=cpu_share(load_before, load, seconds),
                    memory_bytes=load.memory_bytes,
                )
            )
        self._before = now_s, totals, load, n_written

    async def show(self, app: App, request: Request) -> Response:
        """The samples, the models, and what there was in all since the server's start."""
        user_of(request)
        stats = await open_stats(app.server)
        return json_reply(
            {
                "now_ms": now_ms(),
                "series": list(self.series),
                "models": [_model(name, name in stats, stats.get(name)) for name in app.server.registry.models],
                "totals": app.server.metrics.totals(),
            }
        )


def _model(name: str, is_open: bool, stats: EngineStats | None) -> dict[str, object]:
    return {
        "name": name,
        "is_open": is_open,
        "n_running": 0 if stats is None else stats.n_running,
        "memory_bytes": 0 if stats is None else stats.resident_bytes,
    }
