"""The app's database: one SQLite file, one connection, one thread that works on it."""

import asyncio
import logging
import os
import secrets
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from samovar.app.folding import folded
from samovar.app.schema import MIGRATIONS
from samovar.errors import StoreError
from samovar.serving.failures import Refused

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
LOG: Final = logging.getLogger("samovar.app")
FILE_NAME: Final = "app.sqlite3"
_SIDE_FILES: Final = ("", "-wal", "-shm")
_SETTINGS: Final = (
    "locking_mode = EXCLUSIVE",  # one server a file: a second one would take the first one's answers for interrupted
    "journal_mode = WAL",
    "synchronous = NORMAL",  # sound after a crash of the machine, which may lose the last moments
    "foreign_keys = ON",
    "secure_delete = ON",
)
_INDEXES: Final = ("messages_fts", "files_fts")
_MERGE_PAGES: Final = 64
_DAMAGED: Final = ("SQLITE_CORRUPT", "SQLITE_NOTADB")


class DatabaseFailed(Refused, StoreError):
    """SQLite or the disk refused."""

    def __init__(self, message: str, *, status: int = 503, code: str = "database") -> None:
        super().__init__(message, status=status, code=code)


class DiskFull(DatabaseFailed):
    """The database could not grow."""

    def __init__(self, message: str) -> None:
        super().__init__(message, status=507, code="disk_full")


class _Damaged(Exception):
    """What is in the file is no sound database."""


def new_id() -> str:
    """Random text for a row, safe in a URL; nobody guesses one (128 bits)."""
    return secrets.token_urlsafe(16)


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class Database:
    """The database in a folder, which no other process uses at the same time. All that SQLite refuses raises StoreError,
    DiskFull among them.

    A damaged file is put aside as it was found, with the log beside it, and a new one begun: `set_aside` is then its new name.
    """

    def __init__(self, folder: Path) -> None:
        """Open the folder's database, or begin it. Only this user can read what is there."""
        self.path = folder / FILE_NAME
        self.set_aside: Path | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="samovar-app-database")
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                _check(self.path)
                self._file = _opened(self.path)
            except _Damaged as error:
                self.set_aside = _put_aside(self.path)
                LOG.error("%s is damaged (%s); it is kept as %s, and a new one is begun", self.path, error, self.set_aside)
                self._file = _opened(self.path)
        except (sqlite3.Error, OSError, _Damaged) as error:
            raise _told(self.path, error) from None

    async def read(self, work: Work[T]) -> T:
        """What `work` makes of the connection, in the database's thread. It changes nothing."""
        return await self._run(lambda: work(self._file))

    async def write(self, work: Work[T]) -> T:
        """As `read`, for work that changes something, in one transaction: all of it is kept, or with an exception nothing."""

        def transact() -> T:
            self._file.execute("BEGIN IMMEDIATE")
            try:
                result = work(self._file)
                self._file.execute("COMMIT")
            except BaseException:
                if self._file.in_transaction:  # a full disk may have ended it
                    self._file.execute("ROLLBACK")
                raise
            return result

        return await self._run(transact)

    async def scrub(self) -> None:
        """Have what was deleted leave the index and the log as well, where SQLite keeps it until it happens to write there.

        The index is merged in steps, between which others come in. It takes as long as the index is large: see `App.scrub`.
        """
        n_pages = -_MERGE_PAGES  # a negative number begins to merge all that there is, FTS5 has it so
        while await self.read(partial(_merge, n_pages=n_pages)):
            n_pages = _MERGE_PAGES
        await self.read(lambda file: file.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())

    def close(self) -> None:
        """Finish what was begun, and let go of the file."""
        self._thread.submit(self._file.close).result()
        self._thread.shutdown()

    async def _run(self, work: Callable[[], T]) -> T:
        def told() -> T:
            try:
                return work()
            except sqlite3.Error as error:
                raise _told(self.path, error) from error

        return await asyncio.get_running_loop().run_in_executor(self._thread, told)


def _check(path: Path) -> None:
    """Raises _Damaged for a file that is no sound database, with all as it was: who may only read merges no log into it."""
    log, index = (path.with_name(path.name + end) for end in _SIDE_FILES[1:])
    if not path.exists() or not path.stat().st_size:
        if log.exists() and log.stat().st_size:
            raise _Damaged("it is empty, and its log is not")  # SQLite would delete the log
        return
    had_log, index_before = log.exists(), index.read_bytes() if index.exists() else None
    try:
        _quick_check(path)
    except _Damaged:
        if not had_log:
            log.unlink(missing_ok=True)
        if index_before is None:
            index.unlink(missing_ok=True)
        else:
            index.write_bytes(index_before)
        raise


def _quick_check(path: Path) -> None:
    file = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0, isolation_level=None)
    try:
        if (found := file.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise _Damaged(found)
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorname.startswith(_DAMAGED):
            raise _Damaged(str(error)) from None
        raise
    finally:
        file.close()


def _opened(path: Path) -> sqlite3.Connection:
    """A connection to a checked database in the newest form. Raises _Damaged, StoreError for one of a newer program."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite gives its other files the same mode
    file = sqlite3.connect(path, timeout=1.0, isolation_level=None, check_same_thread=False)
    try:
        file.row_factory = sqlite3.Row
        file.create_function("folded", 1, folded, deterministic=True)
        for setting in _SETTINGS:
            file.execute(f"PRAGMA {setting}")
        _migrate(file, path)
    except sqlite3.DatabaseError as error:
        file.close()
        if error.sqlite_errorname.startswith(_DAMAGED):
            raise _Damaged(str(error)) from None
        raise
    except BaseException:
        file.close()
        raise
    return file


def _merge(file: sqlite3.Connection, n_pages: int) -> bool:
    """Merge a part of each index; whether there is more to be done."""
    before = file.total_changes
    for table in _INDEXES:
        file.execute(f"INSERT INTO {table} ({table}, rank) VALUES ('merge', ?)", (n_pages,))
    return file.total_changes - before > len(_INDEXES)


def _migrate(file: sqlite3.Connection, path: Path) -> None:
    done = file.execute("PRAGMA user_version").fetchone()[0]
    if done > len(MIGRATIONS):
        raise DatabaseFailed(
            f"{path} was written by a newer samovar (form {done}; this one knows {len(MIGRATIONS)}): use that one, or give "
            "this one a folder of its own with --app-data"
        )
    for number, migration in enumerate(MIGRATIONS[done:], done + 1):
        file.executescript(f"BEGIN IMMEDIATE; {migration}; PRAGMA user_version = {number}; COMMIT")


def _put_aside(path: Path) -> Path:
    """Rename a database and what belongs to it, to a name that nothing has; the new name."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    names = [f"{path.name}.damaged-{stamp}", *(f"{path.name}.damaged-{stamp}-{i}" for i in range(2, 100))]
    kept = next(path.with_name(name) for name in names if not path.with_name(name).exists())
    for end in _SIDE_FILES:
        part = path.with_name(path.name + end)
        if part.exists():
            part.rename(kept.with_name(kept.name + end))
    return kept


def _told(path: Path, error: Exception) -> DatabaseFailed:
    """The error in plain words."""
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith("SQLITE_FULL"):
        return DiskFull(f"the disk is full, and the chat could not be saved in {path}: make room, and try again")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return DatabaseFailed(
            f"{path} is in use by another program, perhaps another samovar: end that one, or give this one a folder of its own "
            "with --app-data FOLDER"
        )
    if name.startswith(_DAMAGED):
        return DatabaseFailed(f"{path} is damaged: restart the server, which puts it aside and begins a new one")
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")) or isinstance(error, OSError):
        return DatabaseFailed(
            f"{path} cannot be opened or written ({error}): see who owns the folder, and whether it may be written"
        )
    return DatabaseFailed(f"{path} cannot be read or written: {error}")
