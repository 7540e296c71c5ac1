"""What may be written to a terminal."""

import pytest

from samovar.cli.terminal import one_line, printable
from samovar.errors import BadRequest
from tests.cli.fakes import streams


def test_escape_sequences_lose_their_escape() -> None:
    assert printable("a\x1b[31mb\x1b]0;title\x07c\x9b2Jd\x7f\r") == "a[31mb]0;titlec2Jd"


def test_text_lines_and_tabs_pass() -> None:
    text = "tea\t茶\n🫖 čaj é\xa0\u2028"
    assert printable(text) == text


def test_every_control_character_but_two_is_dropped() -> None:
    controls = [chr(i) for i in [*range(0x20), *range(0x7F, 0xA0)]]
    assert printable("".join(controls)) == "\t\n"


def test_a_message_becomes_one_line() -> None:
    assert one_line("a\nb\x1b[2J\n  c") == "a b[2J c"


def test_a_terminal_gets_no_escapes_and_a_pipe_gets_the_text_as_it_is() -> None:
    terminal, pipe = streams(is_terminal=True), streams()
    for target in (terminal, pipe):
        target.write_text("a\x1b[31mb")
    assert terminal.stdout.getvalue() == "a[31mb"
    assert pipe.stdout.getvalue() == "a\x1b[31mb"


def test_standard_input_that_is_no_utf8_is_refused_with_the_place() -> None:
    with pytest.raises(BadRequest, match=r"not UTF-8 text \(at byte 3"):
        streams(b"abc\xff").read_text()


def test_the_environment_chooses_the_kernels_and_colours() -> None:
    plain = streams(is_terminal=True, environ={"NO_COLOR": "1", "TERM": "xterm-256color"})
    assert plain.isa is None
    assert plain.console(plain.stdout).no_color
    assert streams(environ={"SAMOVAR_ISA": "avx2"}).isa == "avx2"
    assert streams(environ={"SAMOVAR_ISA": ""}).isa is None
