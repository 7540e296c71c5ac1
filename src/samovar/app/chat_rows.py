"""Chats in the database. All functions work on a connection within `Database.read` or `write`."""

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Final

from samovar.app.database import new_id, now_ms
from samovar.app.message_rows import NotFound
from samovar.app.shapes import Chat, stored_settings, to_json
from samovar.errors import BadRequest

_CHAT: Final = """
SELECT c.*, (SELECT count(*) FROM messages m WHERE m.chat_id = c.id) AS n_messages,
EXISTS (SELECT 1 FROM messages m WHERE m.chat_id = c.id AND m.status = 'writing') AS is_answering
FROM chats c
"""
_IN_ORDER: Final = " ORDER BY c.is_pinned DESC, c.updated_ms DESC, c.id DESC LIMIT ?"


def find(file: sqlite3.Connection, user_id: str, chat_id: str) -> Chat:
    """A chat of a user. Raises NotFound."""
    row = file.execute(_CHAT + "WHERE c.id = ? AND c.user_id = ?", (chat_id, user_id)).fetchone()
    if row is None:
        raise NotFound("chat", chat_id)
    return _chat(row)


def owner(file: sqlite3.Connection, chat_id: str) -> str | None:
    """Whose chat it is; None where there is none."""
    row = file.execute("SELECT user_id FROM chats WHERE id = ?", (chat_id,)).fetchone()
    return None if row is None else str(row["user_id"])


def insert(file: sqlite3.Connection, user_id: str, values: Mapping[str, object]) -> str:
    """Write a chat with these columns; its id."""
    chat_id, now = new_id(), now_ms()
    columns = {"id": chat_id, "user_id": user_id, "created_ms": now, "updated_ms": now, **values}
    names, places = ", ".join(columns), ", ".join(f":{name}" for name in columns)
    file.execute(f"INSERT INTO chats ({names}) VALUES ({places})", columns)
    return chat_id


def update(file: sqlite3.Connection, chat_id: str, values: Mapping[str, object]) -> None:
    """Write columns of a chat."""
    if values:
        names = ", ".join(f"{name} = :{name}" for name in values)
        file.execute(f"UPDATE chats SET {names} WHERE id = :id", {**values, "id": chat_id})


def delete(file: sqlite3.Connection, user_id: str, chat_id: str) -> None:
    """Delete a chat and all in it. Raises NotFound."""
    if not file.execute("DELETE FROM chats WHERE id = ? AND user_id = ?", (chat_id, user_id)).rowcount:
        raise NotFound("chat", chat_id)


def page(
    file: sqlite3.Connection,
    user_id: str,
    *,
    is_archived: bool | None,
    folder: str | None,
    among: Sequence[str] | None,
    before: str | None,
    limit: int,
) -> tuple[list[Chat], str | None]:
    """Chats of a user, pinned ones first, then the one changed last; and where the next page begins, None at the end.

    `is_archived` None is either, `folder` "" those in none, `among` the ids that are considered, None all. Raises BadRequest
    for an unsound `before`.
    """
    query, given = _CHAT + "WHERE c.user_id = ?", list[object]([user_id])
    if is_archived is not None:
        query, given = query + " AND c.is_archived = ?", [*given, int(is_archived)]
    if folder is not None:
        query, given = query + " AND coalesce(c.folder, '') = ?", [*given, folder]
    if among is not None:
        query, given = query + " AND c.id IN (SELECT value FROM json_each(?))", [*given, to_json(list(among))]
    if before is not None:
        query, given = query + " AND (c.is_pinned, c.updated_ms, c.id) < (?, ?, ?)", [*given, *_read_cursor(before)]
    rows = file.execute(query + _IN_ORDER, (*given, limit + 1)).fetchall()
    chats = [_chat(row) for row in rows[:limit]]
    return chats, _cursor(chats[-1]) if len(rows) > limit else None


def folders(file: sqlite3.Connection, user_id: str) -> list[str]:
    """The names of a user's folders."""
    query = "SELECT DISTINCT folder FROM chats WHERE user_id = ? AND folder IS NOT NULL ORDER BY folder"
    return [row["folder"] for row in file.execute(query, (user_id,))]


def _chat(row: sqlite3.Row) -> Chat:
    return Chat(
        id=row["id"],
        title=row["title"],
        folder=row["folder"],
        is_pinned=bool(row["is_pinned"]),
        is_archived=bool(row["is_archived"]),
        system=row["system"],
        model=row["model"],
        settings=stored_settings(row["settings_json"]),
        leaf_id=row["leaf_id"],
        created_ms=row["created_ms"],
        updated_ms=row["updated_ms"],
        n_messages=row["n_messages"],
        is_answering=bool(row["is_answering"]),
    )


def _cursor(chat: Chat) -> str:
    return f"{int(chat.is_pinned)}.{chat.updated_ms}.{chat.id}"


def _read_cursor(text: str) -> tuple[int, int, str]:
    pinned, _, rest = text.partition(".")
    updated_ms, _, chat_id = rest.partition(".")
    if pinned not in ("0", "1") or not (updated_ms.isascii() and updated_ms.isdigit() and len(updated_ms) < 16):
        raise BadRequest(f"before is {text[:80]!r}; expected what an earlier page gave as next", param="before")
    return int(pinned), int(updated_ms), chat_id
