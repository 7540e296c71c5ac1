"""A response as it grows. The events of its stream and the whole of it are the same fold over the pieces of an answer."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from samovar.llm.result import Result
from samovar.serving.failures import Failure
from samovar.serving.openai_options import finish_details, with_seed
from samovar.serving.responses_items import Item, sealed
from samovar.text.output_parser import Delta

Event = dict[str, Any]
_KINDS: Final = {
    "reasoning": "reasoning",
    "content": "message",
    "tool_name": "function_call",
    "tool_arguments": "function_call",
}
_PREFIXES: Final = {"reasoning": "rs", "message": "msg", "function_call": "fc"}


@dataclass(slots=True, kw_only=True)
class _Open:
    """The item that is being written."""

    kind: str
    id: str
    name: str = ""
    call_id: str = ""
    pieces: list[str] = field(default_factory=list)
    logprobs: list[Item] = field(default_factory=list)


class Growing:
    """Takes deltas and gives events, numbered from 0; `body` is the response so far, with the items that are complete.

    With `has_summary` thoughts are told as a summary that leaves nothing out, else as the content of their item; with
    `has_sealed` also as `encrypted_content`. Ids of items lead back to the response: see `response_id_of`.
    """

    def __init__(self, body: dict[str, Any], *, has_summary: bool = False, has_sealed: bool = False) -> None:
        self.body, self._has_summary, self._has_sealed = body, has_summary, has_sealed
        self._output: list[Item] = body["output"]
        self._open: _Open | None = None
        self._n_events = 0

    def begin(self) -> list[Event]:
        """The events before anything is there."""
        return [self._event(kind, response=self.body) for kind in ("response.created", "response.in_progress")]

    def push(self, delta: Delta, logprobs: Sequence[Item] = ()) -> list[Event]:
        """The events of a piece; `logprobs` are those of its tokens."""
        events, kind = list[Event](), _KINDS[delta.field]
        item = self._open
        if item is None or item.kind != kind or delta.field == "tool_name":
            events += self._close("completed")
            item = self._open = self._begun(kind, delta.text if delta.field == "tool_name" else "")
            events += self._opening(item)
        if delta.field != "tool_name" and (delta.text or logprobs):
            item.pieces.append(delta.text)
            item.logprobs += logprobs
            events.append(self._delta(item, delta.text, logprobs))
        return events

    def finish(self, result: Result, logprobs: Sequence[Item] = ()) -> list[Event]:
        """The last events of an answer; `logprobs` are those of tokens that no piece came for."""
        status = {"stop": "completed", "cancelled": "cancelled"}.get(result.finish_reason, "incomplete")
        events = list[Event]()
        has_answer = any(item["type"] != "reasoning" for item in self._output)
        has_answer |= self._open is not None and self._open.kind != "reasoning"
        if logprobs or (status == "completed" and not has_answer):
            events += self.push(Delta("content", ""), logprobs)
        events += self._close("completed" if status == "completed" else "incomplete")
        self.body |= {"status": status, "usage": usage(result), **with_seed([result]), **finish_details(result)}
        if status == "completed":
            self.body["completed_at"] = int(time.time())
        elif status == "incomplete":
            self.body["incomplete_details"] = {"reason": "max_output_tokens"}
        kind = "response.completed" if status == "completed" else "response.incomplete"
        return [*events, self._event(kind, response=self.body)]

    def fail(self, failure: Failure) -> list[Event]:
        """The last events where an error ended the answer."""
        events = self._close("incomplete")
        code = failure.code if failure.code == "rate_limit_exceeded" else "server_error"
        self.body |= {"status": "failed", "error": {"code": code, "message": failure.message}}
        return [*events, self._event("response.failed", response=self.body)]

    def _begun(self, kind: str, name: str) -> _Open:
        item_id = f"{_PREFIXES[kind]}_{self.body['id'].removeprefix('resp_')}_{len(self._output)}"
        call_id = f"call_{uuid.uuid4().hex[:24]}" if kind == "function_call" else ""
        return _Open(kind=kind, id=item_id, name=name, call_id=call_id)

    def _opening(self, item: _Open) -> list[Event]:
        added = self._event(
            "response.output_item.added", output_index=len(self._output), item=self._item(item, "in_progress", parts=False)
        )
        if item.kind == "function_call":
            return [added]
        return [added, self._of_item(self._part_event(item, "added"), item, part=self._part(item))]

    def _delta(self, item: _Open, text: str, logprobs: Sequence[Item]) -> Event:
        more: Item = {"logprobs": list(logprobs)} if item.kind == "message" else {}
        return self._of_item(f"{self._text_event(item)}.delta", item, delta=text, **more)

    def _close(self, status: str) -> list[Event]:
        item, self._open = self._open, None
        if item is None:
            return []
        text = "".join(item.pieces)
        if item.kind == "function_call":
            events = [self._of_item(f"{self._text_event(item)}.done", item, arguments=text)]
        else:
            more: Item = {"logprobs": item.logprobs} if item.kind == "message" else {}
            events = [
                self._of_item(f"{self._text_event(item)}.done", item, text=text, **more),
                self._of_item(self._part_event(item, "done"), item, part=self._part(item)),
            ]
        whole = self._item(item, status, parts=True)
        events.append(self._event("response.output_item.done", output_index=len(self._output), item=whole))
        self._output.append(whole)
        return events

    def _item(self, item: _Open, status: str, *, parts: bool) -> Item:
        """The item in its full form, without its text where `parts` is off."""
        head: Item = {"id": item.id, "type": item.kind, "status": status}
        shown = [self._part(item)] if parts else []
        if item.kind == "message":
            return head | {"role": "assistant", "content": shown}
        if item.kind == "function_call":
            return head | {"call_id": item.call_id, "name": item.name, "arguments": "".join(item.pieces)}
        thoughts: Item = {"summary": shown} if self._has_summary else {"summary": [], "content": shown}
        if self._has_sealed and parts:
            thoughts["encrypted_content"] = sealed("".join(item.pieces))
        return head | thoughts

    def _part(self, item: _Open) -> Item:
        text = "".join(item.pieces)
        if item.kind == "message":
            return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(item.logprobs)}
        return {"type": "summary_text" if self._has_summary else "reasoning_text", "text": text}

    def _text_event(self, item: _Open) -> str:
        if item.kind == "reasoning":
            return "response.reasoning_summary_text" if self._has_summary else "response.reasoning_text"
        return "response.output_text" if item.kind == "message" else "response.function_call_arguments"

    def _part_event(self, item: _Open, what: str) -> str:
        is_summary = item.kind == "reasoning" and self._has_summary
        return f"response.{'reasoning_summary_part' if is_summary else 'content_part'}.{what}"

    def _of_item(self, kind: str, item: _Open, **more: object) -> Event:
        place: Item = {"item_id": item.id, "output_index": len(self._output)}
        if item.kind != "function_call":
            place["summary_index" if item.kind == "reasoning" and self._has_summary else "content_index"] = 0
        return self._event(kind, **place, **more)

    def _event(self, kind: str, **more: object) -> Event:
        self._n_events += 1
        if "response" in more:  # as it is at this moment
            more["response"] = self.body | {"output": list(self._output)}
        return {"type": kind, "sequence_number": self._n_events - 1, **more}


def response_id_of(item_id: str) -> str | None:
    """The response that wrote an item, by the item's id; None for an item that no response wrote."""
    prefix, _, rest = item_id.partition("_")
    stem, _, place = rest.rpartition("_")
    return f"resp_{stem}" if prefix in _PREFIXES.values() and stem and place.isdigit() else None


def usage(result: Result) -> dict[str, object]:
    """Tokens, in the words of this dialect."""
    took = result.usage
    return {
        "input_tokens": took.n_prompt,
        "input_tokens_details": {"cached_tokens": took.n_cached, "cache_write_tokens": 0},
        "output_tokens": took.n_completion,
        "output_tokens_details": {"reasoning_tokens": took.n_thinking},
        "total_tokens": took.n_prompt + took.n_completion,
    }
