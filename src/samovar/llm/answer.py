"""One answer as it grows: token ids become text, thoughts and answer come apart, stop strings are looked for.

An `Answer` is a fold over the engine's events.
"""

import time
from collections.abc import Callable

from samovar.engine.prefix_cache import Break
from samovar.engine.request import Ending, Event, FinishReason, Logprob, Request
from samovar.errors import SamovarError
from samovar.llm.result import Result, Timing, ToolCall, Usage
from samovar.llm.stop_strings import StopStrings
from samovar.text.detokenizer import Detokenizer
from samovar.text.output_parser import Delta, OutputParser
from samovar.text.tool_call_parser import ToolCallParser


class Answer:
    """Collects what one request generates. Without a parser all text is content, and with `tool_parser` calls are taken out.

    `explain` puts into words where the prompt parted from a cached one.
    """

    def __init__(
        self,
        request: Request,
        detokenizer: Detokenizer,
        parser: OutputParser | None,
        stop: tuple[str, ...],
        explain: Callable[[Break], str | None],
        tool_parser: ToolCallParser | None = None,
    ) -> None:
        self.request = request
        self._detokenizer, self._parser, self._stop, self._explain = detokenizer, parser, StopStrings(stop), explain
        self._tool_parser = tool_parser
        self._calls: list[tuple[str, list[str]]] = []  # names, and pieces of arguments
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._token_ids: list[int] = []
        self._late_ids: list[int] = []  # generated after the answer was over
        self._logprobs: list[Logprob | None] = []
        self._reason: FinishReason | None = None
        self.ending: Ending | None = None
        self._started = self._first = self._last = time.perf_counter()

    @property
    def is_over(self) -> bool:
        """Nothing more will be added: the engine says so, a stop string was seen, or the caller left."""
        return self._reason is not None

    @property
    def text(self) -> str:
        """The answer so far, without thoughts and calls."""
        return "".join(self._content)

    @property
    def error(self) -> SamovarError | None:
        """What ended the answer, where it ended with an error."""
        return None if self.ending is None else self.ending.error

    @property
    def text_ids(self) -> tuple[int, ...]:
        """The prompt and all that was generated after it, as the engine has it."""
        return (*self.request.prompt_ids, *self._token_ids, *self._late_ids)

    def push(self, event: Event) -> list[Delta]:
        """What an event adds to the answer. A stop token ends it and adds no text of its own."""
        ending = event.ending
        if ending is not None:
            self.ending = ending
        if self.is_over:
            self._late_ids += event.token_ids
            return []
        self._last = event.made_s
        if not self._token_ids:
            self._first = self._last
        shown: list[Delta] = []
        logprobs = event.logprobs or (None,) * len(event.token_ids)
        n_text = len(event.token_ids) - int(ending is not None and ending.reason == "stop")  # a stop token has no text
        for at, (token_id, logprob) in enumerate(zip(event.token_ids, logprobs, strict=True)):
            shown += self._push_token(token_id, logprob, has_text=at < n_text)
            if self._stop.is_hit or (self._tool_parser is not None and self._tool_parser.is_full):
                self._reason = "stop"
                self._late_ids += event.token_ids[at + 1 :]
                return shown
        if ending is not None:
            shown += self._finish(ending.reason)
        return shown

    def cancel(self) -> None:
        """The caller wants no more of it."""
        self._reason = self._reason or "cancelled"

    @property
    def n_tokens(self) -> int:
        """How many tokens there are so far, thoughts included."""
        return len(self._token_ids)

    @property
    def n_thinking(self) -> int:
        """How many of them are thoughts."""
        return self._parser.n_thinking if self._parser else 0

    def result(self) -> Result:
        """The answer so far."""
        ending = self.ending or Ending(reason="cancelled")
        request = self.request
        is_counted = request.thinking is not None and self.ending is not None
        n_thinking = ending.n_thinking if is_counted else self.n_thinking
        return Result(
            text=self.text,
            reasoning="".join(self._reasoning) if self._reasoning else None,
            token_ids=tuple(self._token_ids),
            finish_reason=self._reason or "unfinished",
            usage=Usage(
                n_prompt=len(request.prompt_ids),
                n_completion=len(self._token_ids),
                n_thinking=n_thinking,
                n_cached=ending.n_cached,
                n_drafted=ending.n_drafted,
                n_accepted=ending.n_accepted,
                yarn_factor=ending.yarn_factor,
            ),
            timing=Timing(prefill_s=self._first - self._started, decode_s=self._last - self._first),
            seed=request.sampling.seed,
            thinking_stopped=ending.thinking_stopped if self._reasoning else None,
            stop=self._stop.found,
            is_grammar_complete=ending.is_grammar_complete,
            error=None if self.error is None else str(self.error),
            logprobs=None if request.logprobs is None else tuple(self._logprobs),
            prompt_logprobs=None if request.prompt_logprobs is None else ending.prompt_logprobs,
            cache_miss_reason=self._miss_reason(ending),
            tool_calls=tuple(ToolCall(name=name, arguments="".join(pieces)) for name, pieces in self._calls),
        )

    def _miss_reason(self, ending: Ending) -> str | None:
        if ending.other_factor is not None:
            other = ending.other_factor
            return (
                f"the first {other.n_tokens} tokens of the prompt are cached with {_rotation(other.factor)}; with the answer "
                f"that was asked for, this request takes {_rotation(ending.yarn_factor)}, whose keys are kept apart"
            )
        return self._explain(ending.parting) if ending.parting is not None else None

    def _push_token(self, token_id: int, logprob: Logprob | None, *, has_text: bool) -> list[Delta]:
        self._token_ids.append(token_id)
        self._logprobs.append(logprob)
        if not has_text:
            return []
        text = self._detokenizer.push(token_id)
        deltas = self._parser.push(token_id, text) if self._parser else _content(text)
        return self._collect(self._without_calls(token_id, deltas))

    def _without_calls(self, token_id: int | None, deltas: list[Delta]) -> list[Delta]:
        """Thoughts as they are, and what the tool parser makes of the content. A token may be a tag, and show no text."""
        if self._tool_parser is None:
            return deltas
        is_shown = any(delta.field == "content" for delta in deltas) or (self._parser is not None and self._parser.is_thinking)
        found: list[Delta] = []
        for delta in deltas if is_shown else [*deltas, Delta("content", "")]:
            found += self._tool_parser.push(token_id, delta.text) if delta.field == "content" else [delta]
        return found

    def _finish(self, reason: FinishReason) -> list[Delta]:
        self._reason = reason
        tail = self._detokenizer.finish()
        deltas = self._without_calls(None, self._parser.finish(tail) if self._parser else _content(tail))
        if self._tool_parser is not None:
            deltas += self._tool_parser.finish(is_cut=reason != "stop")
        shown = self._collect(deltas)
        return shown if self._stop.is_hit else shown + self._keep(_content(self._stop.finish()))

    def _collect(self, deltas: list[Delta]) -> list[Delta]:
        """Send content through the stop strings; thoughts and calls pass. No stop string goes on behind a call."""
        shown: list[Delta] = []
        for delta in deltas:
            if delta.field == "content":
                shown += self._keep(_content(self._stop.push(delta.text)))
            elif delta.field == "reasoning" or not self._stop.is_hit:
                shown += self._keep([*_content(self._stop.finish() if delta.field == "tool_name" else ""), delta])
        return shown

    def _keep(self, deltas: list[Delta]) -> list[Delta]:
        for delta in deltas:
            if delta.field == "tool_name":
                self._calls.append((delta.text, []))
            elif delta.field == "tool_arguments":
                self._calls[delta.call][1].append(delta.text)
            else:
                (self._reasoning if delta.field == "reasoning" else self._content).append(delta.text)
        return deltas


def _rotation(factor: int) -> str:
    return "the rotation of the native context" if factor == 1 else f"YaRN factor {factor}"


def _content(text: str) -> list[Delta]:
    return [Delta("content", text)] if text else []
