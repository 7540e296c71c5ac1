"""Answers that match a grammar: which tokens may come next, as bits over the vocabulary.

Shape letters: W words of 32 tokens. llguidance does the work; `GrammarCompiler` bounds it and caches, a `Matcher` follows one
answer. What a finished answer holds matches the grammar; one that is cut by its length is the beginning of one that does.

Control tokens (`<|im_end|>`, `<think>`) stand for no text here: a grammar that spells "<think>" gets it in ordinary tokens. In
Lark, `<think>` without quotes is the control token.

Rules are matched over terminals, and a terminal takes as much as it can: after `/x+/ "x"` nothing can end, and the answer runs
on until its length cuts it. So does that of a schema that only infinite JSON satisfies.
"""

import threading
from collections import OrderedDict
from itertools import takewhile
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from samovar.errors import BadRequest, GrammarError
from samovar.text.grammar_source import to_lark
from samovar.text.grammar_spec import GrammarKind, GrammarSpec
from samovar.text.grammar_trial import parser_limits, reason, try_to_compile
from samovar.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

__all__ = ["GrammarCompiler", "GrammarKind", "GrammarSpec", "Matcher"]

_MAX_CACHED: Final = 64
_MAX_CACHED_CHARS: Final = 512 << 10  # a compiled schema takes some 300 bytes for each character of its text
_TRUSTED: Final = ("json_object", "choice")  # their text is ours

_Key = tuple[GrammarKind, str | tuple[str, ...]]


class Matcher:
    """Follows one answer. Not to be used by two threads at once."""

    def __init__(self, matcher: "LLMatcher", n_tokens: int, end_ids: tuple[int, ...]) -> None:
        self._matcher = matcher
        self._n_tokens = n_tokens
        self._end_ids = end_ids
        self._n_ends = 0  # end tokens accepted
        self._allowed_W = np.zeros(-(-n_tokens // 32), np.uint32)  # as wide as the tokenizer, not as the logits

    @property
    def is_accepting(self) -> bool:
        """Whether the answer may end here."""
        return self._n_ends > 0 or self._matcher.is_accepting()

    @property
    def is_done(self) -> bool:
        """Whether nothing but an end token may follow."""
        return self._n_ends > 0 or (self._matcher.is_stopped() and self._matcher.is_accepting())

    def mask(self, allowed_W: NDArray[np.uint32], /) -> None:
        """Write the tokens allowed next: bit i % 32 of word i // 32 for token id i.

        End tokens are allowed where the answer may end; ids that the tokenizer does not have never are. Typically takes
        0.1 ms, and 0.1 to 0.3 s for the worst grammars that compile. Raises GrammarError where this place of the grammar
        exceeds the limits of a step; the request cannot go on then.
        """
        n = min(len(allowed_W), len(self._allowed_W))
        allowed_W[n:] = 0
        if self._n_ends:
            allowed_W[:n] = 0
        else:
            self._matcher.unsafe_compute_mask_ptr(self._allowed_W.ctypes.data, self._allowed_W.nbytes)
            if self._matcher.is_error():
                raise GrammarError(f"the grammar is too complex to be followed here: {reason(self._matcher)}: simplify it")
            allowed_W[:n] = self._allowed_W[:n]
        is_accepting = self.is_accepting
        for end_id in self._end_ids:
            if end_id < 32 * len(allowed_W):
                bit = np.uint32(1 << end_id % 32)
                allowed_W[end_id // 32] = allowed_W[end_id // 32] & ~bit | (bit if is_accepting else np.uint32(0))

    def accept(self, token_id: int, /) -> None:
        """Step on by a token. Raises GrammarError for one that is not allowed here, which changes nothing."""
        if token_id in self._end_ids:
            if not self.is_accepting:
                raise GrammarError(f"end token {token_id} was accepted where the grammar goes on; expected a token of its mask")
            self._n_ends += 1
        elif self._n_ends or not self._is_ordinary(token_id) or not self._matcher.try_consume_tokens([token_id]):
            why = reason(self._matcher) if self._matcher.is_error() else "expected a token of its mask"
            raise GrammarError(f"token {token_id} cannot follow in this grammar: {why}")

    def n_allowed(self, token_ids: tuple[int, ...]) -> int:
        """How many of these ids, from the first on, may follow one after another; ids from an end token on are not counted."""
        if self._n_ends:
            return 0
        return self._matcher.validate_tokens(list(takewhile(self._is_ordinary, token_ids)))

    def rollback(self, n: int) -> None:
        """Take back the last n tokens accepted, end tokens included; there must be so many."""
        n_ends = min(n, self._n_ends)
        if n > n_ends and not self._matcher.rollback(n - n_ends):
            raise GrammarError(f"{n} tokens of a grammar cannot be taken back: {reason(self._matcher)}")
        self._n_ends -= n_ends

    def _is_ordinary(self, token_id: int) -> bool:
        """Whether llguidance can be asked about the id: one outside its vocabulary would put it in error for good."""
        return 0 <= token_id < self._n_tokens and token_id not in self._end_ids


class GrammarCompiler:
    """Compiles grammars for a tokenizer, and keeps the last ones used. Safe to share between threads.

    An answer ends with one of `end_ids`, by default the tokenizer's own. Nothing is imported or built before the first grammar.
    """

    def __init__(self, tokenizer: Tokenizer, *, end_ids: tuple[int, ...] | None = None) -> None:
        self._tokenizer = tokenizer
        self._end_ids = tokenizer.eos_ids if end_ids is None else end_ids
        self._vocabulary: LLTokenizer | None = None
        self._compiled: OrderedDict[_Key, LLMatcher | str] = OrderedDict()  # matchers at their start, and reasons of refusals
        self._lock = threading.Lock()  # of the above
        self._one_compiles = threading.Lock()

    def compile(self, spec: GrammarSpec) -> Matcher:
        """A matcher at the start of the grammar.

        The first grammar takes some 0.5 s with 152 thousand tokens, further ones 0.1 s, those in the cache less than a
        millisecond; at worst 2 s of processor time, and 10 s where no processor is free. One compiles at a time; those in
        the cache do not wait. Raises BadRequest for a grammar that is refused, GrammarError where compiling it failed.
        """
        key = (spec.kind, spec.source)
        found = self._cached(key)
        if found is None:
            with self._one_compiles:
                found = self._cached(key) or self._keep(key, self._compile_or_reason(spec))
        if isinstance(found, str):
            raise BadRequest(f"{_NAMES[spec.kind]} is refused: {found}", param=spec.param)
        return Matcher(found, self._tokenizer.n_tokens, self._end_ids)

    def _cached(self, key: _Key) -> "LLMatcher | str | None":
        with self._lock:
            if (found := self._compiled.get(key)) is None:
                return None
            self._compiled.move_to_end(key)
            return found if isinstance(found, str) else found.deep_copy()

    def _keep(self, key: _Key, compiled: "LLMatcher | str") -> "LLMatcher | str":
        with self._lock:
            self._compiled[key] = compiled
            while len(self._compiled) > 1 and (
                len(self._compiled) > _MAX_CACHED or sum(map(_n_chars, self._compiled)) > _MAX_CACHED_CHARS
            ):
                self._compiled.popitem(last=False)
            return compiled if isinstance(compiled, str) else compiled.deep_copy()

    def _compile_or_reason(self, spec: GrammarSpec) -> "LLMatcher | str":
        from llguidance import LLMatcher

        if not self._end_ids:
            return "this model's tokenizer has no token that ends an answer"
        vocabulary = self._vocabulary = self._vocabulary or self._build_vocabulary()
        try:
            if spec.kind in _TRUSTED:
                lark = to_lark(spec.kind, spec.source if isinstance(spec.source, str) else list(spec.source))
            else:
                lark = try_to_compile(spec, self._tokenizer.control_tokens)
        except BadRequest as error:
            return str(error)
        matcher = LLMatcher(vocabulary, LLMatcher.grammar_from_lark(lark), log_level=0, limits=parser_limits())
        if matcher.is_error():
            return reason(matcher)
        try:
            # The first mask costs more than later ones, which every request is spared.
            Matcher(matcher, self._tokenizer.n_tokens, self._end_ids).mask(np.empty(0, np.uint32))
        except GrammarError:
            return reason(matcher)
        return matcher

    def _build_vocabulary(self) -> "LLTokenizer":
        from llguidance import LLTokenizer

        return LLTokenizer(_TokenBytes(self._tokenizer, self._end_ids), eos_token=list(self._end_ids))  # type: ignore[arg-type]


_NAMES: Final[dict[GrammarKind, str]] = {
    "json_schema": "the JSON schema",
    "json_object": "JSON output",
    "regex": "the regular expression",
    "choice": "the list of choices",
    "lark": "the Lark grammar",
    "ebnf": "the GBNF grammar",
    "tools": "what the tools' schemas ask for",
}


class _TokenBytes:
    """A tokenizer as LLTokenizer wants it. It is never asked to encode, since forcing is off."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, end_ids: tuple[int, ...]) -> None:
        self.eos_token_id = end_ids[0]
        self.tokens = [tokenizer.token_bytes(i) for i in range(tokenizer.n_tokens)]
        self.special_token_ids = sorted({*tokenizer.control_tokens.values(), *end_ids})

    def __call__(self, text: str) -> list[int]:
        raise NotImplementedError


def _n_chars(key: _Key) -> int:
    return len(key[1]) if isinstance(key[1], str) else sum(map(len, key[1]))
