"""The app as a part of a server: its routes, its page, and its life."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Final

from samovar.app import message_rows
from samovar.app.app import PREFIX, App, AppTable, app_error, table_of
from samovar.app.chat_routes import CHAT_ROUTES
from samovar.app.event_routes import EVENT_ROUTES
from samovar.app.message_routes import MESSAGE_ROUTES
from samovar.app.model_routes import MODEL_ROUTES
from samovar.app.pages import FOLDER, OPEN_PATHS, pages
from samovar.serving.dialect import Dialect, Life, Mounted
from samovar.serving.server import Server

ROUTES: Final[AppTable] = (*CHAT_ROUTES, *MESSAGE_ROUTES, *EVENT_ROUTES, *MODEL_ROUTES)
_UPLOADS: Final = frozenset((f"{PREFIX}/files", f"{PREFIX}/restore", f"{PREFIX}/import"))


def mounted(app: App, folder: Path = FOLDER, more: AppTable = (), lives: Sequence[Life] = ()) -> Mounted:
    """The app, to be given to `build_app`, with `more` routes below its prefix; `folder` holds the page's files."""
    return Mounted(
        prefix="/app",
        dialects=(
            Dialect(prefix=PREFIX, routes=table_of(app, (*ROUTES, *more)), error_reply=app_error),
            Dialect(prefix="/assets/", routes=pages(folder), error_reply=app_error),
        ),
        find_caller=app.callers.find_caller,
        open_paths=OPEN_PATHS,
        upload_paths=_UPLOADS,
        lives=(_life(app), *lives),
    )


def _life(app: App) -> Callable[[Server], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def life(_: Server) -> AsyncIterator[None]:
        """Mark what an earlier server left unfinished; at the end stop what is being written, and save it."""
        await app.database.write(message_rows.interrupt_all)
        app.scrub()
        try:
            yield
        finally:
            await app.jobs.stop()
            app.database.close()

    return life
