"""Whether a file's tokenizer is the release's: pieces and merges by digest, the rule for words, and 200 hard texts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

from samovar.doctor.finding import Finding, failed, passed, unknown
from samovar.doctor.raw_vocabulary import RawVocabulary, read_raw_vocabulary
from samovar.doctor.releases import Release
from samovar.doctor.subject import Subject
from samovar.doctor.token_tables import TOKEN_TABLES, TokenTable, vocabulary_digest
from samovar.errors import SamovarError
from samovar.text.gguf_vocabulary import QWEN_2
from samovar.text.tokenizer import Tokenizer

SECTION: Final = "tokenizer"
_SAME_WORDS: Final = {"qwen2": ("qwen2", "deepseek-r1-qwen", QWEN_2), "smollm": ("smollm",)}
_AGAIN: Final = "convert the model again with the release's own tokenizer.json, or get the file from its publisher"
_MAX_SHOWN: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTokenizer:
    """A subject's tokenizer, as the file spells it and as it works. None where that cannot be had: `problem` says why."""

    raw: RawVocabulary | None
    tokenizer: Tokenizer | None
    problem: str = ""


def open_tokenizer(subject: Subject) -> OpenTokenizer:
    """Read the tokenizer. Never raises for what is in the file."""
    raw, problem = None, ""
    try:
        raw = read_raw_vocabulary(subject)
        if subject.is_gguf:
            tokenizer = Tokenizer.from_gguf(subject.metadata, origin=subject.path.name)
        else:
            assert subject.tokenizer_json is not None  # else there is no raw vocabulary
            tokenizer = Tokenizer.from_tokenizer_json(subject.tokenizer_json, subject.tokenizer_config)
    except SamovarError as error:
        problem = str(error)
        return OpenTokenizer(raw=raw, tokenizer=None, problem=problem)
    return OpenTokenizer(raw=raw, tokenizer=tokenizer)


def check_tokenizer(opened: OpenTokenizer, release: Release) -> list[Finding]:
    """The lines on pieces, words and hard texts."""
    if opened.raw is None:
        return [failed(SECTION, "vocabulary", opened.problem, "a tokenizer", _AGAIN)]
    table = TOKEN_TABLES[release.tokenizer]
    lines = [_vocabulary(opened.raw, table), _words(opened.raw, table)]
    if opened.raw.normalizer is not None and release.tokenizer != "smollm2":
        lines.append(_normalizer(opened.raw.normalizer))
    return [*lines, _hard_strings(opened, release.tokenizer)]


def _vocabulary(raw: RawVocabulary, table: TokenTable) -> Finding:
    what = "pieces and merges"
    pieces = [raw.pieces[i] for i in range(table.n_pieces) if i in raw.pieces]
    digest = vocabulary_digest(pieces, raw.merges)
    if digest == table.digest:
        return passed(SECTION, what, f"{len(pieces):,} and {len(raw.merges):,}, digest {digest[:12]}")
    return failed(
        SECTION,
        what,
        f"{len(pieces):,} and {len(raw.merges):,}, digest {digest[:12]}",
        f"digest {table.digest[:12]} over {table.n_pieces:,} pieces",
        f"the model would be given other tokens than it was trained on: {_AGAIN}",
    )


def _words(raw: RawVocabulary, table: TokenTable) -> Finding:
    known = _SAME_WORDS[table.words]
    if raw.words in known:
        return passed(SECTION, "rule for words", table.words)
    if raw.words is None and not raw.marks_by_name:  # a tokenizer.json may spell the rule in parts: the hard texts tell
        return unknown(SECTION, "rule for words", "not one regular expression; see the hard texts")
    found = "not stated" if raw.words is None else raw.words[:60]
    advice = f"texts would be cut at other places: set tokenizer.ggml.pre to {table.words!r}, or convert the model again"
    return failed(SECTION, "rule for words", found, table.words, advice)


def _normalizer(found: str) -> Finding:
    if found == "NFC":
        return passed(SECTION, "normaliser", found)
    advice = f"accents that are written apart would become other tokens: {_AGAIN}"
    return failed(SECTION, "normaliser", found, "NFC", advice)


@cache
def hard_strings() -> Sequence[Mapping[str, object]]:
    """The stored texts with their ids in each tokenizer; `tests/parity/make_hard_strings.py` makes them."""
    source = resources.files("samovar.doctor").joinpath("hard_strings.json").read_text(encoding="utf-8")
    rows: list[Mapping[str, object]] = json.loads(source)
    return rows


def _hard_strings(opened: OpenTokenizer, name: str) -> Finding:
    what, rows = "hard texts", hard_strings()
    if opened.tokenizer is None:
        return failed(SECTION, what, opened.problem, "a tokenizer that can be built", _AGAIN)
    wrong = []
    for row in rows:
        found = opened.tokenizer.encode(str(row["text"]), add_bos=False)
        if found != row[name]:
            wrong.append(f"{str(row['text'])!a}: {_short(found)}, expected {_short(row[name])}")
    if not wrong:
        return passed(SECTION, what, f"all {len(rows)} cut as published")
    more = [f"and {len(wrong) - _MAX_SHOWN} more"] if len(wrong) > _MAX_SHOWN else []
    found_text = f"{len(wrong)} of {len(rows)} cut in another way"
    return failed(SECTION, what, found_text, f"all {len(rows)} as published", _AGAIN, [*wrong[:_MAX_SHOWN], *more])


def _short(ids: object) -> str:
    assert isinstance(ids, list)
    return " ".join(map(str, ids[:8])) + (" ..." if len(ids) > 8 else "")
