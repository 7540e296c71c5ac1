"""Messages in the database: a tree for each chat. All functions work on a connection within `Database.read` or `write`.

Ids are looked up together with their user; another user's id is as unknown as one that does not exist.
"""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from samovar.app.database import new_id, now_ms
from samovar.app.shapes import FileInfo, Message, Role, Settings, Stats, Status, ToolCall, to_json
from samovar.serving.failures import Refused

_CALLS: Final = msgspec.json.Decoder(list[ToolCall])
_STATS: Final = msgspec.json.Decoder(Stats)
_SETTINGS: Final = msgspec.json.Decoder(Settings)
# From a message upwards, the nearest first; SQLite takes rows of a recursive query one by one, and LIMIT ends it early.
_UP: Final = """
WITH RECURSIVE up (place, parent_id, n) AS (
    SELECT place, parent_id, 0 FROM messages WHERE id = :id
    UNION ALL SELECT m.place, m.parent_id, up.n + 1 FROM up JOIN messages m ON m.id = up.parent_id LIMIT :limit
)
"""
_BELOW: Final = """
WITH RECURSIVE below (id, place) AS (
    SELECT id, place FROM messages WHERE id = :id
    UNION ALL SELECT m.id, m.place FROM below JOIN messages m ON m.parent_id = below.id
)
"""
_NO_LIMIT: Final = -1


class NotFound(Refused):
    """There is no such thing, or it belongs to another user, which looks the same."""

    def __init__(self, what: str, its_id: str) -> None:
        super().__init__(
            f"there is no {what} with the id {its_id[:64]!r}; it may have been deleted", status=404, code="not_found"
        )


def find(file: sqlite3.Connection, user_id: str, message_id: str) -> sqlite3.Row:
    """A message of a user. Raises NotFound."""
    row = file.execute(
        "SELECT m.* FROM messages m JOIN chats c ON c.id = m.chat_id WHERE m.id = ? AND c.user_id = ?", (message_id, user_id)
    ).fetchone()
    if row is None:
        raise NotFound("message", message_id)
    assert isinstance(row, sqlite3.Row)
    return row


def path(file: sqlite3.Connection, last_id: str, limit: int = _NO_LIMIT) -> list[sqlite3.Row]:
    """A message and those above it, the oldest first, at most `limit` of them, those nearest to it."""
    query = _UP + "SELECT m.* FROM up JOIN messages m ON m.place = up.place ORDER BY up.n DESC"
    return file.execute(query, {"id": last_id, "limit": limit}).fetchall()


def n_path(file: sqlite3.Connection, last_id: str | None) -> int:
    """How many messages there are from a chat's first to this one."""
    found = file.execute(_UP + "SELECT count(*) FROM up", {"id": last_id, "limit": _NO_LIMIT}).fetchone()[0]
    return int(found)


def newest_leaf(file: sqlite3.Connection, message_id: str) -> str:
    """Of the messages that end a branch below a message, the one that was made last; itself where nothing is below."""
    query = _BELOW + (
        "SELECT id FROM below WHERE NOT EXISTS (SELECT 1 FROM messages m WHERE m.parent_id = below.id) "
        "ORDER BY place DESC LIMIT 1"
    )
    return str(file.execute(query, {"id": message_id}).fetchone()[0])


def ids_below(file: sqlite3.Connection, message_id: str) -> list[str]:
    """A message and all below it."""
    return [row["id"] for row in file.execute(_BELOW + "SELECT id FROM below", {"id": message_id})]


def delete_below(file: sqlite3.Connection, message: sqlite3.Row) -> str | None:
    """Delete a message and all below it; the chat's leaf after that, None where the chat is empty."""
    file.execute(_BELOW + "DELETE FROM messages WHERE place IN (SELECT place FROM below)", {"id": message["id"]})
    chat = file.execute("SELECT leaf_id FROM chats WHERE id = ?", (message["chat_id"],)).fetchone()
    leaf_id: str | None = chat["leaf_id"]
    if leaf_id is None or file.execute("SELECT 1 FROM messages WHERE id = ?", (leaf_id,)).fetchone() is None:
        leaf_id = newest_leaf(file, message["parent_id"]) if message["parent_id"] else last_of_chat(file, message["chat_id"])
    file.execute("UPDATE chats SET leaf_id = ?, updated_ms = ? WHERE id = ?", (leaf_id, now_ms(), message["chat_id"]))
    return leaf_id


def last_of_chat(file: sqlite3.Connection, chat_id: str) -> str | None:
    """The message that was made last."""
    row = file.execute("SELECT id FROM messages WHERE chat_id = ? ORDER BY place DESC LIMIT 1", (chat_id,)).fetchone()
    return None if row is None else str(row["id"])


def insert(
    file: sqlite3.Connection,
    *,
    chat_id: str,
    parent_id: str | None,
    role: Role,
    content: str = "",
    tool_call_id: str | None = None,
    status: Status = "done",
    model: str | None = None,
    settings: Settings | None = None,
) -> str:
    """Write a message, which becomes its chat's leaf; its id."""
    message_id, now = new_id(), now_ms()
    file.execute(
        "INSERT INTO messages (id, chat_id, parent_id, role, content, tool_call_id, status, model, settings_json, created_ms) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            message_id,
            chat_id,
            parent_id,
            role,
            content,
            tool_call_id,
            status,
            model,
            None if settings is None else to_json(settings),
            now,
        ),
    )
    file.execute("UPDATE chats SET leaf_id = ?, updated_ms = ? WHERE id = ?", (message_id, now, chat_id))
    return message_id


def update(file: sqlite3.Connection, message_id: str, values: Mapping[str, object]) -> None:
    """Write columns of a message. Nothing happens where it has been deleted."""
    names = ", ".join(f"{name} = :{name}" for name in values)
    file.execute(f"UPDATE messages SET {names} WHERE id = :id", {**values, "id": message_id})


def interrupt_all(file: sqlite3.Connection) -> int:
    """Mark answers that an earlier server left in the middle; their number."""
    return file.execute("UPDATE messages SET status = 'interrupted' WHERE status = 'writing'").rowcount


def messages_of(file: sqlite3.Connection, rows: Sequence[sqlite3.Row]) -> list[Message]:
    """Rows of one chat as they go over the wire."""
    files = _files(file, [row["id"] for row in rows])
    siblings = _siblings(file, rows)
    return [_message(row, files.get(row["id"], []), siblings[row["parent_id"]]) for row in rows]


def message_of(file: sqlite3.Connection, message_id: str) -> Message:
    """A message as it goes over the wire. Raises NotFound."""
    row = file.execute("SELECT * FROM messages WHERE id = ?", (message_id,)).fetchone()
    if row is None:
        raise NotFound("message", message_id)
    return messages_of(file, [row])[0]


def _message(row: sqlite3.Row, files: list[FileInfo], siblings: list[str]) -> Message:
    return Message(
        id=row["id"],
        chat_id=row["chat_id"],
        parent_id=row["parent_id"],
        role=row["role"],
        content=row["content"],
        thoughts=row["thoughts"],
        tool_calls=_CALLS.decode(row["tool_calls_json"]),
        tool_call_id=row["tool_call_id"],
        files=files,
        status=row["status"],
        error=row["error"],
        error_code=row["error_code"],
        model=row["model"],
        stats=None if row["stats_json"] is None else _STATS.decode(row["stats_json"]),
        settings=None if row["settings_json"] is None else _SETTINGS.decode(row["settings_json"]),
        is_json_valid=None if row["is_json_valid"] is None else bool(row["is_json_valid"]),
        siblings=siblings,
        created_ms=row["created_ms"],
    )


def _files(file: sqlite3.Connection, message_ids: Iterable[str]) -> dict[str, list[FileInfo]]:
    found: dict[str, list[FileInfo]] = {}
    query = (
        "SELECT message_id, id, name, media_type, n_bytes, n_chars, note FROM files "
        "WHERE message_id IN (SELECT value FROM json_each(?)) ORDER BY place"
    )
    for message_id, *values in file.execute(query, (to_json(list(message_ids)),)):
        info = dict(zip(("id", "name", "media_type", "n_bytes", "n_chars", "note"), values, strict=True))
        found.setdefault(message_id, []).append(FileInfo(**info))
    return found


def _siblings(file: sqlite3.Connection, rows: Sequence[sqlite3.Row]) -> dict[str | None, list[str]]:
    """The children of all parents of these rows."""
    found: dict[str | None, list[str]] = {}
    if not rows:
        return found
    parents = [row["parent_id"] for row in rows if row["parent_id"] is not None]
    query = "SELECT parent_id, id FROM messages WHERE parent_id IN (SELECT value FROM json_each(?)) ORDER BY place"
    for parent_id, message_id in file.execute(query, (to_json(parents),)):
        found.setdefault(parent_id, []).append(message_id)
    if any(row["parent_id"] is None for row in rows):
        query = "SELECT id FROM messages WHERE chat_id = ? AND parent_id IS NULL ORDER BY place"
        found[None] = [row["id"] for row in file.execute(query, (rows[0]["chat_id"],))]
    return found
