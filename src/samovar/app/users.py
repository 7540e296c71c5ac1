"""Who uses the app: the user behind a request, and what finds that out."""

from typing import Final, Protocol

import msgspec
from starlette.requests import Request
from starlette.types import Scope

from samovar.serving.caller import ANYONE, Caller
from samovar.serving.failures import Refused

LOCAL_ID: Final = "local"


class User(msgspec.Struct, kw_only=True, frozen=True):
    """Somebody with chats of their own."""

    id: str
    name: str
    is_admin: bool
    is_disabled: bool = False
    created_ms: int = 0

    def caller(self) -> Caller:
        """Whom the engine works for: what it caches is shared with nobody else, whoever uses an API key included."""
        return Caller(id=f"app:{self.id}", name=self.name, is_admin=self.is_admin)


class FindsCallers(Protocol):
    """What finds the user behind a request below /app."""

    async def find_caller(self, scope: Scope) -> Caller:
        """Puts the User into `scope["state"]["user"]` and returns who that is for the server; for a path that needs no login,
        where there is none, None and ANYONE. Raises Refused (401) for whoever has to log in."""
        ...


def user_of(request: Request) -> User:
    """Who sends the request. Raises Refused (401) where nobody is logged in."""
    user = request.state.user if request.state.caller is not ANYONE else None
    if user is None:
        raise Refused("nobody is logged in: log in first", status=401, code="needs_login")
    assert isinstance(user, User)
    return user


def require_admin(request: Request) -> User:
    """Who sends the request. Raises Refused (403) for anybody but an admin."""
    if not (user := user_of(request)).is_admin:
        how = "make an account first, with the set-up code that samovar serve prints when it starts"
        hint = f", which there is none of while the server has API keys and no accounts: {how}" if user.id == LOCAL_ID else ""
        raise Refused(f"{user.name} may not do this; it takes an admin{hint}", status=403, code="needs_admin")
    return user
