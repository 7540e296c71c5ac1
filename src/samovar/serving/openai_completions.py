"""OpenAI's `/v1/completions`: raw text, or token ids, to be continued, scored, or filled in."""

from collections.abc import Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from samovar.errors import BadRequest
from samovar.llm.options import Options
from samovar.serving.body import Unsupported, naming, read_body
from samovar.serving.chat import TextAsk
from samovar.serving.openai_completion_shape import CompletionShape
from samovar.serving.openai_options import COMMON_UNSUPPORTED, CommonFields, common_options, option_names
from samovar.serving.replies import json_reply, sse_reply, unless_gone
from samovar.serving.server import Server

UNSUPPORTED: Final[Mapping[str, Unsupported]] = {
    **COMMON_UNSUPPORTED,
    "add_special_tokens": Unsupported("give the prompt as token ids to choose them all", (True,)),
    "prompt_embeds": Unsupported("prompts are text or token ids"),
    "store": Unsupported("use /v1/responses, which can be stored", (False,)),
}
_DEFAULT_MAX_TOKENS: Final = 16  # as OpenAI's reference has it
_MAX_ANSWERS: Final = 256  # of one request, so that it leaves room in the queue for others


class CompletionFields(CommonFields, kw_only=True, frozen=True):
    """Fields of the route."""

    prompt: str | list[Any]
    suffix: str | None = None
    echo: bool | None = None
    logprobs: int | None = None


async def completions(server: Server, request: Request) -> Response:
    """Continue one prompt or several."""
    fields = read_body(CompletionFields, await request.body(), UNSUPPORTED)
    prompts = read_prompts(fields.prompt, "prompt")
    ask = completion_ask(fields, prompts)
    with naming(messages="prompt", **option_names(fields)):
        answers = await server.start(request, ask)
    shape = CompletionShape(
        server,
        answers,
        prompts,
        n=fields.n or 1,
        has_echo=bool(fields.echo),
        has_logprobs=fields.logprobs is not None,
        is_prompt_only=ask.task == "prefill",
    )
    if fields.stream:
        has_usage = bool(fields.stream_options and fields.stream_options.include_usage)
        return sse_reply(shape.events(has_usage=has_usage), close=answers.aclose)
    try:
        results = await unless_gone(request, answers.fold)
    finally:
        await answers.aclose()
    return json_reply(shape.whole(results, has_prompt_logprobs=fields.prompt_logprobs is not None))


def completion_ask(fields: CompletionFields, prompts: list[str | tuple[int, ...]]) -> TextAsk:
    """The request in the terms that all dialects share. Raises BadRequest for fields that contradict each other."""
    if fields.suffix and fields.echo:
        raise BadRequest("echo is on, and there is a suffix; what is filled in stands between two texts", param="echo")
    if len(prompts) * max(1, fields.n or 1) > _MAX_ANSWERS:
        raise BadRequest(
            f"{len(prompts)} prompts with n = {fields.n or 1} are more than {_MAX_ANSWERS} answers; send several requests",
            param="prompt",
        )
    is_prompt_only = fields.max_tokens == 0
    if is_prompt_only and fields.min_tokens:
        raise BadRequest("min_tokens is given, and max_tokens is 0; give one of them", param="min_tokens")
    options: Options = common_options(fields)
    if fields.max_tokens is None:
        options["max_tokens"] = _DEFAULT_MAX_TOKENS
    if is_prompt_only:
        options["max_tokens"] = None
    else:
        options["logprobs"] = fields.logprobs
    if fields.echo and fields.logprobs is not None:
        if fields.prompt_logprobs not in (None, fields.logprobs):
            raise BadRequest("echo has logprobs and prompt_logprobs be the same; give one of them", param="prompt_logprobs")
        options["prompt_logprobs"] = fields.logprobs
    return TextAsk(
        model=fields.model,
        prompt=prompts,
        options=options,
        suffix=fields.suffix or None,
        task="prefill" if is_prompt_only else "generate",
        cache_salt=fields.cache_salt,
    )


def read_prompts(given: str | list[Any], param: str) -> list[str | tuple[int, ...]]:
    """OpenAI's four forms: a text, token ids, a list of texts, a list of token ids. Raises BadRequest for any other."""
    if isinstance(given, str):
        return [given]
    if given and all(type(item) is int for item in given):
        return [tuple(given)]
    if given and all(isinstance(item, str) for item in given):
        return list(given)
    if given and all(isinstance(item, list) and all(type(i) is int for i in item) for item in given):
        return [tuple(item) for item in given]
    raise BadRequest(f"{param} is no text, no list of texts, no token ids and no list of token ids", param=param)
