"""JSON that a model writes, read character by character and given back sound.

What is sound comes out as it was written, digit for digit. Damage that models are known for is mended: bare line breaks and
unknown escapes in strings, strings in single quotes, True, False and None, a comma before a closing bracket.
"""

import json
import re
from typing import Final, Literal

_PLAIN: Final = re.compile(r"""[^"'\\\x00-\x1f]+""")
_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_WORDS: Final = {"true": "true", "false": "false", "null": "null", "True": "true", "False": "false", "None": "null"}
_CLOSERS: Final = {"{": "}", "[": "]"}
_SPACES: Final = " \t\n\r"
_HEX: Final = "0123456789abcdefABCDEF"

# What may come next: "key" and "item" may be a closing bracket instead.
_Need = Literal["start", "key", "colon", "value", "item", "comma"]


class JsonStream:
    """Reads one object or list. `rest` is the text behind it, or from where it is unsound on."""

    def __init__(self) -> None:
        self._stack: list[str] = []
        self._need: _Need = "start"
        self._quote = ""  # of the string that is open
        self._is_key = False  # that string
        self._escape = ""  # what is there of an escape
        self._scalar = ""  # what is there of a number or a word
        self._between = ""  # spaces and a comma, which depends on what follows
        self._out: list[str] = []
        self.is_done = self.is_broken = False
        self.rest = ""

    @property
    def is_in_string(self) -> bool:
        """The text read so far ends inside a string."""
        return bool(self._quote)

    def push(self, text: str) -> str:
        """Read on; what is certain of it, as sound JSON."""
        at = 0
        while at < len(text) and not self.is_done and not self.is_broken:
            at = self._in_string(text, at) if self._quote else self._outside(text, at)
        if self.is_broken and not self.rest:
            self.rest, self._between, self._scalar = self._between + self._scalar, "", ""
        self.rest += text[at:]
        return self._take()

    def close(self) -> str | None:
        """End the value here: the closing brackets that it lacks; None where they would not make it whole."""
        if self.is_done:
            return ""
        if self._quote or not self._stack or not self._end_scalar() or self._need in ("colon", "value"):
            return None
        self._out.append("".join(_CLOSERS[opener] for opener in reversed(self._stack)))
        self.is_done, self._between = True, ""
        return self._take()

    def _take(self) -> str:
        text = "".join(self._out)
        self._out.clear()
        return text

    def _in_string(self, text: str, at: int) -> int:
        if self._escape:
            return self._in_escape(text, at)
        if plain := _PLAIN.match(text, at):
            self._out.append(plain[0])
            return plain.end()
        char = text[at]
        if char == self._quote:
            self._quote = ""
            self._out.append('"')
            self._need = "colon" if self._is_key else "comma"
        elif char == "\\":
            self._escape = char
        else:
            self._out.append(char if char == "'" else json.dumps(char)[1:-1])
        return at + 1

    def _in_escape(self, text: str, at: int) -> int:
        """An escape that JSON does not know stands for itself: its backslash is doubled."""
        char, n = text[at], len(self._escape)
        is_known = char in '"\\/bfnrtu' if n == 1 else char in _HEX
        if n == 1 and char == "'":
            self._out.append(char)
            self._escape = ""
            return at + 1
        if not is_known:
            self._out.append("\\" + self._escape)
            self._escape = ""
            return at
        self._escape += char
        if self._escape[1] != "u" or len(self._escape) == 6:
            self._out.append(self._escape)
            self._escape = ""
        return at + 1

    def _outside(self, text: str, at: int) -> int:
        char = text[at]
        if self._scalar and (char.isalnum() or char in "+-._"):
            self._scalar += char
        elif not self._end_scalar():
            self.is_broken = True
            return at
        elif char in _SPACES:
            self._between += char
        elif not self._take_token(char):
            self.is_broken = True
            return at
        return at + 1

    def _take_token(self, char: str) -> bool:
        """Act on a character that stands for itself, or begins a string or a scalar; whether it may stand here."""
        is_value = self._need in ("value", "item")
        if char in "\"'" and (is_value or self._need == "key"):
            self._quote, self._is_key = char, self._need == "key"
            self._put('"')
        elif char in _CLOSERS and (is_value or self._need == "start"):
            self._stack.append(char)
            self._put(char)
            self._need = "key" if char == "{" else "item"
        elif self._stack and char == _CLOSERS[self._stack[-1]] and self._need not in ("colon", "value"):
            self._stack.pop()
            self._between = self._between.replace(",", "")
            self._put(char)
            self._need, self.is_done = "comma", not self._stack
        elif char == ":" and self._need == "colon":
            self._put(char)
            self._need = "value"
        elif char == "," and self._need == "comma" and self._stack:
            self._between += char
            self._need = "key" if self._stack[-1] == "{" else "item"
        elif is_value and (char.isalnum() or char == "-"):
            self._scalar = char
        else:
            return False
        return True

    def _put(self, text: str) -> None:
        self._out.append(self._between + text)
        self._between = ""

    def _end_scalar(self) -> bool:
        """Give out a number or a word that has ended; False for one that JSON does not know."""
        if not self._scalar:
            return True
        text = _WORDS.get(self._scalar) or (self._scalar if _NUMBER.fullmatch(self._scalar) else None)
        if text is None:
            return False
        self._put(text)
        self._scalar, self._need = "", "comma"
        return True


def sound_json(text: str) -> str | None:
    """An object or a list that is the whole of `text`, mended; None for anything else."""
    stream = JsonStream()
    read = stream.push(text.strip())
    return read if stream.is_done and not stream.rest.strip() else None
