"""Control tokens (`<|im_end|>`, `<think>` and so on) and how a text is cut at them.

The rules are those of added tokens in a tokenizer.json: tokens that are not marked `is_normalized` are looked for in the text
as given, the others in the normalised rest. Of several that start at one place the longest wins.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from samovar.text.rendered_prompt import Span

# White_Space of Unicode. Python's isspace() holds four control characters more.
_SPACES: Final = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)
_JOINERS: Final = "\u200c\u200d"
_MARKUP: Final = re.compile(r"<\|.*\|>|<｜.*｜>|<unused.*>", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlToken:
    """A token with an id of its own that is matched as a whole. `is_special` ones are markup and never shown as text."""

    id: int
    text: str
    is_special: bool
    takes_left_space: bool = False
    takes_right_space: bool = False
    is_whole_word: bool = False
    is_normalized: bool = False


def looks_like_markup(text: str) -> bool:
    """Whether llama.cpp's converter writes a token of this text as control, special or not: a GGUF file does not tell then."""
    return _MARKUP.fullmatch(text) is not None


def token_pattern(texts: Iterable[str]) -> re.Pattern[str]:
    """A pattern for `find_tokens`."""
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def find_tokens(pattern: re.Pattern[str], text: str, protected: Sequence[Span] = ()) -> Iterator[tuple[str, int, int]]:
    """The tokens in a text with their ranges: the first one, then the first behind it, and so on; the longest at each place.

    None touches a `protected` range; these are in order.
    """
    position = n_passed = 0
    while found := pattern.search(text, position):
        start, end = found.span()
        while n_passed < len(protected) and protected[n_passed][1] <= start:
            n_passed += 1
        if n_passed < len(protected) and protected[n_passed][0] < end:
            position = start + 1
            continue
        position = end
        yield found.group(), start, end


class ControlSplitter:
    """Cuts texts at control tokens."""

    def __init__(self, tokens: Sequence[ControlToken], normalize: Callable[[str], str] | None) -> None:
        self._normalize = normalize
        self._raw = _Matcher({t.text: t for t in tokens if t.text and not t.is_normalized})
        late = [t for t in reversed(tokens) if t.text and t.is_normalized]  # of two that normalise alike the first one counts
        self._late = _Matcher({normalize(t.text) if normalize else t.text: t for t in late})

    def split(self, text: str, protected: Sequence[Span] = ()) -> Iterator[int | str]:
        """The ids of control tokens and the normalised texts between them, in order; no text is empty.

        Nothing that touches a `protected` range is a control token.
        """
        for piece, start, end in self._raw.cut(text, protected):
            if isinstance(piece, int):
                yield piece
                continue
            inside = [(max(s, start) - start, min(e, end) - start) for s, e in protected if s < end and e > start]
            yield from self._split_normalized(piece, inside)

    def plain(self, text: str) -> str:
        """The normalised text, where no control token is looked for."""
        return self._normalize(text) if self._normalize else text

    def _split_normalized(self, text: str, protected: list[Span]) -> Iterator[int | str]:
        if self._late.is_empty:
            plain = self.plain(text)
            if plain:
                yield plain
            return
        if self._normalize and protected:
            protected = [(len(self.plain(text[:s])), len(self.plain(text[:e]))) for s, e in protected]
        yield from (piece for piece, _, _ in self._late.cut(self.plain(text), protected) if piece != "")


class _Matcher:
    """Finds one set of token texts."""

    def __init__(self, tokens: dict[str, ControlToken]) -> None:
        self._tokens = tokens
        self._pattern = token_pattern(tokens)
        self.is_empty = not tokens

    def cut(self, text: str, protected: Sequence[Span]) -> Iterator[tuple[int | str, int, int]]:
        """Token ids and the texts between them, each with its range."""
        done = 0
        for token, start, end in self._matches(text, protected):
            if token.takes_left_space:
                start = len(text[:start].rstrip(_SPACES))
            if token.takes_right_space:
                end = len(text) - len(text[end:].lstrip(_SPACES))
            start = max(start, done)
            if done < start:
                yield text[done:start], done, start
            yield token.id, start, end
            done = end
        if done < len(text):
            yield text[done:], done, len(text)

    def _matches(self, text: str, protected: Sequence[Span]) -> Iterator[tuple[ControlToken, int, int]]:
        if self.is_empty:
            return
        for found, start, end in find_tokens(self._pattern, text, protected):
            token = self._tokens[found]
            if not token.is_whole_word or not (_is_word(text[start - 1 : start]) or _is_word(text[end : end + 1])):
                yield token, start, end


def _is_word(char: str) -> bool:
    """Whether `char` (one character, or nothing at an end of the text) belongs to a word."""
    return bool(char) and (
        unicodedata.category(char)[0] in "LM" or unicodedata.category(char) in ("Nd", "Nl", "Pc") or char in _JOINERS
    )
