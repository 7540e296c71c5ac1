"""A progress bar on stderr, drawn only where stderr is a terminal."""

from types import TracebackType
from typing import TYPE_CHECKING

from samovar.cli.terminal import Streams, one_line

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class ProgressBar:
    """Call it with (done_bytes, total_bytes, what) as work goes on, from any one thread; use it as a context.

    It appears with the first call, and vanishes when all is done, or at the end of the context.
    """

    def __init__(self, streams: Streams, title: str) -> None:
        self._streams, self._title = streams, title
        self._is_over = not streams.stderr.isatty()
        self._shown: tuple[Progress, TaskID] | None = None

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the bar away; later calls do nothing."""
        self._is_over = True
        if self._shown is not None:
            self._shown[0].stop()

    def __call__(self, done: int, total: int, what: str) -> None:
        """Move the bar. `what` names the part in work."""
        if self._is_over:
            return
        description = f"{self._title} {one_line(what)[:40]}".rstrip()
        progress, task = self._shown = self._shown or self._show(description, total)
        if self._is_over:  # stopped while it was made
            progress.stop()
            return
        progress.update(task, completed=done, total=total, description=description)
        if done >= total:
            self.stop()

    def _show(self, description: str, total: int) -> "tuple[Progress, TaskID]":
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        progress = Progress(*columns, console=self._streams.console(self._streams.stderr), transient=True)
        progress.start()
        return progress, progress.add_task(description, total=total)
