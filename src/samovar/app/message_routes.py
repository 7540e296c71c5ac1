"""Messages: reading a branch, writing, answering, and walking the tree."""

import sqlite3
from typing import Final, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from samovar.app import chat_rows, message_rows
from samovar.app.answering import Answering, stop
from samovar.app.app import App, AppTable
from samovar.app.attached import attach
from samovar.app.prompting import why_not_continued
from samovar.app.shapes import MAX_MESSAGE_CHARS, Chat, Message, Settings, ToolCall
from samovar.app.titles import first_title
from samovar.app.users import user_of
from samovar.errors import BadRequest
from samovar.serving.body import Fields, read_body
from samovar.serving.failures import Refused
from samovar.serving.paging import read_query, read_whole
from samovar.serving.replies import json_reply

_MAX_PAGE: Final = 500


class NewMessage(Fields, kw_only=True, frozen=True):
    """A message to be written below another (None: as a first one), and with `answer` to be answered. `files` are ids."""

    parent_id: str | None
    content: str = ""
    role: Literal["user", "tool"] = "user"
    tool_call_id: str | None = None
    files: tuple[str, ...] = ()
    settings: Settings | None = None
    answer: bool = True


class Again(Fields, kw_only=True, frozen=True):
    """How an answer is to be made anew."""

    settings: Settings | None = None


class Walk(Fields, kw_only=True, frozen=True):
    """Where to go."""

    message_id: str


class MessagePage(msgspec.Struct, kw_only=True, frozen=True):
    """A part of a branch, the oldest message first; `n_path` is how many the branch has."""

    messages: list[Message]
    has_more: bool
    n_path: int


async def list_messages(app: App, request: Request) -> Response:
    """The newest messages of a branch, or those before one of it."""
    user, chat_id = user_of(request), request.path_params["id"]
    given = read_query(request, ("leaf", "before", "limit"))
    limit = read_whole("limit", given.get("limit", "100"), 1, _MAX_PAGE)

    def read(file: sqlite3.Connection) -> MessagePage:
        chat = chat_rows.find(file, user.id, chat_id)
        for name in ("leaf", "before"):
            if name in given:
                _of_chat(file, user.id, chat, given[name])
        leaf_id = given.get("leaf", chat.leaf_id)
        last_id = _of_chat(file, user.id, chat, given["before"])["parent_id"] if "before" in given else leaf_id
        rows = [] if last_id is None else message_rows.path(file, last_id, limit + 1)
        messages = message_rows.messages_of(file, rows[-limit:])
        return MessagePage(messages=messages, has_more=len(rows) > limit, n_path=message_rows.n_path(file, leaf_id))

    page = await app.database.read(read)
    return json_reply(msgspec.structs.replace(page, messages=[app.as_it_is(message) for message in page.messages]))


async def write_message(app: App, request: Request) -> Response:
    """A message, and the answer that is begun to it."""
    user, chat_id = user_of(request), request.path_params["id"]
    fields = read_body(NewMessage, await request.body(), {})
    _check(fields)

    def write(file: sqlite3.Connection) -> tuple[Chat, Message, Message | None]:
        chat = chat_rows.find(file, user.id, chat_id)
        parent = None if fields.parent_id is None else _of_chat(file, user.id, chat, fields.parent_id)
        if parent is not None and parent["status"] == "writing" and app.is_being_written(parent["id"]):
            raise Refused("the message above is still being written: wait for it, or stop it", status=409, code="is_writing")
        if fields.role == "tool":
            _check_call(file, parent, fields.tool_call_id)
        message_id = message_rows.insert(
            file,
            chat_id=chat_id,
            parent_id=fields.parent_id,
            role=fields.role,
            content=fields.content,
            tool_call_id=fields.tool_call_id,
        )
        attach(file, user.id, message_id, fields.files)
        if not chat.title:
            chat_rows.update(file, chat_id, {"title": first_title(fields.content)})
        answer_id = _insert_answer(file, chat, message_id, fields.settings) if fields.answer else None
        message = message_rows.message_of(file, message_id)
        return chat, message, None if answer_id is None else message_rows.message_of(file, answer_id)

    chat, message, answer = await app.database.write(write)
    app.tell_message(user.id, message)
    if answer is not None:
        Answering(app, user, chat, answer).begin()
    await app.tell_chat(user.id, chat_id)
    return json_reply({"message": message, "answer": answer})


async def regenerate(app: App, request: Request) -> Response:
    """Another answer beside this one; or to a message that has none, a first one."""
    user, message_id = user_of(request), request.path_params["id"]
    fields = read_body(Again, await request.body() or b"{}", {})
    if fields.settings is not None:
        fields.settings.check()

    def write(file: sqlite3.Connection) -> tuple[Chat, Message]:
        row = message_rows.find(file, user.id, message_id)
        chat = chat_rows.find(file, user.id, row["chat_id"])
        parent_id = row["parent_id"] if row["role"] == "assistant" else message_id
        return chat, message_rows.message_of(file, _insert_answer(file, chat, parent_id, fields.settings))

    chat, answer = await app.database.write(write)
    Answering(app, user, chat, answer).begin()
    await app.tell_chat(user.id, answer.chat_id)
    return json_reply({"answer": answer})


async def continue_answer(app: App, request: Request) -> Response:
    """Have an answer that was cut go on."""
    user, message_id = user_of(request), request.path_params["id"]
    read_body(Fields, await request.body() or b"{}", {})
    await app.database.read(lambda file: message_rows.find(file, user.id, message_id))
    message = await app.message(message_id)
    if (why := why_not_continued(message)) is not None:
        raise Refused(why, status=409, code="cannot_continue")

    def write(file: sqlite3.Connection) -> tuple[Chat, Message]:
        kept = {"content": message.content, "thoughts": message.thoughts}  # of one that could not be saved the row has less
        message_rows.update(file, message_id, {**kept, "status": "writing", "error": None, "error_code": None})
        return chat_rows.find(file, user.id, message.chat_id), message_rows.message_of(file, message_id)

    chat, answer = await app.database.write(write)
    await stop(app, [message_id])  # the job of one that could not be saved goes on trying, and this did it
    Answering(app, user, chat, answer, is_continued=True).begin()
    await app.tell_chat(user.id, answer.chat_id)
    return json_reply({"answer": answer})


async def stop_answer(app: App, request: Request) -> Response:
    """End an answer; what is there of it stays."""
    user, message_id = user_of(request), request.path_params["id"]
    await app.database.read(lambda file: message_rows.find(file, user.id, message_id))
    if (await app.message(message_id)).status == "writing":  # the job of one that is over may still have to save it
        await stop(app, [message_id])
    return json_reply({"message": await app.message(message_id)})


async def delete_message(app: App, request: Request) -> Response:
    """Delete a message and all below it, for good; the chat after that."""
    user, message_id = user_of(request), request.path_params["id"]

    def read(file: sqlite3.Connection) -> list[str]:
        message_rows.find(file, user.id, message_id)
        return message_rows.ids_below(file, message_id)

    await stop(app, await app.database.read(read))

    def write(file: sqlite3.Connection) -> Chat:
        row = message_rows.find(file, user.id, message_id)
        message_rows.delete_below(file, row)
        return chat_rows.find(file, user.id, row["chat_id"])

    chat = await app.database.write(write)
    app.scrub()
    app.feed.publish(user.id, "chat", chat)
    return json_reply(chat)


async def walk(app: App, request: Request) -> Response:
    """Go to the branch that a message is on: its newest leaf."""
    user, chat_id = user_of(request), request.path_params["id"]
    fields = read_body(Walk, await request.body(), {})

    def write(file: sqlite3.Connection) -> str:
        chat = chat_rows.find(file, user.id, chat_id)
        _of_chat(file, user.id, chat, fields.message_id)
        leaf_id = message_rows.newest_leaf(file, fields.message_id)
        chat_rows.update(file, chat_id, {"leaf_id": leaf_id})
        return leaf_id

    leaf_id = await app.database.write(write)
    await app.tell_chat(user.id, chat_id)
    return json_reply({"leaf_id": leaf_id})


def _insert_answer(file: sqlite3.Connection, chat: Chat, parent_id: str, settings: Settings | None) -> str:
    """Write an answer without a word; its id."""
    merged = chat.settings if settings is None else settings.over(chat.settings)
    return message_rows.insert(
        file,
        chat_id=chat.id,
        parent_id=parent_id,
        role="assistant",
        status="writing",
        model=chat.model,
        settings=merged,
    )


def _of_chat(file: sqlite3.Connection, user_id: str, chat: Chat, message_id: str) -> sqlite3.Row:
    """A message of a chat. Raises NotFound."""
    row = message_rows.find(file, user_id, message_id)
    if row["chat_id"] != chat.id:
        raise message_rows.NotFound("message of this chat", message_id)
    return row


def _check(fields: NewMessage) -> None:
    """Raises BadRequest or Refused (413) for what is no message."""
    if fields.settings is not None:
        fields.settings.check()
    if (n_chars := len(fields.content)) > MAX_MESSAGE_CHARS:
        raise Refused(
            f"the message has {n_chars} characters; a message may have {MAX_MESSAGE_CHARS}: shorten it, or attach it as a file",
            status=413,
            code="message_too_long",
        )
    if not fields.content.strip() and not fields.files and fields.role == "user":
        raise BadRequest("content is empty; expected some text, or files", param="content")
    if (fields.role == "tool") != (fields.tool_call_id is not None):
        raise BadRequest("tool_call_id goes with the role tool, and with no other", param="tool_call_id")
    if fields.parent_id is None and fields.role == "tool":
        raise BadRequest("parent_id is null; a tool's result comes below the answer that called it", param="parent_id")


def _check_call(file: sqlite3.Connection, parent: sqlite3.Row | None, call_id: str | None) -> None:
    """Raises BadRequest where no answer above, with nothing but other results between, has made this call."""
    while parent is not None and parent["role"] == "tool":
        if parent["tool_call_id"] == call_id:
            raise BadRequest(f"the call {call_id} has its result already", param="tool_call_id")
        parent = file.execute("SELECT * FROM messages WHERE id = ?", (parent["parent_id"],)).fetchone()
    calls = [] if parent is None else msgspec.json.decode(parent["tool_calls_json"], type=list[ToolCall])
    if all(call.id != call_id for call in calls):
        made = ", ".join(call.id for call in calls) or "none"
        raise BadRequest(f"tool_call_id is {call_id!r}; the calls of the answer above are: {made}", param="tool_call_id")


MESSAGE_ROUTES: Final[AppTable] = (
    ("GET", "/chats/{id}/messages", list_messages),
    ("POST", "/chats/{id}/messages", write_message),
    ("POST", "/chats/{id}/walk", walk),
    ("POST", "/messages/{id}/regenerate", regenerate),
    ("POST", "/messages/{id}/continue", continue_answer),
    ("POST", "/messages/{id}/stop", stop_answer),
    ("DELETE", "/messages/{id}", delete_message),
)
