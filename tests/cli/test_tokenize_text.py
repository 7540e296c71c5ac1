"""`samovar tokenize` on a tiny model's tokenizer, against the tokenizer that it was made from."""

import json
from pathlib import Path

import pytest

from tests.cli.fakes import samovar
from tests.models.tiny_checkpoints import tiny_tokenizer

TEXT = "The samovar is hot. 茶\n"


def test_ids_are_those_of_the_reference(tiny_model: Path) -> None:
    expected = " ".join(map(str, tiny_tokenizer().encode(TEXT).ids)) + "\n"
    assert samovar("tokenize", str(tiny_model), TEXT, "--ids").out == expected
    assert samovar("tokenize", str(tiny_model), "--ids", stdin=TEXT.encode()).out == expected


def test_json_pieces_join_to_the_text(tiny_model: Path) -> None:
    report = json.loads(samovar("tokenize", str(tiny_model), TEXT, "--json").out)
    assert report["n_tokens"] == len(report["tokens"])
    joined = "".join(token["text"] for token in report["tokens"])
    assert joined.encode().decode("unicode_escape").encode("latin-1").decode() == TEXT


@pytest.mark.parametrize(("flags", "is_one"), [((), True), (("--plain",), False)])
def test_control_tokens_are_recognised_unless_plain(tiny_model: Path, flags: tuple[str, ...], is_one: bool) -> None:
    report = json.loads(samovar("tokenize", str(tiny_model), "<|im_end|>", "--json", *flags).out)
    assert (report["tokens"] == [{"id": 2, "text": "<|im_end|>", "is_control": True}]) is is_one
    assert any(token["is_control"] for token in report["tokens"]) is is_one


def test_the_listing_has_a_line_a_token_and_no_raw_controls(tiny_model: Path) -> None:
    ended = samovar("tokenize", str(tiny_model), "a\n\x1b[31m", "--plain")
    n_tokens = len(tiny_tokenizer().encode("a\n\x1b[31m").ids)
    assert len(ended.out.splitlines()) == n_tokens + 1
    assert ended.out.endswith(f"{n_tokens} tokens\n")
    assert "\x1b" not in ended.out
    assert "\\n" in ended.out


def test_the_empty_text_has_no_tokens(tiny_model: Path) -> None:
    assert samovar("tokenize", str(tiny_model), "", "--json").out == '{"n_tokens": 0, "tokens": []}\n'
