"""An answer on the terminal: thoughts dimmed as plain text, then the answer as Markdown."""

import signal
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TextIO

from rich.console import Console
from rich.text import Text

from samovar.cli.markdown_stream import MarkdownStream
from samovar.cli.terminal import printable
from samovar.text.output_parser import Delta


class AnswerView:
    """Shows the pieces of one answer. `close` ends the last line and gives the terminal back."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._answer: MarkdownStream | None = None
        self._has_thoughts = False

    def show(self, delta: Delta) -> None:
        """Print a piece."""
        if delta.field == "reasoning":
            self._has_thoughts = True
            self._console.print(Text(printable(delta.text), style="dim"), end="", soft_wrap=True)
            return
        if self._answer is None:
            self._end_thoughts()
            self._answer = MarkdownStream(self._console)
        self._answer.write(delta.text)

    def close(self) -> None:
        """Print what is still held back."""
        if self._answer is None:
            self._end_thoughts()
        else:
            self._answer.close()

    def _end_thoughts(self) -> None:
        if self._has_thoughts:
            self._console.print("\n")


class StopKey:
    """While in force, Ctrl-C sets `is_pressed`, for the loop that receives the answer to end between two pieces.

    It raises KeyboardInterrupt at a second press, and while `is_patient` is False: as long as no piece has come, nobody looks.
    """

    def __init__(self) -> None:
        self.is_pressed = False
        self.is_patient = False
        self._previous: Callable[[int, FrameType | None], object] | int | None = None

    def __enter__(self) -> "StopKey":
        self._previous = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        signal.signal(signal.SIGINT, self._previous)

    def _press(self, _number: int, _frame: FrameType | None) -> None:
        if self.is_pressed or not self.is_patient:
            raise KeyboardInterrupt
        self.is_pressed = True


@contextmanager
def keys_unseen(stdin: TextIO | None) -> Iterator[None]:
    """Keep the terminal from echoing what is typed meanwhile: it would move the view. Nothing typed is lost."""
    if stdin is None or not stdin.isatty():
        yield
        return
    before = termios.tcgetattr(stdin)
    unseen = termios.tcgetattr(stdin)
    unseen[3] &= ~termios.ECHO
    termios.tcsetattr(stdin, termios.TCSADRAIN, unseen)
    try:
        yield
    finally:
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)
