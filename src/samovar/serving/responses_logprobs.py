"""Which tokens of an answer are its text: those that log-probabilities of a message are told for."""

from collections.abc import Iterator

from samovar.engine.request import Logprob
from samovar.llm.result import Result
from samovar.text.output_parser import CLOSE, OPEN
from samovar.text.tokenizer import Tokenizer

_TOOL_CALL = "<tool_call>"


class TextTokens:
    """Goes through the tokens of one answer while it grows, and skips thoughts, calls of tools, tags and control tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        control_tokens = tokenizer.control_tokens
        self._tokenizer, self._control_ids = tokenizer, frozenset(control_tokens.values())
        self._open_id, self._close_id = control_tokens.get(OPEN), control_tokens.get(CLOSE)
        self._call_id = control_tokens.get(_TOOL_CALL)
        self._n_read = 0
        self._is_started = False
        self._is_over = False

    def more(self, result: Result) -> list[tuple[int, Logprob]]:
        """The tokens since the last time, without those that were put there and not chosen."""
        return [(token_id, entry) for token_id, entry in self._text(result) if entry is not None]

    def _text(self, result: Result) -> Iterator[tuple[int, Logprob | None]]:
        logprobs = result.logprobs or ()
        ids = result.token_ids
        if not self._is_started and self._close_id in ids and self._has_thoughts(result):
            self._n_read = ids.index(self._close_id) + 1
        start, self._n_read = self._n_read, len(ids)
        for token_id, entry in zip(ids[start:], logprobs[start:], strict=True):
            self._is_over |= token_id == self._call_id
            is_blank = not self._is_started and not self._tokenizer.token_bytes(token_id).strip(b"\n")
            if not self._is_over and not is_blank and token_id not in self._control_ids:
                self._is_started = True
                yield token_id, entry

    def _has_thoughts(self, result: Result) -> bool:
        """Whether what stands before the closing tag is thoughts, or an empty block of them, and no text that quotes a tag."""
        before = result.token_ids[: result.token_ids.index(self._close_id or 0)]
        return result.reasoning is not None or all(
            i == self._open_id or not self._tokenizer.token_bytes(i).strip() for i in before
        )
