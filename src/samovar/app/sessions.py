"""Who is logged in: random tokens in a cookie, of which the database has the SHA-256 alone."""

import contextlib
import hashlib
import secrets
import sqlite3
from collections.abc import Callable
from typing import Final

from starlette.responses import Response

from samovar.app.database import Database, now_ms
from samovar.app.user_rows import user_of_row
from samovar.app.users import User
from samovar.errors import StoreError

COOKIE: Final = "samovar_session"
PATH: Final = "/app"
_LIFE_MS: Final = 30 * 86_400_000
_SEEN_MS: Final = 300_000  # how exactly `last_seen_ms` is kept
_FIND: Final = """
SELECT users.id, name, is_admin, is_disabled, users.created_ms, last_seen_ms
FROM sessions JOIN users ON users.id = sessions.user_id
WHERE token_hash = ? AND expires_ms > ? AND NOT is_disabled
"""


class Sessions:
    """The sessions in a database."""

    def __init__(self, database: Database, clock: Callable[[], int] = now_ms) -> None:
        self._database, self._now_ms = database, clock

    async def begin(self, user: User) -> str:
        """A new session's token."""
        token, now = secrets.token_urlsafe(32), self._now_ms()

        def work(file: sqlite3.Connection) -> None:
            file.execute("DELETE FROM sessions WHERE expires_ms <= ?", (now,))
            file.execute("INSERT INTO sessions VALUES (?, ?, ?, ?, ?)", (hashed(token), user.id, now, now, now + _LIFE_MS))

        await self._database.write(work)
        return token

    async def user(self, token: str | None) -> User | None:
        """Whose session it is; None for one that is unknown or over, and for users who are disabled."""
        if not token:
            return None
        digest, now = hashed(token), self._now_ms()
        row = await self._database.read(lambda file: file.execute(_FIND, (digest, now)).fetchone())
        if row is None:
            return None
        if now - row["last_seen_ms"] > _SEEN_MS:
            query = "UPDATE sessions SET last_seen_ms = ? WHERE token_hash = ?"
            with contextlib.suppress(StoreError):  # a full disk keeps nobody from reading
                await self._database.write(lambda file: file.execute(query, (now, digest)))
        return user_of_row(row)

    async def end(self, token: str) -> None:
        """Forget a session."""
        digest = hashed(token)
        await self._database.write(lambda file: file.execute("DELETE FROM sessions WHERE token_hash = ?", (digest,)))


def hashed(token: str) -> str:
    """What the database has of a token. It is 256 random bits: a plain hash is as hard to turn back as any."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def set_cookie(reply: Response, token: str, *, is_secure: bool) -> None:
    """Have a browser keep the session, out of reach of scripts and of other sites' pages."""
    reply.set_cookie(COOKIE, token, max_age=_LIFE_MS // 1000, path=PATH, secure=is_secure, httponly=True, samesite="strict")


def drop_cookie(reply: Response, *, is_secure: bool) -> None:
    """Have a browser forget it."""
    reply.delete_cookie(COOKIE, path=PATH, secure=is_secure, httponly=True, samesite="strict")
