"""Markdown while it is being written."""

import io
import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from samovar.cli.markdown_stream import AnswerMarkdown, MarkdownStream, split_finished

ANSWER = """# Tea

A **strong** tea:
brewed long.

1. Boil
2. Pour

   Then wait.
3. Drink

```python
def brew():

    return "tea"
```

| a | b |
|---|---|
| 1 | 2 |

Done."""


def rendered(text: str, *, chunk: int, is_terminal: bool = False) -> str:
    """What a terminal's scrollback holds after the answer came in pieces of `chunk` characters."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=is_terminal, width=60, height=10, color_system=None)
    ticks = itertools.count()
    stream = MarkdownStream(console, clock=lambda: float(next(ticks)))
    for start in range(0, len(text), chunk):
        stream.write(text[start : start + chunk])
    stream.close()
    return out.getvalue()


def lines_of(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def test_the_cut_is_before_the_last_block_that_has_a_complete_line() -> None:
    assert split_finished("one\n\ntwo\n") == ("one\n\n", "two\n")
    assert split_finished("one\n\ntwo") == ("", "one\n\ntwo")
    assert split_finished("one\ntwo\n") == ("", "one\ntwo\n")


def test_an_open_code_fence_is_never_cut() -> None:
    text = "intro\n\n```\ncode\n\n# no heading\n\n"
    assert split_finished(text) == ("intro\n\n", text[7:])


def test_a_list_is_kept_whole_until_something_else_begins() -> None:
    text = "1. a\n\n   more\n2. b\n"
    assert split_finished(text) == ("", text)
    assert split_finished(text + "\npara\n") == (text + "\n", "para\n")


def test_only_line_feeds_count_as_lines() -> None:
    assert split_finished("a\u2028b\x85c\n\nnext\n") == ("a\u2028b\x85c\n\n", "next\n")


@pytest.mark.parametrize("chunk", [1, 3, 17, 1000])
def test_the_scrollback_holds_each_line_of_the_answer_once_however_it_came(chunk: int) -> None:
    lines = lines_of(rendered(ANSWER, chunk=chunk))
    assert lines == lines_of(rendered(ANSWER, chunk=len(ANSWER)))
    for once in ("Tea", 'return "tea"', "Then wait.", "Done."):
        assert sum(once in line for line in lines) == 1, once


def test_line_breaks_of_the_model_are_kept() -> None:
    assert "A strong tea:\nbrewed long.\n" in re.sub(r" +\n", "\n", rendered(ANSWER, chunk=5))


def test_html_is_shown_and_not_swallowed() -> None:
    shown = rendered("<div>block</div>\n\ntext with <b>tags</b> and </kbd> alone", chunk=4)
    assert "<div>block</div>" in shown
    assert "text with <b>tags</b> and </kbd> alone" in shown


def test_links_show_where_they_lead() -> None:
    assert "https://example.org/x" in rendered("[click](https://example.org/x)", chunk=100)


@pytest.mark.parametrize("text", ["a\x1b[31mred", "a&#27;[31mred", "a&#x9b;31mred", "```\n\x1b]0;t\x07\n```\n", "`\x1b[2J`"])
def test_no_control_character_of_the_model_reaches_the_terminal(text: str) -> None:
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", rendered(text, chunk=100))


def test_a_long_block_is_drawn_no_taller_than_the_window_while_it_grows() -> None:
    console = Console(file=io.StringIO(), width=40, height=10)
    view = AnswerMarkdown("\n".join(f"line {i}" for i in range(50)), max_lines=7)
    lines = lines_of("".join(segment.text for segment in console.render(view)))
    assert lines == [f"line {i}" for i in range(43, 50)]


def test_a_terminal_is_left_with_a_visible_cursor() -> None:
    shown = rendered(ANSWER, chunk=7, is_terminal=True)
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="ab*_`#->|1. \n\t[]()<>/~&;\x1b\\!", max_size=120), st.integers(1, 40))
def test_no_text_breaks_the_view(text: str, chunk: int) -> None:
    assert "\x1b" not in rendered(text, chunk=chunk)
