"""`samovar doctor`: its report, its exit codes, and models that are too broken to open."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from samovar.cli.doctor import _summary
from samovar.doctor.check_weights import HashPlan, check_hash
from samovar.doctor.examine import Report
from samovar.doctor.finding import Status, passed, unknown
from samovar.doctor.releases import RELEASES
from samovar.formats.catalogue import CATALOGUE
from samovar.formats.gguf import read_gguf
from samovar.formats.gguf_writer import TensorPlan, write_gguf
from samovar.formats.pull_record import PullRecord, RecordedFile, record_path, write_record
from tests.cli.fakes import samovar
from tests.formats.quantised_parts import METHODS
from tests.models.test_quantised_folders import SPARSE, quantised_folder
from tests.models.tiny_checkpoints import VARIANTS, random_model, write_folder
from tests.models.tiny_gguf import write_gguf as write_tiny_gguf
from tests.real_models import STORE


def report(*argv: str) -> tuple[int, dict]:
    ended = samovar("doctor", *argv, "--json")
    return ended.code, json.loads(ended.out)


def lines(found: dict, status: str) -> set[str]:
    return {f"{f['section']}: {f['what']}" for f in found["findings"] if f["status"] == status}


def rewritten(source: Path, target: Path, **changes: object) -> Path:
    """A copy of a GGUF file with some metadata changed (dots as `__`), and a scale of one tensor with `bad_scale_of`."""
    checkpoint = read_gguf(source)
    bad = changes.pop("bad_scale_of", None)
    metadata = {**checkpoint.metadata, **{key.replace("__", "."): value for key, value in changes.items()}}

    def bytes_of(name: str) -> np.ndarray:
        data = np.array(checkpoint.tensors[name].data)
        if name == bad:
            data[:2] = [0x00, 0x7C]
        return data

    plans = [
        TensorPlan(name=name, type=t.type, shape=t.shape, fill=lambda name=name: [bytes_of(name)])
        for name, t in checkpoint.tensors.items()
    ]
    write_gguf(target, metadata, plans)
    return target


def test_a_model_of_no_known_release_passes_what_can_be_checked(tiny_model: Path) -> None:
    code, found = report(str(tiny_model))
    assert code == 0
    assert found["release"] is None
    assert lines(found, "pass") == {"file: opens", "weights: scales", "weights: stretches"}
    assert lines(found, "unknown") == {"release: claim", "file: sha256"}
    text = samovar("doctor", str(tiny_model)).out
    assert "--as NAME" in text
    assert "3 pass, 0 fail, 2 cannot be known" in text


def test_a_model_that_claims_what_it_is_not_fails_with_code_1(tiny_model: Path, tmp_path: Path) -> None:
    path = rewritten(tiny_model, tmp_path / "Qwen3-0.6B-Q8_0.gguf")
    code, found = report(str(path))
    assert code == 1
    assert found["release"] == "Qwen3-0.6B"
    assert {"config: layers", "tokenizer: pieces and merges", "tokens: control tokens", "template: rendering"} <= lines(
        found, "fail"
    )
    failing = [f for f in found["findings"] if f["status"] == "fail"]
    assert all(f["advice"] for f in failing)
    assert all(f["expected"] for f in failing)
    assert found["n_fail"] == len(failing)


def test_the_report_marks_lines_by_signs_and_says_what_to_do(tiny_model: Path, tmp_path: Path) -> None:
    path = rewritten(tiny_model, tmp_path / "Qwen3-0.6B-Q8_0.gguf")
    ended = samovar("doctor", str(path))
    assert ended.code == 1
    assert ended.err == ""
    assert "\u2713 opens" in ended.out
    assert "\u2717 layers" in ended.out
    assert "? sha256" in ended.out
    assert "expected: 28" in ended.out
    assert "> these are not the release's weights" in ended.out
    assert "\x1b" not in ended.out


def test_a_terminal_gets_lines_that_fit(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    path = rewritten(tiny_model, tmp_path / "Qwen3-0.6B-Q8_0.gguf")
    ended = samovar("doctor", str(path), is_terminal=True)
    assert max(map(len, ended.out.splitlines())) <= 70 + len("\x1b[1;31m\x1b[0m")


def test_what_a_file_says_cannot_move_the_cursor(tiny_model: Path, tmp_path: Path) -> None:
    evil = "\x1b[2Jevil\x9b31m"
    path = rewritten(
        tiny_model, tmp_path / "qwen3-0.6b.gguf", tokenizer__ggml__pre=evil, general__name=evil, tokenizer__chat_template=evil
    )
    for argv in ((str(path),), (str(path), "--as", "Qwen3-8B")):
        out = samovar("doctor", *argv).out
        assert "\x1b" not in out
        assert "\x9b" not in out


def test_a_bad_scale_is_found_in_a_file(tiny_model: Path, tmp_path: Path) -> None:
    path = rewritten(tiny_model, tmp_path / "bad.gguf", bad_scale_of="blk.1.ffn_up.weight")
    code, found = report(str(path))
    assert code == 1
    assert lines(found, "fail") == {"weights: scales"}


def test_a_truncated_file_is_still_checked_as_far_as_its_header_goes(tiny_model: Path, tmp_path: Path) -> None:
    whole = rewritten(tiny_model, tmp_path / "Qwen3-0.6B.gguf", tokenizer__ggml__eos_token_id=1).read_bytes()
    (tmp_path / "Qwen3-0.6B.gguf").write_bytes(whole[:-1000])
    code, found = report(str(tmp_path / "Qwen3-0.6B.gguf"))
    assert code == 1
    assert {"file: opens", "config: layers", "tokens: stop ids"} <= lines(found, "fail")
    assert "weights: scales" in lines(found, "unknown")
    (opens,) = [f for f in found["findings"] if f["what"] == "opens"]
    assert "cut short" in opens["found"]


@pytest.mark.parametrize("content", [b"GGUF", b"GGUF\x03\0\0\0" + b"\xff" * 64, b"hello", b"PK\x03\x04zip", b"\0" * 100])
def test_a_file_that_does_not_open_is_a_report_and_no_crash(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "Qwen3-4B.gguf"
    path.write_bytes(content)
    code, found = report(str(path))
    assert code == 1
    assert lines(found, "fail") == {"file: opens"}
    assert "tokenizer: vocabulary" in lines(found, "unknown")


def test_a_folder_is_checked_and_a_damaged_one_too(tmp_path: Path) -> None:
    folder = write_folder(random_model(VARIANTS["qwen3-untied"]), tmp_path / "Qwen3-0.6B", max_shard_size="100KB")
    code, whole = report(str(folder))
    assert code == 1
    assert "file: opens" in lines(whole, "pass")
    assert "weights: tensors" in lines(whole, "pass")
    sorted(folder.glob("*.safetensors"))[1].unlink()
    code, found = report(str(folder))
    assert code == 1
    assert {"file: opens", "weights: tensors"} <= lines(found, "fail")
    assert "config: layers" in lines(found, "fail")
    (folder / "config.json").write_text("{")
    code, found = report(str(folder))
    assert code == 1
    assert "config: figures" in lines(found, "unknown")


@pytest.mark.parametrize("method", ["awq-g128", "fp8-blocks", "gptq-4"])
def test_a_quantised_folder_is_looked_through_and_a_bad_scale_in_it_found(tmp_path: Path, method: str) -> None:
    folder = tmp_path / "Qwen3-0.6B"
    quantised_folder(folder, METHODS[method], SPARSE)
    _, whole = report(str(folder))
    assert {"weights: scales", "weights: routers", "weights: tensors", "weights: quantisation"} <= lines(whole, "pass")
    tensors = load_file(folder / "model.safetensors")
    name = next(n for n in tensors if "q_proj" in n and "scale" in n)
    tensors[name].view(-1)[-1] = float("nan")
    save_file(tensors, folder / "model.safetensors")
    _, found = report(str(folder))
    assert {"weights: parts", "weights: scales"} & lines(found, "fail")


def test_a_pulled_model_is_named_by_its_record_and_held_against_the_hashes_of_its_hub(tmp_path: Path) -> None:
    folder = write_folder(random_model(VARIANTS["qwen3-untied"]), tmp_path / "tiny", max_shard_size="100KB")
    weights = sorted(folder.glob("*.safetensors"))
    record = PullRecord(
        names=("tiny",),
        source="huggingface",
        origin="https://hub.example/Qwen/Qwen3-0.6B",
        revision=None,
        licence=None,
        pulled_at="",
        files=tuple(
            RecordedFile(
                path=path.name,
                size_bytes=path.stat().st_size,
                sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                checked="sha256",
            )
            for path in weights
        ),
    )
    write_record(record, record_path(folder))
    _, found = report(str(folder))
    assert found["release"] == "Qwen3-0.6B"
    assert "file: sha256" in lines(found, "pass")
    content = bytearray(weights[2].read_bytes())
    content[-1] ^= 1
    weights[2].write_bytes(content)
    _, found = report(str(folder))
    (line,) = [f for f in found["findings"] if f["what"] == "sha256"]
    assert line["status"] == "fail"
    assert weights[2].name in line["found"]
    record_path(folder).write_text("{")
    assert report(str(folder))[1]["release"] is None


def test_an_embedding_model_is_run_and_its_numbers_are_compared(tmp_path: Path) -> None:
    model = random_model(VARIANTS["qwen3-untied"], max_position_embeddings=1024)
    path = write_tiny_gguf(model, tmp_path / "Qwen3-Embedding-0.6B.gguf", "Q8_0")
    code, found = report(str(path))
    assert code == 1
    (scores,) = [f for f in found["findings"] if f["section"] == "scores"]
    assert scores["status"] in ("fail", "unknown")  # random weights, and a vocabulary without the end token
    assert "1024" not in scores["found"]


def test_a_reranker_that_cannot_be_run_says_why(tmp_path: Path) -> None:
    path = write_tiny_gguf(random_model(VARIANTS["qwen3-untied"]), tmp_path / "Qwen3-Reranker-0.6B.gguf", "Q8_0")
    _, found = report(str(path))
    (scores,) = [f for f in found["findings"] if f["section"] == "scores"]
    assert scores["status"] == "unknown"
    assert "does not run: " in scores["found"]


def test_an_absent_model_and_an_unknown_release_are_one_line(tiny_model: Path) -> None:
    for code, *argv in ((1, "nothing.gguf"), (2, str(tiny_model), "--as", "qwen9")):
        ended = samovar("doctor", *argv)
        assert ended.code == code
        assert ended.out == ""
        assert ended.err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("fixture", ["smollm2", "qwen_coder"])
def test_the_real_files_pass_every_line(fixture: str, request: pytest.FixtureRequest) -> None:
    code, found = report(str(request.getfixturevalue(fixture)), "--full")
    assert code == 0
    assert lines(found, "pass") == {f"{f['section']}: {f['what']}" for f in found["findings"]}
    assert found["n_pass"] >= 29


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fixture", "name"), [("smollm2", "SmolLM2-135M-Instruct"), ("qwen_coder", "Qwen2.5-Coder-0.5B-Instruct")]
)
def test_a_folder_that_a_real_file_was_converted_to_has_no_fault(
    fixture: str, name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    assert samovar("convert", str(request.getfixturevalue(fixture)), str(tmp_path / name)).code == 0
    code, found = report(str(tmp_path / name))
    assert (code, lines(found, "fail")) == (0, set())


@pytest.mark.slow
def test_the_larger_real_file_passes_with_a_word_on_the_fault_of_its_template() -> None:
    path = STORE / "models" / CATALOGUE["qwen2.5-coder:1.5b"].file_name
    if not path.exists():
        pytest.skip("qwen2.5-coder:1.5b is not in the store; get it with: samovar pull qwen2.5-coder:1.5b")
    code, found = report(str(path))
    assert code == 0
    assert found["n_unknown"] == 0
    (rendering,) = [f for f in found["findings"] if f["section"] == "template"]
    assert "doubled braces" in rendering["found"]


@pytest.mark.slow
def test_a_flipped_bit_of_a_known_file_is_caught_by_its_hash_alone(smollm2: Path, tmp_path: Path) -> None:
    content = bytearray(smollm2.read_bytes())
    content[60_000_001] ^= 1
    path = tmp_path / smollm2.name
    path.write_bytes(content)
    code, found = report(str(path))
    assert code == 1
    assert lines(found, "fail") == {"file: sha256"}


def test_an_unknown_release_is_wrong_usage_and_a_few_near_ones_are_named(tiny_model: Path) -> None:
    ended = samovar("doctor", str(tiny_model), "--as", "Qwen3-0.6")
    assert ended.code == 2
    assert "(see: samovar doctor --help)" in ended.err
    assert "Qwen3-0.6B" in ended.err
    assert ended.err.count("Qwen3-") <= 6  # the name that was asked for, and five
    assert len(samovar("doctor", str(tiny_model), "--as", "nonsense").err) < 300


@pytest.mark.parametrize("n_bytes", [32, 1_000_000])
def test_bytes_after_the_last_tensor_fail(tiny_model: Path, tmp_path: Path, n_bytes: int) -> None:
    path = tmp_path / "longer.gguf"
    path.write_bytes(tiny_model.read_bytes() + bytes(n_bytes))
    code, found = report(str(path))
    assert code == 1
    assert lines(found, "fail") == {"file: end"}


def test_without_a_known_hash_nothing_is_called_as_published() -> None:
    path = Path("Qwen3-0.6B.gguf")
    hashed = passed("file", "sha256", "abc")
    for finding, is_known in ((hashed, True), (unknown("file", "sha256", "none known"), False)):
        summary = _summary(Report(path=path, release=RELEASES[0], findings=(passed("file", "opens", "GGUF"), finding)))
        assert ("as published" in summary) is is_known
        assert ("no known hash" in summary) is not is_known


def test_another_size_than_the_known_file_s_is_told() -> None:
    known = next(r for r in RELEASES if r.files)
    finding = check_hash(HashPlan(expected={}, one_size_bytes=1_000), known, lambda _: None)
    assert finding.status is Status.UNKNOWN
    assert "size differs from the published file" in finding.found
