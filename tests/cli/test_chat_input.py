"""The input line, typed into through prompt_toolkit's own pipe."""

import stat
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from samovar.cli.chat_input import ChatInput


def typed(keys: str, history: Path) -> str:
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        pipe.send_text(keys)
        return ChatInput(history).read()


def test_enter_sends_the_line(tmp_path: Path) -> None:
    assert typed("hello\r", tmp_path / "h") == "hello"


def test_alt_enter_breaks_the_line(tmp_path: Path) -> None:
    assert typed("one\x1b\rtwo\r", tmp_path / "h") == "one\ntwo"


def test_enter_breaks_the_line_while_quotes_are_open(tmp_path: Path) -> None:
    assert typed('"""one\rtwo"""\r', tmp_path / "h") == '"""one\ntwo"""'


def test_control_c_empties_the_line_and_control_d_leaves(tmp_path: Path) -> None:
    assert typed("typo\x03right\r", tmp_path / "h") == "right"
    with pytest.raises(EOFError):
        typed("\x04", tmp_path / "h")


def test_history_is_kept_in_a_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    path = tmp_path / "store" / "history"
    typed("first question\r", path)
    assert "first question" in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert typed("\x1b[A\r", path) == "first question"


def test_a_store_that_cannot_be_written_does_not_stop_the_dialogue(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert typed("hello\r", tmp_path / "file" / "history") == "hello"
