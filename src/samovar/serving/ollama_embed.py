"""Ollama's `/api/embed`, and the older `/api/embeddings`.

A text that is too long is refused, unless the client itself says `truncate: true`; then its end is cut off, and `truncated`
says which texts were cut, and how many tokens they had.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from samovar.errors import BadRequest
from samovar.llm import LLM
from samovar.serving.body import Fields, Unsupported, read_body
from samovar.serving.ollama_options import OptionFields, check_keep_alive, keep_alive, keep_alive_s, read_options
from samovar.serving.replies import json_reply, unless_gone
from samovar.serving.server import Server, caller_of
from samovar.text.tokenizer import Tokenizer

UNSUPPORTED: Final[Mapping[str, Unsupported]] = {}
_USED_OPTIONS: Final = ("num_ctx", "num_keep")


class EmbedFields(Fields, kw_only=True, frozen=True):
    """Fields of `/api/embed`."""

    model: str
    input: str | list[str]
    truncate: bool | None = None
    dimensions: int | None = None
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
    if made.truncated:
        body["truncated"] = [{"index": index, "tokens": n_tokens} for index, n_tokens in made.truncated]
    return json_reply(body)


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
        fitted = await asyncio.to_thread(_fit, llm, texts, options.num_ctx, may_cut=fields.truncate is True)
        vectors: list[list[float]] = []
        if fitted.texts:
            prepare = partial(llm.prepare_embed, fitted.texts, dimensions=fields.dimensions, tenant=caller.id)
            prepared = await asyncio.to_thread(prepare)
            vectors = (await unless_gone(request, prepared.arun)).tolist()
        count(fitted.n_tokens)
    return _Vectors(vectors=vectors, n_tokens=fitted.n_tokens, truncated=fitted.truncated, load_s=load_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fitted:
    """Texts that fit the context, and their tokens together."""

    texts: list[str]
    n_tokens: int
    truncated: tuple[tuple[int, int], ...]


def _fit(llm: LLM, texts: Sequence[str], n_context: int | None, *, may_cut: bool) -> _Fitted:
    """The texts, cut where they may be. Raises BadRequest for one that is empty or too long."""
    if n_context is not None and n_context > llm.max_context:
        raise BadRequest(f"num_ctx is {n_context}, and this model is open with {llm.max_context} tokens", param="num_ctx")
    limit, n_total = n_context or llm.max_context, 0
    fitting, truncated = list[str](), list[tuple[int, int]]()
    for at, given in enumerate(texts):
        text, n_tokens = given, len(_ids(llm.tokenizer, given))
        if n_tokens > limit:
            if not may_cut:
                raise BadRequest(
                    f"input {at} has {n_tokens} tokens, and the context holds {limit}: shorten it, or send truncate: true to "
                    "have its end cut off",
                    param="input",
                )
            truncated.append((at, n_tokens))
            text, n_tokens = _cut(llm.tokenizer, given, limit)
        if not n_tokens:
            raise BadRequest(f"input {at} is empty; expected texts", param="input")
        fitting.append(text)
        n_total += n_tokens
    return _Fitted(texts=fitting, n_tokens=n_total, truncated=tuple(truncated))


def _cut(tokenizer: Tokenizer, text: str, limit: int) -> tuple[str, int]:
    """The beginning of a text that has `limit` tokens at most, and how many it has."""
    n_kept = limit
    while True:
        kept = tokenizer.decode(tokenizer.encode(text, parse_control=False, add_bos=False)[:n_kept]).rstrip("\ufffd")
        n_tokens = len(_ids(tokenizer, kept))
        if n_tokens <= limit:
            return kept, n_tokens
        n_kept -= n_tokens - limit  # what the tokenizer adds around a text, or makes anew where it was cut


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, parse_control=False)


def _options(given: Mapping[str, Any] | None) -> OptionFields:
    """The options that vectors have a use for. Raises BadRequest for others."""
    options = read_options(given)
    for name in OptionFields.__struct_fields__:
        if name not in _USED_OPTIONS and given is not None and given.get(name) not in (None, []):
            raise BadRequest(f"{name} is given, which vectors have no use for", param=name)
    return options
