"""The gate before all routes: host, origin, room, key, size of the body."""

from collections.abc import Callable

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from samovar.errors import SamovarError
from samovar.serving.auth import find_caller
from samovar.serving.bodies import BoundedBody, Room
from samovar.serving.caller import ANYONE, NoKey
from samovar.serving.drain import ShuttingDown
from samovar.serving.guard import OPEN_PATHS, Guard
from samovar.serving.server import Server

Refuse = Callable[[Scope, Exception], Response]


class Gate:
    """Lets requests in, or answers them itself with what `refuse` makes of the reason."""

    def __init__(self, app: ASGIApp, server: Server, guard: Guard, refuse: Refuse) -> None:
        self._app, self._server, self._guard, self._refuse = app, server, guard, refuse
        self._room = Room(guard.max_held_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Judge a request, and pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = BoundedBody(scope, receive, self._guard.body_bytes(scope["path"]), self._room)
        try:
            if scope["path"] in OPEN_PATHS:
                scope["state"]["caller"] = ANYONE
                await self._app(scope, body, send)
                return
            self._guard.check_host(scope["headers"])
            self._guard.check_origin(scope["method"], scope["headers"])
            with self._server.drain.admitted(self._guard.max_open):
                caller = find_caller(scope["headers"], self._guard.keys, needs_key=self._guard.needs_key)
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
