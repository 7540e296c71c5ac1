"""The users of the app, as rows of its database. `local` is whoever uses a server that only its own machine reaches."""

import sqlite3
import unicodedata
from typing import Final

from samovar.app.database import new_id, now_ms
from samovar.app.message_rows import NotFound
from samovar.app.users import LOCAL_ID, User
from samovar.errors import BadRequest
from samovar.serving.failures import Refused

_MAX_NAME: Final = 64
_COLUMNS: Final = "id, name, is_admin, is_disabled, created_ms"
_OWNED: Final = ("chats", "files", "presets", "preferences")


class Conflict(Refused):
    """What is asked for goes against what is there."""

    def __init__(self, message: str, code: str = "conflict") -> None:
        super().__init__(message, status=409, code=code)


def user_of_row(row: sqlite3.Row) -> User:
    """A row of users."""
    return User(
        id=row["id"],
        name=row["name"],
        is_admin=bool(row["is_admin"]),
        is_disabled=bool(row["is_disabled"]),
        created_ms=row["created_ms"],
    )


def all_users(file: sqlite3.Connection) -> list[User]:
    """All accounts, the oldest first."""
    rows = file.execute(f"SELECT {_COLUMNS} FROM users WHERE id <> ? ORDER BY created_ms, id", (LOCAL_ID,))
    return [user_of_row(row) for row in rows]


def has_accounts(file: sqlite3.Connection) -> bool:
    """Whether there is any."""
    return file.execute("SELECT 1 FROM users WHERE id <> ?", (LOCAL_ID,)).fetchone() is not None


def find_user(file: sqlite3.Connection, user_id: str) -> User:
    """An account. Raises NotFound."""
    row = file.execute(f"SELECT {_COLUMNS} FROM users WHERE id = ? AND id <> ?", (user_id, LOCAL_ID)).fetchone()
    if row is None:
        raise NotFound("user", user_id)
    return user_of_row(row)


def local_user(file: sqlite3.Connection, *, is_admin: bool) -> User:
    """Whoever is on this machine."""
    row = file.execute(f"SELECT {_COLUMNS} FROM users WHERE id = ?", (LOCAL_ID,)).fetchone()
    return User(id=LOCAL_ID, name=row["name"], is_admin=is_admin, is_disabled=False, created_ms=row["created_ms"])


def add_first_admin(file: sqlite3.Connection, name: str, password_hash: str) -> User:
    """Make the first account. Raises Conflict where there is one."""
    if has_accounts(file):
        raise Conflict("this server has accounts already: log in, or have an admin make one", code="has_accounts")
    return add_user(file, name, password_hash, is_admin=True)


def add_user(file: sqlite3.Connection, name: str, password_hash: str, *, is_admin: bool) -> User:
    """Make an account. The first one has to be an admin's, and gets what `local` has. Raises Conflict for a name in use."""
    is_first = not has_accounts(file)
    if is_first and not is_admin:
        raise BadRequest("the first account has to be an admin's", param="is_admin")
    user = User(id=new_id(), name=checked_name(name), is_admin=is_admin, is_disabled=False, created_ms=now_ms())
    try:
        file.execute(
            "INSERT INTO users (id, name, password_hash, is_admin, created_ms) VALUES (?, ?, ?, ?, ?)",
            (user.id, user.name, password_hash, int(user.is_admin), user.created_ms),
        )
    except sqlite3.IntegrityError:
        raise _taken(user.name) from None
    if is_first:
        for table in _OWNED:
            file.execute(f"UPDATE {table} SET user_id = ? WHERE user_id = ?", (user.id, LOCAL_ID))
    return user


def change_user(
    file: sqlite3.Connection,
    user_id: str,
    *,
    name: str | None = None,
    password_hash: str | None = None,
    is_admin: bool | None = None,
    is_disabled: bool | None = None,
) -> User:
    """Change what is given. Whoever is disabled, or has a new password, loses all sessions.

    Raises NotFound, BadRequest for a name that is none, Conflict for one in use or where no admin would be left.
    """
    find_user(file, user_id)
    changes = {
        "name": None if name is None else checked_name(name),
        "password_hash": password_hash,
        "is_admin": None if is_admin is None else int(is_admin),
        "is_disabled": None if is_disabled is None else int(is_disabled),
    }
    for column, value in changes.items():
        if value is not None:
            try:
                file.execute(f"UPDATE users SET {column} = ? WHERE id = ?", (value, user_id))
            except sqlite3.IntegrityError:
                raise _taken(str(value)) from None
    if is_disabled or password_hash is not None:
        file.execute("DELETE FROM sessions WHERE user_id = ?", (user_id,))
    _check_admins(file)
    return find_user(file, user_id)


def password_hash_of(file: sqlite3.Connection, name: str) -> tuple[str, str] | None:
    """The id and the hash of the account with a name that may log in; None where there is none."""
    query = "SELECT id, password_hash FROM users WHERE name = ? AND id <> ? AND NOT is_disabled"
    row = file.execute(query, (unicodedata.normalize("NFKC", name).strip(), LOCAL_ID)).fetchone()
    return None if row is None else (row["id"], row["password_hash"])


def set_password(file: sqlite3.Connection, user_id: str, password_hash: str, kept_token_hash: str) -> None:
    """Change an account's password, and end all its sessions but one."""
    file.execute("UPDATE users SET password_hash = ? WHERE id = ?", (password_hash, user_id))
    file.execute("DELETE FROM sessions WHERE user_id = ? AND token_hash <> ?", (user_id, kept_token_hash))


def delete_user(file: sqlite3.Connection, user_id: str) -> None:
    """Forget an account and all that it owns. Raises NotFound, or Conflict where no admin would be left."""
    find_user(file, user_id)
    file.execute("DELETE FROM users WHERE id = ?", (user_id,))
    _check_admins(file)


def checked_name(name: str) -> str:
    """A name as it is kept. Raises BadRequest."""
    name = unicodedata.normalize("NFKC", name).strip()
    if not 0 < len(name) <= _MAX_NAME or not name.isprintable():
        raise BadRequest(f"the name is {name[:80]!r}; expected 1 to {_MAX_NAME} characters that can be seen", param="name")
    return name


def _check_admins(file: sqlite3.Connection) -> None:
    """Within a transaction that is rolled back where this raises."""
    query = "SELECT 1 FROM users WHERE is_admin AND NOT is_disabled AND id <> ?"
    if file.execute(query, (LOCAL_ID,)).fetchone() is None:
        raise Conflict("this is the last admin who may log in; make another user an admin first")


def _taken(name: str) -> Conflict:
    return Conflict(f"there is a user named {name} already; choose another name")
