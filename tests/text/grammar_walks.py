"""Answers drawn at random under the masks of a grammar."""

from functools import cache

import numpy as np

from samovar.text.grammar import GrammarCompiler, GrammarSpec, Matcher
from samovar.text.tokenizer import Tokenizer
from tests.text.tiny_tokenizers import byte_tokenizer, printable_tokenizer
from tests.text.witnesses import qwen3

_CLOSING = (b"}", b"]", b'"', b"@", b".", b"0", b"1", b"e", b"a")


def allowed_ids(matcher: Matcher, n_words: int) -> np.ndarray:
    """The ids that the mask allows, over a vocabulary of 32 n_words."""
    allowed_W = np.full(n_words, 0xFFFFFFFF, np.uint32)
    matcher.mask(allowed_W)
    return np.unpackbits(allowed_W.view(np.uint8), bitorder="little").nonzero()[0]


def walk(
    matcher: Matcher, tokenizer: Tokenizer, rng: np.random.Generator, *, n_free: int = 30, n_max: int = 400
) -> tuple[bytes, bool]:
    """The bytes of an answer, and whether it ended by itself. After `n_free` tokens it takes what closes, where it may."""
    n_words = tokenizer.n_tokens // 32 + 3
    closing_ids = [i for i in range(min(tokenizer.n_tokens, 300)) if tokenizer.token_bytes(i) in _CLOSING]
    text = b""
    for n in range(n_max):
        ids = allowed_ids(matcher, n_words)
        assert len(ids), f"no token may follow {text!r}"
        assert ids[-1] < tokenizer.n_tokens, "padding is allowed"
        is_end = np.isin(ids, tokenizer.eos_ids)
        assert is_end.any() == matcher.is_accepting
        assert not matcher.is_done or is_end.all()
        if is_end.any() and (n >= n_free or is_end.all() or rng.random() < 0.1):
            matcher.accept(int(ids[is_end][0]))
            return text, True
        closing = ids[np.isin(ids, closing_ids)]
        token_id = int(rng.choice(closing if len(closing) and n >= n_free else ids[~is_end]))
        matcher.accept(token_id)
        text += tokenizer.token_bytes(token_id)
    return text, False


TOKENIZERS = {"bytes": byte_tokenizer, "printable": printable_tokenizer, "qwen3": qwen3}


@cache
def compiler(name: str = "bytes") -> tuple[Tokenizer, GrammarCompiler]:
    tokenizer = TOKENIZERS[name]()
    return tokenizer, GrammarCompiler(tokenizer)


def matcher_of(spec: GrammarSpec, name: str = "bytes") -> Matcher:
    return compiler(name)[1].compile(spec)


def accepts(spec: GrammarSpec, text: str) -> bool:
    """Whether the text, spelled in single bytes, is a whole answer."""
    matcher, ids = matcher_of(spec), tuple(text.encode())
    return matcher.n_allowed(ids) == len(ids) and (feed(matcher, ids) or matcher.is_accepting)


def feed(matcher: Matcher, ids: tuple[int, ...]) -> None:
    for token_id in ids:
        matcher.accept(token_id)


def answers(spec: GrammarSpec, name: str, n: int, n_free: int = 30) -> list[str]:
    """Of n random answers those that ended by themselves, as text. Each has to be valid UTF-8."""
    tokenizer, compiles = compiler(name)
    drawn = [walk(compiles.compile(spec), tokenizer, np.random.default_rng(seed), n_free=n_free) for seed in range(n)]
    return [text.decode() for text, is_whole in drawn if is_whole]
