"""Full-text search: the messages, files and titles of a user that hold all words of a query."""

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
_IN_TEXTS: Final = "SELECT m.place, m.chat_id, 0 AS file, f.content FROM messages_fts f JOIN messages m ON m.place = f.rowid"
_IN_FILES: Final = (
    "SELECT m.place, m.chat_id, x.place AS file, f.content FROM files_fts f JOIN files x ON x.place = f.rowid "
    "JOIN messages m ON m.id = x.message_id"
)


class Hit(msgspec.Struct, kw_only=True, frozen=True):
    """A message that was found, by its text or by a file's, or with `message_id` None a chat's title; the words in `snippet`
    are marked."""

    chat_id: str
    message_id: str | None
    snippet: str


@dataclass(slots=True)
class Found:
    """The chats in which something was found: titles, and the places of messages with that of the file, 0 for the message's own
    text. Those of `exact` hold the query as it stands."""

    titles: Mapping[str, str] = field(default_factory=dict)
    places: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    exact: set[int] = field(default_factory=set)

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


def search(file: sqlite3.Connection, user_id: str, query: str, *, is_archived: bool | None) -> Found:
    """Where a user's messages, their files, or titles hold all words; `is_archived` None is in all chats."""
    words, phrase = words_of(query), " ".join(folded(query).split())
    found, given = Found(), [user_id] if is_archived is None else [user_id, int(is_archived)]
    of_user = "c.user_id = ?" + ("" if is_archived is None else " AND c.is_archived = ?")
    holds = " AND instr(folded(c.title), ?)" * len(words)
    titles = file.execute(f"SELECT c.id, c.title FROM chats c WHERE {of_user}{holds}", (*given, *words))
    found.titles = {row["id"]: row["title"] for row in titles}
    long = [word for word in words if len(word) >= _N_GRAM]
    where = f" JOIN chats c ON c.id = m.chat_id WHERE {of_user}" + " AND instr(f.content, ?)" * (len(words) - len(long))
    values: list[object] = [*given, *(word for word in words if len(word) < _N_GRAM)]
    for source, index in ((_IN_TEXTS, "messages_fts"), (_IN_FILES, "files_fts")):
        terms = " AND ".join(f'"{word.replace(chr(34), chr(34) * 2)}"' for word in long)
        match, more = (f" AND {index} MATCH ?", [terms]) if long else ("", [])
        rows = f"SELECT place, chat_id, file, instr(content, ?) > 0 AS is_exact FROM ({source}{where}{match})"
        for row in file.execute(rows + " ORDER BY is_exact DESC, place DESC", (phrase, *values, *more)):
            _keep(found, row)
    return found


def _keep(found: Found, row: sqlite3.Row) -> None:
    """Take a message in, unless it is there or its chat has enough; one that holds the query as it stands goes first."""
    places = found.places.setdefault(row["chat_id"], [])
    if any(place == row["place"] for place, _ in places):
        return
    if row["is_exact"]:
        found.exact.add(row["place"])
    places.append((row["place"], row["file"]))
    places.sort(key=lambda one: one[0] not in found.exact)
    del places[_MAX_PER_CHAT:]


def hits(file: sqlite3.Connection, found: Found, words: Sequence[str], chat_ids: Sequence[str]) -> list[Hit]:
    """What was found in some of the chats: a title first, then messages that hold the query as it stands, then the newest ones;
    chats with such a message come first."""
    kept = [one for chat_id in chat_ids for one in found.places.get(chat_id, ())]
    query = "SELECT place, id, content FROM messages WHERE place IN (SELECT value FROM json_each(?))"
    texts = {row["place"]: row for row in file.execute(query, (to_json([place for place, _ in kept]),))}
    query = "SELECT place, name || ': ' || text AS content FROM files WHERE place IN (SELECT value FROM json_each(?))"
    files = {row["place"]: row["content"] for row in file.execute(query, (to_json([one for _, one in kept]),))}
    shown = []
    for chat_id in sorted(chat_ids, key=lambda one: not any(place in found.exact for place, _ in found.places.get(one, ()))):
        if chat_id in found.titles:
            shown.append(Hit(chat_id=chat_id, message_id=None, snippet=snippet(found.titles[chat_id], words)))
        for place, in_file in found.places.get(chat_id, ()):
            text = files[in_file] if in_file else texts[place]["content"]
            shown.append(Hit(chat_id=chat_id, message_id=texts[place]["id"], snippet=snippet(text, words)))
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
