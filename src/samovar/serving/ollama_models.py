"""What Ollama's clients ask about the server and its models: `/api/tags`, `/api/show`, `/api/ps`, `/api/version`, `/`."""

import asyncio
import hashlib
import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from samovar import __version__
from samovar.errors import BadRequest, SamovarError
from samovar.llm.model_card import ModelCard
from samovar.serving.body import Fields, Unsupported, read_body
from samovar.serving.ollama_replies import timestamp
from samovar.serving.registry import Offered
from samovar.serving.replies import json_reply
from samovar.serving.server import Server

API_VERSION: Final = "0.12.11"  # of Ollama, whose requests and replies these are; clients look for what it has
NEVER: Final = "9999-12-31T23:59:59Z"
SHOW_UNSUPPORTED: Final[Mapping[str, Unsupported]] = {
    "verbose": Unsupported("vocabularies are not sent", (False,)),
    "system": Unsupported("send it with the messages", ("",)),
    "template": Unsupported("the model's own is used", ("",)),
    "options": Unsupported("send them with each request", ({},)),
}
_PARAMETERS: Final[Mapping[str, str]] = {"repetition_penalty": "repeat_penalty"}


class ShowFields(Fields, kw_only=True, frozen=True):
    """Fields of `/api/show`. `name` is the older name of `model`."""

    model: str | None = None
    name: str | None = None


async def root(_: Server, __: Request) -> Response:
    """What clients look for, to see whether a server is there."""
    return PlainTextResponse("Ollama is running")


async def version(_: Server, __: Request) -> Response:
    """The version of Ollama's API that is spoken here, and our own."""
    return json_reply({"version": API_VERSION, "samovar": __version__})


async def tags(server: Server, _: Request) -> Response:
    """All models and adapters that are offered, be they open or not."""
    listed = []
    for name in server.registry.names():
        offered, adapter = server.registry.find(name)
        card = await _card(offered)
        about = {"name": name, "model": name, "modified_at": _modified(offered, card), **_details(offered, card, adapter)}
        listed.append(about)
    return json_reply({"models": listed})


async def running(server: Server, _: Request) -> Response:
    """The models that are open, and until when."""
    listed = []
    for name, offered in server.registry.models.items():
        llm = offered.llm
        if llm is None:
            continue
        about = {"name": name, "model": name, "expires_at": _expires(offered), "size_vram": 0}
        listed.append(about | {"context_length": llm.max_context} | _details(offered, llm.card, None))
    return json_reply({"models": listed})


async def show(server: Server, request: Request) -> Response:
    """What a model is and can do. One that cannot be looked at without opening it is opened."""
    fields = read_body(ShowFields, await request.body(), SHOW_UNSUPPORTED)
    name = fields.model or fields.name
    if not name or (fields.model and fields.name and fields.model != fields.name):
        raise BadRequest("expected the name of one model as model", param="model")
    offered, adapter = server.registry.find(name)
    if offered.llm is None and offered.read_card is None:
        async with server.registry.use(name) as opened:
            card, n_context = opened.llm.card, opened.llm.max_context
    else:
        llm = offered.llm
        card = llm.card if llm is not None else await asyncio.to_thread(_read_card, offered)
        n_context = llm.max_context if llm is not None else card.config.max_context
    return json_reply(await asyncio.to_thread(_shown, offered, card, adapter, n_context))


def _shown(offered: Offered, card: ModelCard, adapter: str | None, n_context: int) -> dict[str, object]:
    shown: dict[str, object] = {
        "parameters": _parameters(card, n_context),
        "template": card.text.template_source or "",
        "details": _details(offered, card, adapter)["details"],
        "model_info": _model_info(card, n_context),
        "capabilities": card.capabilities,
        "modified_at": _modified(offered, card),
    }
    license_text = card.text.metadata.get("general.license")
    return shown | ({"license": license_text} if isinstance(license_text, str) else {})


async def _card(offered: Offered) -> ModelCard | None:
    """What is known of a model without opening it. A file that cannot be read is told of when it is asked for."""
    if offered.llm is not None:
        return offered.llm.card
    try:
        return await asyncio.to_thread(_read_card, offered) if offered.read_card is not None else None
    except SamovarError:
        return None


def _read_card(offered: Offered) -> ModelCard:
    assert offered.read_card is not None
    return offered.read_card()


def _details(offered: Offered, card: ModelCard | None, adapter: str | None) -> dict[str, object]:
    """Size, digest and details. The digest stands for the model's files, or, where they are not known, for its name."""
    known = card.identity if card is not None else offered.name
    family = card.config.architecture if card is not None else ""
    return {
        "size": card.size_bytes if card is not None else 0,
        "digest": hashlib.sha256(f"{known} {adapter or ''}".encode()).hexdigest(),
        "details": {
            "parent_model": offered.name if adapter is not None else "",
            "format": card.container if card is not None else "",
            "family": family,
            "families": [family] if family else [],
            "parameter_size": _rounded(card.n_parameters) if card is not None else "",
            "quantization_level": card.quantization if card is not None else "",
        },
    }


def _model_info(card: ModelCard, n_context: int) -> dict[str, Any]:
    """A GGUF file's own metadata, or its keys for a folder's config; the context is the one that requests can use."""
    config, family = card.config, card.config.architecture
    known: dict[str, Any] = {
        "general.architecture": family,
        f"{family}.block_count": config.n_layers,
        f"{family}.embedding_length": config.d_model,
        f"{family}.feed_forward_length": config.d_ffn,
        f"{family}.attention.head_count": config.n_heads,
        f"{family}.attention.head_count_kv": config.n_kv_heads,
        f"{family}.attention.key_length": config.d_head,
        f"{family}.attention.value_length": config.d_head,
        f"{family}.attention.layer_norm_rms_epsilon": config.norm_eps,
        f"{family}.vocab_size": config.vocab_size,
    }
    told = {key: value for key, value in card.text.metadata.items() if not key.startswith("tokenizer.chat_template")}
    return known | told | {"general.parameter_count": card.n_parameters, f"{family}.context_length": n_context}


def _parameters(card: ModelCard, n_context: int) -> str:
    """What holds where a request says nothing, a line each, as a Modelfile has it."""
    lines = [f"{_PARAMETERS.get(name, name)} {value:g}" for name, value in card.sampling.items()]
    stops = [card.text.tokenizer.token_text(token_id) for token_id in card.text.eos_ids]
    return "\n".join([f"num_ctx {n_context}", *lines, *(f"stop {json.dumps(stop)}" for stop in stops)])


def _modified(offered: Offered, card: ModelCard | None) -> str:
    return timestamp(round((card.changed_s if card is not None else offered.created_s) * 1e9))


def _expires(offered: Offered) -> str:
    """When a model will be closed if nobody uses it from here on."""
    if offered.expires_s is None:
        return NEVER
    now_s = time.monotonic()
    used_s = now_s if offered.n_users else offered.used_s
    left_s = max(0.0, used_s + (offered.expires_s - offered.used_s) - now_s)
    at = datetime.now(UTC).timestamp() + left_s
    return timestamp(round(at * 1e9))


def _rounded(n_parameters: int) -> str:
    """A number of parameters in words that people use."""
    return f"{n_parameters / 1e9:.1f}B" if n_parameters >= 1e9 else f"{n_parameters / 1e6:.2f}M"
