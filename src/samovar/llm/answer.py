"""One answer as it grows: token ids become text, thoughts and answer come apart, stop strings are looked for.

An `Answer` is a fold over token events; `Stream` shows its deltas to a caller as they come.
"""

import time
from collections.abc import Generator, Iterator

from samovar.engine.engine import Engine
from samovar.engine.request import TokenEvent
from samovar.engine.sequence import Sequence
from samovar.llm.result import Result, Timing, Usage
from samovar.llm.stop_strings import StopStrings
from samovar.text.detokenizer import Detokenizer
from samovar.text.output_parser import Delta, OutputParser


class Answer:
    """Collects what one sequence generates. Without a parser all text is content."""

    def __init__(
        self, sequence: Sequence, detokenizer: Detokenizer, parser: OutputParser | None, stop: tuple[str, ...]
    ) -> None:
        self.sequence = sequence
        self._detokenizer, self._parser, self._stop = detokenizer, parser, StopStrings(stop)
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._started = self._first = self._last = time.perf_counter()

    @property
    def is_stopped(self) -> bool:
        """A stop string was seen."""
        return self._stop.is_hit

    def push(self, event: TokenEvent) -> list[Delta]:
        """What a token adds to the answer. A stop token ends it and adds no text of its own."""
        self._last = time.perf_counter()
        if self.sequence.n_generated == 1:
            self._first = self._last
        deltas: list[Delta] = []
        if event.finish_reason != "stop":
            text = self._detokenizer.push(event.token_id)
            deltas = self._parser.push(event.token_id, text) if self._parser else _content(text)
        if event.finish_reason is not None:
            tail = self._detokenizer.finish()
            deltas += self._parser.finish(tail) if self._parser else _content(tail)
        shown = self._collect(deltas)
        if event.finish_reason is not None and not self._stop.is_hit:
            shown += self._keep(_content(self._stop.finish()))
        return shown

    def result(self) -> Result:
        """The answer so far."""
        sequence = self.sequence
        return Result(
            text="".join(self._content),
            reasoning="".join(self._reasoning) if self._reasoning else None,
            token_ids=tuple(sequence.token_ids[sequence.n_prompt :]),
            finish_reason=sequence.finish_reason or "unfinished",
            usage=Usage(
                n_prompt=sequence.n_prompt,
                n_completion=sequence.n_generated,
                n_thinking=self._parser.n_thinking if self._parser else 0,
                n_cached=sequence.n_cached,
                n_drafted=sequence.speculation.n_drafted,
                n_accepted=sequence.speculation.n_accepted,
            ),
            timing=Timing(prefill_s=self._first - self._started, decode_s=self._last - self._first),
            seed=sequence.request.sampling.seed,
        )

    def _collect(self, deltas: list[Delta]) -> list[Delta]:
        """Send content through the stop strings; thoughts pass."""
        shown: list[Delta] = []
        for delta in deltas:
            if delta.field == "reasoning":
                shown += self._keep([delta])
            else:
                shown += self._keep(_content(self._stop.push(delta.text)))
        return shown

    def _keep(self, deltas: list[Delta]) -> list[Delta]:
        for delta in deltas:
            (self._reasoning if delta.field == "reasoning" else self._content).append(delta.text)
        return deltas


class Stream(Iterator[Delta]):
    """An answer in the making. Iterate for its deltas; `result` is the whole so far, and final once the stream has ended.

    `close` stops the generation; the engine is free for the next request as soon as the stream has ended or is closed.
    """

    def __init__(self, engine: Engine, answer: Answer) -> None:
        self._engine, self._answer = engine, answer
        self._deltas = _run(engine, answer)

    def __next__(self) -> Delta:
        return next(self._deltas)

    def close(self) -> None:
        """Stop generating. An answer that had not ended counts as cancelled."""
        self._deltas.close()
        self._engine.finish(self._answer.sequence, "cancelled")

    @property
    def result(self) -> Result:
        """The answer so far."""
        return self._answer.result()


def run_batch(engine: Engine, answers: list[Answer]) -> Iterator[tuple[int, Delta]]:
    """Generate all answers together; deltas come with the index of their answer. The first one's pages are kept."""
    sequences = [answer.sequence for answer in answers]
    try:
        for event in engine.run(sequences):
            answer = answers[event.index]
            deltas = answer.push(event)
            if answer.is_stopped:
                answer.sequence.finish_reason = "stop"
            for delta in deltas:
                yield event.index, delta
    finally:
        for index, sequence in enumerate(sequences):
            engine.finish(sequence, "cancelled")
            engine.release(sequence, keep=index == 0)


def _run(engine: Engine, answer: Answer) -> Generator[Delta, None, None]:
    for _, delta in run_batch(engine, [answer]):
        yield delta


def _content(text: str) -> list[Delta]:
    return [Delta("content", text)] if text else []
