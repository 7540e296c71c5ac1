"""What the tests of the command line share: a program run on strings, a terminal in memory, a model that says its lines."""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from samovar.cli.main import run
from samovar.cli.terminal import Streams
from samovar.errors import BadRequest
from samovar.llm import Result, Timing, Usage
from samovar.text.output_parser import Delta


class TerminalOutput(io.StringIO):
    """A stream in memory that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


class TerminalInput(io.TextIOWrapper):
    """An empty standard input that claims to be a terminal."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(b""))

    def isatty(self) -> bool:
        return True


def streams(stdin: bytes | None = b"", *, is_terminal: bool = False, environ: dict[str, str] | None = None) -> Streams:
    """Streams in memory. `is_terminal` is about the output."""
    return Streams(
        stdin=TerminalInput() if stdin is None else io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"),
        stdout=TerminalOutput() if is_terminal else io.StringIO(),
        stderr=io.StringIO(),
        environ={"SAMOVAR_ISA": "numpy"} if environ is None else environ,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a program ended and what it wrote."""

    code: int
    out: str
    err: str


def samovar(*argv: str, stdin: bytes | None = b"", is_terminal: bool = False) -> Ended:
    """Run the program. `stdin` None is a terminal where nothing is typed."""
    given = streams(stdin, is_terminal=is_terminal)
    with contextlib.redirect_stdout(given.stdout), contextlib.redirect_stderr(given.stderr):
        code = run(argv, given)
    assert isinstance(given.stdout, io.StringIO)
    assert isinstance(given.stderr, io.StringIO)
    return Ended(code=code, out=given.stdout.getvalue(), err=given.stderr.getvalue())


class FakeStream:
    """Deltas from a list; `close` before the end makes the result a cancelled one."""

    def __init__(self, deltas: list[Delta]) -> None:
        self._rest = list(deltas)
        self._given: list[Delta] = []
        self.is_closed = False

    def __iter__(self) -> Iterator[Delta]:
        while self._rest and not self.is_closed:
            self._given.append(self._rest.pop(0))
            yield self._given[-1]

    def close(self) -> None:
        self.is_closed = True

    @property
    def result(self) -> Result:
        reasoning = "".join(d.text for d in self._given if d.field == "reasoning")
        return Result(
            text="".join(d.text for d in self._given if d.field == "content"),
            reasoning=reasoning or None,
            token_ids=tuple(range(len(self._given))),
            finish_reason="cancelled" if self._rest else "stop",
            usage=Usage(n_prompt=10, n_completion=len(self._given), n_thinking=0, n_cached=4, n_drafted=7, n_accepted=2),
            timing=Timing(prefill_s=2.0, decode_s=0.5),
            seed=1,
        )


class FakeLLM:
    """Answers each question with `answer`, and remembers what it was asked."""

    path = Path("fake.gguf")
    max_context = 128
    kv_type = "f16"
    model = SimpleNamespace(config=SimpleNamespace(architecture="fake", n_layers=3, d_model=8))
    ops = SimpleNamespace(isa="numpy", n_threads=1)

    def __init__(self, answer: list[Delta]) -> None:
        self.answer = answer
        self.asked: list[dict[str, object]] = []

    can_think = True

    def check_thinking(self, thinking: bool) -> None:
        if thinking and not self.can_think:
            raise BadRequest("this model has no thinking mode", param="thinking")

    def stream_chat(self, messages: list[dict[str, object]], **options: object) -> FakeStream:
        self.asked.append({"messages": messages, **options})
        return FakeStream(self.answer)


def said(*texts: str) -> list[Delta]:
    """Pieces of an answer; those that begin with ~ are thoughts."""
    return [Delta("reasoning", t[1:]) if t.startswith("~") else Delta("content", t) for t in texts]
