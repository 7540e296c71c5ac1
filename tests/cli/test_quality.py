"""`samovar quality`: its table, its JSON, its chart, and what it refuses before it computes."""

import builtins
import json
import re
from pathlib import Path

import pytest

from samovar.cli import quality
from tests.cli.fakes import samovar
from tests.matrices import slow_but

WORDS = "The water in the samovar is hot, and the tea that they carried home for us one evening is hotter. " * 20
QUICK = ("--window", "64", "--skip", "8")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "words.txt"
    path.write_text(WORDS)
    return path


def test_a_table_has_a_line_for_each_model_with_intervals(tiny_model: Path, text: Path) -> None:
    ended = samovar("quality", str(tiny_model), str(tiny_model), "--text", str(text), *QUICK)
    assert ended.code == 0, ended.err
    assert sum("tiny.gguf" in line for line in ended.out.splitlines()) == 2
    assert "words.txt" in ended.out
    assert re.search(r"\d-\d", ended.out)
    assert "bootstrap over blocks of 64" in ended.out
    assert ended.err == ""


def test_where_there_are_no_intervals_it_is_said_why(tiny_model: Path, text: Path) -> None:
    ended = samovar("quality", str(tiny_model), "--text", str(text), *QUICK, "--tokens", "100")
    assert "no intervals: the text is too short for 8 blocks of up to 64 scored tokens" in ended.out
    assert "bootstrap" not in ended.out


def test_at_80_columns_every_figure_is_whole(
    tiny_model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    long = tmp_path / "a-model-whose-name-takes-more-than-half-of-a-terminal.gguf"
    long.symlink_to(tiny_model)
    argv = ("quality", str(long), "--exact", "--text", str(text), *QUICK)
    shown, piped = samovar(*argv, is_terminal=True).out, samovar(*argv).out
    assert max(map(len, shown.splitlines())) <= 80
    assert long.name in shown
    assert "…" not in shown

    def numbers(of: str) -> list[str]:
        return re.findall(r"[\d.]+(?:-[\d.]+)?(?= |$)", of.partition("x reference")[2].partition("intervals")[0], re.MULTILINE)

    assert sorted(numbers(shown)) == sorted(numbers(piped))
    assert len(numbers(piped)) >= 9


def test_json_has_every_figure_beside_a_reference(tiny_model: Path, text: Path) -> None:
    ended = samovar(
        "quality", str(tiny_model), "--against", str(tiny_model), "--kv-type", "int8", "--text", str(text), *QUICK, "--json"
    )
    assert ended.code == 0, ended.err
    report = json.loads(ended.out)
    assert report["against"] == str(tiny_model)
    assert report["interval"]["method"] == "block bootstrap"
    (model,) = report["models"]
    assert model["kv_type"] == "int8"
    assert model["perplexity"]["low"] < model["perplexity"]["value"] < model["perplexity"]["high"]
    assert 0 < model["beside"]["kl"]["value"] < 0.1
    assert 0.5 < model["beside"]["top_1"]["value"] <= 1
    assert model["file_bytes"] == tiny_model.stat().st_size
    assert model["bits_per_weight"] == pytest.approx(8.5, abs=0.1)


def test_text_comes_from_a_pipe_and_a_default_is_there(tiny_model: Path) -> None:
    piped = samovar("quality", str(tiny_model), "--text", "-", *QUICK, "--tokens", "200", "--json", stdin=WORDS.encode())
    assert json.loads(piped.out)["text"] == "standard input"
    default = samovar("quality", str(tiny_model), *QUICK, "--tokens", "200", "--json")
    assert json.loads(default.out)["text"] == "Universal Declaration of Human Rights"
    closed = samovar("quality", str(tiny_model), "--text", "-", stdin=b"")
    assert closed.code == 1
    assert "standard input: holds no text" in closed.err


@pytest.mark.parametrize("kind", ["svg", "png"])
@pytest.mark.parametrize("reference", slow_but([()], [(), ("--exact",)]))
def test_a_chart_shows_the_models(kind: str, reference: tuple[str, ...], tiny_model: Path, text: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    chart = tmp_path / f"chart.{kind}"
    ended = samovar(
        "quality", str(tiny_model), *reference, "--text", str(text), *QUICK, "--tokens", "700", "--chart", str(chart)
    )
    assert ended.code == 0, ended.err
    data = chart.read_bytes()
    assert data.startswith(b"\x89PNG" if kind == "png" else b"<?xml")
    if kind == "svg":
        assert b"tiny.gguf" in data
        assert re.search(rb"\d MiB, [\d.]+ bits, kv ", data)
        rows = ended.out.splitlines()
        figures = next(line for line in rows if line.startswith("tiny.gguf")).split()[1:]
        drawn = (figures[2], figures[4], figures[1]) if reference else figures
        assert all(f">{value}<".encode() in data for value in drawn)
        assert (b"KL divergence" in data) == bool(reference)
        assert (b"reference: itself in float32" in data) == bool(reference)


def test_a_chart_that_cannot_be_drawn_is_refused_before_anything_is_measured(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "measure", lambda *_: pytest.fail("measured"))
    for chart, code, message in (
        ("a.jpg", 2, "expected a name that ends in .svg or .png"),
        ("no/a.svg", 1, "there is no folder"),
    ):
        ended = samovar("quality", str(tiny_model), "--chart", str(tmp_path / chart))
        assert ended.code == code
        assert message in ended.err
    true_import = builtins.__import__

    def without(name: str, *rest: object, **more: object) -> object:
        if name == "matplotlib":
            raise ImportError("No module named 'matplotlib'")
        return true_import(name, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    ended = samovar("quality", str(tiny_model), "--chart", str(tmp_path / "a.svg"))
    assert ended.code == 1
    assert "pip install 'samovar[chart]'" in ended.err


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (("--window", "1"), 2, "--window is 1; expected 2 to"),
        (("--skip", "0"), 2, "--skip is 0; expected 1 to 511"),
        (("--skip", "512"), 2, "--skip is 512; expected 1 to 511"),
        (("--tokens", "0"), 2, "--tokens is 0; expected 1 to"),
        (("--threads", "0"), 2, "--threads is 0; expected 1 to"),
        (("--text", "absent.txt"), 1, "absent.txt: no such file"),
        (("--window", "4096"), 2, "--window is 4096; "),
        (("--against", "absent.gguf"), 1, "absent.gguf: no such file"),
        (("--window", "100", "--tokens", "20"), 1, "the text has 20 tokens; 64 give context"),
    ],
)
def test_wrong_options_are_refused(
    argv: tuple[str, ...], code: int, message: str, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = samovar("quality", str(tiny_model), *argv)
    assert ended.code == code
    assert message in ended.err + capsys.readouterr().err


def test_progress_is_drawn_on_a_terminal_alone(tiny_model: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    piped = samovar("quality", str(tiny_model), "--text", str(text), *QUICK)
    shown = samovar("quality", str(tiny_model), "--text", str(text), *QUICK, is_terminal=True)
    assert piped.err == ""
    assert "perplexity" in shown.out
