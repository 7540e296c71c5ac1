"""Regular expressions out of files, matched in time that the pattern's author cannot blow up.

Python's own matcher tries alternatives one after another, which a hostile pattern can make last for ever. Here a pattern
becomes a graph of states, and all of them are followed at once (Thompson, 1968, "Regular expression search algorithm"): the
time is at most the size of the graph times the length of the text. Syntax and meaning are those of `re`, without what needs
memory of the text (back references, look-around, named groups, flags, possessive repeats).
"""

import re
from typing import Final, NoReturn

from samovar.errors import FormatError, UnsupportedModel

_MAX_STATES: Final = 4000
_MAX_DEPTH: Final = 50
_PLAIN: Final = re.compile(r"\^?(?:[\w.-]|\\\.)*\$?")  # takes Python's matcher no longer than ours
_CLASS: Final = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]")
_REPEAT: Final = re.compile(r"([*+?]|\{(\d{1,4})?(,)?(\d{1,4})?\})([?+]?)")
_ESCAPES: Final = "dDwWsS"


class SafePattern:
    """A pattern that was read from `where`. Raises FormatError for a broken one, UnsupportedModel for what is left out."""

    def __init__(self, source: str, where: str) -> None:
        self._source, self._where, self._at = source, where, 0
        self._jumps: list[list[tuple[re.Pattern[str] | None, int]]] = []  # per state: (what has to hold here, next state)
        self._reads: dict[int, tuple[re.Pattern[str], int]] = {}  # per state: (a character, next state)
        self._depth = 0
        self._plain = re.compile(source) if _PLAIN.fullmatch(source) else None
        self._start = self._end = self._state()
        if self._plain is not None:
            return
        self._end = self._alternatives(self._start)
        if self._at < len(source):
            self._refuse("an unbalanced )")

    @property
    def is_plain(self) -> bool:
        """Whether it is a name, with dots that stand for any character, which costs next to nothing to match."""
        return self._plain is not None

    def matches(self, text: str, starts: frozenset[int] = frozenset({0})) -> bool:
        """Whether the pattern matches all of `text` from one of `starts` to its end."""
        if self._plain is not None:
            return any(self._plain.fullmatch(text, start) for start in starts)
        states: set[int] = set()
        for at in range(len(text) + 1):
            states = self._reach(states | {self._start} if at in starts else states, text, at)
            if at < len(text):
                reads = [self._reads[state] for state in states if state in self._reads]
                states = {following for character, following in reads if character.match(text, at)}
        return self._end in states

    def _reach(self, states: set[int], text: str, at: int) -> set[int]:
        """The states, and those that they lead to without reading a character."""
        found, waiting = set(states), list(states)
        while waiting:
            for condition, following in self._jumps[waiting.pop()]:
                if following not in found and (condition is None or condition.match(text, at)):
                    found.add(following)
                    waiting.append(following)
        return found

    # Each of the methods below reads a part of the pattern, lays it out from the state `entry` on, and returns its last state.

    def _alternatives(self, entry: int) -> int:
        end = self._state()
        while True:
            self._jump(self._sequence(entry), end)
            if not self._source.startswith("|", self._at):
                return end
            self._at += 1

    def _sequence(self, entry: int) -> int:
        while self._at < len(self._source) and self._source[self._at] not in "|)":
            entry = self._repeated(entry)
        return entry

    def _repeated(self, entry: int) -> int:
        """One item and how often it comes: the item is read again for each copy that the graph needs."""
        begin, first = self._at, self._state()
        last = self._item(first)
        repeat = _REPEAT.match(self._source, self._at)
        if repeat is None:
            self._jump(entry, first)
            return last
        low, high = self._bounds(repeat)
        end = self._state()
        for _ in range(low):
            entry = self._item_at(begin, entry)
        if high is None:
            loop = self._state()
            self._jump(entry, loop)
            self._jump(self._item_at(begin, loop), loop)
            entry = loop
        else:
            for _ in range(high - low):
                self._jump(entry, end)
                entry = self._item_at(begin, entry)
        self._jump(entry, end)
        self._at = repeat.end()
        return end

    def _bounds(self, repeat: re.Match[str]) -> tuple[int, int | None]:
        """Least and most repeats; whether a repeat is greedy makes no difference to a match of the whole text."""
        kind, low, comma, high, how = repeat.groups()
        if how == "+" or not (low or high or kind in "*+?"):
            self._refuse(f"the repeat {repeat[0]!r}")
        if kind in "*+?":
            return int(kind == "+"), 1 if kind == "?" else None
        least = int(low or 0)
        most = int(high) if high else None if comma else least
        if most is not None and most < least:
            self._refuse(f"the repeat {repeat[0]!r}")
        return least, most

    def _item_at(self, begin: int, entry: int) -> int:
        self._at = begin
        return self._item(entry)

    def _item(self, entry: int) -> int:
        source, begin = self._source, self._at
        character = source[begin]
        self._at += 1
        if character == "(":
            return self._group(entry)
        if character in "^$":
            return self._anchor(entry, character)
        if character == "\\":
            self._at += 1
            escaped = source[begin + 1 : begin + 2]
            if escaped in ("b", "B", "A", "Z"):
                return self._anchor(entry, "\\" + escaped)
            if not escaped or (escaped.isalnum() and escaped not in _ESCAPES):
                self._refuse(f"the escape '\\{escaped}'")
        if character == "[":
            found = _CLASS.match(source, begin)
            if found is None:
                self._refuse("a [ without its ]")
            self._at = found.end()
        if character in "*+?{":
            self._refuse(f"a {character} with nothing to repeat")
        return self._read(entry, source[begin : self._at])

    def _group(self, entry: int) -> int:
        if self._source.startswith("?:", self._at):
            self._at += 2
        elif self._source.startswith("?", self._at):
            raise UnsupportedModel(
                f"{self._where}: pattern {self._source!r} uses (? at {self._at - 1}; of these only (?: is implemented"
            )
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            self._refuse(f"groups nested more than {_MAX_DEPTH} deep")
        end = self._alternatives(entry)
        if not self._source.startswith(")", self._at):
            self._refuse("a ( without its )")
        self._depth -= 1
        self._at += 1
        return end

    def _anchor(self, entry: int, text: str) -> int:
        end = self._state()
        self._jumps[entry].append((re.compile(text), end))
        return end

    def _read(self, entry: int, text: str) -> int:
        """One character that `text` stands for."""
        try:
            character = re.compile(text)
        except re.error as error:
            self._refuse(f"{text!r} ({error})")
        start, end = self._state(), self._state()
        self._jump(entry, start)  # a state reads one character at most
        self._reads[start] = character, end
        return end

    def _state(self) -> int:
        if len(self._jumps) >= _MAX_STATES:
            self._refuse(f"more than {_MAX_STATES} states")
        self._jumps.append([])
        return len(self._jumps) - 1

    def _jump(self, begin: int, end: int) -> None:
        self._jumps[begin].append((None, end))

    def _refuse(self, what: str) -> NoReturn:
        raise FormatError(
            f"{self._where}: pattern {self._source[:200]!r} has {what} at {self._at}; a plain regular expression is expected"
        )
