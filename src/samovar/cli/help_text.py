"""How `--help` is laid out: everything fits the width of the terminal (COLUMNS, 80 where nothing tells).

Descriptions and epilogs are written in paragraphs, in headings that end with a colon, and in indented lines: a command, or two
columns that two spaces or more set apart. Paragraphs and second columns are filled; a command that is too long is broken with
backslashes, so that it can still be copied into a shell.
"""

import argparse
import re
import textwrap
from collections.abc import Iterator

_COLUMNS = re.compile(r"(?P<left> +\S.*\S|  \S) {2,}(?P<right>\S.*)")
_WORD = re.compile(r"""-\S+ (?!-)(?:"[^"]*"|'[^']*'|\S)+|(?:"[^"]*"|'[^']*'|\S)+""")  # an option goes with its value
_LEAST_COLUMN = 24  # characters that a second column needs beside the first
_HANGING = 6


class HelpFormatter(argparse.HelpFormatter):
    """Lays out the help of all commands."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line if line else "" for line in filled(text, width - len(indent)))

    def _format_usage(self, *args: object) -> str:
        """Groups of options that exclude each other are one word to argparse, of any length."""
        lines = super()._format_usage(*args).split("\n")  # type: ignore[arg-type]
        return "\n".join(part for line in lines for part in _broken_at_bars(line, self._width))


def filled(text: str, width: int) -> Iterator[str]:
    """The lines of a description or an epilog, none of them wider than `width` where words allow it."""
    for block in _blocks(text.strip("\n").splitlines()):
        if not block.startswith(" "):
            yield from _wrapped(block, width) or [""]
        elif len(block) <= width:
            yield block
        elif found := _COLUMNS.fullmatch(block):
            yield from _two_columns(found["left"], found.start("right"), found["right"], width)
        else:
            yield from _command(block, width)


def _blocks(lines: list[str]) -> Iterator[str]:
    """Paragraphs and indented lines, each as one line: what continues a second column is joined to it."""
    block = ""
    for line in lines:
        previous = _COLUMNS.fullmatch(block) if block.startswith(" ") else None
        is_text = bool(line) and not line.startswith(" ")
        goes_on = is_text and block and not block.startswith(" ") and not block.endswith(":")
        in_column = previous is not None and len(line) - len(line.lstrip()) == previous.start("right") and bool(line)
        if goes_on or in_column:
            block = f"{block} {line.strip()}"
            continue
        if block:
            yield block
        if not line:
            yield ""
        block = line
    if block:
        yield block


def _wrapped(text: str, width: int, first: str = "", rest: str = "") -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )


def _two_columns(left: str, column: int, right: str, width: int) -> Iterator[str]:
    """The second column beside the first, or below it where there is no room."""
    if width - column >= _LEAST_COLUMN:
        yield from _wrapped(right, width, left.ljust(column), " " * column)
        return
    yield from [left] if len(left) <= width else _command(left, width)
    yield from _wrapped(right, width, " " * _HANGING, " " * _HANGING)


def _command(line: str, width: int) -> Iterator[str]:
    """A command over several lines; what is quoted stays together."""
    indent = len(line) - len(line.lstrip())
    current = " " * indent
    for word in _WORD.findall(line):
        if current.strip() and len(current) + len(word) + 3 > width:
            yield f"{current} \\"
            current = " " * _HANGING + word
        else:
            current += word if not current.strip() else f" {word}"
    yield current


def _broken_at_bars(line: str, width: int) -> Iterator[str]:
    indent = " " * (len(line) - len(line.lstrip()) + 1)
    while len(line) > width and (at := line.rfind(" | ", len(indent), width - 2)) > 0:
        yield line[: at + 2]
        line = indent + line[at + 3 :]
    yield line
