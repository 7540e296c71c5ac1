"""Encoders of a Vocabulary, and the cache of those that lie in one mapped table.

A byte-level vocabulary becomes a table for native code, which is built once and mapped at later starts: neither the package
`tokenizers` nor the lists of tokens and merges are needed then. Other vocabularies, and installations without native code,
are encoded by `tokenizers`.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from samovar.formats.cache import CacheFile, CacheStore
from samovar.kernels.byte_pairs import WORDS, build_byte_pairs, open_byte_pairs
from samovar.text.control_tokens import ControlToken
from samovar.text.unicode_classes import character_classes, compose
from samovar.text.vocabulary import SPACE_MARK, PieceKind, Vocabulary

if TYPE_CHECKING:
    import tokenizers

_LAYOUT: Final = 1  # of the cache's entries: raise it whenever a vocabulary is read in another way
_MIN_CACHED_BYTES = 512 << 10  # smaller tables are built as fast as found
_ENTRY, _SECTION = "tokenizer", "byte_pairs"
_BYTE_PIECE_LENGTH: Final = len("<0x00>")
_PLAIN_FIELDS: Final = ("n_tokens", "first_prefix", "n_spaces_dropped", "special_tokens", "bos_id")
_TUPLES: Final = ("prefix_ids", "suffix_ids", "eos_ids")
HIDDEN, ORDINARY, NAMED = 0, 1, 2  # roles of pieces, as in native/bpe.h


class TableEncoder:
    """Encodes with a table of byte pairs."""

    def __init__(self, table: NDArray[np.uint8]) -> None:
        self.table = table
        self._native = open_byte_pairs(table)
        self.n_tokens = self._native.n_tokens

    @classmethod
    def build(
        cls, pieces: Sequence[str], merges: Sequence[str], roles: NDArray[np.uint8], *, words: str, looks_up_words: bool
    ) -> "TableEncoder":
        """From pieces by id and merges ("left right") in GPT-2's spelling. `words` is one of `kernels.byte_pairs.WORDS`.

        Raises ValueError where merges do not fit.
        """
        assert words in WORDS, words
        return cls(build_byte_pairs(pieces, merges, roles, character_classes(), words=words, looks_up_words=looks_up_words))

    def encode(self, text: str) -> list[int]:
        """As `Encoder.encode`."""
        return self._native.encode(text.encode())

    def piece_bytes(self, token_id: int) -> bytes:
        """As `Encoder.piece_bytes`."""
        return self._native.piece(token_id)


class PackageEncoder:
    """Encodes with the package `tokenizers`."""

    def __init__(self, encoder: "tokenizers.Tokenizer", kind: PieceKind) -> None:
        self._encoder = encoder
        self._byte_of_char = _byte_alphabet() if kind is PieceKind.BYTE_LEVEL else None

    def encode(self, text: str) -> list[int]:
        """As `Encoder.encode`."""
        ids: list[int] = self._encoder.encode(text, add_special_tokens=False).ids
        return ids

    def piece_bytes(self, token_id: int) -> bytes:
        """As `Encoder.piece_bytes`."""
        piece = self._encoder.id_to_token(token_id) or ""
        if self._byte_of_char is None:
            is_byte = len(piece) == _BYTE_PIECE_LENGTH and piece.startswith("<0x") and piece.endswith(">")
            return bytes.fromhex(piece[3:5]) if is_byte else piece.replace(SPACE_MARK, " ").encode()
        try:
            return bytes(map(self._byte_of_char.__getitem__, piece))
        except KeyError:  # a piece outside the byte alphabet stands for itself
            return piece.encode()


def cached_vocabulary(cache: CacheStore | None, source: str, identity: str, read: Callable[[], Vocabulary]) -> Vocabulary:
    """The vocabulary in the cache, or else the one that `read` makes, which is then put there.

    `source` names the file it comes from, `identity` stands for everything it depends on.
    """
    if cache is None:
        return read()
    key = hashlib.sha256(f"{_LAYOUT} {identity}".encode()).hexdigest()
    entry = cache.open(_ENTRY, key)
    if entry is not None and (found := _from_entry(entry)) is not None:
        return found
    vocabulary = read()
    if isinstance(vocabulary.encoder, TableEncoder) and vocabulary.normalize in (None, compose):
        table = vocabulary.encoder.table
        if table.nbytes >= _MIN_CACHED_BYTES:
            cache.write(_ENTRY, key, {"source": source, **_to_meta(vocabulary)}, {_SECTION: table})
    return vocabulary


def _to_meta(v: Vocabulary) -> dict[str, object]:
    plain = {name: getattr(v, name) for name in _PLAIN_FIELDS}
    lists = {name: list(getattr(v, name)) for name in _TUPLES}
    control = [list(asdict(t).values()) for t in v.control_tokens]
    return {
        **plain, **lists, "control": control, "unused_ids": sorted(v.unused_ids), "composes": v.normalize is not None
    }  # fmt: skip


def _from_entry(entry: CacheFile) -> Vocabulary | None:
    """The vocabulary of an entry, whose checksums hold; None where another version of this file wrote it."""
    meta = cast(Mapping[str, Any], entry.meta)
    names = [f.name for f in fields(ControlToken)]
    try:
        settings: dict[str, Any] = {name: meta[name] for name in _PLAIN_FIELDS}
        settings |= {name: tuple(meta[name]) for name in _TUPLES}
        return Vocabulary(
            encoder=TableEncoder(entry.sections[_SECTION]),
            normalize=compose if meta["composes"] else None,
            control_tokens=tuple(ControlToken(**dict(zip(names, row, strict=True))) for row in meta["control"]),
            kind=PieceKind.BYTE_LEVEL,
            unused_ids=frozenset(meta["unused_ids"]),
            **settings,
        )
    except (KeyError, TypeError, ValueError):
        return None


def _byte_alphabet() -> dict[str, int]:
    """Character to byte, as in GPT-2: printable Latin-1 stands for itself, the other bytes for U+0100 and on, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + n): b for n, b in enumerate(others)}
