"""The bar of a long prompt."""

import io
import time
from types import SimpleNamespace

import pytest

from samovar import LLM
from samovar.cli import reading
from samovar.cli.reading import ReadingBar
from samovar.cli.terminal import Streams
from tests.cli.fakes import TerminalOutput
from tests.llm.remote_processes import until


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(reading, "_PATIENCE_S", 0.01)
    monkeypatch.setattr(reading, "_EVERY_S", 0.01)


def drawn(behind, stderr):
    """What is drawn while a model has so many tokens behind, one after the other, asked again and again."""
    rest = list(behind)
    llm = SimpleNamespace(stats=lambda: SimpleNamespace(n_behind=rest.pop(0) if len(rest) > 1 else rest[0]))
    with ReadingBar(Streams(stdin=None, stdout=io.StringIO(), stderr=stderr, environ={}), llm):
        end = time.monotonic() + 5
        while len(rest) > 1 and time.monotonic() < end and stderr.isatty():
            time.sleep(0.01)
        time.sleep(0.3)
    return stderr.getvalue()


def test_a_long_prompt_shows_how_many_of_its_tokens_are_read():
    text = drawn([9000, 6000, 3000, 3000], TerminalOutput())
    assert "reading the prompt" in text
    assert "6000/9000" in text


def test_a_short_prompt_and_a_pipe_show_nothing():
    assert drawn([20, 1], TerminalOutput()) == ""
    assert drawn([9000, 3000], io.StringIO()) == ""


def test_the_engine_says_how_many_tokens_it_has_still_to_compute(tiny_model):
    llm = LLM(tiny_model, isa="numpy")
    assert llm.stats().n_behind == 0
    stream = llm.stream_generate("word " * 100, max_tokens=20, ignore_eos=True)
    until(lambda: llm.stats().n_behind > 1)
    stream.close()
    llm.close()
