"""The arguments of one call in Qwen3-Coder's format, as JSON while they are being written.

`<parameter=NAME>\\nVALUE\\n</parameter>`, one after another, and `</function>`. It looks like XML, and is not: values are raw
text.
"""

import json
import re
from typing import Final

from samovar.text.json_stream import JsonStream
from samovar.text.tools import NULLS, Tool, typed

# The tags of calls, where they are tags and no quotation. No text of a model holds half a surrogate pair.
OPEN_MARK: Final = "\udc80"
CLOSE_MARK: Final = "\udc81"
OPEN_TAG: Final = "<tool_call>"
CLOSE_TAG: Final = "</tool_call>"

_PARAMETER, _END_PARAMETER, _END_FUNCTION = "<parameter=", "</parameter>", "</function>"
_TAGS: Final = (_PARAMETER, _END_PARAMETER, _END_FUNCTION)
_MAX_HEADER: Final = 300
# <parameter=a>, <parameter="a">, and damaged: <parameter=a=value, <parameter=a and a line break
_HEADER: Final = re.compile(r"""<parameter=[ \t]*["']?([^\s<>="']+)["']?[ \t]*(?:[>=]|(?=[\n<]))""")
_ENDS: Final = re.compile(f"{_END_PARAMETER}|{_PARAMETER}|{_END_FUNCTION}|[{OPEN_MARK}{CLOSE_MARK}]")


class XmlArguments:
    """Reads from behind `<function=NAME>` on. `rest` is the text behind the call, once it `is_done`.

    A missing `</parameter>`, `</function>` or `</tool_call>` is made up for by what comes next.
    """

    def __init__(self, tool: Tool) -> None:
        self._tool = tool
        self._given: list[str] = []
        self._types: frozenset[str] | None = None  # of the value that is being read
        self._is_begun = self._is_streaming = False  # that value
        self._n_seen = 0  # characters of the buffer in which it does not end
        self._buffer = ""
        self._out: list[str] = []
        self._is_over = False  # no more text will come
        self.is_done = False

    @property
    def rest(self) -> str:
        """Text that has not been read."""
        return self._buffer

    def push(self, text: str) -> str:
        """Read on; what is certain, as JSON."""
        self._buffer += text
        while not self.is_done and (self._between() if self._types is None else self._value(self._types)):
            pass
        return self._take()

    def finish(self, *, is_cut: bool) -> str:
        """No more text will come. A call that was cut stays as it is, and any other is closed."""
        self._is_over = not is_cut
        return self.push("") if self._is_over else ""

    def _take(self) -> str:
        text = "".join(self._out)
        self._out.clear()
        return text

    def _between(self) -> bool:
        """What follows the function's name, or a value; whether it got on."""
        text = self._buffer.lstrip()
        if not self._is_over and any(len(text) < len(tag) and tag.startswith(text) for tag in _TAGS):
            return False
        if text.startswith(_END_PARAMETER):
            self._buffer = text.removeprefix(_END_PARAMETER)
        elif header := _HEADER.match(text):
            self._types = self._tool.types(header[1])
            self._given.append(header[1])
            self._is_begun = self._is_streaming = False
            self._buffer, self._n_seen = text[header.end() :], 0
        elif text.startswith(_PARAMETER) and len(text) < _MAX_HEADER and "\n" not in text and not self._is_over:
            return False
        else:
            self._buffer = text.removeprefix(_END_FUNCTION) if text.startswith(_END_FUNCTION) else self._buffer
            self._out.append("}" if self._given else "{}")
            self.is_done = True
        return True

    def _value(self, types: frozenset[str]) -> bool:
        """A value, as far as it is there; whether it has ended."""
        if not self._is_begun:
            if not self._buffer and not self._is_over:
                return False
            self._is_begun, self._buffer = True, self._buffer.removeprefix("\n")
        end, rest = self._find_end(types)
        if end is None:
            self._stream(types)
            return False
        text = restored(self._buffer[:end].removesuffix("\n"))
        if self._is_streaming:
            self._out.append(_escaped(text) + '"')
        else:
            self._out.append(self._key() + typed(text, types))
        self._buffer, self._types = self._buffer[rest:], None
        return True

    def _stream(self, types: frozenset[str]) -> None:
        """Give out what is certain of a string."""
        certain = self._buffer[: self._n_seen].removesuffix("\n")
        if not certain or not types <= {"string", "null"}:
            return
        if not self._is_streaming and "null" in types and any(null.startswith(certain.strip().lower()) for null in NULLS):
            return
        if not self._is_streaming:
            self._out.append(self._key() + '"')
            self._is_streaming = True
        self._out.append(_escaped(restored(certain)))
        self._buffer, self._n_seen = self._buffer[len(certain) :], self._n_seen - len(certain)

    def _key(self) -> str:
        lead = "{" if len(self._given) == 1 else ", "
        return f"{lead}{json.dumps(self._given[-1], ensure_ascii=False)}: "

    def _find_end(self, types: frozenset[str]) -> tuple[int | None, int]:
        """Where the value ends, and where what follows begins; None, and all in which it does not end counts as seen."""
        for found in _ENDS.finditer(self._buffer, self._n_seen):
            is_end = self._is_end(found, types)
            if is_end is None:
                self._n_seen = found.start()
                return None, 0
            if is_end:
                return found.start(), found.end() if found[0] == _END_PARAMETER else found.start()
            self._n_seen = found.end()
        if self._is_over:
            return len(self._buffer), len(self._buffer)
        self._n_seen = max(self._n_seen, len(self._buffer) - n_begun(self._buffer, _TAGS))
        return None, 0

    def _is_end(self, found: re.Match[str], types: frozenset[str]) -> bool | None:
        """Whether what looks like the end of the value is; None where that depends on text that is still to come."""
        tag, rest = found[0], self._buffer[found.end() :].lstrip()
        if tag in (_END_PARAMETER, _PARAMETER) and "string" not in types and _is_in_string(self._buffer[: found.start()]):
            return False
        if tag == _END_PARAMETER:
            return True
        if tag == _PARAMETER:
            header = _HEADER.match(self._buffer, found.start())
            if header is None:
                is_open = "\n" not in self._buffer[found.end() :] and len(self._buffer) - found.start() < _MAX_HEADER
                return None if is_open and not self._is_over else False
            return header[1] in self._tool.properties and header[1] not in self._given
        before = self._buffer[: found.start()]
        is_at_line_start = before.endswith("\n") or not (before or self._is_streaming)
        if tag == CLOSE_MARK and is_at_line_start:
            return True
        if not rest:
            return True if self._is_over else None
        if tag == _END_FUNCTION:
            return rest[0] in (OPEN_MARK, CLOSE_MARK)
        if tag == CLOSE_MARK:
            return rest[0] == OPEN_MARK
        if is_at_line_start and len(rest) < len("<function=") and "<function=".startswith(rest) and not self._is_over:
            return None
        return is_at_line_start and rest.startswith(("{", "<function="))


def restored(text: str) -> str:
    """Text in which marks are tags again."""
    return text.replace(OPEN_MARK, OPEN_TAG).replace(CLOSE_MARK, CLOSE_TAG)


def n_begun(text: str, tags: tuple[str, ...]) -> int:
    """How many characters at the end of `text` may be the beginning of one of the tags."""
    longest = min(len(text), max(map(len, tags)) - 1)
    return next((n for n in range(longest, 0, -1) if any(tag.startswith(text[-n:]) for tag in tags)), 0)


def _is_in_string(text: str) -> bool:
    stream = JsonStream()
    stream.push(text.lstrip())
    return stream.is_in_string


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
