"""Answers and errors in Anthropic's form: content blocks, the events that build them up, usage, stop reasons."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec
from starlette.responses import Response

from samovar.llm.result import Result
from samovar.serving.anthropic_blocks import SIGNATURE, sealed
from samovar.serving.failures import Failure, retry_headers
from samovar.serving.replies import json_reply
from samovar.text.output_parser import Delta

Event = dict[str, object]
Kind = Literal["thinking", "text", "tool_use"]
_KINDS: Final[Mapping[str, Kind]] = {
    "reasoning": "thinking",
    "content": "text",
    "tool_name": "tool_use",
    "tool_arguments": "tool_use",
}
_DELTAS: Final[Mapping[Kind, tuple[str, str]]] = {  # type of the delta, and the field that holds its text
    "thinking": ("thinking_delta", "thinking"),
    "text": ("text_delta", "text"),
    "tool_use": ("input_json_delta", "partial_json"),
}
_ERROR_TYPES: Final[Mapping[int, str]] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
# Options under the names that requests have for them.
_FIELDS: Final[Mapping[str, str]] = {
    "stop": "stop_sequences",
    "deadline_s": "timeout_s",
    "json_schema": "output_config.format.schema",
    "thinking_budget": "thinking.budget_tokens",
    "continue_final": "messages",
    "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
}
# The client's tool runner asks for a thread, and sends the whole conversation once it reads this.
_NO_THREADS: Final[Mapping[str, str]] = {"error_code": "thread_unsupported_request"}


@dataclass(slots=True)
class _Block:
    kind: Kind
    head: dict[str, object]
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class Content:
    """The content blocks of an answer in the making. The whole of it is what its events add up to.

    With `omits_thoughts` a block of thoughts is empty, and its signature carries them.
    """

    def __init__(self, *, omits_thoughts: bool = False) -> None:
        self._omits_thoughts, self._blocks, self._is_open = omits_thoughts, list[_Block](), False

    @property
    def has_calls(self) -> bool:
        """Whether a tool is called."""
        return any(block.kind == "tool_use" for block in self._blocks)

    def push(self, delta: Delta) -> list[Event]:
        """The events that tell of a delta."""
        kind = _KINDS[delta.field]
        events: list[Event] = []
        if delta.field == "tool_name" or not self._is_open or self._blocks[-1].kind != kind:
            events = [*self.finish(), self._open(kind, delta.text)]
        if delta.field == "tool_name":
            return events
        self._blocks[-1].pieces.append(delta.text)
        if kind == "thinking" and self._omits_thoughts:
            return events
        name, key = _DELTAS[kind]
        return [*events, self._delta({"type": name, key: delta.text})]

    def finish(self) -> list[Event]:
        """The events that end the last block."""
        if not self._is_open:
            return []
        self._is_open = False
        stop: Event = {"type": "content_block_stop", "index": len(self._blocks) - 1}
        if self._blocks[-1].kind == "thinking":
            return [self._delta({"type": "signature_delta", "signature": self._signature(self._blocks[-1])}), stop]
        return [stop]

    def whole(self) -> list[dict[str, object]]:
        """All blocks."""
        return [self._whole(block) for block in self._blocks]

    def _open(self, kind: Kind, text: str) -> Event:
        heads: dict[Kind, dict[str, object]] = {
            "thinking": {"type": "thinking", "thinking": "", "signature": ""},
            "text": {"type": "text", "text": ""},
            "tool_use": {"type": "tool_use", "id": f"toolu_{uuid.uuid4().hex[:24]}", "name": text, "input": {}},
        }
        self._blocks.append(_Block(kind, heads[kind]))
        self._is_open = True
        return {"type": "content_block_start", "index": len(self._blocks) - 1, "content_block": heads[kind]}

    def _delta(self, delta: dict[str, object]) -> Event:
        return {"type": "content_block_delta", "index": len(self._blocks) - 1, "delta": delta}

    def _whole(self, block: _Block) -> dict[str, object]:
        if block.kind == "text":
            return block.head | {"text": block.text}
        if block.kind == "tool_use":
            return block.head | {"input": _input(block.text)}
        shown = "" if self._omits_thoughts else block.text
        return block.head | {"thinking": shown, "signature": self._signature(block)}

    def _signature(self, block: _Block) -> str:
        return sealed(block.text) if self._omits_thoughts else SIGNATURE


def stop_fields(result: Result, *, has_calls: bool, max_tokens: int) -> dict[str, object]:
    """`stop_reason` and `stop_sequence`. A deadline or a loop counts as `max_tokens`; the details tell."""
    if result.finish_reason == "stop":
        reason = "stop_sequence" if result.stop is not None else "tool_use" if has_calls else "end_turn"
    elif result.finish_reason == "length" and result.usage.n_completion < max_tokens:
        reason = "model_context_window_exceeded"
    else:
        reason = "max_tokens"
    return {"stop_reason": reason, "stop_sequence": result.stop}


def details(result: Result) -> dict[str, object]:
    """What Anthropic has no words for."""
    told = {
        "finish_reason": result.finish_reason,
        "thinking_stopped": result.thinking_stopped,
        "cache_miss_reason": result.cache_miss_reason,
        "yarn_factor": result.usage.yarn_factor if result.usage.yarn_factor > 1 else None,
        "seed": result.seed,
    }
    return {name: value for name, value in told.items() if value is not None}


def usage(result: Result) -> dict[str, object]:
    """Tokens. Those of the prompt are `input_tokens` and `cache_read_input_tokens` together; keeping them costs nothing."""
    counts = result.usage
    return {
        "input_tokens": counts.n_prompt - counts.n_cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": counts.n_cached,
        "output_tokens": counts.n_completion,
        "output_tokens_details": {"thinking_tokens": counts.n_thinking},
    }


def first_usage(n_prompt: int) -> dict[str, object]:
    """Usage before anything is computed, when nobody knows what the cache holds."""
    return {"input_tokens": n_prompt, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 0}


def error_event(failure: Failure, request_id: str) -> Event:
    """Anthropic's error object."""
    kind = _ERROR_TYPES.get(_status(failure), "invalid_request_error" if failure.status < 500 else "api_error")
    name = _FIELDS.get(failure.param or "")
    message = failure.message if name is None or name in failure.message else f"{name}: {failure.message}"
    error: dict[str, object] = {"type": kind, "message": message}
    if failure.param == "thread":
        error["details"] = _NO_THREADS
    return {"type": "error", "error": error, "request_id": request_id or None}


def anthropic_error(failure: Failure, request_id: str) -> Response:
    """A reply with Anthropic's error object."""
    headers = retry_headers(failure) | ({"request-id": request_id} if request_id else {})
    return json_reply(error_event(failure, request_id), _status(failure), headers)


def _status(failure: Failure) -> int:
    """Anthropic's own status for what is full."""
    return 529 if failure.status == 503 else failure.status


def _input(arguments: str) -> object:
    """A call's arguments as the model wrote them; empty where they were cut short."""
    try:
        if isinstance(msgspec.json.decode(arguments), dict):
            return msgspec.Raw(arguments.encode())
    except (msgspec.DecodeError, RecursionError):
        pass
    return {}
