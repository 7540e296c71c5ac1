"""Tokenizers that are small enough to read: single bytes, and a few tokens of several bytes that cut characters in two."""

from samovar.text.control_tokens import ControlToken
from samovar.text.tokenizer import Tokenizer
from samovar.text.vocabulary import PieceKind, Vocabulary

_LONGER = [
    b"\xc3\xa9",
    b"\xa9x",
    b"\xe4\xbd",
    b"\xa0\xe5",
    b"\xf0\x9f\x98",
    b'{"',
    b'":',
    b'",',
    b'"}',
    b"}]",
    b"tru",
    b"10",
    b"  ",
]


class Pieces:
    """An encoder whose tokens are given, and which knows no merges."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces

    def encode(self, text: str) -> list[int]:
        return [self.pieces.index(bytes([byte])) for byte in text.encode()]

    def piece_bytes(self, token_id: int) -> bytes:
        return self.pieces[token_id] if token_id < len(self.pieces) else b""


def tokenizer_of(pieces: list[bytes], control: tuple[str, ...] = ("<end>",)) -> Tokenizer:
    """A tokenizer of these pieces, then control tokens, of which the first ends a text."""
    tokens = tuple(ControlToken(id=len(pieces) + i, text=text, is_special=True) for i, text in enumerate(control))
    return Tokenizer(
        Vocabulary(
            encoder=Pieces(pieces),
            normalize=None,
            control_tokens=tokens,
            n_tokens=len(pieces) + len(control),
            kind=PieceKind.BYTE_LEVEL,
            eos_ids=(tokens[0].id,) if tokens else (),
        )
    )


def byte_tokenizer() -> Tokenizer:
    """All bytes, 13 longer tokens, and the control tokens <end> (id 269) and <think> (270)."""
    return tokenizer_of([*(bytes([i]) for i in range(256)), *_LONGER], ("<end>", "<think>"))


def printable_tokenizer() -> Tokenizer:
    """97 tokens: the printable characters of ASCII, a line break, and <end> with id 96."""
    return tokenizer_of([bytes([i]) for i in (*range(32, 127), 10)])
