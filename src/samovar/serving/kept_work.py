"""What a server has to do with its records at its start and at its end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from samovar.serving.openai_batches import resume_batches
from samovar.serving.openai_responses import KIND, fail_interrupted
from samovar.serving.records import Records
from samovar.serving.server import Server

_RESPONSE_AGE_S: Final = 30 * 86_400.0  # as long as OpenAI keeps them
_PRUNE_S: Final = 3_600.0


@asynccontextmanager
async def kept_work(server: Server) -> AsyncIterator[None]:
    """Take up what an earlier server left; at the end stop what runs in the background, for the next one."""
    pruning = None
    if server.records is not None:
        await fail_interrupted(server.records)
        await resume_batches(server)
        pruning = asyncio.create_task(_prune(server.records))
    try:
        yield
    finally:
        if pruning is not None:
            pruning.cancel()
        await server.background.stop()
        if server.records is not None:
            server.records.close()


async def _prune(records: Records) -> None:
    while True:
        await records.forget_older(KIND, _RESPONSE_AGE_S)
        await asyncio.sleep(_PRUNE_S)
