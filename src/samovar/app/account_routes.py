"""Accounts over HTTP: who one is, the first account, logins, and what admins do with other users."""

from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from samovar import __version__
from samovar.app.access import Access
from samovar.app.answering import stop
from samovar.app.app import App, AppTable
from samovar.app.extract import MAX_FILE_BYTES
from samovar.app.login_limits import LoginLimits
from samovar.app.passwords import Passwords
from samovar.app.sessions import COOKIE, drop_cookie, hashed, set_cookie
from samovar.app.shapes import MAX_MESSAGE_CHARS
from samovar.app.user_rows import (
    Conflict,
    add_first_admin,
    add_user,
    all_users,
    change_user,
    checked_name,
    delete_user,
    find_user,
    password_hash_of,
    set_password,
)
from samovar.app.users import LOCAL_ID, User, require_admin, user_of
from samovar.serving.body import Fields, read_body
from samovar.serving.failures import Refused
from samovar.serving.replies import json_reply

_LIMITS: Final = {"file_bytes": MAX_FILE_BYTES, "message_chars": MAX_MESSAGE_CHARS}


class LoginFields(Fields, kw_only=True, frozen=True):
    """A login."""

    name: str
    password: str


class SetupFields(Fields, kw_only=True, frozen=True):
    """The first account."""

    name: str
    password: str
    code: str = ""


class PasswordFields(Fields, kw_only=True, frozen=True):
    """One's own password."""

    old: str
    new: str


class NewUserFields(Fields, kw_only=True, frozen=True):
    """Another account."""

    name: str
    password: str
    is_admin: bool = False


class UserFields(Fields, kw_only=True, frozen=True):
    """What an admin changes of an account."""

    name: str | None = None
    password: str | None = None
    is_admin: bool | None = None
    is_disabled: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountRoutes:
    """The routes and what they work with."""

    access: Access
    passwords: Passwords
    limits: LoginLimits = field(default_factory=LoginLimits)

    def table(self) -> AppTable:
        """All routes."""
        return (
            ("GET", "/me", self.me),
            ("POST", "/setup", self.setup),
            ("POST", "/login", self.login),
            ("POST", "/logout", self.logout),
            ("POST", "/password", self.change_password),
            ("GET", "/users", self.list_users),
            ("POST", "/users", self.make_user),
            ("PATCH", "/users/{id}", self.change_user),
            ("DELETE", "/users/{id}", self.delete_user),
        )

    async def me(self, app: App, request: Request) -> Response:
        """Who one is, and what is needed to become somebody."""
        user, has_accounts = request.state.user, await self.access.has_accounts()
        return json_reply(
            {
                "user": user,
                "needs_login": user is None and has_accounts,
                "needs_setup": user is None and not has_accounts,
                "version": __version__,
                "limits": _LIMITS,
                "notice": _notice(app, request.state.user),
            }
        )

    async def setup(self, app: App, request: Request) -> Response:
        """Make the first account, an admin's, and log in to it."""
        fields = read_body(SetupFields, await request.body(), {})
        user: User | None = request.state.user
        if not await self.access.has_accounts() and not (user is not None and user.is_admin):
            with self.limits.attempt(_address(request)):
                if not self.access.fits_code(fields.code):
                    raise Refused(
                        "the set-up code is wrong; samovar serve prints it when it starts", status=403, code="wrong_code"
                    )
        checked_name(fields.name)
        kept = await self.passwords.hash(fields.password)
        made = await app.database.write(lambda file: add_first_admin(file, fields.name, kept))
        await self.access.has_accounts()  # so that it is marked
        app.feed.cut(LOCAL_ID)
        return await self._logged_in(request, made, 201)

    async def login(self, app: App, request: Request) -> Response:
        """Begin a session. Nothing in the reply or in its time tells whether there is such a name."""
        fields = read_body(LoginFields, await request.body(), {})
        with self.limits.attempt(_address(request), fields.name):
            found = await app.database.read(lambda file: password_hash_of(file, fields.name))
            if not await self.passwords.fits(fields.password, found and found[1]) or found is None:
                raise Refused("the name or the password is wrong", status=401, code="wrong_login")
        user = await app.database.read(lambda file: find_user(file, found[0]))
        return await self._logged_in(request, user, 200)

    async def logout(self, _: App, request: Request) -> Response:
        """End this session."""
        if token := request.cookies.get(COOKIE):
            await self.access.sessions.end(token)
        reply = json_reply({})
        drop_cookie(reply, is_secure=request.url.scheme == "https")
        return reply

    async def change_password(self, app: App, request: Request) -> Response:
        """Change one's own password; all other sessions end."""
        fields, user = read_body(PasswordFields, await request.body(), {}), user_of(request)
        if user.id == LOCAL_ID:
            raise Conflict("there is no account here that could have a password; make one first", code="no_account")
        with self.limits.attempt(_address(request), user.name):
            found = await app.database.read(lambda file: password_hash_of(file, user.name))
            if not await self.passwords.fits(fields.old, found and found[1]):
                raise Refused("the old password is wrong", status=403, code="wrong_password")
        kept, token = await self.passwords.hash(fields.new, "new"), request.cookies.get(COOKIE, "")
        await app.database.write(lambda file: set_password(file, user.id, kept, hashed(token)))
        return json_reply({})

    async def list_users(self, app: App, request: Request) -> Response:
        """All accounts."""
        require_admin(request)
        return json_reply({"users": await app.database.read(all_users)})

    async def make_user(self, app: App, request: Request) -> Response:
        """Make an account; the first one ends the time in which everybody is `local`."""
        require_admin(request)
        fields = read_body(NewUserFields, await request.body(), {})
        checked_name(fields.name)
        kept = await self.passwords.hash(fields.password)
        made = await app.database.write(lambda file: add_user(file, fields.name, kept, is_admin=fields.is_admin))
        await self.access.has_accounts()
        app.feed.cut(LOCAL_ID)
        return json_reply(made, 201)

    async def change_user(self, app: App, request: Request) -> Response:
        """Rename an account, give it a password, make it an admin's or not, disable or enable it."""
        require_admin(request)
        fields, user_id = read_body(UserFields, await request.body(), {}), request.path_params["id"]
        changes: dict[str, Any] = msgspec.structs.asdict(fields)
        if (password := changes.pop("password")) is not None:
            await app.database.read(lambda file: find_user(file, user_id))
            changes["password_hash"] = await self.passwords.hash(password)
        user = await app.database.write(lambda file: change_user(file, user_id, **changes))
        if fields.is_disabled or password is not None:
            app.feed.cut(user_id)
        if fields.is_disabled:
            await _stop_answers(app, user_id)
        return json_reply(user)

    async def delete_user(self, app: App, request: Request) -> Response:
        """Delete an account with all its chats."""
        require_admin(request)
        user_id = request.path_params["id"]
        await app.database.read(lambda file: find_user(file, user_id))
        await _stop_answers(app, user_id)
        await app.database.write(lambda file: delete_user(file, user_id))
        app.scrub()
        app.feed.cut(user_id)
        return json_reply({})

    async def _logged_in(self, request: Request, user: User, status: int) -> Response:
        reply = json_reply(user, status)
        set_cookie(reply, await self.access.sessions.begin(user), is_secure=request.url.scheme == "https")
        return reply


def _notice(app: App, user: User | None) -> dict[str, str] | None:
    """What whoever looks after the server has to know: that its database was damaged."""
    kept = app.database.set_aside
    if kept is None or user is None or not (user.is_admin or user.id == LOCAL_ID):
        return None
    message = (
        f"The database of chats and accounts was damaged when the server started. It is kept as {kept.name}, and a new one was "
        "begun: restore a backup, or have the kept one repaired"
    )
    return {"code": "database_set_aside", "message": message, "path_name": kept.name}


async def _stop_answers(app: App, user_id: str) -> None:
    """End what is being written for a user."""
    query = "SELECT m.id FROM messages m JOIN chats c ON c.id = m.chat_id WHERE c.user_id = ? AND m.status = 'writing'"
    rows = await app.database.read(lambda file: file.execute(query, (user_id,)).fetchall())
    await stop(app, [row["id"] for row in rows])


def _address(request: Request) -> str:
    return "" if request.client is None else request.client.host
