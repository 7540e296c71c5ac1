"""Ollama's `/api/generate`: an answer to one prompt, raw text continued, or a gap in code filled."""

import time
from collections.abc import Mapping, Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from samovar.errors import BadRequest
from samovar.serving.body import Unsupported, read_body
from samovar.serving.chat import ChatAsk, TextAsk
from samovar.serving.ollama_chat import NO_IMAGES
from samovar.serving.ollama_options import (
    RunFields,
    check_keep_alive,
    keep_alive,
    keep_alive_s,
    read_options,
    run_options,
    thinking_ask,
)
from samovar.serving.ollama_replies import Call, Shape, load_or_unload, reply
from samovar.serving.server import Server

_NO_PICTURES: Final = "these models write text"
UNSUPPORTED: Final[Mapping[str, Unsupported]] = {
    "template": Unsupported("the model's own is used; for another, send the prompt as it makes it, with raw: true", ("",)),
    "context": Unsupported("send the conversation to /api/chat; what was computed for it is used again", ([],)),
    "images": Unsupported(NO_IMAGES, ([],)),
    "truncate": Unsupported("prompts are never cut", (False,)),
    "shift": Unsupported("an answer ends where the context does", (False,)),
    "width": Unsupported(_NO_PICTURES, (0,)),
    "height": Unsupported(_NO_PICTURES, (0,)),
    "steps": Unsupported(_NO_PICTURES, (0,)),
}


class GenerateFields(RunFields, kw_only=True, frozen=True):
    """Fields of the route."""

    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    raw: bool | None = None


async def generate(server: Server, request: Request) -> Response:
    """Answer, or continue, a prompt; without one, open or close the model."""
    started_s = time.perf_counter()
    fields = read_body(GenerateFields, await request.body(), UNSUPPORTED)
    ask, seconds = generate_ask(fields), keep_alive_s(fields.keep_alive)
    check_keep_alive(request, seconds)
    if not fields.prompt and not fields.suffix:
        return await load_or_unload(server, request, fields.model, response, seconds)
    answers = await server.start(request, ask)
    keep_alive(server.registry, fields.model, seconds)
    shape = Shape(server, answers, response, model=fields.model, logprobs=bool(fields.logprobs), started_s=started_s)
    return await reply(request, answers, shape, streams=fields.stream is not False)


def generate_ask(fields: GenerateFields) -> ChatAsk | TextAsk:
    """The request in the terms that all dialects share. Raises BadRequest."""
    given, asked = read_options(fields.options), thinking_ask(fields.think)
    options, prompt = run_options(fields, given), fields.prompt or ""
    plain = "raw" if fields.raw else "suffix" if fields.suffix else None
    if plain is None:
        messages: list[dict[str, object]] = [{"role": "system", "content": fields.system}] if fields.system else []
        messages.append({"role": "user", "content": prompt})
        options = {**options, "thinking": asked.thinking, "thinking_budget": asked.budget}
        return ChatAsk(model=fields.model, messages=messages, options=options, n_context=given.num_ctx)
    if fields.raw and fields.suffix:
        raise BadRequest("raw and suffix are given; expected one of them", param="suffix")
    for name, value in (("system", fields.system), ("think", asked.thinking or asked.budget)):
        if value:
            raise BadRequest(f"{plain} is given, which goes without a template; leave {name} out", param=name)
    return TextAsk(model=fields.model, prompt=prompt, options=options, suffix=fields.suffix or None, n_context=given.num_ctx)


def response(content: str, thinking: str, _: Sequence[Call]) -> dict[str, object]:
    """What the model says, as text."""
    said: dict[str, object] = {"response": content}
    return said | {"thinking": thinking} if thinking else said
