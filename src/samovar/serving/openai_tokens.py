"""Prompts without answers: vLLM's `/tokenize` and `/detokenize`, llama.cpp's `/apply-template`."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from samovar.errors import BadRequest
from samovar.llm import LLM
from samovar.llm.model_text import Prompt
from samovar.llm.options import DialogueOptions
from samovar.serving.body import Fields, Unsupported, read_body
from samovar.serving.replies import json_reply
from samovar.serving.server import Server
from samovar.serving.thinking_words import read_thinking

TEMPLATE_UNSUPPORTED: Final[Mapping[str, Unsupported]] = {
    "chat_template": Unsupported("a model's template is chosen when it is served"),
    "mm_processor_kwargs": Unsupported("these models read text", ({},)),
}
DETOKENIZE_UNSUPPORTED: Final[Mapping[str, Unsupported]] = {}


class TemplateFields(Fields, kw_only=True, frozen=True):
    """Fields of a conversation that is rendered; those of `/apply-template`."""

    model: str | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    enable_thinking: bool | None = None
    thinking_budget: int | None = None
    reasoning_effort: str | None = None


class TokenizeFields(TemplateFields, kw_only=True, frozen=True):
    """Fields of `/tokenize`: a prompt, or messages."""

    prompt: str | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeFields(Fields, kw_only=True, frozen=True):
    """Fields of `/detokenize`."""

    tokens: list[int]
    model: str | None = None


async def tokenize(server: Server, request: Request) -> Response:
    """The token ids of a text or a conversation."""
    fields = read_body(TokenizeFields, await request.body(), TEMPLATE_UNSUPPORTED)
    if (fields.prompt is None) == (fields.messages is None):
        raise BadRequest("expected either prompt or messages", param="prompt")
    if fields.prompt is not None:
        given = (name for name in TemplateFields.__struct_fields__ if name not in ("model", "messages"))
        if foreign := next((name for name in given if getattr(fields, name) is not None), None):
            raise BadRequest(f"{foreign} is given, which goes with messages and not with a prompt", param=foreign)
    elif fields.add_special_tokens:
        raise BadRequest("add_special_tokens is on, and a template adds what messages need", param="add_special_tokens")
    async with server.use(request, fields.model) as (opened, _):
        llm = opened.llm
        ids = await asyncio.to_thread(_ids, llm, fields)
    reply: dict[str, object] = {"count": len(ids), "max_model_len": llm.max_context, "tokens": ids, "token_strs": None}
    if fields.return_token_strs:
        reply["token_strs"] = [llm.tokenizer.token_text(token_id) for token_id in ids]
    return json_reply(reply)


async def detokenize(server: Server, request: Request) -> Response:
    """The text of token ids, control tokens shown."""
    fields = read_body(DetokenizeFields, await request.body(), DETOKENIZE_UNSUPPORTED)
    async with server.use(request, fields.model) as (opened, _):
        text = await asyncio.to_thread(opened.llm.tokenizer.decode, fields.tokens)
    return json_reply({"prompt": text})


async def apply_template(server: Server, request: Request) -> Response:
    """The text that a conversation becomes for the model."""
    fields = read_body(TemplateFields, await request.body(), TEMPLATE_UNSUPPORTED)
    if fields.messages is None:
        raise BadRequest("messages is missing; expected a list of messages", param="messages")
    async with server.use(request, fields.model) as (opened, _):
        prompt = await asyncio.to_thread(_prompt, opened.llm, fields)
    return json_reply({"prompt": prompt.text})


def _ids(llm: LLM, fields: TokenizeFields) -> list[int]:
    if fields.prompt is None:
        return list(_prompt(llm, fields).ids)
    return llm.tokenizer.encode(fields.prompt, add_bos=False if fields.add_special_tokens is False else None)


def _prompt(llm: LLM, fields: TemplateFields) -> Prompt:
    if fields.add_generation_prompt is not None and fields.add_generation_prompt == bool(fields.continue_final_message):
        raise BadRequest(
            "add_generation_prompt has to be the opposite of continue_final_message; leave it out",
            param="add_generation_prompt",
        )
    kwargs = dict(fields.chat_template_kwargs or {})
    asked = read_thinking(
        {
            "enable_thinking": fields.enable_thinking,
            "thinking_budget": fields.thinking_budget,
            "reasoning_effort": fields.reasoning_effort,
            "chat_template_kwargs.enable_thinking": kwargs.pop("enable_thinking", None),
            "chat_template_kwargs.thinking_budget": kwargs.pop("thinking_budget", None),
        }
    )
    options: DialogueOptions = {
        "tools": fields.tools,
        "tool_choice": fields.tool_choice,
        "parallel_tool_calls": fields.parallel_tool_calls,
        "thinking": asked.thinking,
        "thinking_budget": asked.budget,
        "continue_final": fields.continue_final_message,
        "template_options": kwargs,
    }
    return llm.render_chat(fields.messages or [], **options)
