"""The gate before all routes: host, origin, room, key, size of the body."""

from collections.abc import Callable

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from samovar.errors import SamovarError
from samovar.serving.auth import find_caller
from samovar.serving.bodies import BoundedBody, Room
from samovar.serving.caller import ANYONE, Caller, NoKey
from samovar.serving.dialect import Mounted
from samovar.serving.drain import ShuttingDown
from samovar.serving.guard import OPEN_PATHS, Guard
from samovar.serving.server import Server

Refuse = Callable[[Scope, Exception], Response]


class Gate:
    """Lets requests in, or answers them itself with what `refuse` makes of the reason."""

    def __init__(self, app: ASGIApp, server: Server, guard: Guard, refuse: Refuse, mounted: Mounted | None = None) -> None:
        self._app, self._server, self._guard, self._refuse, self._mounted = app, server, guard, refuse, mounted
        self._room = Room(guard.max_held_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Judge a request, and pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = BoundedBody(scope, receive, self._body_bytes(scope["path"]), self._room)
        try:
            if scope["path"] in OPEN_PATHS:
                scope["state"]["caller"] = ANYONE
                await self._app(scope, body, send)
                return
            self._guard.check_host(scope["headers"])
            self._guard.check_origin(scope["method"], scope["headers"])
            with self._server.drain.admitted(self._guard.max_open):
                caller = await self._find_caller(scope)
                scope["state"]["caller"] = scope["state"]["record"].caller = caller
                await self._app(scope, body, send)
        except SamovarError as error:  # routes answer for their own errors
            reply = self._refuse(scope, error)
            if isinstance(error, NoKey):
                reply.headers["www-authenticate"] = "Bearer"
            if isinstance(error, ShuttingDown):
                await body.drop()
                reply.headers["connection"] = "close"
            await reply(scope, receive, send)
        finally:
            body.release()

    async def _find_caller(self, scope: Scope) -> Caller:
        """Who sends a request. Raises NoKey, or what the mounted part does."""
        if self._mounted is not None and self._mounted.is_open(scope["path"]):
            return ANYONE
        if self._mounted is not None and self._mounted.is_own(scope["path"]):
            return await self._mounted.find_caller(scope)
        return find_caller(scope["headers"], self._guard.keys, needs_key=self._guard.needs_key)

    def _body_bytes(self, path: str) -> int:
        """The most bytes that a request's body may have."""
        if self._mounted is not None and path in self._mounted.upload_paths:
            return self._guard.max_upload_bytes
        return self._guard.body_bytes(path)
