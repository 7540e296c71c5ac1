"""The standard streams: what they are connected to, and what may be written to them.

A model's output and a file's metadata are not to be trusted on a terminal: escape sequences can move the cursor, rename the
window or forge what was said before. Everything of the kind goes through `printable`.
"""

import os
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from samovar.errors import BadRequest

if TYPE_CHECKING:
    from rich.console import Console

_COLUMNS, _LEAST_COLUMNS = 80, 20
# C0 controls but tab and line feed, DEL, and the C1 controls
_DROPPED: dict[int, None] = dict.fromkeys([*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0)])


def printable(text: str) -> str:
    """`text` without control characters; line feeds and tabs stay."""
    return text.translate(_DROPPED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """Where a command reads and writes, and the environment it honours. `stdin` is None where the caller closed it."""

    stdin: TextIO | None
    stdout: TextIO
    stderr: TextIO
    environ: Mapping[str, str]

    @property
    def is_interactive(self) -> bool:
        """True when a person sits at both ends."""
        return self.stdin is not None and self.stdin.isatty() and self.stdout.isatty()

    @property
    def isa(self) -> str | None:
        """The instruction set asked for by SAMOVAR_ISA; None leaves the choice to the kernels."""
        return self.environ.get("SAMOVAR_ISA") or None

    def console(self, stream: TextIO) -> "Console":
        """A rich console on one of the streams. NO_COLOR switches its colours off."""
        no_color = bool(self.environ.get("NO_COLOR"))
        from samovar.cli.piped_console import PipedConsole  # rich takes long to import, and many commands need none of it

        return PipedConsole(file=stream, no_color=no_color, highlight=False, markup=False, emoji=False)

    def note(self, message: str) -> None:
        """One line on stderr; on a terminal, as many as it takes."""
        print(fitted(f"samovar: {one_line(message)}", self.stderr, self.environ), file=self.stderr, flush=True)

    def note_interrupted(self, *, is_begun: bool) -> None:
        """Say on stderr what Ctrl-C left. `is_begun` says that the same command can go on from something."""
        kept = "what is done is kept, and the same command goes on from there" if is_begun else "nothing was done that is kept"
        self.note(f"interrupted; {kept}")

    def note_cut(self, n_tokens: int) -> None:
        """Say on stderr that an answer of `n_tokens` is not whole."""
        self.note(f"the answer is cut off after {n_tokens} tokens (see --max-tokens and --ctx-size)")

    def write_text(self, text: str) -> None:
        """Send model output to stdout at once: as it is into a pipe or a file, without controls to a terminal."""
        self.stdout.write(printable(text) if self.stdout.isatty() else text)
        self.stdout.flush()

    def read_text(self) -> str:
        """All of stdin as UTF-8. Empty if it is closed; raises BadRequest where it is no text."""
        if self.stdin is None:
            return ""
        try:
            return self.stdin.buffer.read().decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadRequest(f"standard input is not UTF-8 text (at byte {error.start}); expected a prompt") from error


def fitted(message: str, stream: TextIO, environ: Mapping[str, str]) -> str:
    """A line broken between words for the terminal that `stream` is; as it is for a pipe or a file. Paths are not broken."""
    if not stream.isatty():
        return message
    given = environ.get("COLUMNS", "")
    try:
        width = int(given) if given.isdigit() else os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):  # a terminal that does not tell
        width = 0
    return textwrap.fill(
        message, width if width >= _LEAST_COLUMNS else _COLUMNS, subsequent_indent="  ", break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def one_line(message: str) -> str:
    """`message` fit for one line of a log or a terminal."""
    return " ".join(printable(message).split())
