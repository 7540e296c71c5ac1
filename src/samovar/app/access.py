"""Who may come in to the app: sessions, and the user `local` where only this machine reaches the server.

While there are no accounts, whoever is on the machine of a server that only it reaches is `local`, an admin unless the server
has API keys: those keep other people of the machine out, who could otherwise make themselves one here. Elsewhere, and as soon
as there is an account, a login is needed; pages of other origins that may use the API are not `local` either. The first account
takes the set-up code, but of an admin.

A file beside the database says that there are accounts. Where it is there and they are not, the database was lost, and nobody
is `local`: the first account takes the set-up code again.
"""

import hmac
import secrets
from typing import Final

from starlette.requests import Request
from starlette.types import Scope

from samovar.app.app import PREFIX
from samovar.app.database import LOG, Database
from samovar.app.sessions import COOKIE, Sessions
from samovar.app.user_rows import has_accounts, local_user
from samovar.app.users import User
from samovar.serving.auth import is_forwarded
from samovar.serving.caller import ANYONE, Caller
from samovar.serving.failures import Refused
from samovar.serving.guard import origin_host
from samovar.serving.keys import Keys

_NO_LOGIN: Final = frozenset(f"{PREFIX}/{name}" for name in ("me", "login", "logout", "setup"))
_CODE_LETTERS: Final = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"  # none that looks like another
_CODE_GROUPS: Final = 4  # of four letters: 80 bits
_MARK: Final = "app.has-accounts"
_MARK_TEXT: Final = (
    "The chat app has accounts. Should its database be lost, this file keeps it from letting people in without a login.\n"
    "Delete it to use the app without accounts again, where only this machine reaches the server.\n"
)


class Access:
    """Finds the user behind a request. `keys` are those of the API, `is_private` says that only this machine reaches it."""

    def __init__(self, database: Database, *, keys: Keys | None, is_private: bool) -> None:
        self.sessions = Sessions(database)
        self._database, self._keys, self._is_private = database, keys, is_private
        self._has_accounts = False
        self._mark = database.path.with_name(_MARK)
        groups = ("".join(secrets.choice(_CODE_LETTERS) for _ in range(4)) for _ in range(_CODE_GROUPS))
        self._code = "-".join(groups)

    async def find_caller(self, scope: Scope) -> Caller:
        """Who sends a request, whose User goes into its state; ANYONE, and None, for a path that needs no login.

        Raises Refused (401) without a login.
        """
        request = Request(scope)
        user = scope["state"]["user"] = await self._user(request)
        if user is not None:
            return user.caller()
        if scope["path"] in _NO_LOGIN:
            return ANYONE
        raise Refused("this takes a login, and the session is missing or over: log in", status=401, code="needs_login")

    async def has_accounts(self) -> bool:
        """Whether there is an account. Once there is, one admin stays for good."""
        if not self._has_accounts and await self._database.read(has_accounts):
            self._has_accounts = True
            self._write_mark()
        return self._has_accounts

    async def code_to_print(self) -> str | None:
        """The set-up code where one is needed to make the first account, as a server says it at its start."""
        is_needed = not await self.has_accounts() and (not self._is_private or self._has_keys() or self._mark.exists())
        return self._code if is_needed else None

    def fits_code(self, given: str) -> bool:
        """Whether this is the set-up code, however it is written."""
        letters = "".join(given.upper().replace("-", "").split()).encode("utf-8", "replace")
        return hmac.compare_digest(letters, self._code.replace("-", "").encode())

    async def _user(self, request: Request) -> User | None:
        if await self.has_accounts():
            return await self.sessions.user(request.cookies.get(COOKIE))
        headers = request.headers
        is_foreign = "origin" in headers and origin_host(headers["origin"]) != headers.get("host", "").lower()
        if not self._is_private or is_forwarded(request.scope["headers"]) or is_foreign or self._mark.exists():
            return None
        is_admin = not self._has_keys()
        return await self._database.read(lambda file: local_user(file, is_admin=is_admin))

    def _write_mark(self) -> None:
        try:
            if not self._mark.exists():
                self._mark.touch(mode=0o600)
                self._mark.write_text(_MARK_TEXT)
        except OSError as error:
            LOG.error("%s cannot be written (%s); make it, so that a lost database lets nobody in", self._mark, error.strerror)

    def _has_keys(self) -> bool:
        return self._keys is not None and self._keys.are_there()
