"""What the commands say fits a terminal of 80 columns: each help, and each error."""

import io
import shlex

import pytest

from samovar.cli.help_text import filled
from samovar.cli.main import _COMMANDS, build_parser
from samovar.cli.terminal import Streams

ACTIONS = [("keys", action) for action in ("create", "list", "revoke")]


@pytest.mark.parametrize("columns", [80, 100])
@pytest.mark.parametrize("words", [(), *((name,) for name in _COMMANDS), *ACTIONS], ids=" ".join)
def test_each_help_fits(words, columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    parser = build_parser(words[0] if words else None)
    with pytest.raises(SystemExit):
        parser.parse_args([*words, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 3
    assert [line for line in lines if len(line) > columns and len(line.split()) > 1] == []


def test_paragraphs_are_filled_and_headings_and_short_lines_stay():
    text = "A paragraph that is cut\nanywhere.\n\nexamples:\n  samovar chat      one\n  samovar\n\nThe end.\n"
    assert list(filled(text, 30)) == [
        "A paragraph that is cut", "anywhere.", "", "examples:", "  samovar chat      one", "  samovar", "", "The end.",
    ]  # fmt: skip


def test_a_second_column_is_filled_beside_the_first_or_below_it():
    text = "  NAME   what it does, in many words\n         and some more words\n  " + "x" * 30 + "  far to the right of this"
    assert list(filled(text, 36)) == [
        "  NAME   what it does, in many words",
        "         and some more words",
        "  " + "x" * 30,
        "      far to the right of this",
    ]


def test_a_long_command_can_still_be_copied_into_a_shell():
    command = "  samovar generate --chat --system 'Write a commit message' -p \"a b\" file --max-tokens 50"
    lines = list(filled(command, 44))
    assert len(lines) > 2
    assert all(len(line) <= 44 for line in lines)
    assert shlex.split("\n".join(lines).replace("\\\n", " ")) == shlex.split(command)
    assert any(line.strip().startswith("--system 'Write") for line in lines)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("columns", "width"), [("50", 50), ("", 80), ("5", 80), ("x", 80)])
def test_errors_are_broken_between_words_on_a_terminal_and_are_one_line_elsewhere(columns, width):
    message = f"error: /a/path/{'x' * 100}: " + "some words " * 20 + "half-written"
    for stderr in (Terminal(), io.StringIO()):
        streams = Streams(stdin=None, stdout=io.StringIO(), stderr=stderr, environ={"COLUMNS": columns})
        streams.note(message)
        lines = stderr.getvalue().splitlines()
        assert " ".join(line.strip() for line in lines) == f"samovar: {message}"
        if isinstance(stderr, Terminal):
            assert [line for line in lines if len(line) > width] == [f"  /a/path/{'x' * 100}:"]
            assert all(line.startswith("  ") for line in lines[1:])
        else:
            assert len(lines) == 1
