"""Ollama's routes, and those of its routes that change the models on disk, which are refused by name."""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from samovar.errors import BadRequest
from samovar.serving.ollama_chat import chat
from samovar.serving.ollama_embed import embed, embeddings
from samovar.serving.ollama_generate import generate
from samovar.serving.ollama_models import root, running, show, tags, version
from samovar.serving.ollama_pull import pull
from samovar.serving.server import Handler, Server, Table


def _refused(what: str) -> Handler:
    async def refused(_: Server, request: Request) -> Response:
        """Refused, with what to do instead."""
        raise BadRequest(f"{request.url.path} is not supported: {what}")

    return refused


_BLOBS: Final = _refused("models are added on the server, with samovar pull or by their path")
OLLAMA_ROUTES: Final[Table] = (
    ("GET", "/", root),
    ("GET", "/api/version", version),
    ("GET", "/api/tags", tags),
    ("GET", "/api/ps", running),
    ("POST", "/api/show", show),
    ("POST", "/api/chat", chat),
    ("POST", "/api/generate", generate),
    ("POST", "/api/embed", embed),
    ("POST", "/api/embeddings", embeddings),
    ("POST", "/api/pull", pull),
    ("DELETE", "/api/delete", _refused("models are removed on the server")),
    ("POST", "/api/create", _refused("models are made on the server; send the system prompt and options with each request")),
    ("POST", "/api/copy", _refused("name a model when the server starts")),
    ("POST", "/api/push", _refused("nothing leaves this machine")),
    ("HEAD", "/api/blobs/{digest}", _BLOBS),
    ("POST", "/api/blobs/{digest}", _BLOBS),
)
