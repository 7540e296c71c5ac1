"""A chat outside the database: what exports and backups hold, and what imports and restores write.

Ids in a copy are whatever the copy's source had. In the database they become ids that follow from them and the user, so that
the same copy, written twice, is there once, and nobody's id says anything about another's.
"""

import base64
import hashlib
import sqlite3
from collections import deque
from typing import Any, Final

import msgspec

from samovar.app import chat_rows, message_rows
from samovar.app.database import new_id
from samovar.app.shapes import Message, Role, Settings, Stats, Status, ToolCall, to_json
from samovar.errors import BadRequest

MAX_MESSAGES: Final = 50_000  # of a chat
MAX_MS: Final = 253_402_300_799_000  # the end of the year 9999
_MAX_BYTES: Final = 1 << 53  # that a file may be said to have had


class FileCopy(msgspec.Struct, kw_only=True, frozen=True):
    """A file of a message; `image` is base64."""

    name: str
    media_type: str
    n_bytes: int
    text: str = ""
    note: str | None = None
    image: str | None = None


class MessageCopy(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """A message. Those of a chat are in the order in which they were made."""

    id: str
    parent_id: str | None
    role: Role
    content: str
    created_ms: int
    thoughts: str | None = None
    tool_calls: list[ToolCall] = []
    tool_call_id: str | None = None
    status: Status = "done"
    error: str | None = None
    error_code: str | None = None
    model: str | None = None
    stats: Stats | None = None
    settings: Settings | None = None
    is_json_valid: bool | None = None
    files: list[FileCopy] = []


class ChatCopy(msgspec.Struct, kw_only=True, frozen=True):
    """A chat with all its branches."""

    id: str
    title: str
    created_ms: int
    updated_ms: int
    messages: list[MessageCopy]
    leaf_id: str | None = None
    folder: str | None = None
    is_pinned: bool = False
    is_archived: bool = False
    system: str = ""
    model: str | None = None
    settings: Settings = Settings()


def read_copy(file: sqlite3.Connection, user_id: str, chat_id: str) -> ChatCopy:
    """A chat of a user. Raises NotFound."""
    chat = chat_rows.find(file, user_id, chat_id)
    rows = file.execute("SELECT * FROM messages WHERE chat_id = ? ORDER BY place", (chat_id,)).fetchall()
    files: dict[str, list[FileCopy]] = {}
    query = "SELECT f.* FROM files f JOIN messages m ON m.id = f.message_id WHERE m.chat_id = ? ORDER BY f.place"
    for row in file.execute(query, (chat_id,)):
        image = None if row["image"] is None else base64.b64encode(row["image"]).decode()
        values = {name: row[name] for name in ("name", "media_type", "n_bytes", "text", "note")}
        files.setdefault(row["message_id"], []).append(FileCopy(**values, image=image))
    given: dict[str, Any] = {name: getattr(chat, name) for name in ChatCopy.__struct_fields__ if name != "messages"}
    messages = message_rows.messages_of(file, rows)
    return ChatCopy(**given, messages=[_message_copy(message, files.get(message.id, [])) for message in messages])


def _message_copy(message: Message, files: list[FileCopy]) -> MessageCopy:
    given: dict[str, Any] = {name: getattr(message, name) for name in MessageCopy.__struct_fields__ if name != "files"}
    if message.status == "writing":
        given["status"] = "interrupted"
    return MessageCopy(**given, files=files)


def path_of(copy: ChatCopy) -> list[MessageCopy]:
    """The branch that ends at the chat's leaf, the oldest message first."""
    by_id, found, message_id = {message.id: message for message in copy.messages}, list[MessageCopy](), copy.leaf_id
    while message_id is not None:
        found.append(by_id[message_id])
        message_id = by_id[message_id].parent_id
    return found[::-1]


def check_copy(copy: ChatCopy) -> None:
    """Raises BadRequest, with the reason, for a copy whose messages are no trees, or are too many, or whose values are none."""
    if len(copy.messages) > MAX_MESSAGES:
        raise BadRequest(f"it has {len(copy.messages)} messages; expected up to {MAX_MESSAGES}")
    ids = {message.id for message in copy.messages}
    if len(ids) < len(copy.messages):
        raise BadRequest("two of its messages have the same id")
    if any(message.parent_id not in ids for message in copy.messages if message.parent_id is not None):
        raise BadRequest("a message follows one that is not there")
    if copy.leaf_id is not None and copy.leaf_id not in ids:
        raise BadRequest("its last message is not there")
    times = [copy.created_ms, copy.updated_ms, *(message.created_ms for message in copy.messages)]
    if not all(0 <= ms <= MAX_MS for ms in times):
        raise BadRequest("one of its times is none (milliseconds since 1970)")
    for file in (file for message in copy.messages for file in message.files):
        if not (0 <= file.n_bytes < _MAX_BYTES and _is_base64(file.image or "")):
            raise BadRequest(f"the size or the picture of its file {file.name[:80]!r} is none")
    if _n_reached(copy.messages) < len(copy.messages):
        raise BadRequest("its messages follow one another in a circle")


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except ValueError:
        return False
    return True


def _n_reached(messages: list[MessageCopy]) -> int:
    """How many messages there are at and below those that follow none."""
    below: dict[str | None, list[str]] = {}
    for message in messages:
        below.setdefault(message.parent_id, []).append(message.id)
    n_reached, waiting = 0, deque(below.get(None, ()))
    while waiting:
        n_reached += 1
        waiting.extend(below.get(waiting.popleft(), ()))
    return n_reached


def is_there(file: sqlite3.Connection, user_id: str, copy: ChatCopy) -> bool:
    """Whether the user has the chat already, or one that was written from this copy."""
    query = "SELECT 1 FROM chats WHERE user_id = ? AND id IN (?, ?)"
    return file.execute(query, (user_id, copy.id, owned_id(user_id, copy.id))).fetchone() is not None


def insert_copy(file: sqlite3.Connection, user_id: str, copy: ChatCopy) -> str:
    """Write a copy that `check_copy` let pass and that is not there; the chat's id."""
    chat_id = owned_id(user_id, copy.id)
    leaf_id = copy.leaf_id or (copy.messages[-1].id if copy.messages else None)
    values: dict[str, object] = {
        "id": chat_id,
        "title": copy.title,
        "is_title_own": int(bool(copy.title)),
        "folder": copy.folder,
        "is_pinned": int(copy.is_pinned),
        "is_archived": int(copy.is_archived),
        "system": copy.system,
        "model": copy.model,
        "settings_json": to_json(copy.settings),
        "leaf_id": None if leaf_id is None else owned_id(chat_id, leaf_id),
        "created_ms": copy.created_ms,
        "updated_ms": copy.updated_ms,
    }
    chat_rows.insert(file, user_id, values)
    for message in copy.messages:
        _insert_message(file, user_id, chat_id, message)
    return chat_id


def _insert_message(file: sqlite3.Connection, user_id: str, chat_id: str, message: MessageCopy) -> None:
    values: dict[str, object] = {
        "id": owned_id(chat_id, message.id),
        "chat_id": chat_id,
        "parent_id": None if message.parent_id is None else owned_id(chat_id, message.parent_id),
        "role": message.role,
        "content": message.content,
        "thoughts": message.thoughts,
        "tool_calls_json": to_json(message.tool_calls),
        "tool_call_id": message.tool_call_id,
        "status": "interrupted" if message.status == "writing" else message.status,
        "error": message.error,
        "error_code": message.error_code,
        "model": message.model,
        "stats_json": None if message.stats is None else to_json(message.stats),
        "settings_json": None if message.settings is None else to_json(message.settings),
        "is_json_valid": None if message.is_json_valid is None else int(message.is_json_valid),
        "created_ms": message.created_ms,
    }
    _insert(file, "messages", values)
    for copy in message.files:
        _insert(
            file,
            "files",
            {
                "id": new_id(),
                "user_id": user_id,
                "message_id": values["id"],
                "name": copy.name,
                "media_type": copy.media_type,
                "n_bytes": copy.n_bytes,
                "text": copy.text,
                "n_chars": len(copy.text),
                "note": copy.note,
                "image": None if copy.image is None else base64.b64decode(copy.image),
                "created_ms": message.created_ms,
            },
        )


def _insert(file: sqlite3.Connection, table: str, values: dict[str, object]) -> None:
    places = ", ".join(f":{name}" for name in values)
    file.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({places})", values)


def owned_id(owner: str, source_id: str) -> str:
    """The id that something from outside has where it belongs to somebody: text like that of `new_id`, always the same."""
    digest = hashlib.sha256(f"{owner}\0{source_id}".encode("utf-8", "surrogatepass")).digest()
    return base64.urlsafe_b64encode(digest[:16]).decode().rstrip("=")
