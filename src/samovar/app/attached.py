"""Files that go with a message: from uploads that wait for one."""

import sqlite3
from collections.abc import Sequence

from samovar.app.database import new_id
from samovar.app.message_rows import NotFound

_COLUMNS = "user_id, name, media_type, n_bytes, text, n_chars, note, image, created_ms"


def attach(file: sqlite3.Connection, user_id: str, message_id: str, file_ids: Sequence[str]) -> None:
    """Have files belong to a message, in this order. Those of another message, as of one that is edited, are copied.

    Raises NotFound for a file that is not this user's.
    """
    for file_id in dict.fromkeys(file_ids):
        row = file.execute("SELECT place, message_id FROM files WHERE id = ? AND user_id = ?", (file_id, user_id)).fetchone()
        if row is None:
            raise NotFound("file", file_id)
        if row["message_id"] is None:
            file.execute("UPDATE files SET message_id = ? WHERE place = ?", (message_id, row["place"]))
        else:
            file.execute(
                f"INSERT INTO files (id, message_id, {_COLUMNS}) SELECT ?, ?, {_COLUMNS} FROM files WHERE place = ?",
                (new_id(), message_id, row["place"]),
            )
