"""Ollama's routes, and those of its routes that change the models on disk, which are refused by name."""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from samovar.errors import BadRequest
from samovar.serving.body import Fields, Unsupported, read_body
from samovar.serving.ollama_chat import chat
from samovar.serving.ollama_embed import embed, embeddings
from samovar.serving.ollama_generate import generate
from samovar.serving.ollama_models import root, running, show, tags, version
from samovar.serving.ollama_replies import NDJSON
from samovar.serving.registry import UnknownModel
from samovar.serving.replies import json_reply
from samovar.serving.server import Handler, Server, Table

PULL_UNSUPPORTED: Final = {
    "insecure": Unsupported("downloads are checked by their sha256", (False,)),
    "username": Unsupported("there are no accounts", ("",)),
    "password": Unsupported("there are no accounts", ("",)),
}


class PullFields(Fields, kw_only=True, frozen=True):
    """Fields of `/api/pull`. `name` is the older name of `model`."""

    model: str | None = None
    name: str | None = None
    stream: bool | None = None


async def pull(server: Server, request: Request) -> Response:
    """That a model is there already, where it is offered. Nothing is fetched on behalf of a client."""
    fields = read_body(PullFields, await request.body(), PULL_UNSUPPORTED)
    name = fields.model or fields.name
    if not name:
        raise BadRequest("expected the name of a model as model", param="model")
    try:
        server.registry.find(name)
    except UnknownModel as error:
        raise BadRequest(
            f"models are not fetched over HTTP; on the server, run: samovar pull {name}, and serve it ({error})", param="model"
        ) from None
    reply = json_reply({"status": "success"})
    if fields.stream is not False:  # a stream of one line
        reply.headers["content-type"] = NDJSON
    return reply


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
