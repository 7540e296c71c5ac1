"""Markdown on a terminal while it is being written.

Top-level blocks that can no longer change are printed once and for all; only the block in progress is drawn again, and of
that only as many lines as the window holds. So the cost of a redraw does not grow with the answer, and the scrollback holds
every line exactly once.
"""

import time
from collections.abc import Callable, Iterator

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment

from samovar.cli.terminal import printable

_SECONDS_BETWEEN_DRAWINGS = 0.1  # often enough to look steady, seldom enough to leave the cores to the model
_MARGIN_LINES = 3


class AnswerMarkdown:
    """A model's Markdown as a renderable: line breaks are kept, HTML is shown as text, links show where they lead."""

    def __init__(self, text: str, *, max_lines: int | None = None) -> None:
        self._markdown = Markdown(text, hyperlinks=False)
        self._max_lines = max_lines
        for token in self._markdown.parsed:
            if token.type == "html_block":
                token.type, token.info = "code_block", "html"
            for child in token.children or ():
                if child.type == "softbreak":
                    child.type = "hardbreak"
                elif child.type == "html_inline":
                    child.type = "text"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Rendered lines, the last `max_lines` of them. Character references cannot bring control characters back."""
        lines = console.render_lines(self._markdown, options, pad=False)
        while lines and _is_blank(lines[0]):
            del lines[0]
        while lines and _is_blank(lines[-1]):
            del lines[-1]
        for line in lines[-self._max_lines :] if self._max_lines else lines:
            yield from (Segment(printable(segment.text), segment.style) for segment in line if not segment.control)
            yield Segment.line()


def _is_blank(line: list[Segment]) -> bool:
    """True for the margins that some blocks draw around themselves; a coloured line is part of the block."""
    return all(not text.strip() and not (style and style.bgcolor) for text, style, _ in line)


def split_finished(text: str) -> tuple[str, str]:
    """The leading top-level blocks that no further text can change, and the rest.

    A block is finished when another has begun in a complete line after it.
    """
    complete = text[: text.rfind("\n") + 1]
    starts = [token.map[0] for token in Markdown(complete).parsed if token.level == 0 and token.nesting >= 0 and token.map]
    if len(starts) < 2:
        return "", text
    cut = sum(len(line) for line in _lines(text, starts[-1]))
    return text[:cut], text[cut:]


def _lines(text: str, count: int) -> Iterator[str]:
    """The first `count` lines with their line feeds; only a line feed ends a line, as in the Markdown parser."""
    position = 0
    for _ in range(count):
        end = text.index("\n", position) + 1
        yield text[position:end]
        position = end


class MarkdownStream:
    """Prints text that arrives in pieces. `close` must be called at the end, also after an interruption."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._live = Live(console=console, auto_refresh=False, transient=True, vertical_overflow="visible")
        self._tail = ""
        self._has_printed = False
        self._drawn_at = 0.0
        self._live.start()

    def write(self, text: str) -> None:
        """Take a piece; the screen follows within a tenth of a second of further pieces."""
        self._tail += printable(text)
        if "\n" in text:
            finished, self._tail = split_finished(self._tail)
            self._commit(finished)
        now = self._clock()
        if now - self._drawn_at >= _SECONDS_BETWEEN_DRAWINGS:
            self._live.update(self._tail_view(), refresh=True)
            self._drawn_at = self._clock()

    def close(self) -> None:
        """Print what is left and give the terminal back."""
        self._live.update("", refresh=True)
        self._live.stop()
        self._commit(self._tail)
        self._tail = ""

    def _commit(self, text: str) -> None:
        if not text.strip():
            return
        self._live.update("")
        if self._has_printed:
            self._console.print()
        self._console.print(AnswerMarkdown(text), end="")
        self._has_printed = True

    def _tail_view(self) -> Group:
        view = AnswerMarkdown(self._tail, max_lines=max(1, self._console.height - _MARGIN_LINES))
        return Group("", view) if self._has_printed else Group(view)
