"""What the server keeps from one request to the next: records by kind and id, each of which belongs to one caller.

A SQLite file in a folder of the server's own. Values are JSON objects. All verbs run in threads, one at a time.
"""

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from samovar.errors import SamovarError, StoreError

T = TypeVar("T")
Value = dict[str, Any]
_TABLE: Final = """
CREATE TABLE IF NOT EXISTS records (
    place INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL, id TEXT NOT NULL, owner TEXT NOT NULL,
    created_s REAL NOT NULL, is_open INTEGER NOT NULL, value TEXT NOT NULL,
    UNIQUE (kind, id)
);
CREATE INDEX IF NOT EXISTS by_owner ON records (kind, owner, place);
CREATE INDEX IF NOT EXISTS by_state ON records (kind, place) WHERE is_open;
"""
_PUT: Final = """
INSERT INTO records (kind, id, owner, created_s, is_open, value) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (kind, id) DO UPDATE SET value = excluded.value, is_open = excluded.is_open WHERE owner = excluded.owner
"""
_LIST: Final = """
SELECT value FROM records WHERE kind = :kind AND owner = :owner
AND (:purpose IS NULL OR json_extract(value, '$.purpose') = :purpose)
"""
_OLDEST: Final = _LIST + "AND place > :after ORDER BY place LIMIT :limit"
_NEWEST: Final = _LIST + "AND place < :after ORDER BY place DESC LIMIT :limit"
_END: Final = (1 << 63) - 1  # beyond every place


class NoSuchRecord(SamovarError):
    """There is no record with this id, or it belongs to another caller, which looks the same."""

    def __init__(self, kind: str, record_id: str) -> None:
        super().__init__(f"there is no {kind} with the id {record_id!r}; it may have been deleted")


class Records:
    """The records in a folder, which no other process uses at the same time. Disks that refuse raise StoreError."""

    def __init__(self, folder: Path) -> None:
        """Open the folder's records, or begin them. Only this user can read what is there."""
        self.folder, self._lock = folder, threading.Lock()
        path = folder / "records.sqlite3"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite gives its other files the same mode
            self._file = sqlite3.connect(path, timeout=1.0, isolation_level=None, check_same_thread=False)
            try:
                for setting in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL"):
                    self._file.execute(f"PRAGMA {setting}")
                self._file.executescript(_TABLE)
            except sqlite3.Error:
                self._file.close()
                raise
        except (sqlite3.Error, OSError) as error:
            hint = (
                ": another server uses it; give this one a folder of its own (samovar serve --records FOLDER)"
                if "locked" in str(error)
                else ""
            )
            raise StoreError(f"{path}: the server's records cannot be opened: {error}{hint}") from None

    async def put(self, kind: str, record_id: str, owner: str, value: Value, *, is_open: bool = False) -> None:
        """Write a record, or write it anew. `is_open` marks what is not finished (see `unfinished`)."""
        text = msgspec.json.encode(value).decode()
        await self._run(lambda: self._file.execute(_PUT, (kind, record_id, owner, time.time(), is_open, text)))

    async def get(self, kind: str, record_id: str, owner: str) -> Value:
        """A record of this owner. Raises NoSuchRecord."""
        query = "SELECT value FROM records WHERE kind = ? AND id = ? AND owner = ?"
        row = await self._run(lambda: self._file.execute(query, (kind, record_id, owner)).fetchone())
        if row is None:
            raise NoSuchRecord(kind, record_id)
        return _decoded(row[0])

    async def delete(self, kind: str, record_id: str, owner: str) -> None:
        """Forget a record of this owner. Raises NoSuchRecord."""
        query = "DELETE FROM records WHERE kind = ? AND id = ? AND owner = ?"
        if not await self._run(lambda: self._file.execute(query, (kind, record_id, owner)).rowcount):
            raise NoSuchRecord(kind, record_id)

    async def page(
        self, kind: str, owner: str, *, limit: int, after: str | None, is_oldest_first: bool, purpose: str | None = None
    ) -> list[Value]:
        """Up to `limit` records of this owner, beginning after the one with the id `after`. Raises NoSuchRecord for that.

        `purpose` chooses those whose value says the same under this name.
        """

        def read() -> list[Value]:
            place = 0 if is_oldest_first else _END
            if after is not None:
                found = self._file.execute(
                    "SELECT place FROM records WHERE kind = ? AND id = ? AND owner = ?", (kind, after, owner)
                ).fetchone()
                if found is None:
                    raise NoSuchRecord(kind, after)
                place = found[0]
            given = {"kind": kind, "owner": owner, "purpose": purpose, "after": place, "limit": limit}
            return [_decoded(row[0]) for row in self._file.execute(_OLDEST if is_oldest_first else _NEWEST, given)]

        return await self._run(read)

    async def unfinished(self, kind: str) -> list[tuple[str, str, Value]]:
        """All open records of a kind, whoever owns them, as (id, owner, value), the oldest first."""
        query = "SELECT id, owner, value FROM records WHERE kind = ? AND is_open ORDER BY place"
        rows = await self._run(lambda: self._file.execute(query, (kind,)).fetchall())
        return [(record_id, owner, _decoded(text)) for record_id, owner, text in rows]

    async def forget_older(self, kind: str, age_s: float) -> None:
        """Delete the finished records of a kind that were begun longer than this ago."""
        query = "DELETE FROM records WHERE kind = ? AND NOT is_open AND created_s < ?"
        await self._run(lambda: self._file.execute(query, (kind, time.time() - age_s)))

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._file.close()

    async def _run(self, work: Callable[[], T]) -> T:
        def locked() -> T:
            with self._lock:
                try:
                    return work()
                except sqlite3.Error as error:
                    raise StoreError(f"{self.folder}: the server's records cannot be read or written: {error}") from None

        return await asyncio.to_thread(locked)


def _decoded(text: str) -> Value:
    value: Value = msgspec.json.decode(text)
    return value
