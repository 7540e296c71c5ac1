"""The fields of OpenAI's `/v1/responses`, and what they ask for."""

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeVar

from samovar.errors import BadRequest
from samovar.llm.options import ChatOptions
from samovar.serving.body import Fields, Unsupported, read_fields
from samovar.serving.openai_options import response_format
from samovar.serving.thinking_words import ThinkingAsk, read_thinking

UNSUPPORTED: Final[Mapping[str, Unsupported]] = {
    "truncation": Unsupported("prompts are never cut", ("disabled",)),
    "service_tier": Unsupported("there is one tier here", ("auto", "default")),
    "max_tool_calls": Unsupported("it bounds built-in tools, and there are none here"),
    "conversation": Unsupported("use previous_response_id"),
    "prompt": Unsupported("give the prompt itself, as instructions and input"),
    "context_management": Unsupported("a conversation is never shortened here", ([],)),
    "moderation": Unsupported("answers are not judged here"),
    "image": Unsupported("these models read and write text"),
    "access_programs": Unsupported("there are none here"),
    "background_options": Unsupported("what runs in the background begins at once"),
    "prompt_cache_retention": Unsupported("prompts are kept as long as there is room"),
    "prompt_cache_options": Unsupported("prompts are kept as long as there is room"),
    "logprobs": Unsupported('use include: ["message.output_text.logprobs"]', (False,)),
    "n": Unsupported("a response is one answer", (1,)),
    "max_tokens": Unsupported("use max_output_tokens"),
    "messages": Unsupported("use input"),
    "response_format": Unsupported("use text.format"),
}
_NO_SUMMARY: Final = Unsupported("thoughts are not summed up here; auto and detailed give them whole", ("auto", "detailed"))
_REASONING_UNSUPPORTED: Final[Mapping[str, Unsupported]] = {
    "generate_summary": Unsupported("use summary"),
    "context": Unsupported("the model's template decides which thoughts of earlier turns it reads", ("auto",)),
    "mode": Unsupported("there is one mode here", ("standard",)),
}
_TEXT_UNSUPPORTED: Final[Mapping[str, Unsupported]] = {
    "verbosity": Unsupported("say in the prompt how long the answer may be", ("medium",)),
}
_TOOL_UNSUPPORTED: Final[Mapping[str, Unsupported]] = {
    "defer_loading": Unsupported("all tools are in the prompt", (False,)),
    "allowed_callers": Unsupported("the model calls functions itself", (["direct"],)),
    "output_schema": Unsupported("say in the description what comes back"),
}
P = TypeVar("P", bound=Fields)
LOGPROBS: Final = "message.output_text.logprobs"
SEALED: Final = "reasoning.encrypted_content"
_MAX_METADATA: Final = 16  # these three as OpenAI has them
_MAX_KEY: Final = 64
_MAX_VALUE: Final = 512


class StreamFields(Fields, kw_only=True, frozen=True):
    """`stream_options`."""

    include_obfuscation: Literal[False] | None = None


class ReasoningFields(Fields, kw_only=True, frozen=True):
    """`reasoning`."""

    effort: str | None = None
    summary: str | None = None


class TextFields(Fields, kw_only=True, frozen=True):
    """`text`."""

    format: dict[str, Any] | None = None


class ToolFields(Fields, kw_only=True, frozen=True):
    """One of `tools`."""

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseFields(Fields, kw_only=True, frozen=True):
    """Fields of the route."""

    input: str | list[dict[str, Any]]
    model: str | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: int | None = None
    top_logprobs: int | None = None
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    background: bool | None = None
    stream: bool | None = None
    stream_options: StreamFields | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    priority: int | None = None
    timeout_s: float | None = None
    cache_salt: str | None = None
    enable_thinking: bool | None = None
    thinking_budget: int | None = None
    chat_template_kwargs: dict[str, Any] | None = None


def chat_options(fields: ResponseFields) -> ChatOptions:
    """The options of a chat. Raises BadRequest for fields that contradict each other, or cannot be honoured."""
    has_logprobs = LOGPROBS in (fields.include or ())
    if fields.top_logprobs and not has_logprobs:
        raise BadRequest(f'top_logprobs is given; expected include: ["{LOGPROBS}"] with it', param="top_logprobs")
    if fields.stream_options is not None and not fields.stream:
        raise BadRequest("stream_options is given, and stream is off; expected stream: true with it", param="stream_options")
    check_metadata(fields.metadata)
    template_options, asked = dict(fields.chat_template_kwargs or {}), _thinking(fields)
    for name in ("enable_thinking", "thinking_budget"):
        template_options.pop(name, None)
    options: ChatOptions = {
        "temperature": fields.temperature,
        "top_p": fields.top_p,
        "top_k": None if fields.top_k in (-1, 0) else fields.top_k,
        "min_p": fields.min_p,
        "presence_penalty": fields.presence_penalty,
        "frequency_penalty": fields.frequency_penalty,
        "repetition_penalty": fields.repetition_penalty,
        "seed": fields.seed,
        "stop": fields.stop or None,
        "max_tokens": fields.max_output_tokens,
        "logprobs": (fields.top_logprobs or 0) if has_logprobs else None,
        "priority": fields.priority,
        "deadline_s": fields.timeout_s,
        "thinking": asked.thinking,
        "thinking_budget": asked.budget,
        "template_options": template_options,
        "tools": [_chat_tool(at, tool) for at, tool in enumerate(fields.tools)] if fields.tools else None,
        "tool_choice": _tool_choice(fields.tool_choice),
        "parallel_tool_calls": fields.parallel_tool_calls,
    }
    options.update(_format(fields))  # type: ignore[typeddict-item]
    return options


def option_names(fields: ResponseFields) -> dict[str, str]:
    """The fields that options come from, where they are called otherwise: see `body.naming`."""
    names = {"max_tokens": "max_output_tokens", "deadline_s": "timeout_s", "logprobs": "top_logprobs", "messages": "input"}
    names |= dict.fromkeys(("json_schema", "json_object"), "text.format")
    if (word := _thinking(fields).word) is not None:
        names |= {"thinking": word, "thinking_budget": word}
    return names


def has_summary(fields: ResponseFields) -> bool:
    """Whether thoughts are wanted as a summary."""
    return _reasoning(fields).summary is not None


def check_metadata(metadata: Mapping[str, str] | None) -> None:
    """Raises BadRequest for more than there may be."""
    given = metadata or {}
    if len(given) > _MAX_METADATA or any(len(k) > _MAX_KEY or len(v) > _MAX_VALUE for k, v in given.items()):
        raise BadRequest(
            f"metadata is too large; expected up to {_MAX_METADATA} keys of up to {_MAX_KEY} characters, with values of up to "
            f"{_MAX_VALUE}",
            param="metadata",
        )


def echoed(fields: ResponseFields) -> dict[str, Any]:
    """What a response repeats of its request."""
    reasoning = _reasoning(fields)
    wanted = (fields.text or {}).get("format") or {"type": "text"}
    return {
        "instructions": fields.instructions,
        "previous_response_id": fields.previous_response_id,
        "tools": [{"parameters": None, "strict": None, **tool} for tool in fields.tools or ()],
        "tool_choice": fields.tool_choice or "auto",
        "parallel_tool_calls": fields.parallel_tool_calls is not False,
        "text": {"format": wanted},
        "reasoning": {"effort": reasoning.effort, "summary": reasoning.summary},
        "temperature": fields.temperature,
        "top_p": fields.top_p,
        "max_output_tokens": fields.max_output_tokens,
        "max_tool_calls": None,
        "top_logprobs": fields.top_logprobs or 0,
        "metadata": fields.metadata or {},
        "background": bool(fields.background),
        "truncation": "disabled",
        "service_tier": "default",
        "user": fields.user,
        "safety_identifier": fields.safety_identifier,
        "prompt_cache_key": fields.prompt_cache_key,
    }


def _thinking(fields: ResponseFields) -> ThinkingAsk:
    kwargs = fields.chat_template_kwargs or {}
    return read_thinking(
        {
            "reasoning.effort": _reasoning(fields).effort,
            "enable_thinking": fields.enable_thinking,
            "thinking_budget": fields.thinking_budget,
            "chat_template_kwargs.enable_thinking": kwargs.get("enable_thinking"),
            "chat_template_kwargs.thinking_budget": kwargs.get("thinking_budget"),
        }
    )


def _reasoning(fields: ResponseFields) -> ReasoningFields:
    raw = dict(fields.reasoning or {})
    refused = {"summary": _NO_SUMMARY} if raw.get("summary") not in _NO_SUMMARY.harmless else {}
    return _read_part(ReasoningFields, raw, {**_REASONING_UNSUPPORTED, **refused}, "reasoning")


def _format(fields: ResponseFields) -> dict[str, Any]:
    """`text.format` as options: the chat's `response_format` without its inner object."""
    given = _read_part(TextFields, fields.text or {}, _TEXT_UNSUPPORTED, "text").format
    if given is None:
        return {}
    if given.get("type") == "json_schema" and "json_schema" not in given:
        given = {"type": "json_schema", "json_schema": {k: v for k, v in given.items() if k != "type" and v is not None}}
        if "name" not in given["json_schema"]:
            raise BadRequest("text.format.name is missing; expected a name for the schema", param="text.format.name")
    return response_format(given, "text.format")


def _chat_tool(at: int, tool: dict[str, Any]) -> dict[str, object]:
    """A tool in the chat's form. What is not given does not get into the prompt."""
    if tool.get("type") != "function":
        raise BadRequest(
            f"tools[{at}].type is {tool.get('type')!r}; there are no built-in tools here, function only", param="tools"
        )
    _read_part(ToolFields, tool, _TOOL_UNSUPPORTED, f"tools[{at}]")
    names = ("name", "description", "parameters", "strict")
    return {"type": "function", "function": {name: tool[name] for name in names if tool.get(name) is not None}}


def _tool_choice(given: str | dict[str, Any] | None) -> str | dict[str, object] | None:
    if not isinstance(given, dict):
        return given
    if given.get("type") == "function" and isinstance(given.get("name"), str) and len(given) == len(("type", "name")):
        return {"type": "function", "function": {"name": given["name"]}}
    raise BadRequest(
        f"tool_choice is {given!r}; expected auto, none, required, or {{type: function, name}}", param="tool_choice"
    )


def _read_part(kind: type[P], raw: dict[str, Any], unsupported: Mapping[str, Unsupported], where: str) -> P:
    """A part of the body. Raises BadRequest with the whole path of the field."""
    try:
        return read_fields(kind, raw, unsupported)
    except BadRequest as error:
        param = f"{where}.{error.param}" if error.param else where
        raise BadRequest(f"{where}.{error}", param=param) from None
