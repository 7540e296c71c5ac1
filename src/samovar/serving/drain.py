"""How many requests are open, and how a server comes to its end: nothing new begins, and what is open may end first."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from samovar.errors import SamovarError
from samovar.serving.bodies import TooBusy
from samovar.serving.registry import Registry

_LAST_WORDS_S: Final = 5.0
LOG: Final = logging.getLogger("samovar.serving")


class ShuttingDown(SamovarError):
    """The server takes nothing new, or has no time left for what is open."""

    def __init__(self) -> None:
        super().__init__("the server is shutting down; send the request again in a moment, or to another server")


class Drain:
    """Counts open requests. Belongs to the server's event loop, but for `begin`."""

    def __init__(self) -> None:
        self.n_open, self.is_draining, self.is_over = 0, False, False

    @contextmanager
    def admitted(self, max_open: int) -> Iterator[None]:
        """One request, for as long as it lasts. Raises ShuttingDown, or TooBusy where `max_open` are open."""
        if self.is_draining:
            raise ShuttingDown
        if self.n_open >= max_open:
            raise TooBusy(f"{self.n_open} requests are open, as many as this server takes; try again in a second", 1.0)
        self.n_open += 1
        try:
            yield
        finally:
            self.n_open -= 1

    @contextmanager
    def held(self) -> Iterator[None]:
        """Work that outlives its request, and that the end has to wait for as well."""
        self.n_open += 1
        try:
            yield
        finally:
            self.n_open -= 1

    def begin(self) -> None:
        """Take nothing new. May be called from a signal's handler."""
        self.is_draining = True

    async def finish(self, timeout_s: float, registry: Registry) -> None:
        """Wait for what is open; what is still open after `timeout_s` ends with an error."""
        LOG.info("shutting down: %d requests are open, and have %g s to end", self.n_open, timeout_s)
        await self._wait(timeout_s)
        if self.n_open:
            LOG.warning("%d requests are cut off", self.n_open)
            self.is_over = True
            await registry.close()
            await self._wait(_LAST_WORDS_S)

    async def _wait(self, timeout_s: float) -> None:
        end = asyncio.get_running_loop().time() + timeout_s
        while self.n_open and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.02)
