"""Calls of tools in what a model writes, taken out while it is being written.

Two formats are known whatever the template says: Hermes' `<tool_call>\\n{"name": ..., "arguments": {...}}\\n</tool_call>`, and
Qwen3-Coder's `<tool_call>\\n<function=...>` (see `text.xml_arguments`).
"""

import re
from collections.abc import Callable, Mapping
from typing import Final

from samovar.text.call_objects import calls_in
from samovar.text.json_stream import JsonStream
from samovar.text.output_parser import Delta
from samovar.text.tools import Tool
from samovar.text.xml_arguments import CLOSE_MARK, CLOSE_TAG, OPEN_MARK, OPEN_TAG, XmlArguments, n_begun, restored

_FUNCTION: Final = "<function="
_END_FUNCTION: Final = "</function>"
_MAX_HEADER: Final = 300
_MAX_HEAD: Final = 512  # characters of a Hermes call until its arguments begin
_HEAD: Final = re.compile(r'\{\s*"name"\s*:\s*"([^"\\]*)"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)')
_HEADER: Final = re.compile(r"""<function=[ \t]*["']?([^\s<>"'{]+)["']?[ \t]*(?:>|(?=[\s<{]))""")
_FENCE: Final = re.compile(r"\s*```(?:json)?[ \t]*\n\s*(?=\{)")
_FENCE_BEGUN: Final = re.compile(r"\s*(?:`{0,2}|```(?:j|js|jso|json)?[ \t]*(?:\n\s*)?)")
_START: Final = re.compile(rf"{OPEN_MARK}|\n[ \t]*(?=<function=|\{{)")
_BLANK_LINES: Final = re.compile(r"(?:[ \t\r]*\n)+")


class ToolCallParser:
    """A state machine fed token by token. How the text is cut into pushes makes no difference to the texts it gives.

    Where the tokenizer has `<tool_call>` as a control token, only that token opens a call, and a text that quotes it does not.
    With `finds_bare`, calls that lack it are found at the beginning of a line: of the Coder format, and of Hermes' where
    `</tool_call>` follows or the answer holds nothing else, be it fenced as code. Without it, tags are sure to be there: a call
    that is cut before its name is complete is dropped. What turns out to be no call of a tool in `tools` is content. After
    `max_calls` calls `is_full` says so, and whatever follows is dropped.
    """

    def __init__(
        self,
        tools: Mapping[str, Tool],
        control_tokens: Mapping[str, int],
        *,
        finds_bare: bool = True,
        max_calls: int | None = None,
    ) -> None:
        self._tools, self._finds_bare, self._max_calls = tools, finds_bare, max_calls
        self._open_id, self._close_id = control_tokens.get(OPEN_TAG), control_tokens.get(CLOSE_TAG)
        self._text = ""  # that may end in the beginning of a tag
        self._buffer = ""  # with marks in the place of tags, not acted on yet
        self._raw = ""  # the call that is being read, as long as it may turn out to be none
        self._step: Callable[[], bool] = self._content
        self._object = JsonStream()
        self._object_text = self._sound = ""  # read by it, and given by it
        self._arguments: JsonStream | XmlArguments = self._object
        self._is_wrapped = False  # they are part of an object
        self._name = ""  # of the tool that was called last
        self._found: list[tuple[str, str]] = []  # calls without a tag, which are calls if the answer ends behind them
        self._is_bare = self._is_alone = False  # that call: without an opening tag, with nothing before it
        self._is_fenced = False  # as code
        self._deltas: list[Delta] = []
        self._last = ""  # character of the content
        self._is_after_call = False
        self._is_over = self._is_cut = False
        self.n_calls = 0
        self.is_full = False

    def push(self, token_id: int | None, text: str) -> list[Delta]:
        """What a piece of the answer adds. `token_id` is the token that ends it; None for text that is no single token's."""
        self._buffer += self._marked(token_id, text)
        self._run()
        return self._take()

    def finish(self, *, is_cut: bool) -> list[Delta]:
        """The rest. Where the answer was cut, an unfinished call stays as far as it was given; else it is closed."""
        self._buffer += self._text
        self._text, self._is_over, self._is_cut = "", True, is_cut
        self._run()
        return self._take()

    def _marked(self, token_id: int | None, text: str) -> str:
        for tag, mark, tag_id in ((OPEN_TAG, OPEN_MARK, self._open_id), (CLOSE_TAG, CLOSE_MARK, self._close_id)):
            if tag_id is not None and token_id == tag_id:
                return text.removesuffix(tag) + mark
        if self._open_id is not None and self._close_id is not None:
            return text
        text = self._text + text
        for tag, mark, tag_id in ((OPEN_TAG, OPEN_MARK, self._open_id), (CLOSE_TAG, CLOSE_MARK, self._close_id)):
            text = text.replace(tag, mark) if tag_id is None else text
        certain = len(text) - n_begun(text, (OPEN_TAG, CLOSE_TAG))
        self._text = text[certain:]
        return text[:certain]

    def _run(self) -> None:
        while not self.is_full and self._step():
            pass

    def _take(self) -> list[Delta]:
        deltas, self._deltas = self._deltas, []
        return deltas

    # Content

    def _content(self) -> bool:
        """Text outside calls, up to the next one; whether one may have begun."""
        lead = "\n" if self._last in ("", "\n") or self._is_after_call else "x"
        if self._finds_bare and not self._last and not self.n_calls and (is_fence := self._fence()) is not False:
            return bool(is_fence)
        text, at = lead + self._buffer, 0
        while found := _START.search(text, at):
            verdict = found[0] == OPEN_MARK or self._is_bare_start(text[found.end() :])
            if verdict:
                self._begin(text, found)
                return True
            if verdict is None:
                break
            at = found.end()
        end = found.start() if found else len(text) - self._n_begun(text)
        shown = text[1:end] if self._is_over else text[1:end].rstrip()
        self._buffer = text[1 + len(shown) :] if end else self._buffer
        self._put_content(shown)
        if self._is_over:
            self._put_content(self._buffer)
            self._buffer = ""
        return False

    def _fence(self) -> bool | None:
        """Begin a call that is fenced as code, where the answer begins with one; None where that is open."""
        fence = _FENCE.match(self._buffer)
        if fence is None:
            return None if not self._is_over and _FENCE_BEGUN.fullmatch(self._buffer) else False
        verdict = self._may_be_call(self._buffer[fence.end() :])
        if verdict:
            self._is_bare = self._is_alone = self._is_fenced = True
            self._raw, self._buffer, self._step = fence[0], self._buffer[fence.end() :], self._opened
        return verdict

    def _n_begun(self, text: str) -> int:
        """How many characters at the end may begin a call without its tag."""
        if not self._finds_bare:
            return 0
        start = text.rfind("\n")
        return len(text) - start if start >= 0 and _FUNCTION.startswith(text[start:].lstrip()) else 0

    def _is_bare_start(self, text: str) -> bool | None:
        """Whether a call without its tag begins here; None where that is open."""
        if not self._finds_bare:
            return False
        if text.startswith("{"):
            return self._may_be_call(text)
        if header := _HEADER.match(text):
            return header[1] in self._tools
        return None if self._is_open_header(text) else False

    def _may_be_call(self, text: str) -> bool | None:
        """Whether an object begins with the name of a known tool; None where that is open."""
        begun = "".join(text[:_MAX_HEAD].split()).replace("'", '"')
        heads = [f'{{"name":"{name}"' for name in self._tools]
        if any(begun.startswith(head) for head in heads):
            return True
        is_open = len(text) < _MAX_HEAD and not self._is_over
        return None if is_open and any(head.startswith(begun) for head in heads) else False

    def _is_open_header(self, text: str) -> bool:
        return len(text) < _MAX_HEADER and not self._is_over and not any(c in text[len(_FUNCTION) :] for c in "<>\n")

    def _begin(self, text: str, found: re.Match[str]) -> None:
        """A call begins. Blank lines before it belong to neither."""
        self._is_bare, self._is_fenced = found[0] != OPEN_MARK, False
        before = text[1 : found.end() if self._is_bare else found.start()]
        shown = before.rstrip()
        is_blank = "\n" in before[len(shown) :] or (not shown and (not self._last or self._is_after_call))
        n_shown = len(shown) if is_blank else len(before)
        self._put_content(before[:n_shown])
        self._is_alone = not self._last and not self.n_calls
        self._raw = before[n_shown:] + ("" if self._is_bare else OPEN_MARK)
        self._buffer, self._step = text[found.end() :], self._opened
        self._found.clear()

    def _put_content(self, text: str) -> None:
        if self._is_after_call:
            blank = _BLANK_LINES.match(text)
            text = text[blank.end() :] if blank else text
            text = text if text.strip() else ""
            if text and self._last.strip() and not text[0].isspace():
                text = f"\n{text}"  # two texts that a call parted
        if text:
            self._is_after_call, self._last = False, text[-1]
            self._deltas.append(Delta("content", restored(text)))

    def _give_back(self) -> bool:
        """What was read of a call is content."""
        raw, self._raw, self._step = self._raw, "", self._content
        self._found.clear()
        if self._is_cut and not self._finds_bare:
            self._buffer = ""
            return True
        self._put_content(raw)
        return True

    def _opened(self) -> bool:
        """Behind an opening tag, or where a call stands without one."""
        text = self._buffer.lstrip()
        if text.startswith(("{", "[")):
            self._raw += self._buffer[: len(self._buffer) - len(text)]
            self._buffer, self._step = text, self._read_object
            self._object, self._object_text, self._sound = JsonStream(), "", ""
            return True
        if text.startswith(OPEN_MARK):  # twice
            self._raw += self._buffer[: len(self._buffer) - len(text) + 1]
            self._buffer = text[1:]
            return True
        header = _HEADER.match(text)
        if header is None and not self._is_over and _FUNCTION.startswith(text[: len(_FUNCTION)]) and self._is_open_header(text):
            return False
        if header is None or header[1] not in self._tools:
            return self._give_back()
        self._raw = ""
        self._put_name(header[1])
        self._buffer, self._step = text[header.end() :], self._function
        return True

    def _function(self) -> bool:
        """Behind `<function=NAME>`: arguments in the one format, or in the other."""
        text = self._buffer.lstrip()
        if not text and not self._is_over:
            return False
        if text.startswith("{"):
            self._arguments, self._buffer = JsonStream(), text
        else:
            self._arguments = XmlArguments(self._tools[self._name])
        self._step, self._is_wrapped = self._read_arguments, False
        return True

    # Calls as objects

    def _read_object(self) -> bool:
        """A Hermes call. Its arguments stream from where they begin, if the name comes first; else all of it is read."""
        piece, self._buffer = self._buffer, ""
        self._object_text += piece
        head = None if self._is_bare else _HEAD.match(self._object_text[:_MAX_HEAD])
        if head:
            self._buffer, begun = self._object_text[head.end() :], self._object_text[: head.end()]
            if head[1] not in self._tools:
                self._raw += begun
                return self._give_back()
            self._raw = ""
            self._put_name(head[1])
            self._arguments, self._step, self._is_wrapped = JsonStream(), self._read_arguments, True
            return True
        stream = self._object
        self._sound += stream.push(piece)
        if not stream.is_done:
            is_end = _is_end(stream.rest) if stream.is_broken else None
            if is_end is None and not self._is_over:
                return False
            if is_end or not (stream.is_broken or self._is_cut):
                self._sound += stream.close() or ""
        self._raw += self._object_text[: len(self._object_text) - len(stream.rest)]
        self._buffer = stream.rest
        calls = calls_in(self._sound, self._tools) if stream.is_done else None
        if calls is None:
            return self._give_back()
        self._found += calls
        self._step = self._bare_end if self._is_bare else self._put_found
        return True

    def _bare_end(self) -> bool:
        """Behind an object that is a call if a closing tag follows, or if nothing else is there."""
        text = self._buffer.lstrip()
        if self._is_fenced and ("```".startswith(text) or not text.removeprefix("```").strip()):
            if not self._is_over:
                return False
            self._buffer = text = ""
        if text.startswith(CLOSE_MARK) or (self._is_alone and self._is_over and not text):
            return self._put_found()
        if not text and not self._is_over:
            return False
        is_next = self._is_alone and text.startswith("{") and self._may_be_call(text)
        if is_next is None:
            return False
        if not is_next:
            return self._give_back()
        self._step = self._opened
        return True

    def _put_found(self) -> bool:
        for name, arguments in self._found:
            if self._max_calls is None or self.n_calls < self._max_calls:
                self._put_name(name)
                self._put_arguments(arguments)
        self._found.clear()
        self._raw, self._step = "", self._after
        return True

    # Arguments and ends of calls

    def _read_arguments(self) -> bool:
        stream, piece, self._buffer = self._arguments, self._buffer, ""
        self._put_arguments(stream.push(piece))
        if isinstance(stream, XmlArguments):
            if self._is_over:
                self._put_arguments(stream.finish(is_cut=self._is_cut))
            elif not stream.is_done:
                return False
        elif not stream.is_done:
            is_end = _is_end(stream.rest) if stream.is_broken else None
            if is_end is None and not self._is_over:
                return False
            if is_end or not (stream.is_broken or self._is_cut):
                self._put_arguments(stream.close() or "")
            elif stream.is_broken:  # what was given cannot be taken back
                self._buffer = stream.rest
                return self._end_call()
        self._buffer = stream.rest if stream.is_done or isinstance(stream, JsonStream) else ""
        self._object = JsonStream()
        self._object.push('{"":""')
        self._step = self._tail if self._is_wrapped else self._after
        return True

    def _tail(self) -> bool:
        """Behind the arguments of a Hermes call, to the end of its object."""
        piece, self._buffer = self._buffer, ""
        self._object.push(piece)
        if not (self._object.is_done or self._object.is_broken or self._is_over):
            return False
        self._buffer, self._step = self._object.rest, self._after
        return True

    def _after(self) -> bool:
        """Behind a call: closing tags, or another call between the same tags."""
        text = self._buffer.lstrip()
        if text.startswith(CLOSE_MARK):
            self._buffer, self._is_bare = text[1:], True  # what follows stands between no tags
            self._see_if_full()
            return True
        if text.startswith(_END_FUNCTION):
            self._buffer = text.removeprefix(_END_FUNCTION)
            return True
        if not self._is_over and (_END_FUNCTION.startswith(text) or (_FUNCTION.startswith(text) and not self._is_bare)):
            return False
        if text.startswith("}") and not self._is_bare:
            self._buffer = text[1:]
            return True
        if self._is_cut and any(tag.startswith(text) for tag in (CLOSE_TAG, _END_FUNCTION)):
            self._buffer = ""
        is_next = text.startswith(("{", "[", _FUNCTION)) and not self._is_bare
        self._end_call()
        if is_next:
            self._raw, self._step = "", self._opened
        return True

    def _end_call(self) -> bool:
        self._is_after_call, self._step = True, self._content
        self._see_if_full()
        return True

    def _see_if_full(self) -> None:
        self.is_full = self._max_calls is not None and self.n_calls >= self._max_calls

    def _put_name(self, name: str) -> None:
        self._deltas.append(Delta("tool_name", name, self.n_calls))
        self._name = name
        self.n_calls += 1

    def _put_arguments(self, text: str) -> None:
        if text:
            self._deltas.append(Delta("tool_arguments", restored(text), self.n_calls - 1))


def _is_end(rest: str) -> bool | None:
    """Whether a call ends here, whatever its JSON lacks; None where that is open."""
    text = rest.lstrip()
    if text.startswith((OPEN_MARK, CLOSE_MARK, _END_FUNCTION)):
        return True
    return None if _END_FUNCTION.startswith(text) else False
