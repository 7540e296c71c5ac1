"""Full-text search: the messages and titles of a user that hold all words of a query."""

import re
import sqlite3
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from samovar.app.folding import folded
from samovar.app.shapes import to_json
from samovar.errors import BadRequest

OPEN, CLOSE = "\x02", "\x03"  # around what was found
_N_GRAM: Final = 3  # the index knows nothing shorter; shorter words are looked for in the texts
_MAX_QUERY_CHARS: Final = 400
_MAX_WORDS: Final = 32
_MAX_PER_CHAT: Final = 3
_BEFORE: Final = 40
_WINDOW: Final = 160
_STEP: Final = 2_000
_HITS: Final = """
SELECT m.place, m.chat_id FROM messages_fts f JOIN messages m ON m.place = f.rowid JOIN chats c ON c.id = m.chat_id
WHERE c.user_id = ? AND c.is_archived = ?
"""


class Hit(msgspec.Struct, kw_only=True, frozen=True):
    """A message that was found, or with `message_id` None a chat's title; the words in `snippet` are marked."""

    chat_id: str
    message_id: str | None
    snippet: str


@dataclass(slots=True)
class Found:
    """The chats in which something was found: whether it is the title, and the newest messages."""

    titles: Mapping[str, str] = field(default_factory=dict)
    places: dict[str, list[int]] = field(default_factory=dict)

    @property
    def chat_ids(self) -> list[str]:
        """All of them."""
        return list({**self.titles, **self.places})


def words_of(query: str) -> list[str]:
    """The words of a query, as they are looked for. A sign is a sign here, and stands for nothing else. Raises BadRequest for a
    query that is too long."""
    words = list(dict.fromkeys(folded(query).split()))
    if len(query) > _MAX_QUERY_CHARS or len(words) > _MAX_WORDS:
        raise BadRequest(
            f"query has {len(query)} characters and {len(words)} words; expected at most {_MAX_QUERY_CHARS} and {_MAX_WORDS}",
            param="query",
        )
    return words


def search(file: sqlite3.Connection, user_id: str, words: Sequence[str], *, is_archived: bool) -> Found:
    """Where a user's messages or titles hold all words."""
    found, given = Found(), (user_id, int(is_archived))
    holds = " AND instr(folded(title), ?)" * len(words)
    titles = file.execute(f"SELECT id, title FROM chats WHERE user_id = ? AND is_archived = ?{holds}", (*given, *words))
    found.titles = {row["id"]: row["title"] for row in titles}
    long = [word for word in words if len(word) >= _N_GRAM]
    query = _HITS + " AND instr(f.content, ?)" * (len(words) - len(long))
    values: list[object] = [*given, *(word for word in words if len(word) < _N_GRAM)]
    if long:
        query += " AND messages_fts MATCH ?"
        values.append(" AND ".join(f'"{word.replace(chr(34), chr(34) * 2)}"' for word in long))
    for place, chat_id in file.execute(query + " ORDER BY m.place DESC", values):
        places = found.places.setdefault(chat_id, [])
        if len(places) < _MAX_PER_CHAT:
            places.append(place)
    return found


def hits(file: sqlite3.Connection, found: Found, words: Sequence[str], chat_ids: Sequence[str]) -> list[Hit]:
    """What was found in some of the chats: a title first, then the newest messages."""
    places = [place for chat_id in chat_ids for place in found.places.get(chat_id, ())]
    query = "SELECT place, id, content FROM messages WHERE place IN (SELECT value FROM json_each(?))"
    texts = {row["place"]: row for row in file.execute(query, (to_json(places),))}
    shown = []
    for chat_id in chat_ids:
        if chat_id in found.titles:
            shown.append(Hit(chat_id=chat_id, message_id=None, snippet=snippet(found.titles[chat_id], words)))
        for place in found.places.get(chat_id, ()):
            row = texts[place]
            shown.append(Hit(chat_id=chat_id, message_id=row["id"], snippet=snippet(row["content"], words)))
    return shown


def snippet(text: str, words: Sequence[str]) -> str:
    """A piece of a text around the first word that is in it, with all of them marked."""
    text = text.replace(OPEN, "").replace(CLOSE, "")
    longest = max(map(len, words), default=0)
    for start in range(0, max(1, len(text)), _STEP):
        piece = text[start : start + _STEP + longest + _WINDOW]
        spans = _spans(piece, words)
        if spans:
            first = max(0, spans[0][0] - _BEFORE)
            cut = slice(first, first + _WINDOW)
            before = "… " if start + first else ""
            after = " …" if start + first + _WINDOW < len(text) else ""
            return before + _marked(piece[cut], [(a - first, b - first) for a, b in spans if a >= first]) + after
    return text[:_WINDOW]


def _spans(text: str, words: Sequence[str]) -> list[tuple[int, int]]:
    """Where the words are in a text, in order, none of them overlapping."""
    plain = folded(text)
    if not any(word in plain for word in words):
        return []
    letters = _letters(text)  # folding makes letters longer or shorter, each by itself
    plain = "".join(letter for letter, _, _ in letters)
    starts = [start for letter, start, _ in letters for _ in letter]
    ends = [end for letter, _, end in letters for _ in letter]
    pattern = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    return [(starts[m.start()], ends[m.end() - 1]) for m in re.finditer(pattern, plain)]


def _letters(text: str) -> list[tuple[str, int, int]]:
    """Each letter with its marks: folded, where it begins and where it ends."""
    found, start = [], 0
    for i in range(1, len(text) + 1):
        if i == len(text) or not unicodedata.combining(text[i]):
            found.append((folded(text[start:i]), start, i))
            start = i
    return found


def _marked(text: str, spans: Sequence[tuple[int, int]]) -> str:
    parts, at = [], 0
    for start, end in spans:
        if start >= at and start < len(text):
            parts += [text[at:start], OPEN, text[start:end], CLOSE]
            at = end
    return "".join([*parts, text[at:]])
