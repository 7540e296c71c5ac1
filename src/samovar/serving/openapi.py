"""The server's description of itself, in OpenAPI 3.1: every route, and the fields of its body."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from samovar import __version__
from samovar.serving import (
    anthropic_fields,
    anthropic_routes,
    ollama_chat,
    ollama_embed,
    ollama_generate,
    ollama_models,
    ollama_pull,
    openai_batches,
    openai_chat,
    openai_completions,
    openai_models,
    openai_responses,
    openai_scores,
    openai_tokens,
    responses_fields,
)
from samovar.serving.body import Fields, Unsupported
from samovar.serving.server import Handler, Table

Body = tuple[type[Fields], Mapping[str, Unsupported]]

# What a handler reads from its body, and what it refuses by name.
BODIES: Final[Mapping[Handler, Body]] = {
    openai_chat.chat_completions: (openai_chat.ChatFields, openai_chat.UNSUPPORTED),
    openai_completions.completions: (openai_completions.CompletionFields, openai_completions.UNSUPPORTED),
    openai_scores.embeddings: (openai_scores.EmbeddingsFields, openai_scores.EMBEDDINGS_UNSUPPORTED),
    openai_scores.rerank: (openai_scores.RerankFields, openai_scores.RERANK_UNSUPPORTED),
    openai_scores.score: (openai_scores.ScoreFields, openai_scores.SCORE_UNSUPPORTED),
    openai_tokens.tokenize: (openai_tokens.TokenizeFields, openai_tokens.TEMPLATE_UNSUPPORTED),
    openai_tokens.detokenize: (openai_tokens.DetokenizeFields, openai_tokens.DETOKENIZE_UNSUPPORTED),
    openai_tokens.apply_template: (openai_tokens.TemplateFields, openai_tokens.TEMPLATE_UNSUPPORTED),
    openai_models.load_lora_adapter: (openai_models.LoadFields, openai_models.ADAPTER_UNSUPPORTED),
    openai_models.unload_lora_adapter: (openai_models.UnloadFields, {}),
    openai_responses.create_response: (responses_fields.ResponseFields, responses_fields.UNSUPPORTED),
    openai_batches.create_batch: (openai_batches.BatchFields, openai_batches.UNSUPPORTED),
    anthropic_routes.create_message: (anthropic_fields.MessageFields, anthropic_fields.UNSUPPORTED),
    anthropic_routes.count_tokens: (anthropic_fields.PromptFields, anthropic_fields.UNSUPPORTED),
    ollama_chat.chat: (ollama_chat.ChatFields, ollama_chat.UNSUPPORTED),
    ollama_generate.generate: (ollama_generate.GenerateFields, ollama_generate.UNSUPPORTED),
    ollama_embed.embed: (ollama_embed.EmbedFields, ollama_embed.UNSUPPORTED),
    ollama_embed.embeddings: (ollama_embed.EmbeddingsFields, ollama_embed.UNSUPPORTED),
    ollama_models.show: (ollama_models.ShowFields, ollama_models.SHOW_UNSUPPORTED),
    ollama_pull.pull: (ollama_pull.PullFields, ollama_pull.UNSUPPORTED),
}
_PARAMETER: Final = re.compile(r"\{(\w+)(?::\w+)?\}")


def describe(tables: Sequence[Table]) -> dict[str, Any]:
    """The document for these routes."""
    used = {handler: BODIES[handler][0] for table in tables for _, _, handler in table if handler in BODIES}
    schemas, components = msgspec.json.schema_components(used.values(), ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(used, schemas, strict=True))
    paths: dict[str, dict[str, object]] = {}
    for table in tables:
        for method, path, handler in table:
            operation = _operation(method, path, handler, schema_of.get(handler))
            paths.setdefault(_PARAMETER.sub(r"{\1}", path), {})[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "Samovar", "version": __version__, "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(method: str, path: str, handler: Callable[..., object], schema: object) -> dict[str, object]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _PARAMETER.findall(path)
    ]
    operation: dict[str, object] = {
        "operationId": f"{method.lower()}{re.sub(r'[^a-zA-Z0-9]+', '_', path)}",
        "summary": (handler.__doc__ or "").strip().split("\n")[0],
        "responses": {"200": {"description": "What was asked for"}, "default": {"description": "An error of the dialect"}},
    }
    if parameters:
        operation["parameters"] = parameters
    if schema is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    elif path == "/v1/files" and method == "POST":
        properties = {"file": {"type": "string", "format": "binary"}, "purpose": {"type": "string", "enum": ["batch"]}}
        form = {"type": "object", "properties": properties, "required": ["file", "purpose"], "additionalProperties": False}
        operation["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": form}}}
    return operation
