"""The programs in examples/ and the one in the README do what they say."""

import re
import runpy
from pathlib import Path

import pytest

from tests.models.tiny_checkpoints import VARIANTS, random_model
from tests.models.tiny_gguf import write_gguf

REPOSITORY = Path(__file__).parents[2]


def run_example(name: str, model: Path) -> None:
    runpy.run_path(str(REPOSITORY / "examples" / f"{name}.py"))["main"](str(model))


def test_ask_prints_what_the_answer_cost(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_example("ask", tiny_model)
    assert re.search(r"\d+ tokens read, \d+ written", capsys.readouterr().out)


def test_stream_keeps_the_first_turn_for_the_second(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = random_model(VARIANTS["qwen3-untied"], max_position_embeddings=512)  # both turns within the native context
    run_example("stream", write_gguf(model, tmp_path / "wide.gguf", "Q8_0"))
    first, second = re.findall(r"\((\d+) of \d+ prompt tokens were kept", capsys.readouterr().out)
    assert int(first) == 0
    assert int(second) > 20


def test_next_token_lists_five_in_falling_order(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_example("next_token", tiny_model)
    shares = [float(line.split("%")[0]) for line in capsys.readouterr().out.splitlines()]
    assert len(shares) == 5
    assert shares == sorted(shares, reverse=True)


def test_structured_prints_what_the_schema_asks_for_or_that_it_was_cut(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_example("structured", tiny_model)
    assert re.match(r"\{'name': .*, 'is_capital': (True|False)\}|cut by max_tokens: ", capsys.readouterr().out)


def test_side_by_side_answers_every_question(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_example("side_by_side", tiny_model)
    assert capsys.readouterr().out.count("(first token after") == 3


def test_no_example_is_left_out_here() -> None:
    names = {"ask", "stream", "next_token", "structured", "side_by_side"}
    assert {path.stem for path in (REPOSITORY / "examples").glob("*.py")} == names


@pytest.mark.slow
def test_the_readme_examples_say_paris_and_name_a_city(smollm2: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codes = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    codes = [code for code in codes if "openai" not in code]  # that one needs a server; tests/serving has its like
    assert len(codes) == 2
    names: dict[str, object] = {}
    exec("\n".join(codes).replace('"smollm2:135m"', repr(str(smollm2))), names)
    assert "Paris" in capsys.readouterr().out
    first, second = names["answers"]
    assert ("Paris" in first.text, "Berlin" in second.text) == (True, True)
    assert names["city"].is_grammar_complete
