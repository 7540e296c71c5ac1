"""Texts cut into windows, and texts that are none."""

from pathlib import Path

import pytest

from samovar.errors import BadRequest, ModelNotFound
from samovar.evals.windows import as_text, cut, default_text, read_text
from samovar.formats import open_checkpoint
from samovar.llm.model_text import read_model_text
from samovar.text.tokenizer import Tokenizer
from tests.evals.conftest import TEXT


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return read_model_text(open_checkpoint(folder), None).tokenizer


def test_windows_hold_the_text_once_and_in_order(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXT, add_bos=False)
    windows = cut(tokenizer, TEXT, window=100, n_skipped=20, n_tokens=None, where="text")
    assert [i for window in windows.ids for i in window] == ids
    assert {len(window) for window in windows.ids[:-1]} == {100}
    assert windows.n_scored == len(ids) - 20 * len(windows.ids)
    scored = [i for window in windows.ids for i in window[20:]]
    assert windows.scored_bytes == sum(len(tokenizer.token_bytes(i)) for i in scored)


def test_a_token_that_begins_texts_begins_every_window_and_is_not_scored(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tokenizer, "add_bos", True)
    monkeypatch.setattr(tokenizer, "bos_id", 1)
    windows = cut(tokenizer, TEXT, window=100, n_skipped=20, n_tokens=None, where="text")
    assert {window[0] for window in windows.ids} == {1}
    assert len(windows.ids[0]) == 100
    scored = [i for window in windows.ids for i in window[20:]]
    assert windows.scored_bytes == sum(len(tokenizer.token_bytes(i)) for i in scored)
    assert [i for window in windows.ids for i in window[1:]] == tokenizer.encode(TEXT, add_bos=False)[
        : sum(len(window) - 1 for window in windows.ids)
    ]


def test_a_rest_too_short_to_score_is_left_out(tokenizer: Tokenizer) -> None:
    assert [len(w) for w in cut(tokenizer, TEXT, window=50, n_skipped=20, n_tokens=120, where="text").ids] == [50, 50]
    assert [len(w) for w in cut(tokenizer, TEXT, window=50, n_skipped=20, n_tokens=121, where="text").ids] == [50, 50, 21]


def test_control_tokens_in_a_text_are_ordinary_text(tokenizer: Tokenizer) -> None:
    windows = cut(tokenizer, "<|im_start|>" * 10, window=100, n_skipped=1, n_tokens=None, where="text")
    assert not any(tokenizer.is_control(i) for i in windows.ids[0])


def test_a_text_too_short_for_one_scored_token_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(BadRequest, match=r"book.txt: the text has \d+ tokens; 64 give context"):
        cut(tokenizer, "tea", window=512, n_skipped=64, n_tokens=None, where="book.txt")


def test_what_is_no_text_is_refused_with_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b" \n ")
    (tmp_path / "latin").write_bytes(b"caf\xe9 au lait")
    for name, error, message in (
        ("empty", BadRequest, "empty: holds no text"),
        ("latin", BadRequest, r"latin: not UTF-8 text \(at byte 3\)"),
        ("absent", ModelNotFound, "absent: no such file"),
        (".", BadRequest, "a folder"),
    ):
        with pytest.raises(error, match=message):
            read_text(tmp_path / name)
    assert as_text("été".encode(), "here") == "été"
    assert default_text().startswith("Universal Declaration")
