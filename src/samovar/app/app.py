"""What the app's routes share, and how a table of them joins a server."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from samovar.app import chat_rows, message_rows
from samovar.app.codes import code_of
from samovar.app.database import Database
from samovar.app.feed import Feed
from samovar.app.live import Live
from samovar.app.shapes import Message
from samovar.app.users import FindsCallers
from samovar.serving.background import Background
from samovar.serving.failures import Failure, Refused, retry_headers
from samovar.serving.replies import json_reply
from samovar.serving.server import Handler, Server, Table

PREFIX: Final = "/app/api"
_SCRUB_ID, _SCRUB_S = "scrub", 0.5
_HEADER: Final = "x-samovar-app"


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """The state behind the app's routes. `jobs` are answers being written and titles being made; `live` are the answers, by
    their messages' ids, and `feed` tells pages of what happens."""

    server: Server
    database: Database
    callers: FindsCallers
    jobs: Background = field(default_factory=Background)
    live: dict[str, Live] = field(default_factory=dict)
    feed: Feed = field(default_factory=Feed)

    def model_of(self, name: str | None) -> str:
        """The model that a chat uses: by its name, else the first one that, as far as is known, writes text."""
        offered = self.server.registry.models.values()
        return name or next((m.name for m in offered if m.llm is None or m.llm.card.writes_text), next(iter(offered)).name)

    async def tell_chat(self, user_id: str, chat_id: str) -> None:
        """Tell a user's pages that a chat is there or has changed."""

        def read(file: sqlite3.Connection) -> msgspec.Struct | None:
            return chat_rows.find(file, user_id, chat_id) if chat_rows.owner(file, chat_id) == user_id else None

        if (chat := await self.database.read(read)) is not None:
            self.feed.publish(user_id, "chat", chat)

    def tell_message(self, user_id: str, message: Message) -> None:
        """Tell a user's pages of a message that is there, or whose state has changed."""
        value = {"chat_id": message.chat_id, "message_id": message.id, "status": message.status}
        self.feed.publish(user_id, "message", value)

    def as_it_is(self, message: Message) -> Message:
        """A message out of the database, with what of it is not written there yet."""
        live = self.live.get(message.id)
        if live is None:
            return message
        return msgspec.structs.replace(live.message, siblings=message.siblings, files=message.files)

    def is_being_written(self, message_id: str) -> bool:
        """Whether an answer grows. One that has ended and could not be saved yet does not."""
        live = self.live.get(message_id)
        return live is not None and not live.is_over

    def scrub(self) -> None:
        """Have what was deleted leave the index, in the background; a search does not find it as it is."""
        job = self.jobs.find(_SCRUB_ID)
        if isinstance(job, Scrubbing) and not job.is_over:
            job.is_wanted = True
        else:
            self.jobs.begin(_SCRUB_ID, Scrubbing(self.database))

    async def message(self, message_id: str) -> Message:
        """A message as it is. Raises NotFound."""
        return self.as_it_is(await self.database.read(lambda file: message_rows.message_of(file, message_id)))


class Scrubbing:
    """The job behind `App.scrub`. It waits for a moment, so that many deletions cost one; `is_wanted` has it begin again."""

    def __init__(self, database: Database) -> None:
        self._database, self.is_wanted, self.is_over = database, True, False

    async def run(self) -> None:
        """Do it."""
        try:
            while self.is_wanted:
                self.is_wanted = False
                await asyncio.sleep(_SCRUB_S)
                await self._database.scrub()
        finally:
            self.is_over = True

    def give_up(self) -> bool:
        """It can be done at any other time."""
        return True


AppHandler = Callable[[App, Request], Awaitable[Response]]
AppTable = Sequence[tuple[str, str, AppHandler]]


def table_of(app: App, routes: AppTable) -> Table:
    """Routes below the app's prefix, for a server. Those that change something want the app's header, which no page of
    another origin can send without asking (CSRF)."""

    def bound(method: str, handler: AppHandler) -> Handler:
        async def handle(_: Server, request: Request) -> Response:
            if method != "GET" and request.headers.get(_HEADER) != "1":
                raise Refused("the request lacks the header 'X-Samovar-App: 1', which the app sends", status=403, code="csrf")
            return await handler(app, request)

        return handle

    return [(method, PREFIX + path, bound(method, handler)) for method, path, handler in routes]


def app_error(failure: Failure, _: str) -> Response:
    """A reply with the app's error object."""
    error = {"code": code_of(failure), "message": failure.message}
    return json_reply({"error": error}, failure.status, retry_headers(failure))
