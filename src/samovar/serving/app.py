"""The ASGI application: routes, and what holds for every request."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Scope

from samovar.serving.anthropic_reply import anthropic_error
from samovar.serving.anthropic_routes import count_tokens, create_message
from samovar.serving.dialect import Dialect, Life, Mounted
from samovar.serving.failures import Failure, openai_error
from samovar.serving.gate import Gate
from samovar.serving.guard import Guard
from samovar.serving.kept_work import kept_work
from samovar.serving.ollama_replies import ollama_error
from samovar.serving.ollama_routes import OLLAMA_ROUTES
from samovar.serving.openai_batches import ROUTES as BATCHES
from samovar.serving.openai_chat import chat_completions
from samovar.serving.openai_files import ROUTES as FILES
from samovar.serving.openai_responses import ROUTES as RESPONSES
from samovar.serving.openai_routes import OPENAI_ROUTES
from samovar.serving.openapi import describe
from samovar.serving.operations import closing_idle, health, metrics
from samovar.serving.record import record_of
from samovar.serving.replies import ClientGone, json_reply
from samovar.serving.server import Handler, Server
from samovar.serving.watch import Watch


async def openapi(_: Server, __: Request) -> Response:
    """This interface, described for machines."""
    return json_reply(describe([dialect.routes for dialect in DIALECTS]))


# Of two prefixes that fit a path, the first one says how errors look.
DIALECTS: Final[Sequence[Dialect]] = (
    Dialect(prefix="/api", routes=OLLAMA_ROUTES, error_reply=ollama_error),
    Dialect(
        prefix="/v1/messages",
        routes=(("POST", "/v1/messages", create_message), ("POST", "/v1/messages/count_tokens", count_tokens)),
        error_reply=anthropic_error,
    ),
    Dialect(
        prefix="/",
        routes=(
            ("GET", "/health", health),
            ("GET", "/metrics", metrics),
            ("GET", "/openapi.json", openapi),
            ("POST", "/v1/chat/completions", chat_completions),
            *OPENAI_ROUTES,
            *RESPONSES,
            *FILES,
            *BATCHES,
        ),
        error_reply=openai_error,
    ),
)

# What goes on beside the routes, from the server's start to its end.
LIVES: Final[Sequence[Life]] = (closing_idle, kept_work)


def build_app(server: Server, guard: Guard | None = None, mounted: Mounted | None = None) -> ASGIApp:
    """The application of a server behind a guard (default: what suits a server that only its own machine reaches), with what
    is mounted beside its own routes.

    Models that are idle are closed while it runs, and all of them when it ends.
    """
    guard = guard or Guard()
    dialects = (*(() if mounted is None else mounted.dialects), *DIALECTS)
    lives = (*LIVES, *(() if mounted is None else mounted.lives))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(server.registry.close)
            for life in lives:
                await stack.enter_async_context(life(server))
            yield

    def refuse(scope: Scope, error: Exception) -> Response:
        route = next((route for route in routes if route.matches(scope)[0] is Match.FULL), None)
        scope["state"]["record"].route = "" if route is None else route.path
        return _dialect_of(scope["path"], dialects).error_reply(server.failed(error), scope["state"]["request_id"])

    async def no_route(request: Request, error: Exception) -> Response:
        return _no_route(request, error, _dialect_of(request.scope["path"], dialects))

    server.endpoints.update(
        {path: handler for dialect in DIALECTS for method, path, handler in dialect.routes if method == "POST"}
    )
    routes = [
        Route(path, _endpoint(server, handler, dialect, path), methods=[method])
        for dialect in dialects
        for method, path, handler in dialect.routes
    ]
    inner = Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: no_route})
    app: ASGIApp = Gate(inner, server, guard, refuse, mounted)
    if guard.origins:
        app = CORSMiddleware(
            app,
            allow_origins=guard.origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after"],
        )
    return Watch(app, server.metrics)


def _endpoint(server: Server, handler: Handler, dialect: Dialect, path: str) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        record_of(request).route = path
        try:
            return await handler(server, request)
        except (ClientGone, ClientDisconnect):
            return Response(status_code=499)
        except Exception as error:
            reply = dialect.error_reply(server.failed(error), request.state.request_id)
        if reply.status_code == 413:
            reply.headers["connection"] = "close"  # the rest of the body may never come
        return reply

    return endpoint


def _dialect_of(path: str, dialects: Sequence[Dialect]) -> Dialect:
    return next((dialect for dialect in dialects if path.startswith(dialect.prefix)), dialects[-1])  # a path may be *


def _no_route(request: Request, error: Exception, dialect: Dialect) -> Response:
    """A path that nothing answers at, or a method that it does not take."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    what = "there is nothing at this path" if error.status_code == 404 else f"{request.method} is not what this path takes"
    failure = Failure(status=error.status_code, kind="invalid_request_error", message=f"{path}: {what}")
    reply = dialect.error_reply(failure, request.state.request_id)
    if error.status_code == 405:
        taken = (route.methods or () for route in request.app.routes if route.matches(request.scope)[0] != Match.NONE)
        reply.headers["allow"] = ", ".join(sorted({method for methods in taken for method in methods}))
    return reply
