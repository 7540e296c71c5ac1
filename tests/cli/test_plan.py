"""`samovar plan`: its table, its JSON, and what it refuses."""

import json
import re
from pathlib import Path

import pytest

from samovar.cli import plan
from samovar.cli.main import run
from samovar.kernels.native import available_isas
from samovar.llm.random_model import SHAPES
from samovar.plan.costs import Machine
from tests.cli.fakes import Ended, streams

pytestmark = pytest.mark.skipif(not available_isas(), reason="native kernels are not built")


@pytest.fixture(autouse=True)
def a_known_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        plan, "measure_machine", lambda _isa, _n, _kernels: Machine(read_bytes_per_s=30e9, int8_ops_per_s=0.9e12)
    )
    monkeypatch.setattr(plan, "available_bytes", lambda: 20 << 30)
    monkeypatch.setattr(plan, "usable_cores", lambda: 2)
    monkeypatch.setattr(plan.os, "getloadavg", lambda: (0.1, 0.1, 0.1))
    monkeypatch.setenv("COLUMNS", "140")


def planned(*argv: str, is_terminal: bool = False) -> Ended:
    given = streams(environ={}, is_terminal=is_terminal)
    code = run(("plan", *argv), given)
    return Ended(code=code, out=given.stdout.getvalue(), err=given.stderr.getvalue())  # type: ignore[attr-defined]


def as_json(*argv: str) -> dict[str, object]:
    ended = planned(*argv, "--json")
    assert ended.code == 0, ended.err
    return json.loads(ended.out)


def test_the_family_is_a_table_with_one_proposal() -> None:
    ended = planned()
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert sum("qwen3-8b " in line for line in lines) == 5  # quantisations
    assert sum(line.startswith("qwen3-235b-a22b ") for line in lines) == 1
    assert re.search(r"qwen3-235b-a22b +q4_0 .* 124\.2 +104\.\d +- ", ended.out)
    assert "qwen3-30b-a3b-2507, qwen3-coder-30b-a3b as qwen3-30b-a3b" in ended.out
    assert lines[-1].startswith("best that fits: qwen3-30b-a3b q4_k_m, the most parameters")
    assert "20.00 GiB free here" in ended.out
    assert "busy" not in ended.out


def test_a_busy_machine_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan.os, "getloadavg", lambda: (3.0, 0.1, 0.1))
    said = planned("qwen3-0.6b").out
    assert "other programs are busy here: speeds are those of a machine where nothing else runs" in said
    assert "while they run, expect less" in said
    assert "other programs are busy here" in planned("qwen3-0.6b", "--memory", "64G", "--bandwidth", "50G").out


@pytest.mark.slow
@pytest.mark.parametrize("users", ["1", "4"])
def test_at_80_columns_every_cell_is_whole_and_into_a_pipe_there_are_all(users: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    shown = planned("--users", users, "--memory", "900G", is_terminal=True).out
    shown = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert max(map(len, shown.splitlines())) <= 80
    assert not re.search("[…─│]", shown)
    piped = planned("--users", users, "--memory", "900G").out
    narrow, wide = (
        [line.split() for line in text.splitlines() if re.match(r"qwen3\S+ +\w+ ", line)] for text in (shown, piped)
    )
    assert len(narrow) == len(wide) == 50
    assert {len(cells) for cells in wide} == {10 + (users != "1")}
    assert {len(cells) for cells in narrow} == {8 if users == "1" else 7}  # a column more gives way to contexts of a million
    for few, all_of_them in zip(narrow, wide, strict=True):
        assert few[0] in SHAPES
        assert set(few) <= set(all_of_them)


def test_contexts_beyond_the_native_length_fit_by_yarn_and_it_is_said() -> None:
    found = as_json("qwen3-4b", "--context", "60000", "--quant", "q4_0")
    (candidate,) = found["candidates"]  # type: ignore[misc]
    assert candidate["fits"]
    assert (candidate["yarn_factor"], candidate["model_context"], candidate["longest_context"]) == (2, 40_960, 131_072)
    assert "100,000 tokens are beyond the native 40,960 of qwen3-4b: by YaRN, factor 4" in (
        planned("qwen3-4b", "--context", "100000", "--quant", "q4_0").out
    )
    assert "too long" in planned("qwen3-4b", "--context", "140000", "--quant", "q4_0").out
    assert "factor 2 or 4" not in planned("qwen3-32b", "--quant", "q4_0").out  # memory ends before the native length


def test_no_more_bits_than_the_release_has_are_proposed() -> None:
    found = as_json("qwen3-0.6b")
    assert found["best"] == {"model": "qwen3-0.6b", "quant": "bf16"}
    assert "f32" not in {candidate["quant"] for candidate in found["candidates"]}  # type: ignore[union-attr,attr-defined]
    asked = as_json("qwen3-0.6b", "--quant", "f32", "bf16")
    assert asked["best"] == {"model": "qwen3-0.6b", "quant": "bf16"}


def test_names_of_the_family_are_planned_before_they_are_pulled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "default_store", lambda: tmp_path)
    assert {candidate["model"] for candidate in as_json("qwen3:0.6b")["candidates"]} == {"qwen3-0.6b"}  # type: ignore[attr-defined]
    (candidate,) = as_json("qwen3:30b-a3b-q4_k_m")["candidates"]  # type: ignore[misc]
    assert (candidate["model"], candidate["quant"]) == ("qwen3-30b-a3b", "q4_k_m")
    (candidate,) = as_json("qwen3-coder:30b", "--quant", "q8_0")["candidates"]  # type: ignore[misc]
    assert (candidate["model"], candidate["quant"]) == ("qwen3-coder-30b-a3b", "q8_0")
    assert "fp8 is planned from files alone" in planned("qwen3:8b-fp8").err


def test_another_machine_is_planned_for() -> None:
    here = as_json("qwen3-8b", "--quant", "q4_0", "q8_0")
    there = as_json("qwen3-8b", "--quant", "q4_0", "q8_0", "--memory", "64G", "--bandwidth", "60G", "--cores", "4")
    assert there["usable_bytes"] == int(64 * 0.95 * 2**30)
    assert there["read_bytes_per_s"] == 60e9
    assert there["int8_ops_per_s"] == 1.8e12
    for slow, fast in zip(here["candidates"], there["candidates"], strict=True):  # type: ignore[call-overload]
        assert fast["decode"] == pytest.approx(2 * slow["decode"], rel=0.05)
        assert fast["prefill"] == pytest.approx(2 * slow["prefill"], rel=0.05)
        assert fast["memory_bytes"] == slow["memory_bytes"]


@pytest.mark.slow
def test_users_and_contexts_take_memory_and_have_a_column() -> None:
    one, four = as_json("qwen3-4b", "--context", "8192"), as_json("qwen3-4b", "--context", "8192", "--users", "4")
    grown = four["candidates"][0]["memory_bytes"] - one["candidates"][0]["memory_bytes"]  # type: ignore[index]
    assert grown == pytest.approx(3 * 8192 * 144 << 10, rel=0.01)
    assert "4 users" in planned("qwen3-4b", "--context", "8192", "--users", "4").out


def test_coarser_weights_and_keys_take_less() -> None:
    argv = ("qwen3-0.6b", "--quant", "q8_0")
    plain, coarse = as_json(*argv), as_json(*argv, "--weights", "int4", "--kv-type", "int8")
    (of_plain,), (of_coarse,) = plain["candidates"], coarse["candidates"]  # type: ignore[misc]
    assert (of_plain["quant"], of_coarse["quant"]) == ("q8_0", "q8_0, int4")
    assert of_coarse["kv_type"] == "int8"
    assert of_coarse["weight_bytes"] < 0.75 * of_plain["weight_bytes"]
    assert of_coarse["memory_bytes"] - of_coarse["weight_bytes"] < of_plain["memory_bytes"] - of_plain["weight_bytes"] - (
        200 << 20
    )
    assert of_coarse["decode"] > of_plain["decode"]


def test_a_file_is_planned_as_it_is_stored_and_within_its_own_context(tiny_model: Path) -> None:
    found = as_json(str(tiny_model))
    (candidate,) = found["candidates"]  # type: ignore[misc]
    assert candidate["quant"] == "as stored"
    assert found["context"] == candidate["model_context"] < 4096
    assert found["best"] == {"model": tiny_model.name, "quant": "as stored"}
    longer = planned(str(tiny_model), "--context", "4096")
    assert "too long" in longer.out
    assert f"nothing fits: a context of 4,096 tokens is beyond the model's {candidate['longest_context']:,}" in longer.out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("qwen3-8b", "--all"), "give MODEL or --all, not both"),
        (("--context", "1"), "--context is 1; expected 2 to"),
        (("--users", "0"), "--users is 0; expected 1 to"),
        (("--cores", "0"), "--cores is 0; expected 1 to"),
        (("--memory", "64X"), "'64X' is no size"),
        (("--memory", "64"), "'64' is 64 bytes, which no machine has; did you mean 64G?"),
        (("--bandwidth", "50"), "'50' is 50 bytes a second, which no memory reads; did you mean 50G?"),
        (("--bandwidth", "50M"), "did you mean 50G?"),
        (("--bandwidth", "500T"), "which no memory reads; did you mean 500G?"),
        (("qwen3:8b-q8_0", "--quant", "q4_0"), "qwen3:8b-q8_0 names a quantisation already"),
        (("--bandwidth", "quick"), "'quick' is no rate; expected one as in 50G"),
        (("--bandwidth", "0"), "'0' is no rate"),
        (("--speed", "-1"), "--speed is -1"),
        (("--speed", "nan"), "--speed is nan"),
        (("--quant", "q9"), "invalid choice: 'q9'"),
    ],
)
def test_wrong_options_end_with_code_2(argv: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert planned(*argv).code == 2
    assert message in capsys.readouterr().err


def test_an_unknown_model_is_refused_with_a_few_shapes_of_such_names(tiny_model: Path) -> None:
    ended = planned("qwen3-9b")
    assert ended.code == 1
    near = ended.err.partition("or a shape, near this one: ")[2].split(", ")
    assert near[0] == "qwen3-8b"
    assert 1 < len(near) <= 5
    ended = planned(str(tiny_model), "--quant", "q4_0")
    assert ended.code == 1
    assert "--quant belongs to shapes" in ended.err
