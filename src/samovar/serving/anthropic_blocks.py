"""Content blocks and tools as Anthropic's clients send them, read one by one. What is not known is refused with its place."""

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeVar

from samovar.errors import BadRequest
from samovar.serving.body import Fields, Unsupported, read_fields

T = TypeVar("T", bound=Fields)

# Clients want a signature on thoughts, and send it back. Where the thoughts are omitted from a reply, they follow the point.
SIGNATURE: Final = "samovar"

_UNSUPPORTED: Final[Mapping[str, Unsupported]] = {
    "citations": Unsupported("sources are not cited", ([],)),
    "caller": Unsupported("tools are called by the model alone", ({"type": "direct"},)),
    "toolset_name": Unsupported("toolsets are Anthropic's"),
}
_UNSUPPORTED_IN_TOOLS: Final[Mapping[str, Unsupported]] = {
    "allowed_callers": Unsupported("tools are called by the model alone", (["direct"],)),
    "defer_loading": Unsupported("all tools are part of the prompt", (False,)),
    "eager_input_streaming": Unsupported("arguments are always streamed as they come", (True,)),
    "input_examples": Unsupported("write examples into the description", ([],)),
}
_REFUSED: Final[Mapping[str, str]] = {
    "image": "this model reads text only",
    "document": "this model reads text only; give the document's text in a text block",
    "search_result": "give its text in a text block",
    "tool_reference": "all tools are part of the prompt",
    "browser_state": "this model reads text only",
    "container_upload": "nothing is executed here",
    "server_tool_use": "tools that run on the server are not offered",
}


class CacheControl(Fields, kw_only=True, frozen=True):
    """`cache_control`. The cache finds what prompts have in common by their tokens, marked or not, as long as there is room."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None
    scope: str | None = None


class Text(Fields, kw_only=True, frozen=True):
    """Text."""

    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None


class Thinking(Fields, kw_only=True, frozen=True):
    """Thoughts of an earlier answer."""

    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class RedactedThinking(Fields, kw_only=True, frozen=True):
    """Thoughts that Anthropic has encrypted. Nobody here can read them, and the conversation goes on without."""

    type: Literal["redacted_thinking"]
    data: str


class ToolUse(Fields, kw_only=True, frozen=True):
    """A call of a tool."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]
    cache_control: CacheControl | None = None


class ToolResult(Fields, kw_only=True, frozen=True):
    """What a call gave."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: str | list[dict[str, Any]] | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None


class Tool(Fields, kw_only=True, frozen=True):
    """A tool of the client's own."""

    name: str
    input_schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None
    type: Literal["custom"] | None = None
    cache_control: CacheControl | None = None


Block = Text | Thinking | RedactedThinking | ToolUse | ToolResult
_KINDS: Final[Mapping[str, Mapping[str, type[Block]]]] = {
    "system": {"text": Text},
    "user": {"text": Text, "tool_result": ToolResult},
    "assistant": {"text": Text, "thinking": Thinking, "redacted_thinking": RedactedThinking, "tool_use": ToolUse},
}


def read_block(where: str, raw: object, role: str) -> Block:
    """One block of a message of a role. Raises BadRequest with its place."""
    kind = raw.get("type") if isinstance(raw, dict) else None
    kinds = _KINDS[role]
    if not isinstance(kind, str) or kind not in kinds:
        reason = _REFUSED.get(kind) if isinstance(kind, str) else None
        expected = f"expected a block of type {', '.join(kinds)} here" if reason is None else reason
        found = f"{where}.type is {kind!r}" if isinstance(raw, dict) else f"{where} is a {type(raw).__name__}"
        raise BadRequest(f"{found}: {expected}", param=f"{where}.type")
    return _read(kinds[kind], where, raw, _UNSUPPORTED)


def read_tool(where: str, raw: dict[str, Any]) -> Tool:
    """A tool's definition. Raises BadRequest, for those that Anthropic defines by their type too."""
    kind = raw.get("type")
    if kind not in (None, "custom"):
        raise BadRequest(
            f"{where}.type is {kind!r}, which is not supported: tools that Anthropic defines or runs are not known here; give "
            "it as a custom tool, with name, description and input_schema",
            param=f"{where}.type",
        )
    return _read(Tool, where, raw, _UNSUPPORTED_IN_TOOLS)


def sealed(thoughts: str) -> str:
    """A signature that carries thoughts which a reply omits. They are not secret, merely out of sight."""
    return f"{SIGNATURE}.{base64.urlsafe_b64encode(thoughts.encode()).decode()}"


def thoughts_of(where: str, block: Thinking) -> str:
    """The thoughts in a block, be they in its signature. Raises BadRequest for one that was changed."""
    name, dot, seal = (block.signature or "").partition(".")
    if block.thinking or not dot or name != SIGNATURE:
        return block.thinking
    try:
        return base64.b64decode(seal, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise BadRequest(
            f"{where}.signature is damaged; send it back as it came, or leave the block out", param=f"{where}.signature"
        ) from None


def _read(kind: type[T], where: str, raw: Any, unsupported: Mapping[str, Unsupported]) -> T:
    try:
        return read_fields(kind, raw, unsupported)
    except BadRequest as error:
        param = where if error.param is None else f"{where}.{error.param}"
        raise BadRequest(f"{where}: {error}", param=param) from None
