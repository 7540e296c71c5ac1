"""Thinking as a contract, on token ids: what a sequence's thoughts may cost, and how they are brought to an end.

The budget counts the tokens between the think tags, the text that ends them included. In the last tenth of it, at least
LANDING_TOKENS, the thoughts are closed at the first sentence end; where none comes, Qwen's own stop text closes them in time
(Qwen3 technical report, section 4.3). Of `max_tokens`, a reserve is kept for the answer: a quarter, at most RESERVE_TOKENS.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from samovar.engine.loops import IN_ANSWER, IN_THOUGHTS, LoopDetector
from samovar.engine.request import FinishReason, Request, ThinkingStopped

LANDING_TOKENS = 32
RESERVE_TOKENS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingTokens:
    """What the engine is told of a vocabulary. `tool_call_id` is None where there is no such tag.

    `close_text` closes thoughts and leads to the answer, `stop_text` says first that there is no more time; both hold
    `close_id` once. `blank_text` stands for no thoughts at all: open and closed at once. `after_close` is what the template has
    between the closing tag and the answer. `ends_sentence` tells the tokens that a sentence may end with, `is_blank` those that
    are white space.
    """

    open_id: int
    close_id: int
    tool_call_id: int | None
    close_text: tuple[int, ...]
    stop_text: tuple[int, ...]
    blank_text: tuple[int, ...]
    after_close: tuple[int, ...]
    ends_sentence: Callable[[int], bool]
    is_blank: Callable[[int], bool]


class _State(Enum):
    START = auto()  # thoughts may open
    THINKING = auto()
    ANSWER = auto()


@dataclass(slots=True)
class Control:
    """Watches one sequence's tokens as they are generated. By itself it knows no thoughts, and looks for no loops.

    `push` takes each token but one that stops the request, and returns those that have to follow it by force. `finish_reason`
    is set when the answer has to end.
    """

    tokens: ThinkingTokens | None = None
    limit: int | None = None  # tokens that thoughts may have
    n_until_reserve: int = 0  # tokens generated when the answer's reserve begins
    has_grammar: bool = False
    n_thinking: int = 0
    stopped: ThinkingStopped | None = None
    finish_reason: FinishReason | None = None
    _state: _State = _State.ANSWER
    _loops: LoopDetector | None = None
    _n_generated: int = 0
    _has_words: bool = False  # the thoughts are more than blank lines
    _n_forced: int = 0  # tokens to come that were put there by force
    _is_asked_to_stop: bool = False

    @classmethod
    def start(cls, request: Request, tokens: ThinkingTokens | None, max_tokens: int) -> "Control":
        """The control of a request that may generate `max_tokens`."""
        thinking = request.thinking
        control = cls(has_grammar=request.grammar is not None, _loops=LoopDetector() if request.stops_loops else None)
        if thinking is None or tokens is None or not (thinking.is_open or thinking.may_open):
            return control
        control.tokens, control.limit = tokens, thinking.budget
        control.n_until_reserve = max_tokens - min(RESERVE_TOKENS, max_tokens // 4)
        control._state = _State.THINKING if thinking.is_open else _State.START
        return control

    @property
    def is_thinking(self) -> bool:
        """The thoughts are open."""
        return self._state is _State.THINKING

    @property
    def is_answering(self) -> bool:
        """The next token belongs to the answer, and is for a grammar to judge."""
        return self._state is _State.ANSWER and not self._n_forced

    def begin(self) -> tuple[int, ...]:
        """Tokens that have to come first: those of no thoughts for a budget of 0, and else the opening tag before a grammar."""
        tokens = self.tokens
        if tokens is None:
            return ()
        if self.limit == 0:
            return self._force(tokens.blank_text if self._state is _State.START else tokens.close_text)
        return self._force((tokens.open_id,)) if self.has_grammar and self._state is _State.START else ()

    def stop_thinking(self) -> None:
        """Close the thoughts after the next token; the caller wants the answer."""
        self._is_asked_to_stop = True

    def finish(self, reason: FinishReason) -> None:
        """The request has ended, perhaps inside the thoughts."""
        if self.is_thinking and self.n_thinking and self.stopped is None:
            by_reason: dict[FinishReason, ThinkingStopped] = {
                "stop": "natural", "length": "length", "cancelled": "request", "deadline": "request",
            }  # fmt: skip
            self.stopped = by_reason.get(reason)

    def push(self, token_id: int) -> tuple[int, ...]:
        """Take in a token; those that have to follow at once."""
        self._n_generated += 1
        is_forced = self._n_forced > 0
        self._n_forced -= is_forced
        if self._loops is not None and not is_forced:
            self._loops.push(token_id)
        if self._state is _State.THINKING:
            return self._think(token_id, is_forced=is_forced)
        if self._state is _State.START:
            self._open(token_id)
        if self._loops is not None and self._loops.is_loop(IN_ANSWER):
            self.finish_reason = "loop"
        return ()

    def _open(self, token_id: int) -> None:
        assert self.tokens is not None
        if token_id == self.tokens.open_id:
            self._state = _State.THINKING
        elif not self.tokens.is_blank(token_id):  # blank lines may come before the tag
            self._state = _State.ANSWER

    def _think(self, token_id: int, *, is_forced: bool) -> tuple[int, ...]:
        """A token inside thoughts."""
        tokens = self.tokens
        assert tokens is not None
        if token_id == tokens.close_id:
            return self._close("natural", is_forced=is_forced)
        if token_id == tokens.tool_call_id:
            return self._close("tool", is_forced=is_forced)
        if is_forced:
            self.n_thinking += self.limit != 0
            return ()
        self.n_thinking += 1
        self._has_words |= not tokens.is_blank(token_id)
        n_stop, n_close = (text.index(tokens.close_id) for text in (tokens.stop_text, tokens.close_text))
        by_length = self.n_until_reserve - (self._n_generated - self.n_thinking) - (len(tokens.stop_text) - n_stop)
        limit = by_length if self.limit is None else min(self.limit, by_length)
        n_left = limit - self.n_thinking
        close_text = tokens.close_text if n_close <= n_left else tokens.close_text[n_close:]
        if self._loops is not None and self._loops.is_loop(IN_THOUGHTS):
            return self._end("loop", close_text)
        if self._is_asked_to_stop:
            return self._end("request", close_text)
        reason: ThinkingStopped = "budget" if limit == self.limit else "length"
        is_landing = n_close <= n_left <= max(LANDING_TOKENS, limit // 10) and self._has_words
        if is_landing and tokens.ends_sentence(token_id):
            return self._end(reason, close_text)
        if n_left == n_stop:
            return self._end(reason, tokens.stop_text)
        if n_left < n_stop and n_left <= n_close:  # there never was room for the stop text
            return self._end(reason, close_text)
        return ()

    def _end(self, reason: ThinkingStopped, text: tuple[int, ...]) -> tuple[int, ...]:
        self.stopped = reason
        return self._force(text)

    def _close(self, reason: ThinkingStopped, *, is_forced: bool) -> tuple[int, ...]:
        """The closing tag is there, or a tool call that stands for it."""
        self._state = _State.ANSWER
        if self.n_thinking:
            self.stopped = self.stopped or reason
        if self._loops is not None:
            self._loops = LoopDetector()
        if is_forced or reason == "tool" or not self.has_grammar:
            return ()
        assert self.tokens is not None
        return self._force(self.tokens.after_close)  # where the grammar leaves no room for it

    def _force(self, token_ids: tuple[int, ...]) -> tuple[int, ...]:
        self._n_forced = len(token_ids)
        return token_ids
