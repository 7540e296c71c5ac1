"""Fields of Anthropic's Messages API, and what becomes of them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, Literal

from samovar.errors import BadRequest
from samovar.llm.options import ChatOptions
from samovar.serving.anthropic_blocks import CacheControl
from samovar.serving.anthropic_conversation import read_conversation, read_tools
from samovar.serving.body import Fields, Unsupported
from samovar.serving.chat import ChatAsk
from samovar.serving.thinking_words import ThinkingAsk, read_thinking

UNSUPPORTED: Final[Mapping[str, Unsupported]] = {
    "container": Unsupported("nothing is executed here"),
    "mcp_servers": Unsupported("nothing leaves this machine; let the client call them, and give their tools as tools", ([],)),
    "service_tier": Unsupported("there is one tier here", ("auto", "standard_only")),
    "speed": Unsupported("there is one speed here, the highest", ("standard",)),
    "inference_geo": Unsupported("answers are computed on this machine"),
    "diagnostics": Unsupported(
        "why a prompt was not found in the cache is told unasked, as samovar.cache_miss_reason",
        ({}, {"previous_message_id": None}),
    ),
    "compaction": Unsupported("ask for a summary in a message"),
    "thread": Unsupported("conversations are not stored"),
    "fallbacks": Unsupported("a request is answered by the model that it names", ([], "default")),
    "fallback_credit_token": Unsupported("nothing is billed here"),
    "billing_policy": Unsupported("nothing is billed here"),
}


class ThinkingFields(Fields, kw_only=True, frozen=True):
    """`thinking`."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = None
    display: Literal["summarized", "omitted"] | None = None


class OutputFormat(Fields, kw_only=True, frozen=True):
    """`output_config.format`, and `output_format`."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(Fields, kw_only=True, frozen=True):
    """`output_config`."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None
    task_budget: None = None


class ToolChoice(Fields, kw_only=True, frozen=True):
    """`tool_choice`."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class KeptTurns(Fields, kw_only=True, frozen=True):
    """Whose thoughts are kept. The template keeps those of the present turn, whatever is said here."""

    type: Literal["all", "thinking_turns"]
    value: int | None = None


class ClearThinking(Fields, kw_only=True, frozen=True):
    """The one edit that is known: earlier thoughts are left out, which the model's template does by itself."""

    type: Literal["clear_thinking_20251015"]
    keep: Literal["all"] | KeptTurns | None = None


class ContextManagement(Fields, kw_only=True, frozen=True):
    """`context_management`. What would cut the conversation is refused."""

    edits: list[ClearThinking] | None = None


class Metadata(Fields, kw_only=True, frozen=True):
    """`metadata`, which is neither stored nor passed on."""

    user_id: str | None = None


class PromptFields(Fields, kw_only=True, frozen=True):
    """Fields of `/v1/messages/count_tokens`: what makes a prompt."""

    model: str | None = None
    messages: list[dict[str, Any]]
    system: str | list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: ToolChoice | None = None
    thinking: ThinkingFields | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    cache_control: CacheControl | None = None
    context_management: ContextManagement | None = None


class MessageFields(PromptFields, kw_only=True, frozen=True):
    """Fields of `/v1/messages`."""

    max_tokens: int
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stream: bool | None = None
    metadata: Metadata | None = None
    seed: int | None = None
    priority: int | None = None
    timeout_s: float | None = None


def prompt_ask(fields: PromptFields) -> ChatAsk:
    """What makes the prompt, in the terms that all dialects share. Raises BadRequest."""
    messages = read_conversation(fields.system, fields.messages)
    is_continued = messages[-1]["role"] == "assistant"
    asked, wish = _thinking(fields)
    options: ChatOptions = {
        "tools": read_tools(fields.tools or ()),
        "thinking": asked.thinking,
        "thinking_budget": asked.budget,
        "continue_final": is_continued,
        "json_schema": _schema(fields),
        **_tool_choice(fields.tool_choice),
    }
    return ChatAsk(model=fields.model, messages=messages, options=options, wish=None if is_continued else wish)


def message_ask(fields: MessageFields) -> ChatAsk:
    """The request in the terms that all dialects share. Raises BadRequest for fields that contradict each other."""
    budget = fields.thinking.budget_tokens if fields.thinking else None
    if budget is not None and budget >= fields.max_tokens:
        raise BadRequest(
            f"thinking.budget_tokens is {budget} and max_tokens {fields.max_tokens}; expected fewer tokens of thoughts than "
            "of thoughts and answer",
            param="thinking.budget_tokens",
        )
    ask = prompt_ask(fields)
    options: ChatOptions = {
        **ask.options,
        "max_tokens": fields.max_tokens,
        "stop": fields.stop_sequences or None,
        "temperature": fields.temperature,
        "top_p": fields.top_p,
        "top_k": fields.top_k,
        "seed": fields.seed,
        "priority": fields.priority,
        "deadline_s": fields.timeout_s,
    }
    return replace(ask, options=options)


def _thinking(fields: PromptFields) -> tuple[ThinkingAsk, ThinkingAsk | None]:
    """What has to be, and what is wished where the model has the choice.

    Without `thinking` there are no thoughts, as with Anthropic: clients that did not ask for any expect the text first.
    """
    thinking, effort = fields.thinking, fields.output_config.effort if fields.output_config else None
    if thinking is None:
        return ThinkingAsk(), ThinkingAsk(thinking=False)
    if thinking.type == "adaptive":
        if thinking.budget_tokens is not None:
            raise BadRequest(
                "thinking.budget_tokens is given, and thinking.type is adaptive; expected type enabled with it",
                param="thinking.budget_tokens",
            )
        return ThinkingAsk(), read_thinking({"thinking.type": True, "output_config.effort": effort})
    words: dict[str, object] = {"thinking.type": thinking.type == "enabled", "thinking.budget_tokens": thinking.budget_tokens}
    if thinking.type == "enabled" and thinking.budget_tokens is None:
        words["output_config.effort"] = effort
    return read_thinking(words), None


def _schema(fields: PromptFields) -> dict[str, Any] | None:
    given = fields.output_config.format if fields.output_config else None
    if given is not None and fields.output_format not in (None, given):
        raise BadRequest("output_config.format and output_format differ; give one of them", param="output_format")
    given = given or fields.output_format
    return None if given is None else given.schema


def _tool_choice(choice: ToolChoice | None) -> ChatOptions:
    if choice is None:
        return {}
    if (choice.name is not None) != (choice.type == "tool"):
        expected = "the name of a tool" if choice.type == "tool" else f"none with type {choice.type}"
        raise BadRequest(f"tool_choice.name is {choice.name!r}; expected {expected}", param="tool_choice.name")
    named = {"type": "function", "function": {"name": choice.name}}
    options: ChatOptions = {"tool_choice": {"auto": "auto", "any": "required", "none": "none"}.get(choice.type, named)}
    if choice.disable_parallel_tool_use is not None:
        options["parallel_tool_calls"] = not choice.disable_parallel_tool_use
    return options
