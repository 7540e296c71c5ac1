"""`samovar quantize`: what it writes, what it says, and what it refuses."""

import json
from pathlib import Path

import gguf
import pytest

from samovar.llm import LLM
from samovar.llm.random_model import Shape, write_random_model
from tests.cli.fakes import samovar

TEXT = "The water in the samovar is hot, and the tea that we pour for the others is hotter. " * 8


def test_a_model_is_written_and_its_types_are_named(tiny_model: Path, tmp_path: Path) -> None:
    target = tmp_path / "small.gguf"
    ended = samovar("quantize", str(tiny_model), str(target), "--type", "q4_k")
    assert ended.code == 0
    assert "tensors are Q5_0 instead of Q4_K, whose blocks of 256 values do not divide their rows" in ended.out
    assert "3 tensors are Q8_0 instead of Q6_K" in ended.out
    assert "do not divide their rows: attn_v, ffn_down, output\n" in ended.out
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
        (("--type", "q4_0", "--calibrate-tokens", "0"), "expected 1 to"),
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


def test_types_are_taken_in_any_case_and_a_target_ends_in_gguf(tiny_model: Path, tmp_path: Path) -> None:
    assert samovar("quantize", str(tiny_model), str(tmp_path / "small.gguf"), "--type", "Q4_K").code == 0
    ended = samovar("quantize", str(tiny_model), str(tmp_path / "small.bin"), "--type", "q4_k")
    assert ended.code == 1
    assert "expected a file with a name that ends in .gguf" in ended.err
    assert not list(tmp_path.glob("small.bin*"))


@pytest.mark.parametrize("option", [("--threads", "0"), ("--threads", "513"), ("--calibrate-tokens", "-5")])
def test_numbers_out_of_range_are_wrong_usage(option: tuple[str, str], tiny_model: Path, tmp_path: Path) -> None:
    ended = samovar("quantize", str(tiny_model), str(tmp_path / "small.gguf"), "--type", "q4_0", *option)
    assert ended.code == 2
    assert f"{option[0]} is {option[1]}; expected 1 to " in ended.err


def test_a_text_that_is_too_short_to_calibrate_on_is_named_with_its_folder(tiny_model: Path, tmp_path: Path) -> None:
    text = tmp_path / "short.txt"
    text.write_text("tea")
    ended = samovar("quantize", str(tiny_model), str(tmp_path / "a.gguf"), "--type", "q4_0", "--calibrate", str(text))
    assert ended.code == 1
    assert f"{text}: a text of " in ended.err


def test_what_is_no_text_does_not_calibrate(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"plain\x89PNG" * 100)
    arguments = ("quantize", str(tiny_model), str(tmp_path / "small.gguf"), "--type", "q4_0", "--calibrate")
    ended = samovar(*arguments, str(tmp_path / "picture.png"))
    assert ended.code == 1
    assert "picture.png: not UTF-8 text (at byte 5)" in ended.err
    (tmp_path / "cut.txt").write_bytes((TEXT + "é").encode()[:-1])
    assert f"at byte {len(TEXT)}" in samovar(*arguments, str(tmp_path / "cut.txt")).err


def test_a_text_may_be_cut_inside_a_character_by_the_bound(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "long.txt").write_text(TEXT + "é" * 50, encoding="utf-8")
    monkeypatch.setattr("samovar.cli.quantize._TEXT_BYTES", len(TEXT) + 1)
    target = tmp_path / "small.gguf"
    options = ("--type", "q4_0", "--calibrate", str(tmp_path / "long.txt"))
    assert samovar("quantize", str(tiny_model), str(target), *options).code == 0


def test_a_file_that_gains_nothing_is_told(tiny_model: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.gguf", tmp_path / "second.gguf"
    assert "gains nothing" not in samovar("quantize", str(tiny_model), str(first), "--type", "q4_0").err
    words = "warning: this gains nothing: the weights of the source are mostly Q4_0 already"
    assert words in samovar("quantize", str(first), str(second), "--type", "q8_0").err


def test_an_embedding_in_another_type_is_told(tiny_model: Path, tmp_path: Path) -> None:
    ended = samovar("quantize", str(tiny_model), str(tmp_path / "small.gguf"), "--type", "samovar-int4")
    assert "token_embd Q4_0 (1)" in ended.out


def test_an_interrupted_run_says_what_is_kept(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    arguments = ("quantize", str(tiny_model), str(tmp_path / "small.gguf"), "--type", "q4_0")
    monkeypatch.setattr("samovar.cli.quantize.quantise_model", interrupt)
    ended = samovar(*arguments)
    assert (ended.code, ended.err.splitlines()[-1]) == (130, "samovar: interrupted; nothing was done that is kept")
    (tmp_path / "small.gguf.part").write_bytes(b"bytes")
    (tmp_path / "small.gguf.part.journal").write_text("0" * 64 + "\n2 \n4 note\n")
    assert "what is done is kept" in samovar(*arguments).err
    monkeypatch.setattr("samovar.cli.quantize.calibrate", interrupt)
    (tmp_path / "text.txt").write_text(TEXT)
    assert "calibration starts anew" in samovar(*arguments, "--calibrate", str(tmp_path / "text.txt")).err


def test_tensors_that_calibration_gives_another_type_are_told(tmp_path: Path) -> None:
    source, text, target = tmp_path / "source.gguf", tmp_path / "text.txt", tmp_path / "small.gguf"
    shape = Shape(n_layers=8, d_model=64, n_heads=2, d_ffn=64, is_tied=False, n_kv_heads=1, vocab_size=512, max_context=256)
    write_random_model(source, shape, "f32")
    text.write_text(TEXT)
    options = ("--type", "q4_0", "--calibrate", str(text), "--calibrate-tokens", "64")
    assert "ffn_down Q4_1 (1)" in samovar("quantize", str(source), str(target), *options).out
