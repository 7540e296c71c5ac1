"""OpenAI's `/v1/chat/completions`."""

import time
import uuid
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from samovar.errors import BadRequest
from samovar.llm.options import ChatOptions
from samovar.llm.result import Result
from samovar.serving.body import Fields, Unsupported, naming, read_body
from samovar.serving.chat import Answers, ChatAsk
from samovar.serving.failures import error_body
from samovar.serving.openai_options import (
    COMMON_UNSUPPORTED,
    CommonFields,
    chat_logprobs,
    common_options,
    finish_details,
    finish_reason,
    option_names,
    prompt_logprobs,
    usage,
    with_seed,
)
from samovar.serving.replies import json_reply, sse, sse_reply, unless_gone
from samovar.serving.server import Server
from samovar.serving.thinking_words import ThinkingAsk, read_thinking
from samovar.text.output_parser import Delta

UNSUPPORTED: Final[Mapping[str, Unsupported]] = {
    **COMMON_UNSUPPORTED,
    "functions": Unsupported("use tools", ([],)),
    "function_call": Unsupported("use tool_choice", ("none",)),
    "audio": Unsupported("these models write text"),
    "modalities": Unsupported("these models write text", (["text"],)),
    "prediction": Unsupported("what is likely to come is guessed from the prompt by itself"),
    "web_search_options": Unsupported("nothing leaves this machine"),
    "store": Unsupported("use /v1/responses, which can be stored", (False,)),
    "verbosity": Unsupported("say in the prompt how long the answer may be", ("medium",)),
    "prompt_cache_retention": Unsupported("prompts are kept as long as there is room"),
}


class ReasoningFields(Fields, kw_only=True, frozen=True):
    """`reasoning`, as OpenRouter has it."""

    effort: str | None = None
    max_tokens: int | None = None
    enabled: bool | None = None
    exclude: bool | None = None


class ThinkingFields(Fields, kw_only=True, frozen=True):
    """`thinking`, as Anthropic has it."""

    type: str
    budget_tokens: int | None = None


class ChatFields(CommonFields, kw_only=True, frozen=True):
    """Fields of the route."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    enable_thinking: bool | None = None
    thinking_budget: int | None = None
    thinking_token_budget: int | None = None
    reasoning_budget_tokens: int | None = None
    reasoning_effort: str | None = None
    reasoning: ReasoningFields | None = None
    thinking: ThinkingFields | None = None
    include_reasoning: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None


async def chat_completions(server: Server, request: Request) -> Response:
    """Answer a conversation."""
    fields = read_body(ChatFields, await request.body(), UNSUPPORTED)
    ask = chat_ask(fields)
    with naming(**_option_names(fields)):
        answers = await server.start(request, ask)
    shape = _Shape(server, answers, fields)
    if fields.stream:
        return sse_reply(shape.events(), close=answers.aclose)
    try:
        results = await unless_gone(request, answers.fold)
    finally:
        await answers.aclose()
    return json_reply(shape.whole(results))


def chat_ask(fields: ChatFields) -> ChatAsk:
    """The request in the terms that all dialects share. Raises BadRequest for fields that contradict each other."""
    template_options, asked = dict(fields.chat_template_kwargs or {}), _thinking(fields)
    for name in ("enable_thinking", "thinking_budget"):
        template_options.pop(name, None)
    if fields.max_tokens is not None and fields.max_completion_tokens not in (None, fields.max_tokens):
        raise BadRequest("max_tokens and max_completion_tokens differ; give one of them", param="max_tokens")
    if fields.top_logprobs is not None and not fields.logprobs:
        raise BadRequest("top_logprobs is given, and logprobs is off; expected logprobs: true with it", param="top_logprobs")
    if fields.add_generation_prompt is not None and fields.add_generation_prompt == bool(fields.continue_final_message):
        raise BadRequest(
            "add_generation_prompt has to be the opposite of continue_final_message; leave it out",
            param="add_generation_prompt",
        )
    options: ChatOptions = {
        **common_options(fields),
        "tools": fields.tools,
        "tool_choice": fields.tool_choice,
        "parallel_tool_calls": fields.parallel_tool_calls,
        "thinking": asked.thinking,
        "thinking_budget": asked.budget,
        "continue_final": fields.continue_final_message,
        "template_options": template_options,
        "max_tokens": fields.max_completion_tokens if fields.max_tokens is None else fields.max_tokens,
        "logprobs": (fields.top_logprobs or 0) if fields.logprobs else None,
    }
    return ChatAsk(model=fields.model, messages=fields.messages, options=options, cache_salt=fields.cache_salt)


def _option_names(fields: ChatFields) -> dict[str, str]:
    """The fields that options come from, where they are called otherwise."""
    names = option_names(fields) | {"continue_final": "continue_final_message"}
    if (word := _thinking(fields).word) is not None:
        names |= {"thinking": word, "thinking_budget": word}
    if fields.max_tokens is None and fields.max_completion_tokens is not None:
        names["max_tokens"] = "max_completion_tokens"
    if fields.top_logprobs is not None:
        names["logprobs"] = "top_logprobs"
    return names


def _thinking(fields: ChatFields) -> ThinkingAsk:
    kwargs, reasoning, thinking = fields.chat_template_kwargs or {}, fields.reasoning, fields.thinking
    if thinking is not None and thinking.type not in ("enabled", "disabled"):
        raise BadRequest(f"thinking.type is {thinking.type!r}; expected enabled or disabled", param="thinking.type")
    return read_thinking(
        {
            "enable_thinking": fields.enable_thinking,
            "thinking_budget": fields.thinking_budget,
            "thinking_token_budget": fields.thinking_token_budget,
            "reasoning_budget_tokens": fields.reasoning_budget_tokens,
            "reasoning_effort": fields.reasoning_effort,
            "chat_template_kwargs.enable_thinking": kwargs.get("enable_thinking"),
            "chat_template_kwargs.thinking_budget": kwargs.get("thinking_budget"),
            "reasoning.effort": reasoning.effort if reasoning else None,
            "reasoning.max_tokens": reasoning.max_tokens if reasoning else None,
            "reasoning.enabled": reasoning.enabled if reasoning else None,
            "thinking.type": thinking.type == "enabled" if thinking else None,
            "thinking.budget_tokens": thinking.budget_tokens if thinking else None,
        }
    )


class _Shape:
    """Gives answers the form of a chat completion, whole or in chunks."""

    def __init__(self, server: Server, answers: Answers, fields: ChatFields) -> None:
        self._server, self._answers, self._fields = server, answers, fields
        excluded = fields.reasoning.exclude if fields.reasoning else False
        self._shows_reasoning = fields.include_reasoning is not False and not excluded
        self._head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": answers.model,
            "system_fingerprint": server.fingerprint,
        }
        self._call_ids: dict[tuple[int, int], str] = {}

    def whole(self, results: list[Result]) -> dict[str, object]:
        """The reply to a request that does not stream."""
        choices = [self._choice(index, result) for index, result in enumerate(results)]
        body = {**self._head, "object": "chat.completion", "choices": choices, "usage": usage(results)} | with_seed(results)
        if results[0].prompt_logprobs is not None:
            tokenizer, (prompt,) = self._answers.llm.tokenizer, self._answers.prompts
            body["prompt_logprobs"] = prompt_logprobs(tokenizer, prompt, results[0].prompt_logprobs)
        return body

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The reply in chunks. An error ends it with an event of its own."""
        n, n_logprobs = len(self._answers.results), dict[int, int]()
        for index in range(n):
            yield self._chunk(index, {"role": "assistant", "content": ""})
        try:
            async for index, delta in self._answers:
                if shown := self._delta(index, delta):
                    more = dict[str, object]()
                    if self._fields.logprobs:
                        result = self._answers.results[index]
                        start, n_logprobs[index] = n_logprobs.get(index, 0), len(result.token_ids)
                        more["logprobs"] = self._logprobs(result, start)
                    yield self._chunk(index, shown, more)
        except Exception as error:  # the head is sent: this is the one place left to tell of it
            yield sse(error_body(self._server.failed(error)))
            return
        results = self._answers.results
        for index, result in enumerate(results):
            more = self._finish(result)
            if self._fields.logprobs:
                more["logprobs"] = self._logprobs(result, n_logprobs.get(index, 0))
            yield self._chunk(index, {}, more)
        if self._fields.stream_options and self._fields.stream_options.include_usage:
            chunk = {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage(results)}
            yield sse(chunk | with_seed(results))
        yield b"data: [DONE]\n\n"

    def _choice(self, index: int, result: Result) -> dict[str, object]:
        message: dict[str, object] = {"role": "assistant", "content": result.text or (None if result.tool_calls else "")}
        if result.reasoning is not None and self._shows_reasoning:
            message |= {"reasoning_content": result.reasoning, "reasoning": result.reasoning}
        if result.tool_calls:
            message["tool_calls"] = [
                {
                    "id": self._call_id(index, at),
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for at, call in enumerate(result.tool_calls)
            ]
        return {
            "index": index,
            "message": message | {"refusal": None},
            "logprobs": self._logprobs(result, 0) if self._fields.logprobs else None,
            **self._finish(result),
        }

    def _finish(self, result: Result) -> dict[str, object]:
        """How an answer ended, and whether it was to begin with thoughts, where the model can have some."""
        mode = {} if self._answers.thinking is None else {"thinking": self._answers.thinking}
        return {"finish_reason": finish_reason(result), **finish_details(result), **mode}

    def _delta(self, index: int, delta: Delta) -> dict[str, object]:
        if delta.field == "content":
            return {"content": delta.text}
        if delta.field == "reasoning":
            return {"reasoning_content": delta.text, "reasoning": delta.text} if self._shows_reasoning else {}
        call: dict[str, object] = {"index": delta.call}
        if delta.field == "tool_name":
            call |= {
                "id": self._call_id(index, delta.call),
                "type": "function",
                "function": {"name": delta.text, "arguments": ""},
            }
        else:
            call["function"] = {"arguments": delta.text}
        return {"tool_calls": [call]}

    def _call_id(self, index: int, call: int) -> str:
        return self._call_ids.setdefault((index, call), f"call_{uuid.uuid4().hex[:24]}")

    def _chunk(self, index: int, delta: Mapping[str, object], more: Mapping[str, object] | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None} | dict(more or {})
        return sse({**self._head, "object": "chat.completion.chunk", "choices": [choice]})

    def _logprobs(self, result: Result, start: int) -> dict[str, object]:
        logprobs = result.logprobs or ()
        return chat_logprobs(self._answers.llm.tokenizer, result.token_ids[start:], logprobs[start:])
