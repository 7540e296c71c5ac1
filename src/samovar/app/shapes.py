"""What goes over the wire between the page and the server, and how settings are read."""

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

import msgspec

from samovar.engine.request import SamplingParams
from samovar.errors import BadRequest

Mode = Literal["auto", "thinking", "fast"]
Role = Literal["user", "assistant", "tool"]
Status = Literal["writing", "done", "length", "stopped", "failed", "interrupted"]
ThinkingChoice = Literal["none", "choice", "always"]
SAMPLING: Final = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "repetition_penalty", "max_tokens", "seed")
MAX_MESSAGE_CHARS: Final = 1_000_000
DEFAULT_ANSWER_TOKENS: Final = 8192
_MAX_SETTINGS_BYTES: Final = 256 << 10
JsonObject: TypeAlias = dict[str, Any]


class Settings(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How answers are to be made; None is the model's default. `thinking_budget` and `max_tokens` are tokens, `tools` are in
    OpenAI's form. `max_tokens` bounds thoughts and answer together. With None the thoughts have their own bounds, and the
    answer ends after DEFAULT_ANSWER_TOKENS, with the status "length"."""

    mode: Mode | None = None
    thinking_budget: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    json_schema: JsonObject | None = None
    tools: list[JsonObject] | None = None

    def check(self) -> None:
        """Raises BadRequest for a value that no model takes, naming it."""
        if self.mode == "auto":
            raise BadRequest('mode is "auto", which this server does not have; expected "thinking" or "fast"', param="mode")
        if self.thinking_budget is not None and self.thinking_budget < 0:
            raise BadRequest(f"thinking_budget is {self.thinking_budget}; expected 0 or more tokens", param="thinking_budget")
        SamplingParams(**self.sampling())
        if len(msgspec.json.encode(self)) > _MAX_SETTINGS_BYTES:
            raise BadRequest(f"the settings take more than {_MAX_SETTINGS_BYTES} bytes; shorten the schema or the tools")

    def sampling(self) -> JsonObject:
        """The sampling values that are given."""
        return {name: value for name in SAMPLING if (value := getattr(self, name)) is not None}

    def over(self, other: "Settings") -> "Settings":
        """These settings, and where they leave one open that of `other`."""
        return msgspec.structs.replace(other, **{n: v for n, v in msgspec.structs.asdict(self).items() if v is not None})


class Chat(msgspec.Struct, kw_only=True, frozen=True):
    """A conversation. `leaf_id` is the last message of the branch that was shown last."""

    id: str
    title: str
    folder: str | None
    is_pinned: bool
    is_archived: bool
    system: str
    model: str | None
    settings: Settings
    leaf_id: str | None
    created_ms: int
    updated_ms: int
    n_messages: int
    is_answering: bool


class FileInfo(msgspec.Struct, kw_only=True, frozen=True):
    """A file of a message; `note` says what of it was cut or could not be read."""

    id: str
    name: str
    media_type: str
    n_bytes: int
    n_chars: int
    note: str | None


class ToolCall(msgspec.Struct, kw_only=True):
    """A call that the model wants made; `arguments` is a JSON object, as text."""

    id: str
    name: str
    arguments: str = ""


class Stats(msgspec.Struct, kw_only=True, frozen=True):
    """What an answer took: tokens, milliseconds, tokens a second. None is not known."""

    n_prompt: int | None = None
    n_cached: int | None = None
    n_completion: int | None = None
    n_thinking: int | None = None
    first_token_ms: int | None = None
    thinking_ms: int | None = None
    total_ms: int | None = None
    tokens_per_s: float | None = None
    max_context: int | None = None
    seed: int | None = None


class Message(msgspec.Struct, kw_only=True, frozen=True):
    """A node of a chat's tree. `siblings` are the ids of all messages with the same parent, in the order of their making.
    `error` says what went wrong, in English, and `error_code` is the same for programs (`codes`)."""

    id: str
    chat_id: str
    parent_id: str | None
    role: Role
    content: str
    thoughts: str | None
    tool_calls: list[ToolCall]
    tool_call_id: str | None
    files: list[FileInfo]
    status: Status
    error: str | None
    error_code: str | None = None
    model: str | None
    stats: Stats | None
    settings: Settings | None
    is_json_valid: bool | None
    siblings: list[str]
    created_ms: int


class Model(msgspec.Struct, kw_only=True, frozen=True):
    """A model that chats may use. What is only known of an open model is None before."""

    name: str
    is_open: bool
    thinking: ThinkingChoice | None = None
    max_context: int | None = None
    takes_images: bool = False
    has_auto: bool = False
    defaults: Settings | None = None


def stored_settings(text: str | None) -> Settings:
    """Settings out of the database."""
    return Settings() if text is None else msgspec.json.decode(text, type=Settings)


def to_json(value: object) -> str:
    """JSON text for a column."""
    return msgspec.json.encode(value).decode()


def sampling_defaults(values: Mapping[str, float]) -> Settings:
    """A model's own sampling values, as far as they are settings."""
    known = {name: value for name, value in values.items() if name in SAMPLING}
    return msgspec.convert(known, Settings)
