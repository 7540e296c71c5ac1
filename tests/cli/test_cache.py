"""`samovar cache`: what is listed, and what is deleted."""

import io
import os

import pytest

from samovar.cli.main import run
from samovar.cli.terminal import Streams
from samovar.formats.hub import default_cache

KEY = "0123456789abcdef"


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMOVAR_HOME", str(tmp_path))


def samovar(*argv):
    out, err = io.StringIO(), io.StringIO()
    code = run(argv, Streams(stdin=None, stdout=out, stderr=err, environ=os.environ))
    return code, out.getvalue(), err.getvalue()


def fill(tmp_path):
    store = default_cache()
    store.write("weights", KEY, {"source": str(tmp_path / "a.gguf")}, {"x": bytes(1 << 20)})
    store.write("header", KEY, {"source": str(tmp_path / "a.gguf")}, {})
    store.write("weights", "f" * 16, {"source": str(tmp_path / "b.gguf")}, {"x": bytes(1 << 20)})


def test_an_empty_cache_is_listed(tmp_path):
    code, out, _ = samovar("cache")
    assert (code, out) == (0, f"      0.0 MiB in 0 files in {tmp_path / 'cache'}\n")


def test_entries_are_listed_with_size_and_model(tmp_path):
    fill(tmp_path)
    (tmp_path / "cache" / "weights-1.cache").write_text("")
    _, out, _ = samovar("cache")
    assert out.count("a.gguf") == 2
    assert out.count("b.gguf") == 1
    assert "unusable" in out
    assert "1.0 MiB  weights" in out
    assert "in 4 files" in out


def test_a_cache_that_is_a_plain_file_is_said_to_be_one(tmp_path):
    (tmp_path / "cache").write_text("")
    for argv in ((), ("clear", "--all")):
        code, out, err = samovar("cache", *argv)
        assert (code, out) == (1, "")
        assert f"{tmp_path / 'cache'}: a file is where a folder has to be" in err


def test_what_is_being_written_or_was_left_is_listed_as_such_and_cleared_with_its_model(tmp_path):
    writer = default_cache().create("weights", KEY, {"source": str(tmp_path / "a.gguf")}, {"x": 1 << 20})
    _, out, _ = samovar("cache")
    assert "1.0 MiB  being written" in out
    assert f"{tmp_path / 'a.gguf'}\n" in out
    code, out, err = samovar("cache", "clear", str(tmp_path / "a.gguf"))
    assert (code, out) == (0, "0.0 MiB freed\n")
    assert "1 file being written by a running samovar stayed" in err
    os.close(writer._fd)  # as when its process is killed
    assert "1.0 MiB  unfinished" in samovar("cache")[1]
    assert samovar("cache", "clear", str(tmp_path / "a.gguf")) == (0, "1.0 MiB freed\n", "")
    assert default_cache().entries() == []


def test_one_model_is_cleared_by_path_even_when_the_file_is_gone(tmp_path):
    fill(tmp_path)
    code, out, _ = samovar("cache", "clear", str(tmp_path / "a.gguf"))
    assert (code, out) == (0, "1.0 MiB freed\n")
    assert [e.header.key for e in default_cache().entries()] == ["f" * 16]


def test_all_is_cleared(tmp_path):
    fill(tmp_path)
    assert samovar("cache", "clear", "--all")[:2] == (0, "2.0 MiB freed\n")
    assert default_cache().entries() == []


def test_a_model_that_is_not_there_is_named(tmp_path):
    code, _, err = samovar("cache", "clear", "smollm2:135m")
    assert code == 1
    assert "nothing of this model is in the cache" in err


@pytest.mark.parametrize("argv", [("clear",), ("clear", "x", "--all"), ("list", "x"), ("list", "--all"), ("drop",)])
def test_unclear_arguments_are_refused(argv, capsys):
    assert samovar("cache", *argv)[0] == 2
    assert "samovar: error:" in capsys.readouterr().err
