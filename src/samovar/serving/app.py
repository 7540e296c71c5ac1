"""The ASGI application: routes, and what holds for every request."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from samovar import __version__
from samovar.serving.anthropic_reply import anthropic_error
from samovar.serving.anthropic_routes import count_tokens, create_message
from samovar.serving.caller import LOCAL
from samovar.serving.failures import Failure, openai_error
from samovar.serving.kept_work import kept_work
from samovar.serving.ollama_replies import ollama_error
from samovar.serving.ollama_routes import OLLAMA_ROUTES
from samovar.serving.openai_batches import ROUTES as BATCHES
from samovar.serving.openai_chat import chat_completions
from samovar.serving.openai_files import ROUTES as FILES
from samovar.serving.openai_responses import ROUTES as RESPONSES
from samovar.serving.openai_routes import OPENAI_ROUTES
from samovar.serving.replies import ClientGone, json_reply
from samovar.serving.server import Handler, Server, Table


async def health(_: Server, __: Request) -> Response:
    """That the server is there."""
    return json_reply({"status": "ok", "version": __version__})


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """Routes below a prefix, and the form that errors have there."""

    prefix: str
    routes: Table
    error_reply: Callable[[Failure, str], Response]


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
LIVES: Final[Sequence[Callable[[Server], AbstractAsyncContextManager[None]]]] = (kept_work,)


def build_app(server: Server) -> Starlette:
    """The application of a server; its models are closed when it ends."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(server.registry.close)
            for life in LIVES:
                await stack.enter_async_context(life(server))
            yield

    server.endpoints.update(
        {path: handler for dialect in DIALECTS for method, path, handler in dialect.routes if method == "POST"}
    )
    routes = [
        Route(path, _endpoint(server, handler, dialect), methods=[method])
        for dialect in DIALECTS
        for method, path, handler in dialect.routes
    ]
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: _no_route})


def _endpoint(server: Server, handler: Handler, dialect: Dialect) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        request.state.caller, request.state.request_id = LOCAL, f"req_{uuid.uuid4().hex}"
        try:
            reply = await handler(server, request)
        except ClientGone:
            return Response(status_code=499)
        except Exception as error:
            reply = dialect.error_reply(server.failed(error), request.state.request_id)
        reply.headers["x-request-id"] = request.state.request_id
        return reply

    return endpoint


async def _no_route(request: Request, error: Exception) -> Response:
    """A path that nothing answers at, or a method that it does not take."""
    assert isinstance(error, HTTPException)
    dialect = next(d for d in DIALECTS if request.url.path.startswith(d.prefix))
    what = "there is nothing at this path" if error.status_code == 404 else f"{request.method} is not what this path takes"
    failure = Failure(status=error.status_code, kind="invalid_request_error", message=f"{request.url.path}: {what}")
    return dialect.error_reply(failure, "")
