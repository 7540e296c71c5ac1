"""Chats: listing and search, making, changing, deleting, naming."""

import sqlite3
from typing import Annotated, Final

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from samovar.app import chat_rows, message_rows
from samovar.app.answering import stop
from samovar.app.app import App, AppTable
from samovar.app.search import Hit, hits, search, words_of
from samovar.app.shapes import Chat, Settings, to_json
from samovar.app.titles import MAX_TITLE_CHARS, make_title
from samovar.app.users import user_of
from samovar.errors import BadRequest
from samovar.serving.body import Fields, read_body
from samovar.serving.paging import read_query, read_whole
from samovar.serving.replies import json_reply

_MAX_FOLDER_CHARS: Final = 80
_MAX_PAGE: Final = 200
Title = Annotated[str, msgspec.Meta(max_length=MAX_TITLE_CHARS)]
Folder = Annotated[str, msgspec.Meta(max_length=_MAX_FOLDER_CHARS)]
System = Annotated[str, msgspec.Meta(max_length=200_000)]


class NewChat(Fields, kw_only=True, frozen=True):
    """A chat to be made."""

    title: Title = ""
    folder: Folder | None = None
    system: System = ""
    model: str | None = None
    settings: Settings = Settings()


class ChatChange(Fields, kw_only=True, frozen=True):
    """What of a chat is to be changed. None takes a folder or a model away, and a title that is empty lets the model find
    another."""

    title: Title | UnsetType = UNSET
    folder: Folder | UnsetType | None = UNSET
    is_pinned: bool | UnsetType = UNSET
    is_archived: bool | UnsetType = UNSET
    system: System | UnsetType = UNSET
    model: str | UnsetType | None = UNSET
    settings: Settings | UnsetType = UNSET
    leaf_id: str | UnsetType = UNSET


class ChatPage(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """A part of the list. `next` is None at its end; `hits` are there after a search."""

    chats: list[Chat]
    next: str | None
    folders: list[str]
    hits: list[Hit] | None = None


async def list_chats(app: App, request: Request) -> Response:
    """A user's chats, or those in which something is found: archived ones too, unless the request says which."""
    user = user_of(request)
    given = read_query(request, ("query", "folder", "archived", "before", "limit"))
    limit = read_whole("limit", given.get("limit", "50"), 1, _MAX_PAGE)
    is_archived = bool(read_whole("archived", given.get("archived", "0"), 0, 1))
    query = given.get("query", "")
    words = words_of(query)
    among = is_archived if "archived" in given or not words else None

    def read(file: sqlite3.Connection) -> ChatPage:
        found = search(file, user.id, query, is_archived=among) if words else None
        chats, following = chat_rows.page(
            file,
            user.id,
            is_archived=among,
            folder=given.get("folder"),
            among=None if found is None else found.chat_ids,
            before=given.get("before"),
            limit=limit,
        )
        shown = None if found is None else hits(file, found, words, [chat.id for chat in chats])
        return ChatPage(chats=chats, next=following, folders=chat_rows.folders(file, user.id), hits=shown)

    return json_reply(await app.database.read(read))


async def create_chat(app: App, request: Request) -> Response:
    """A chat, empty."""
    user, fields = user_of(request), read_body(NewChat, await request.body(), {})
    _check(app, fields.model, fields.settings)
    values: dict[str, object] = {
        "title": fields.title.strip(),
        "is_title_own": bool(fields.title.strip()),
        "folder": (fields.folder or "").strip() or None,
        "system": fields.system,
        "model": fields.model,
        "settings_json": to_json(fields.settings),
    }
    chat = await app.database.write(lambda file: chat_rows.find(file, user.id, chat_rows.insert(file, user.id, values)))
    app.feed.publish(user.id, "chat", chat)
    return json_reply(chat)


async def get_chat(app: App, request: Request) -> Response:
    """One chat."""
    user, chat_id = user_of(request), request.path_params["id"]
    return json_reply(await app.database.read(lambda file: chat_rows.find(file, user.id, chat_id)))


async def change_chat(app: App, request: Request) -> Response:
    """The chat, with what is given changed."""
    user, chat_id = user_of(request), request.path_params["id"]
    fields = read_body(ChatChange, await request.body(), {})
    settings, model = fields.settings, fields.model
    _check(app, model if isinstance(model, str) else None, settings if isinstance(settings, Settings) else Settings())
    names = ("is_pinned", "is_archived", "system", "model", "leaf_id")
    values: dict[str, object] = {name: value for name in names if (value := getattr(fields, name)) is not UNSET}
    if isinstance(fields.title, str):
        values |= {"title": fields.title.strip(), "is_title_own": bool(fields.title.strip())}
    if fields.folder is not UNSET:
        values["folder"] = (fields.folder or "").strip() or None
    if isinstance(settings, Settings):
        values["settings_json"] = to_json(settings)

    def write(file: sqlite3.Connection) -> Chat:
        chat_rows.find(file, user.id, chat_id)
        if isinstance(fields.leaf_id, str) and message_rows.find(file, user.id, fields.leaf_id)["chat_id"] != chat_id:
            raise message_rows.NotFound("message of this chat", fields.leaf_id)
        chat_rows.update(file, chat_id, values)
        return chat_rows.find(file, user.id, chat_id)

    chat = await app.database.write(write)
    app.feed.publish(user.id, "chat", chat)
    return json_reply(chat)


async def delete_chat(app: App, request: Request) -> Response:
    """Delete a chat and all in it, for good. Answers being written are stopped first."""
    user, chat_id = user_of(request), request.path_params["id"]
    await app.database.read(lambda file: chat_rows.find(file, user.id, chat_id))
    await stop(app, [message_id for message_id, live in app.live.items() if live.chat_id == chat_id])
    await app.database.write(lambda file: chat_rows.delete(file, user.id, chat_id))
    app.scrub()
    app.feed.publish(user.id, "chat_deleted", {"id": chat_id})
    return json_reply({})


async def name_chat(app: App, request: Request) -> Response:
    """A title, by the model."""
    return json_reply({"title": await make_title(app, user_of(request), request.path_params["id"])})


def _check(app: App, model: str | None, settings: Settings) -> None:
    """Raises BadRequest for settings that no model takes, or a model that is not offered."""
    settings.check()
    if model is not None and model not in app.server.registry.names():
        raise BadRequest(
            f"the model {model!r} is not offered here; these are: {', '.join(app.server.registry.names())}", param="model"
        )


CHAT_ROUTES: Final[AppTable] = (
    ("GET", "/chats", list_chats),
    ("POST", "/chats", create_chat),
    ("GET", "/chats/{id}", get_chat),
    ("PATCH", "/chats/{id}", change_chat),
    ("DELETE", "/chats/{id}", delete_chat),
    ("POST", "/chats/{id}/title", name_chat),
)
