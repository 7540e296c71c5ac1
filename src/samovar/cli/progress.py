"""A progress bar on stderr, drawn only where stderr is a terminal."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from samovar.cli.terminal import one_line


class ProgressBar:
    """Call it with (done_bytes, total_bytes, what) as work goes on; use it as a context. It vanishes at the end."""

    def __init__(self, console: Console, title: str) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        self._title = title
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task: TaskID | None = None

    def __enter__(self) -> "ProgressBar":
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def __call__(self, done: int, total: int, what: str) -> None:
        """Move the bar. `what` names the part in work."""
        description = f"{self._title} {one_line(what)[:40]}".rstrip()
        if self._task is None:
            self._task = self._progress.add_task(description, total=total)
        self._progress.update(self._task, completed=done, total=total, description=description)
