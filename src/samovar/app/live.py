"""An answer while it grows, and whoever follows it: any number of pages, each from where it came in, none waited for."""

import asyncio
import time
from collections.abc import AsyncGenerator

import msgspec

from samovar.app.database import new_id
from samovar.app.shapes import Message, ToolCall
from samovar.text.output_parser import Delta


class Piece(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """What is to be appended. `at_content` and `at_thoughts` are the lengths before it in UTF-16 units, as a browser counts;
    `tool_calls` are all of them, where one has grown."""

    at_content: int
    at_thoughts: int
    content: str = ""
    thoughts: str = ""
    tool_calls: list[ToolCall] | None = None


class Live:
    """What there is of an answer, and the id of the job that writes it. Belongs to the server's event loop."""

    def __init__(self, message: Message) -> None:
        self.chat_id, self.job_id, self._message = message.chat_id, new_id(), message
        self._content, self._thoughts = [message.content], [message.thoughts or ""]
        self._calls = list(message.tool_calls)
        self._n_before = len(self._calls)
        self._news = asyncio.Event()
        self.n_changes, self.is_over = 0, False
        self.thinking_s, self._thinking_since = 0.0, float("nan")

    @property
    def message(self) -> Message:
        """The message as far as it is."""
        content, thoughts = "".join(self._content), "".join(self._thoughts)
        return msgspec.structs.replace(
            self._message,
            content=content,
            thoughts=thoughts or None,
            tool_calls=[msgspec.structs.replace(c) for c in self._calls],
        )

    def push(self, delta: Delta) -> None:
        """Append what the model has written."""
        if delta.field == "reasoning":
            if len(self._thoughts) == 1:
                self._thinking_since = time.perf_counter()
            self._thoughts.append(delta.text)
            self.thinking_s = time.perf_counter() - self._thinking_since
        elif delta.field == "content":
            self._content.append(delta.text)
        elif delta.field == "tool_name":
            self._calls.append(ToolCall(id=f"call_{self._message.id}_{len(self._calls)}", name=delta.text))
        else:
            self._calls[self._n_before + delta.call].arguments += delta.text
        self._tell()

    def end(self, message: Message) -> None:
        """Take the last state of the message, whose texts are those that there are."""
        self._message, self.is_over = message, True
        self._tell()

    async def follow(self) -> AsyncGenerator[Message | Piece, None]:
        """The message as it is, then each piece that is added, until it is over. Pieces that came together come as one."""
        n_content, n_thoughts, n_changes = len(self._content), len(self._thoughts), self.n_changes
        start = self.message
        at_content, at_thoughts = _n_utf16(start.content), _n_utf16(start.thoughts or "")
        calls = start.tool_calls
        yield start
        while True:
            if self.n_changes == n_changes:
                if self.is_over:
                    return
                await self._news.wait()
                continue
            n_changes = self.n_changes
            content, thoughts = "".join(self._content[n_content:]), "".join(self._thoughts[n_thoughts:])
            n_content, n_thoughts = len(self._content), len(self._thoughts)
            has_called = self._calls != calls
            calls = [msgspec.structs.replace(call) for call in self._calls]
            piece = Piece(
                at_content=at_content,
                at_thoughts=at_thoughts,
                content=content,
                thoughts=thoughts,
                tool_calls=calls if has_called else None,
            )
            at_content, at_thoughts = at_content + _n_utf16(content), at_thoughts + _n_utf16(thoughts)
            yield piece

    def _tell(self) -> None:
        self.n_changes += 1
        self._news.set()
        self._news = asyncio.Event()


def _n_utf16(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-16-le")) // 2
