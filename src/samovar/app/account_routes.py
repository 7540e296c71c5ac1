"""Accounts over HTTP: who one is, the first account, logins, and what admins do with other users."""

import sqlite3
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from samovar import __version__
from samovar.app.access import API, Access
from samovar.app.database import Database
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
from samovar.serving.server import Server, Table

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

    database: Database
    access: Access
    passwords: Passwords = field(default_factory=Passwords)
    limits: LoginLimits = field(default_factory=LoginLimits)

    def table(self) -> Table:
        """All routes."""
        return (
            ("GET", f"{API}/me", self.me),
            ("POST", f"{API}/setup", self.setup),
            ("POST", f"{API}/login", self.login),
            ("POST", f"{API}/logout", self.logout),
            ("POST", f"{API}/password", self.change_password),
            ("GET", f"{API}/users", self.list_users),
            ("POST", f"{API}/users", self.make_user),
            ("PATCH", f"{API}/users/{{id}}", self.change_user),
            ("DELETE", f"{API}/users/{{id}}", self.delete_user),
        )

    async def me(self, _: Server, request: Request) -> Response:
        """Who one is, and what is needed to become somebody."""
        user, has_accounts = request.state.user, await self.access.has_accounts()
        return json_reply(
            {
                "user": user,
                "needs_login": user is None and has_accounts,
                "needs_setup": user is None and not has_accounts,
                "version": __version__,
                "limits": _LIMITS,
            }
        )

    async def setup(self, _: Server, request: Request) -> Response:
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
        made = await self.database.write(lambda file: add_first_admin(file, fields.name, kept))
        return await self._logged_in(request, made, 201)

    async def login(self, _: Server, request: Request) -> Response:
        """Begin a session. Nothing in the reply or in its time tells whether there is such a name."""
        fields = read_body(LoginFields, await request.body(), {})
        with self.limits.attempt(_address(request), fields.name):
            found = await self.database.read(lambda file: password_hash_of(file, fields.name))
            if not await self.passwords.fits(fields.password, found and found[1]) or found is None:
                raise Refused("the name or the password is wrong", status=401, code="wrong_login")
        user = await self.database.read(lambda file: find_user(file, found[0]))
        return await self._logged_in(request, user, 200)

    async def logout(self, _: Server, request: Request) -> Response:
        """End this session."""
        if token := request.cookies.get(COOKIE):
            await self.access.sessions.end(token)
        reply = json_reply({})
        drop_cookie(reply, is_secure=request.url.scheme == "https")
        return reply

    async def change_password(self, _: Server, request: Request) -> Response:
        """Change one's own password; all other sessions end."""
        fields, user = read_body(PasswordFields, await request.body(), {}), user_of(request)
        if user.id == LOCAL_ID:
            raise Conflict("there is no account here that could have a password; make one first", code="no_account")
        with self.limits.attempt(_address(request), user.name):
            found = await self.database.read(lambda file: password_hash_of(file, user.name))
            if not await self.passwords.fits(fields.old, found and found[1]):
                raise Refused("the old password is wrong", status=403, code="wrong_password")
        kept, token = await self.passwords.hash(fields.new, "new"), request.cookies.get(COOKIE, "")
        await self.database.write(lambda file: set_password(file, user.id, kept, hashed(token)))
        return json_reply({})

    async def list_users(self, _: Server, request: Request) -> Response:
        """All accounts."""
        require_admin(request)
        return json_reply({"users": await self.database.read(all_users)})

    async def make_user(self, _: Server, request: Request) -> Response:
        """Make an account; the first one ends the time in which everybody is `local`."""
        require_admin(request)
        fields = read_body(NewUserFields, await request.body(), {})
        checked_name(fields.name)
        kept = await self.passwords.hash(fields.password)
        made = await self.database.write(lambda file: add_user(file, fields.name, kept, is_admin=fields.is_admin))
        return json_reply(made, 201)

    async def change_user(self, _: Server, request: Request) -> Response:
        """Rename an account, give it a password, make it an admin's or not, disable or enable it."""
        require_admin(request)
        fields, user_id = read_body(UserFields, await request.body(), {}), request.path_params["id"]
        changes: dict[str, Any] = msgspec.structs.asdict(fields)
        if (password := changes.pop("password")) is not None:
            await self.database.read(lambda file: find_user(file, user_id))
            changes["password_hash"] = await self.passwords.hash(password)
        return json_reply(await self.database.write(lambda file: change_user(file, user_id, **changes)))

    async def delete_user(self, _: Server, request: Request) -> Response:
        """Delete an account with all its chats."""
        require_admin(request)
        user_id = request.path_params["id"]

        def work(file: sqlite3.Connection) -> None:
            delete_user(file, user_id)

        await self.database.write(work)
        await self.database.scrub()
        return json_reply({})

    async def _logged_in(self, request: Request, user: User, status: int) -> Response:
        reply = json_reply(user, status)
        set_cookie(reply, await self.access.sessions.begin(user), is_secure=request.url.scheme == "https")
        return reply


def _address(request: Request) -> str:
    return "" if request.client is None else request.client.host
