"""A progress bar on stderr, drawn only where stderr is a terminal."""

from types import TracebackType
from typing import TYPE_CHECKING, Final

from samovar.cli.terminal import Streams, one_line

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


_NUMBERS_WIDTH: Final = 60  # columns: the bar, bytes, speed and time, with the gaps between them
_BAR_WIDTH: Final = 20


class ProgressBar:
    """Call it with (done_bytes, total_bytes, what) as work goes on, from any one thread; use it as a context.

    It appears with the first call, and vanishes when all is done, or at the end of the context.
    """

    def __init__(self, streams: Streams, title: str) -> None:
        self._streams, self._title = streams, title
        self._is_over = not streams.stderr.isatty()
        self._shown: tuple[Progress, TaskID] | None = None
        self._width: int | None = None

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
        description = self._cut(f"{self._title} {one_line(what)[:40]}".rstrip())
        progress, task = self._shown = self._shown or self._show(description, total)
        if self._is_over:  # stopped while it was made
            progress.stop()
            return
        progress.update(task, completed=done, total=total, description=description)
        if done >= total:
            self.stop()

    def note(self, message: str) -> None:
        """One line on stderr, above the bar where it is drawn. May be called by any thread."""
        if self._shown is None or self._is_over:
            self._streams.note(message)
        else:
            self._shown[0].console.print(f"samovar: {one_line(message)}", soft_wrap=True)

    def _cut(self, description: str) -> str:
        """What fits beside the numbers, which stay whole."""
        if self._width is None:
            self._width = self._streams.console(self._streams.stderr).width
        room = max(16, self._width - _NUMBERS_WIDTH)
        return description if len(description) <= room else f"{description[: room - 3]}..."

    def _show(self, description: str, total: int) -> "tuple[Progress, TaskID]":
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(_BAR_WIDTH),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        progress = Progress(*columns, console=self._streams.console(self._streams.stderr), transient=True)
        progress.start()
        return progress, progress.add_task(description, total=total)


class TokenBar:
    """A bar that counts tokens, with the time that the text or model in work will take. Used as `ProgressBar`."""

    def __init__(self, streams: Streams) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = streams.console(streams.stderr)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f} tokens"),
        )
        left = (TextColumn("left"), TimeRemainingColumn())
        self._bar = Progress(*columns, *left, console=console, transient=True, disable=not console.is_terminal)
        self._task: TaskID | None = None
        self._what = ""

    def __enter__(self) -> "TokenBar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, done: int, total: int, what: str) -> None:
        """Move the bar; another `what` begins another one."""
        if self._task is None or what != self._what or not done:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task, self._what = self._bar.add_task(one_line(what)[-40:], total=total), what
        self._bar.update(self._task, completed=done)
