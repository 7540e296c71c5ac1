"""`samovar bench`: what it prints, and what it refuses before anything is written."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from samovar.cli import bench, bench_run
from samovar.cli.bench_run import Settings, n_steps, run_bench
from samovar.kernels.limits import Limits
from samovar.kernels.native import available_isas
from tests.cli.fakes import samovar

QUICK = ("--rounds", "2", "--prompt-tokens", "20", "--tokens", "3", "--streams", "1", "2")


@pytest.mark.slow
def test_json_holds_every_figure_of_a_model(tiny_model: Path) -> None:
    ended = samovar("bench", str(tiny_model), *QUICK, "--threads", "1", "--kv-type", "bf16", "--json")
    assert ended.code == 0, ended.err
    report = json.loads(ended.out)
    assert report["threads"] == 1
    assert report["kv_type"] == "bf16"
    for key in ("prefill_tokens_per_s", "first_token_s", "first_start_s", "tokenizer_s", "resident_bytes"):
        assert report[key] > 0, key
    assert set(report["batched_decode_tokens_per_s"]) == {"1", "2"}
    assert report["batched_decode_tokens_per_s"]["1"] == report["decode_tokens_per_s"]
    assert len(report["rounds"]["prefill_tokens_per_s"]) == 2


@pytest.mark.slow
def test_native_kernels_are_held_against_the_machine(tiny_model: Path) -> None:
    steps: list[str] = []
    settings = Settings(
        n_rounds=1, n_prompt=20, n_tokens=3, streams=(1,), n_threads=1, max_context=None, kv_type=None, isa=available_isas()[-1]
    )
    report = run_bench(tiny_model, settings, steps.append)
    assert len(steps) == n_steps(settings)
    assert report.isa == settings.isa
    assert len(report.limits) == len(report.bandwidth_share) == len(report.peak_share) == 1
    assert report.limits[0].read_bytes_per_s > 1e8
    for share in (*report.bandwidth_share, *report.peak_share, *report.python_shares):
        assert 0 < share < 1


@pytest.mark.slow
def test_the_limits_of_a_round_are_the_larger_ones_of_before_and_after(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    answers = [Limits(read_bytes_per_s=n, int8_ops_per_s=m) for n, m in ((1e9, 7e9), (3e9, 5e9), (8e9, 9e9), (2e9, 2e9))]

    def measure(isa: str, n_threads: int) -> Limits:
        steps.append("limits")
        return answers[steps.count("limits") - 1]

    monkeypatch.setattr(bench_run, "measure_limits", measure)
    settings = Settings(
        n_rounds=2,
        n_prompt=20,
        n_tokens=3,
        streams=(1, 2),
        n_threads=1,
        max_context=None,
        kv_type=None,
        isa=available_isas()[-1],
    )
    report = run_bench(tiny_model, settings, steps.append)
    assert steps[2:7] == ["limits", "prefill, round 1", "decode of 1, round 1", "limits", "decode of 2, round 1"]
    assert [(limits.read_bytes_per_s, limits.int8_ops_per_s) for limits in report.limits] == [(3e9, 7e9), (8e9, 9e9)]


def test_the_table_names_the_measurements_and_units(tiny_model: Path) -> None:
    out = samovar("bench", str(tiny_model), *QUICK).out
    for words in (
        "prefill of 20",
        "decode, 1 stream ",
        "decode, 2 streams together",
        "first token",
        "tokens/s",
        "medians of 2",
    ):
        assert words in out
    out = samovar("bench", str(tiny_model), *QUICK, "--rounds", "1").out
    assert "one round" in out
    assert "1 rounds" not in out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("model.gguf", "--shape", "qwen3-0.6b"), "not both"),
        (("--quant", "q4_0"), "add --shape"),
        (("--layers", "3"), "add --shape"),
        (("--shape", "qwen3-0.6b", "--quant", "q9"), "q4_k_m"),
        (("--shape", "qwen3-0.6b", "--layers", "29"), "expected 1 to 28"),
        (("--shape", "gpt-5"), "qwen3-4b"),
        (("--rounds", "0"), "expected 1 to"),
        (("--streams", "0"), "--streams is 0"),
        (("--ctx-size", "100"), "need 513"),
        (("--tokens", "1"), "expected 2 to"),
    ],
)
def test_wrong_usage_is_refused_in_one_line(argv: tuple[str, ...], words: str) -> None:
    ended = samovar("bench", *argv)
    assert (ended.code, ended.out) == (2, "")
    assert words in ended.err


def test_a_shape_that_memory_does_not_hold_is_refused_with_the_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "available_bytes", lambda: 3 << 30)
    ended = samovar("bench", "--shape", "qwen3-8b", "--quant", "bf16")
    assert ended.code == 1
    assert "about 15.8 GiB of memory, and 3.0 GiB are free; cut the model with --layers" in ended.err


def test_random_weights_leave_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    seen: list[str] = []

    def record(path: Path, *_: object) -> bench.Report:
        seen.append(path.name)
        assert path.stat().st_size > 1 << 20
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "run_bench", record)
    assert samovar("bench", "--shape", "qwen3-0.6b", "--layers", "1").code == 130
    assert seen == ["random.gguf"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("samovar-bench")]


# Signals as at a terminal: whoever runs the tests may ignore some, which is inherited.
PROGRAM = """
import signal, sys
from samovar.cli.main import main
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
sys.exit(main())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_removes_the_temporary_folder(tiny_model: Path, tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    command = [sys.executable, "-c", PROGRAM, "bench", str(tiny_model), *QUICK, "--rounds", "1000"]
    environment = os.environ | {"TMPDIR": str(folder)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        while not list(folder.glob("samovar-bench-*")):
            assert child.poll() is None
            time.sleep(0.01)
        child.send_signal(number)
        _, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (128 + number, b"")
    assert list(folder.iterdir()) == []
