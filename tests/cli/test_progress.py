"""The progress bar: what of it fits a narrow terminal, and notes beside it."""

import re

import pytest

from samovar.cli.progress import ProgressBar, TokenBar
from samovar.cli.pull import _short
from samovar.cli.terminal import Streams
from tests.cli.fakes import TerminalOutput

URL = "https://host.example/a/long/way/to/Qwen3-30B-A3B-Instruct-2507-Q4_K_M.gguf?signature=abc"


@pytest.mark.parametrize("what", ["", "waiting for another pull of it"])
def test_numbers_stay_whole_at_80_columns(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    stderr = TerminalOutput()
    with ProgressBar(Streams(stdin=None, stdout=TerminalOutput(), stderr=stderr, environ={}), f"pulling {URL}") as bar:
        bar(0, 18_556_700_000, what)
        bar(12_345_600_000, 18_556_700_000, what)
        bar.note("503; trying again in 2 s")
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stderr.getvalue())
    last = drawn.rstrip().splitlines()[-1]
    assert "12.3/18.6 GB" in last
    assert "..." in last
    assert "\u2026" not in last
    assert len(last.rpartition("\r")[2]) <= 80
    assert "samovar: 503; trying again in 2 s" in drawn


def test_an_address_is_shown_by_its_last_step() -> None:
    assert _short(URL) == "Qwen3-30B-A3B-Instruct-2507-Q4_K_M.gguf"
    assert _short("hf:owner/repo:file.gguf@v1.0") == "hf:owner/repo:file.gguf@v1.0"


def test_tokens_are_counted_as_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    stderr = TerminalOutput()
    with TokenBar(Streams(stdin=None, stdout=TerminalOutput(), stderr=stderr, environ={})) as bar:
        bar(1024, 32768, "calibrating on book.txt")
    assert re.search(r"calibrating on book\.txt .* 1,024 of 32,768 tokens left", stderr.getvalue())
