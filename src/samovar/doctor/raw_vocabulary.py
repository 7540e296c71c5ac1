"""A tokenizer's pieces, merges and control tokens as the file spells them, from GGUF metadata or a tokenizer.json."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from samovar.doctor.subject import Subject
from samovar.errors import FormatError
from samovar.formats.mapped_file import unreadable

_KEY: Final = "tokenizer.ggml."
_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5
_MAX_BYTES: Final = 256 << 20


class Role(Enum):
    """How a token is treated: as markup, as text that is matched as a whole, as an ordinary piece, or not at all."""

    SPECIAL = "special"
    TEXTUAL = "matched as a whole, and shown"
    ORDINARY = "an ordinary piece"
    UNUSED = "unused"


@dataclass(frozen=True, slots=True, kw_only=True)
class RawVocabulary:
    """`pieces` by id, `merges` in order ("left right"). `roles` has the ids that are no ordinary pieces.

    `words` is GGUF's name of the rule for words, or the regular expression of a tokenizer.json, None where neither is stated;
    `normalizer` a tokenizer.json's, by type. `marks_by_name` where a converter took what looks like <|markup|> for special.
    """

    pieces: Mapping[int, str]
    merges: tuple[str, ...]
    roles: Mapping[int, Role]
    words: str | None
    normalizer: str | None
    marks_by_name: bool

    def role(self, token_id: int) -> Role:
        """The role of an id."""
        return self.roles.get(token_id, Role.ORDINARY)


def read_raw_vocabulary(subject: Subject) -> RawVocabulary:
    """Read it. Raises FormatError where it is absent or no such thing; a tokenizer that does work is asked of `Tokenizer`."""
    return _of_gguf(subject) if subject.is_gguf else _of_json(subject)


def _of_gguf(subject: Subject) -> RawVocabulary:
    metadata = subject.metadata
    tokens, kinds, merges = (metadata.get(_KEY + key) for key in ("tokens", "token_type", "merges"))
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise FormatError(f"{_KEY}tokens is missing or no list of texts")
    kinds = kinds if isinstance(kinds, list) else []
    by_kind = {_CONTROL: Role.SPECIAL, _USER_DEFINED: Role.TEXTUAL, _UNUSED: Role.UNUSED}
    words = metadata.get(_KEY + "pre")
    return RawVocabulary(
        pieces=dict(enumerate(tokens)),
        merges=tuple(map(str, merges)) if isinstance(merges, list) else (),
        roles={i: by_kind[kind] for i, kind in enumerate(kinds) if kind in by_kind},
        words=words if isinstance(words, str) else None,
        normalizer=None,
        marks_by_name=True,
    )


def _of_json(subject: Subject) -> RawVocabulary:
    path = subject.tokenizer_json
    if path is None:
        raise FormatError("tokenizer.json is missing")
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise FormatError(f"{path.name} is larger than {_MAX_BYTES >> 20} MiB")
        source = json.loads(path.read_bytes())
        model, added = source["model"], source.get("added_tokens") or []
        pieces = {int(i): str(piece) for piece, i in model["vocab"].items()} | {t["id"]: str(t["content"]) for t in added}
        merges = tuple(m if isinstance(m, str) else " ".join(m) for m in model["merges"])
        roles = {t["id"]: Role.SPECIAL if t.get("special") else Role.TEXTUAL for t in added}
        normalizer = (source.get("normalizer") or {}).get("type")
        words = _pattern(source.get("pre_tokenizer"))
    except OSError as error:
        raise unreadable(path, error) from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError(f"{path.name} is no byte-pair tokenizer ({type(error).__name__}: {str(error)[:80]})") from None
    return RawVocabulary(
        pieces=pieces, merges=merges, roles=roles, words=words, normalizer=normalizer or "none", marks_by_name=False
    )


def _pattern(state: object) -> str | None:
    """The regular expression of a pre-tokenizer, None where it has none."""
    if not isinstance(state, dict):
        return None
    if isinstance(pattern := state.get("pattern"), dict):
        return str(pattern.get("Regex"))
    steps = state.get("pretokenizers")
    found = [pattern for step in steps if (pattern := _pattern(step))] if isinstance(steps, list) else []
    return found[0] if len(found) == 1 else None
