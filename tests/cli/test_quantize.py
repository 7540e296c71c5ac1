"""`samovar quantize`: what it writes, what it says, and what it refuses."""

import json
from pathlib import Path

import gguf
import pytest

from samovar.llm import LLM
from tests.cli.fakes import samovar

TEXT = "The water in the samovar is hot, and the tea that we pour for the others is hotter. " * 8


def test_a_model_is_written_and_its_types_are_named(tiny_model: Path, tmp_path: Path) -> None:
    target = tmp_path / "small.gguf"
    ended = samovar("quantize", str(tiny_model), str(target), "--type", "q4_k")
    assert ended.code == 0
    assert "tensors are Q5_0 instead of Q4_K, whose blocks of 256 values do not divide their rows" in ended.out
    assert "relative error" in ended.out
    assert f"{target}: 0.1 MB" in ended.out
    assert "error" not in ended.err
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(target).tensors}
    assert kinds["blk.0.attn_q.weight"] == "Q5_0"
    assert LLM(target, cache=False).generate("The samovar", max_tokens=4, temperature=0).usage.n_completion == 4


def test_json_has_a_line_for_each_tensor(tiny_model: Path, tmp_path: Path) -> None:
    target = tmp_path / "small.gguf"
    report = json.loads(samovar("quantize", str(tiny_model), str(target), "--type", "q4_0", "--json").out)
    assert report["path"] == str(target)
    assert report["size_bytes"] == target.stat().st_size
    by_name = {tensor["name"]: tensor for tensor in report["tensors"]}
    assert by_name.keys() == {tensor.name for tensor in gguf.GGUFReader(target).tensors}
    assert by_name["blk.1.ffn_up.weight"]["type"] == "Q4_0"
    assert 0.02 < by_name["blk.1.ffn_up.weight"]["relative_error"] < 0.15
    assert by_name["blk.1.ffn_up.weight"]["source_type"] == "Q8_0"


def test_a_text_calibrates(tiny_model: Path, tmp_path: Path) -> None:
    text, target = tmp_path / "text.txt", tmp_path / "small.gguf"
    text.write_text(TEXT)
    ended = samovar("quantize", str(tiny_model), str(target), "--type", "q4_0", "--calibrate", str(text))
    assert ended.code == 0
    assert gguf.GGUFReader(target).fields["quantize.imatrix.dataset"].contents() == "text.txt"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--type", "q9_9"), "invalid choice"),
        ((), "--type"),
        (("--type", "q4_0", "--calibrate", "absent.txt"), "absent.txt: no such file"),
        (("--type", "q4_0", "--imatrix", "absent.dat"), "absent.dat: no such file"),
        (("--type", "q4_0", "--calibrate", "a", "--imatrix", "b"), "not allowed with"),
        (("--type", "q4_0", "--calibrate-tokens", "0"), "expected 1 or more"),
        (("--type", "q4_0", "--threads", "0"), "expected a whole number from 1"),
    ],
)
def test_wrong_options_are_refused_in_a_line(options: tuple[str, ...], words: str, tiny_model: Path, tmp_path: Path) -> None:
    ended = samovar("quantize", str(tiny_model), str(tmp_path / "small.gguf"), *options)
    assert ended.code in (1, 2)
    assert words in ended.err
    assert not (tmp_path / "small.gguf").exists()


def test_a_file_that_is_there_needs_force(tiny_model: Path, tmp_path: Path) -> None:
    target = tmp_path / "small.gguf"
    target.write_bytes(b"old")
    ended = samovar("quantize", str(tiny_model), str(target), "--type", "q4_0")
    assert (ended.code, target.read_bytes()) == (1, b"old")
    assert "--force" in ended.err
    assert samovar("quantize", str(tiny_model), str(target), "--type", "q4_0", "--force").code == 0
    assert "this is the file that is read" in samovar("quantize", str(target), str(target), "--type", "q8_0", "--force").err
