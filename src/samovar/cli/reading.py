"""How far a long prompt is, on stderr, until the answer begins."""

import threading
from contextlib import suppress
from types import TracebackType
from typing import Final

from samovar.cli.progress import ProgressBar
from samovar.cli.terminal import Streams
from samovar.errors import SamovarError
from samovar.llm import LLM

_PATIENCE_S: Final = 1.0
_EVERY_S: Final = 0.25
_MIN_TOKENS: Final = 32  # fewer are at their end, or of an answer that is being written


class ReadingBar:
    """Used as a context around a stream of `llm`: a bar of the prompt's tokens, after a second, where stderr is a terminal.
    It takes the place of the bar `packing`, where there is one.

    `stop` takes it away, as the end of the context does.
    """

    def __init__(self, streams: Streams, llm: LLM, packing: ProgressBar | None = None) -> None:
        self._streams, self._llm, self._packing = streams, llm, packing
        self._is_over = threading.Event()
        self._watch = threading.Thread(target=self._draw, daemon=True) if streams.stderr.isatty() else None

    def __enter__(self) -> "ReadingBar":
        if self._watch is not None:
            self._watch.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the bar away, before anything else is printed."""
        if not self._is_over.is_set():
            self._is_over.set()
            if self._watch is not None:
                self._watch.join()

    def _draw(self) -> None:
        if self._is_over.wait(_PATIENCE_S):
            return
        with suppress(SamovarError):  # the stream tells what is wrong
            if (total := self._llm.stats().n_behind) < _MIN_TOKENS:
                return
            if self._packing is not None:
                self._packing.stop()
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("reading the prompt"),
                BarColumn(20),
                MofNCompleteColumn(),
                TextColumn("tokens"),
                TimeRemainingColumn(),
            )
            with Progress(*columns, console=self._streams.console(self._streams.stderr), transient=True) as progress:
                task = progress.add_task("", total=total)
                while not self._is_over.wait(_EVERY_S) and (n_behind := self._llm.stats().n_behind) >= _MIN_TOKENS:
                    progress.update(task, completed=total - n_behind)
                progress.update(task, completed=total)
