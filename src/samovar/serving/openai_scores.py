"""Numbers over HTTP: OpenAI's `/v1/embeddings`, and rerank and score routes as Jina, Cohere and vLLM have them."""

import asyncio
import base64
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from samovar.errors import BadRequest
from samovar.llm.prepared_scores import PreparedScores
from samovar.llm.recipe import TextKind
from samovar.serving.body import Fields, Unsupported, naming, read_body
from samovar.serving.openai_completions import read_prompts
from samovar.serving.registry import Opened
from samovar.serving.replies import json_reply, unless_gone
from samovar.serving.server import Server, caller_of

T = TypeVar("T")
EMBEDDINGS_UNSUPPORTED: Final[Mapping[str, Unsupported]] = {
    "truncate_prompt_tokens": Unsupported("inputs are never cut"),
    "add_special_tokens": Unsupported("give the input as token ids to choose them all", (True,)),
    "normalize": Unsupported("vectors have length 1", (True,)),
}
RERANK_UNSUPPORTED: Final[Mapping[str, Unsupported]] = {
    "truncate_prompt_tokens": Unsupported("documents are never cut"),
    "max_tokens_per_doc": Unsupported("documents are never cut"),
    "max_chunks_per_doc": Unsupported("documents are never cut"),
    "truncation": Unsupported("documents are never cut", (False,)),
    "rank_fields": Unsupported("documents are texts"),
    "return_embeddings": Unsupported("use /v1/embeddings", (False,)),
}
SCORE_UNSUPPORTED: Final[Mapping[str, Unsupported]] = {
    "truncate_prompt_tokens": Unsupported("texts are never cut"),
    "encoding_format": Unsupported("scores are numbers", ("float",)),
}

MAX_TEXTS: Final = 2_048
_INPUT_TYPES: Final[Mapping[str, TextKind]] = {
    "query": "query",
    "search_query": "query",
    "document": "document",
    "passage": "document",
    "search_document": "document",
}


class EmbeddingsFields(Fields, kw_only=True, frozen=True):
    """Fields of `/v1/embeddings`."""

    input: str | list[Any]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    input_type: str | None = None
    instruction: str | None = None
    truncate: bool | None = None
    user: str | None = None


class Document(Fields, kw_only=True, frozen=True):
    """A document that is an object."""

    text: str


class RerankFields(Fields, kw_only=True, frozen=True):
    """Fields of the rerank routes; `instruction` says what the query is for."""

    query: str
    documents: list[str | Document]
    model: str | None = None
    top_n: int | None = None
    return_documents: bool | None = None
    instruction: str | None = None


class ScoreFields(Fields, kw_only=True, frozen=True):
    """Fields of the score routes: one text against one or several, or as many pairs."""

    text_1: str | list[str]
    text_2: str | list[str]
    model: str | None = None
    instruction: str | None = None


def _check_count(name: str, n: int) -> None:
    """Raises BadRequest for more texts than one request may hold, as OpenAI has it."""
    if n > MAX_TEXTS:
        raise BadRequest(f"{name} has {n} texts; expected up to {MAX_TEXTS} in a request", param=name)


async def embeddings(server: Server, request: Request) -> Response:
    """A vector for each input."""
    fields = read_body(EmbeddingsFields, await request.body(), EMBEDDINGS_UNSUPPORTED)
    inputs, tenant = read_prompts(fields.input, "input"), caller_of(request).id
    _check_count("input", len(inputs))

    def prepare(opened: Opened) -> PreparedScores[NDArray[np.float32]]:
        return opened.llm.prepare_embed(
            inputs,
            kind=text_kind(fields.input_type),
            instruction=fields.instruction,
            dimensions=fields.dimensions,
            truncate=fields.truncate is True,
            any_model=server.any_model_scores,
            tenant=tenant,
            adapter=opened.adapter,
        )

    names = naming(prompt="input", texts="input", messages="input", kind="input_type")
    model, prepared, vectors_SD = await _computed(server, request, fields.model, prepare, names)
    is_base64 = fields.encoding_format == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _base64(vector_D) if is_base64 else vector_D.tolist()}
        for index, vector_D in enumerate(vectors_SD)
    ]
    body = {"object": "list", "data": data, "model": model, "usage": _usage(prepared.n_prompt)}
    return json_reply(body | told_truncated(prepared.truncated))


async def rerank(server: Server, request: Request) -> Response:
    """Documents by how well they answer a query, the best first."""
    fields = read_body(RerankFields, await request.body(), RERANK_UNSUPPORTED)
    documents = [one if isinstance(one, str) else one.text for one in fields.documents]
    if not documents:
        raise BadRequest("documents is empty; expected one at least", param="documents")
    _check_count("documents", len(documents))
    if fields.top_n is not None and fields.top_n < 0:
        raise BadRequest(f"top_n is {fields.top_n}; expected a whole number from 0 on, which is all", param="top_n")
    pairs = [(fields.query, document) for document in documents]
    names = naming(prompt="documents", messages="documents")
    prepare = _pairs(server, request, pairs, fields.instruction)
    model, prepared, scores = await _computed(server, request, fields.model, prepare, names)
    order = sorted(range(len(documents)), key=lambda index: -scores[index])[: fields.top_n or None]
    shows = fields.return_documents is not False
    results = [
        {"index": index, "relevance_score": scores[index]} | ({"document": {"text": documents[index]}} if shows else {})
        for index in order
    ]
    head = {"id": f"rerank-{uuid.uuid4().hex}", "model": model}
    return json_reply({**head, "results": results, "usage": _usage(prepared.n_prompt)})


async def score(server: Server, request: Request) -> Response:
    """How well each second text answers the first."""
    fields = read_body(ScoreFields, await request.body(), SCORE_UNSUPPORTED)
    firsts = [fields.text_1] if isinstance(fields.text_1, str) else fields.text_1
    seconds = [fields.text_2] if isinstance(fields.text_2, str) else fields.text_2
    _check_count("text_2", len(seconds))
    if not seconds or len(firsts) not in (1, len(seconds)):
        raise BadRequest(
            f"text_1 has {len(firsts)} texts and text_2 {len(seconds)}; expected one against several, or as many of both",
            param="text_2",
        )
    pairs = list(zip(firsts if len(firsts) == len(seconds) else firsts * len(seconds), seconds, strict=True))
    names = naming(prompt="text_2", messages="text_2", documents="text_2", query="text_1")
    prepare = _pairs(server, request, pairs, fields.instruction)
    model, prepared, scores = await _computed(server, request, fields.model, prepare, names)
    data = [{"index": index, "object": "score", "score": value} for index, value in enumerate(scores)]
    head = {"id": f"score-{uuid.uuid4().hex}", "object": "list", "created": int(time.time()), "model": model}
    return json_reply({**head, "data": data, "usage": _usage(prepared.n_prompt)})


async def _computed(
    server: Server,
    request: Request,
    model: str | None,
    prepare: Callable[[Opened], PreparedScores[T]],
    names: AbstractContextManager[None],
) -> tuple[str, PreparedScores[T], T]:
    """The model's name, what was computed, and what came of it. A client that leaves stops the work."""

    def checked(opened: Opened) -> PreparedScores[T]:
        prepared = prepare(opened)
        prepared.check()
        return prepared

    with names:
        async with server.use(request, model) as (opened, count):
            prepared = await asyncio.to_thread(checked, opened)
            count(prepared.n_prompt)
            return opened.name, prepared, await unless_gone(request, prepared.arun)


def _pairs(
    server: Server, request: Request, pairs: list[tuple[str, str]], instruction: str | None
) -> Callable[[Opened], PreparedScores[list[float]]]:
    tenant = caller_of(request).id
    return lambda opened: opened.llm.prepare_rerank(
        pairs, instruction=instruction, any_model=server.any_model_scores, tenant=tenant, adapter=opened.adapter
    )


def text_kind(input_type: str | None) -> TextKind | None:
    """What a client calls a text, in Cohere's, Jina's, NVIDIA's or plain words. Raises BadRequest for other words."""
    if input_type is not None and input_type not in _INPUT_TYPES:
        raise BadRequest(f"input_type is {input_type!r}; expected {', '.join(_INPUT_TYPES)}", param="input_type")
    return None if input_type is None else _INPUT_TYPES[input_type]


def told_truncated(truncated: tuple[tuple[int, int], ...]) -> dict[str, object]:
    """What a reply says of texts whose end was cut off; nothing where none was."""
    return {"truncated": [{"index": index, "tokens": n_tokens} for index, n_tokens in truncated]} if truncated else {}


def _base64(vector_D: NDArray[np.float32]) -> str:
    """Little-endian float32, as OpenAI's client reads them."""
    return base64.b64encode(vector_D.astype("<f4").tobytes()).decode()


def _usage(n_prompt: int) -> dict[str, int]:
    return {"prompt_tokens": n_prompt, "total_tokens": n_prompt}
