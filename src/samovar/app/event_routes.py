"""The two streams of events: of one answer, and of all that happens to a user's chats."""

from collections.abc import AsyncGenerator
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from samovar.app import message_rows
from samovar.app.app import App, AppTable
from samovar.app.shapes import Message
from samovar.app.users import user_of
from samovar.serving.replies import sse, sse_reply

_PING_S: Final = 15.0


async def message_events(app: App, request: Request) -> Response:
    """A message as it is, what is added to it, and how it ends."""
    user, message_id = user_of(request), request.path_params["id"]
    await app.database.read(lambda file: message_rows.find(file, user.id, message_id))

    async def events() -> AsyncGenerator[bytes, None]:
        live = app.live.get(message_id)
        if live is None:
            message = await app.message(message_id)
            yield sse(message, "state")
        else:
            whole = await app.database.read(lambda file: message_rows.message_of(file, message_id))
            async for event in live.follow():
                if isinstance(event, Message):
                    yield sse(_beside(event, whole), "state")
                elif event.content or event.thoughts or event.tool_calls is not None:
                    yield sse(event, "delta")
            message = _beside(live.message, whole)
        yield sse(message, "done")

    return sse_reply(events(), close=_nothing, ping_s=_PING_S)


async def user_events(app: App, request: Request) -> Response:
    """What happens to the user's chats, until the page is closed."""
    events = app.feed.follow(user_of(request).id, lambda: app.server.drain.is_draining)
    return sse_reply(events, close=_nothing, ping_s=_PING_S)


def _beside(message: Message, whole: Message) -> Message:
    """A live message with what only the database knows."""
    return msgspec.structs.replace(message, siblings=whole.siblings, files=whole.files)


async def _nothing() -> None:
    """Whoever follows leaves nothing behind."""


EVENT_ROUTES: Final[AppTable] = (
    ("GET", "/messages/{id}/events", message_events),
    ("GET", "/events", user_events),
)
