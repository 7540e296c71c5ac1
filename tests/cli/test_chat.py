"""`samovar chat`: from a pipe, and as a person at a terminal would use it."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from samovar.cli.chat_view import AnswerView, StopKey, keys_unseen
from samovar.llm import LLM
from tests.cli.fakes import TerminalOutput, said, samovar


def test_a_piped_prompt_is_answered_greedily_in_plain_text(tiny_model: Path) -> None:
    expected = LLM(tiny_model, isa="numpy").chat("Tea or coffee?", temperature=0, max_tokens=16).text
    ended = samovar("chat", str(tiny_model), "--max-tokens", "16", stdin=b"Tea or coffee?\n")
    assert (ended.code, ended.out) == (0, expected + "\n")


def test_a_model_that_makes_vectors_is_no_partner(tiny_embedder: Path) -> None:
    for command in ("chat", "generate"):
        ended = samovar(command, str(tiny_embedder), stdin=b"Tea?")
        assert (ended.code, ended.out) == (1, "")
        assert "embedder.gguf is an embedding model, which makes vectors (embed) and writes no text" in ended.err
        assert ended.err.count("error:") == 1


def test_a_given_temperature_holds_for_a_pipe_too(tiny_model: Path) -> None:
    llm = LLM(tiny_model, isa="numpy")
    expected = llm.chat("Tea?", temperature=1.5, seed=3, max_tokens=16).text
    assert expected != llm.chat("Tea?", temperature=0, max_tokens=16).text
    argv = ("chat", str(tiny_model), "--temperature", "1.5", "--seed", "3", "--max-tokens", "16")
    assert samovar(*argv, stdin=b"Tea?").out == expected + "\n"


def test_the_system_message_reaches_the_model(tiny_model: Path) -> None:
    messages: list[dict[str, object]] = [{"role": "system", "content": "Brief."}, {"role": "user", "content": "Tea?"}]
    expected = LLM(tiny_model, isa="numpy").chat(messages, temperature=0, max_tokens=16).text
    argv = ("chat", str(tiny_model), "--system", "Brief.", "--max-tokens", "16")
    assert samovar(*argv, stdin=b"Tea?").out == expected + "\n"


def test_a_dialogue_with_a_model_that_cannot_think_so_does_not_begin(tiny_model: Path) -> None:
    ended = samovar("chat", str(tiny_model), "--think", stdin=None, is_terminal=True)
    assert ended.code == 1
    assert "no thinking mode" in ended.err


def test_thoughts_are_dimmed_and_apart_from_the_answer() -> None:
    out = TerminalOutput()
    view = AnswerView(Console(file=out, force_terminal=True, width=40, color_system="standard", markup=False, highlight=False))
    for delta in said("~hm \x1b[2J", "~so", "It is **tea**."):
        view.show(delta)
    view.close()
    text = out.getvalue()
    assert "\x1b[2mhm [2J\x1b[0m\x1b[2mso\x1b[0m\n" in text
    assert "\x1b[1mtea\x1b[0m" in text


def test_the_stop_key_waits_for_a_piece_and_is_given_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopKey() as stop:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        stop.is_patient = True
        signal.raise_signal(signal.SIGINT)
        assert stop.is_pressed
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_what_is_typed_during_an_answer_is_not_echoed_and_echo_comes_back() -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, encoding="utf-8", closefd=False) as stdin:
        with keys_unseen(stdin):
            assert not termios.tcgetattr(theirs)[3] & termios.ECHO
        assert termios.tcgetattr(theirs)[3] & termios.ECHO
    os.close(ours)
    os.close(theirs)


class Terminal:
    """A program at the other end of a pseudo-terminal."""

    def __init__(self, fd: int, process: "subprocess.Popen[bytes]") -> None:
        self._fd, self.process = fd, process
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def wait_for(self, pattern: str, timeout_s: float = 60) -> None:
        """Read until `pattern` appears in what came since the last match."""
        deadline = time.monotonic() + timeout_s
        while (match := re.search(pattern, self.seen)) is None:
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.seen!r}"
            if select.select([self._fd], [], [], 0.5)[0]:
                self.seen += os.read(self._fd, 65_536).decode("utf-8", "replace")
        self.seen = self.seen[match.end() :]


@contextmanager
def terminal(*argv: str, environ: dict[str, str]) -> Iterator[Terminal]:
    """Run the program in a pseudo-terminal of its own."""
    ours, theirs = pty.openpty()
    environ = {**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", "COLUMNS": "80", "LINES": "24", **environ}
    command = [sys.executable, "-m", "samovar", *argv]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environ, start_new_session=True, close_fds=True
    ) as process:
        os.close(theirs)
        try:
            yield Terminal(ours, process)
        finally:
            process.kill()
            os.close(ours)


def test_a_dialogue_on_a_terminal_answers_takes_commands_and_ends(tiny_model: Path, tmp_path: Path) -> None:
    environ = {"SAMOVAR_ISA": "numpy", "SAMOVAR_HOME": str(tmp_path / "store")}
    with terminal(
        "chat", str(tiny_model), "--max-tokens", "8", "--long-context", "off", "--seed", "1", environ=environ
    ) as person:
        person.wait_for("lists the commands")
        person.wait_for(">>>")
        person.type("/stats\r")
        person.wait_for("0 messages")
        person.type("Tea?\r")
        person.wait_for("cut off")
        person.type("/stats\r")
        person.wait_for("2 messages, 8 tokens generated in 1 answer")
        person.type("tea " * 200 + "\r")
        person.wait_for(r"the\s+context\s+holds\s+128")
        person.wait_for(">>>")
        person.type("/think on\r")
        person.wait_for(r"thinking(\s|\x1b\[[0-9;]*m)+mode")  # the line breaks where the path before it lets it
        person.wait_for(">>>")
        person.type("\x03")
        person.wait_for("Ctrl-D or /exit leaves")
        person.type("/nonsense\r")
        person.wait_for("/nonsense is no command")
        person.wait_for(">>>")
        person.type("\x04")
        assert person.process.wait(timeout=20) == 0


@pytest.mark.slow
def test_control_c_stops_the_answer_and_not_the_program(smollm2: Path, tmp_path: Path) -> None:
    with terminal("chat", str(smollm2), environ={"SAMOVAR_HOME": str(tmp_path)}) as person:
        person.wait_for(">>>")
        person.type("Write a very long story about a samovar. Use at least two thousand words.\r")
        person.wait_for(r"\x1b\[2K\x1b\[1A")  # the answer's second line: the view draws over its first
        os.kill(person.process.pid, signal.SIGINT)
        person.wait_for("stopped; what there is of it is kept")
        person.type("/stats\r")
        person.wait_for("2 messages")
        person.wait_for(">>>")
        person.type("\x04")
        assert person.process.wait(timeout=20) == 0


@pytest.mark.slow
@pytest.mark.parametrize("model", ["smollm2", "qwen_coder"])
def test_the_capital_of_france_is_paris(model: str, request: pytest.FixtureRequest) -> None:
    command = [sys.executable, "-m", "samovar", "chat", str(request.getfixturevalue(model))]
    ended = subprocess.run(command, input="What is the capital of France?\n", capture_output=True, text=True, check=True)
    assert "Paris" in ended.stdout
