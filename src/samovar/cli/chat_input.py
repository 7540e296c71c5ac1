"""The line where the user writes: several lines, history, and what Ctrl-C and Ctrl-D mean there."""

from pathlib import Path

from prompt_toolkit import PromptSession, print_formatted_text
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from samovar.cli.chat_commands import is_open


class ChatInput:
    """Reads one message at a time. `read` raises EOFError on Ctrl-D; Ctrl-C empties the line.

    On an empty line, Ctrl-C says how to leave.
    """

    def __init__(self, history_path: Path) -> None:
        self._session: PromptSession[str] = PromptSession(
            history=_open_history(history_path),
            key_bindings=_key_bindings(),
            multiline=True,
            prompt_continuation=lambda width, _line, _wraps: "." * (width - 1) + " ",
        )

    def read(self) -> str:
        """The next message as typed."""
        while True:
            try:
                return self._session.prompt(">>> ")
            except KeyboardInterrupt:
                if not self._session.default_buffer.text:
                    print_formatted_text("(Ctrl-D or /exit leaves)")


def _key_bindings() -> KeyBindings:
    """Enter sends unless three quotes are open; Alt-Enter always breaks the line."""
    bindings = KeyBindings()

    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    def break_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    def has_open_quotes() -> bool:
        from prompt_toolkit.application import get_app

        return is_open(get_app().current_buffer.text)

    bindings.add("enter", filter=~Condition(has_open_quotes))(send)
    bindings.add("enter", filter=Condition(has_open_quotes))(break_line)
    bindings.add("escape", "enter")(break_line)
    return bindings


def _open_history(path: Path) -> History:
    """A history file that only its owner can read; in memory where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        with path.open("ab"):
            pass
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))
