"""Ollama's `/api/embed`, and the older `/api/embeddings`.

A text that is too long is refused, unless the client itself says `truncate: true`; then its end is cut off, and `truncated`
says which texts were cut, and how many tokens they had.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from samovar.errors import BadRequest
from samovar.serving.body import Fields, Unsupported, naming, read_body
from samovar.serving.ollama_options import OptionFields, check_keep_alive, keep_alive, keep_alive_s, read_options
from samovar.serving.openai_scores import text_kind, told_truncated
from samovar.serving.replies import json_reply, unless_gone
from samovar.serving.server import Server, caller_of

UNSUPPORTED: Final[Mapping[str, Unsupported]] = {}
_USED_OPTIONS: Final = ("num_ctx", "num_keep")


class EmbedFields(Fields, kw_only=True, frozen=True):
    """Fields of `/api/embed`."""

    model: str
    input: str | list[str]
    truncate: bool | None = None
    dimensions: int | None = None
    input_type: str | None = None
    instruction: str | None = None
    options: dict[str, Any] | None = None
    keep_alive: float | str | None = None


class EmbeddingsFields(Fields, kw_only=True, frozen=True):
    """Fields of `/api/embeddings`."""

    model: str
    prompt: str | None = None
    options: dict[str, Any] | None = None
    keep_alive: float | str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Vectors:
    """Vectors, one a text; `truncated` is (index, tokens) of the texts that were cut. `load_s` is until the model was open."""

    vectors: list[list[float]]
    n_tokens: int
    truncated: tuple[tuple[int, int], ...]
    load_s: float


async def embed(server: Server, request: Request) -> Response:
    """Vectors for texts; an empty list, or one empty text, opens the model."""
    started_s = time.perf_counter()
    fields = read_body(EmbedFields, await request.body(), UNSUPPORTED)
    made = await _embed(server, request, fields)
    body: dict[str, object] = {
        "model": fields.model,
        "embeddings": made.vectors,
        "total_duration": round((time.perf_counter() - started_s) * 1e9),
        "load_duration": round(made.load_s * 1e9),
        "prompt_eval_count": made.n_tokens,
    }
    return json_reply(body | told_truncated(made.truncated))


async def embeddings(server: Server, request: Request) -> Response:
    """The vector of one text, in the older form."""
    fields = read_body(EmbeddingsFields, await request.body(), UNSUPPORTED)
    made = await _embed(
        server,
        request,
        EmbedFields(model=fields.model, input=fields.prompt or [], options=fields.options, keep_alive=fields.keep_alive),
    )
    return json_reply({"embedding": made.vectors[0] if made.vectors else []})


async def _embed(server: Server, request: Request, fields: EmbedFields) -> _Vectors:
    options, seconds = _options(fields.options), keep_alive_s(fields.keep_alive)
    check_keep_alive(request, seconds)
    texts = fields.input if isinstance(fields.input, list) else [fields.input] if fields.input else []
    caller, started_s = caller_of(request), time.perf_counter()
    async with server.use(request, fields.model) as (opened, count):
        load_s, llm = time.perf_counter() - started_s, opened.llm
        if opened.adapter is not None:
            raise BadRequest(f"{fields.model!r} is an adapter, which writes text; name a model", param="model")
        keep_alive(server.registry, fields.model, seconds)
        if options.num_ctx is not None and options.num_ctx > llm.max_context:
            raise BadRequest(
                f"num_ctx is {options.num_ctx}, and this model is open with {llm.max_context} tokens", param="num_ctx"
            )
        if not texts:
            return _Vectors(vectors=[], n_tokens=0, truncated=(), load_s=load_s)
        prepare = partial(
            llm.prepare_embed,
            texts,
            kind=text_kind(fields.input_type),
            instruction=fields.instruction,
            dimensions=fields.dimensions,
            truncate=fields.truncate is True,
            max_tokens=options.num_ctx,
            any_model=server.any_model_scores,
            tenant=caller.id,
        )
        with naming(texts="input", kind="input_type"):
            prepared = await asyncio.to_thread(prepare)
            vectors_SD = await unless_gone(request, prepared.arun)
        count(prepared.n_prompt)
    return _Vectors(vectors=vectors_SD.tolist(), n_tokens=prepared.n_prompt, truncated=prepared.truncated, load_s=load_s)


def _options(given: Mapping[str, Any] | None) -> OptionFields:
    """The options that vectors have a use for. Raises BadRequest for others."""
    options = read_options(given)
    for name in OptionFields.__struct_fields__:
        if name not in _USED_OPTIONS and given is not None and given.get(name) not in (None, []):
            raise BadRequest(f"{name} is given, which vectors have no use for", param=name)
    return options
