"""What a tokenizer is made of, whichever file it came from."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Protocol

from samovar.text.control_tokens import ControlToken

SPACE_MARK: Final = "\u2581"  # stands for a space in the pieces of SentencePiece


class PieceKind(Enum):
    """How the pieces of a vocabulary spell bytes."""

    BYTE_LEVEL = "byte_level"  # a character of GPT-2's alphabet for each byte
    SENTENCEPIECE = "sentencepiece"  # text with marks for spaces, and <0xNN> for single bytes


class Encoder(Protocol):
    """Text and ids of ordinary tokens."""

    def encode(self, text: str) -> list[int]:
        """The ids of a text; no control token is matched, nothing is normalised or added. No surrogates."""

    def piece_bytes(self, token_id: int) -> bytes:
        """The bytes an id of 0 or more stands for; empty where it is no ordinary token's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """The parts of a Tokenizer.

    `encoder` turns normalised text without control tokens into ids; `normalize` comes before it. `first_prefix` goes before
    a text that starts with ordinary text and no space.
    """

    encoder: Encoder
    normalize: Callable[[str], str] | None
    control_tokens: tuple[ControlToken, ...]
    n_tokens: int
    kind: PieceKind
    first_prefix: str = ""
    n_spaces_dropped: int = 0  # at the beginning of decoded text
    prefix_ids: tuple[int, ...] = ()  # before every text
    suffix_ids: tuple[int, ...] = ()  # after every text
    unused_ids: frozenset[int] = frozenset()
    special_tokens: dict[str, str] = field(default_factory=dict)  # role (bos_token, eos_token, ...) to text
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
