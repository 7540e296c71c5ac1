"""The program as a whole: help, exit codes, one line for each mistake."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.fakes import samovar

PROGRAM = (sys.executable, "-m", "samovar")


def error_line(*argv: str, code: int, stdin: bytes | None = b"") -> str:
    """The one line that a failing program wrote."""
    ended = samovar(*argv, stdin=stdin)
    assert (ended.code, ended.out) == (code, ""), ended
    assert ended.err.startswith("samovar: error: ")
    assert ended.err.endswith("\n")
    assert ended.err.count("\n") == 1
    return ended.err


def test_version_is_printed() -> None:
    ended = samovar("--version")
    assert ended.code == 0
    assert ended.out.startswith("samovar 0.")


@pytest.mark.parametrize("command", ["chat", "generate", "inspect", "tokenize", "pull"])
def test_every_command_explains_itself_with_examples(command: str) -> None:
    ended = samovar(command, "--help")
    assert ended.code == 0
    assert f"samovar {command} " in ended.out.split("examples:")[1]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "COMMAND"),
        (["brew"], "invalid choice: 'brew'"),
        (["chat", "--temprature", "1"], "unrecognized arguments"),
        (["chat", "--temp", "1"], "unrecognized arguments"),
        (["chat", "a", "b"], "unrecognized arguments: b"),
        (["generate", "--threads", "0"], "--threads is 0"),
        (["generate", "--threads", "600"], "--threads is 600; expected 1 to 512"),
        (["generate", "--ctx-size", "0"], "--ctx-size is 0"),
        (["generate", "-p", "caf\udce9"], "--prompt: not UTF-8"),
        (["chat", "--system", "caf\udce9"], "--system: not UTF-8"),
        (["chat", "--stop", "caf\udce9"], "--stop: not UTF-8"),
        (["tokenize", "m", "caf\udce9"], "not UTF-8"),
        (["generate", "--ctx-size", "many"], "--ctx-size"),
        (["generate", "--kv-type", "int4"], "--kv-type"),
        (["generate", "-p", "x", "--temperature", "-1"], "--temperature is -1.0"),
        (["generate", "-p", "x", "--temperature", "nan"], "--temperature is nan"),
        (["generate", "-p", "x", "--top-p", "0"], "--top-p is 0.0"),
        (["generate", "-p", "x", "--top-k", "-5"], "--top-k is -5"),
        (["generate", "-p", "x", "--min-p", "2"], "--min-p is 2.0"),
        (["generate", "-p", "x", "--repetition-penalty", "0"], "--repetition-penalty is 0.0"),
        (["generate", "-p", "x", "--presence-penalty", "3"], "--presence-penalty is 3.0"),
        (["generate", "-p", "x", "--frequency-penalty", "-3"], "--frequency-penalty is -3.0"),
        (["generate", "-p", "x", "--seed", "-1"], "--seed is -1"),
        (["generate", "-p", "x", "--max-tokens", "0"], "--max-tokens is 0"),
        (["generate", "-p", "x", "--stop", ""], "--stop is empty"),
        (["generate", "-p", "x", "--stop-token-id", "-2"], "--stop-token-id is -2"),
        (["generate", "-p", "x", "--think"], "add --chat"),
        (["generate", "-p", "x", "--system", "y"], "add --chat"),
        (["generate", "-p", "x", "--file", "y"], "not allowed with"),
        (["generate", "-p", "  "], "the prompt is empty"),
        (["tokenize", "m", "x", "--ids", "--json"], "not allowed with"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2_before_any_model_is_loaded(argv: list[str], message: str) -> None:
    line = error_line(*argv, code=2)
    assert message in line
    assert "--help" in line


def test_a_dialogue_or_prompt_from_an_empty_standard_input_is_wrong_usage(tiny_model: Path) -> None:
    assert "standard input is empty" in error_line("chat", str(tiny_model), code=2)
    assert "standard input is empty" in error_line("chat", str(tiny_model), code=2, stdin=b" \n")
    assert "the prompt is empty" in error_line("generate", code=2)
    assert "no prompt" in error_line("generate", code=2, stdin=None)


@pytest.mark.parametrize("command", [["chat"], ["generate"], ["inspect"], ["tokenize"]])
def test_a_path_that_does_not_exist_is_named(command: list[str], tmp_path: Path) -> None:
    path = str(tmp_path / "no-model.gguf")
    assert "no-model.gguf" in error_line(*command, path, code=1, stdin=b"hello")


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.gguf"
    path.write_text("These are my notes about tea.\n" * 100)
    assert "notes.gguf" in error_line("inspect", str(path), code=1)


def test_a_pickle_is_refused_by_name_and_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(pickle.dumps(Trap()))
    assert "pickle" in error_line("inspect", str(path), code=1)
    assert not (tmp_path / "sprung").exists()


def test_a_prompt_file_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(b"\x89PNG\xff\xfe")
    assert "image.png is not UTF-8 text" in error_line("generate", "--file", str(tmp_path / "image.png"), code=1)
    assert "absent.txt" in error_line("generate", "--file", str(tmp_path / "absent.txt"), code=1)


def test_an_empty_store_names_the_command_that_fills_it() -> None:
    assert "samovar pull smollm2:135m" in error_line("chat", code=1, stdin=b"hello")


def test_a_model_that_cannot_be_fetched_says_what_can() -> None:
    assert "samovar pull qwen3:0.6b" in error_line("chat", "qwen3:0.6b", code=1, stdin=b"hello")
    assert "smollm2:135m" in error_line("chat", "nonsense", code=1, stdin=b"hello")
    assert "smollm2:135m" in error_line("pull", "nonsense", code=1)


def test_escape_sequences_in_a_path_do_not_reach_the_terminal(tmp_path: Path) -> None:
    line = error_line("inspect", str(tmp_path / "\x1b]0;owned\x07.gguf"), code=1)
    assert "\x1b" not in line


def test_a_reader_that_has_left_is_no_error(tiny_model: Path) -> None:
    script = [*PROGRAM, "tokenize", str(tiny_model), "tea " * 5_000]
    with subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 141


def test_a_closed_standard_output_is_one_line() -> None:
    command = [*PROGRAM, "pull", "smollm2:135m"]
    shell = ["sh", "-c", 'exec "$@" >&-', "sh", *command]
    ended = subprocess.run(shell, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr == "samovar: error: standard output is closed; expected a terminal, a pipe or a file\n"


def test_a_missing_model_is_reported_before_an_empty_standard_input() -> None:
    assert "samovar pull smollm2:135m" in error_line("chat", "smollm2:135m", code=1)


def test_the_program_starts_without_loading_the_test_witnesses() -> None:
    code = "import sys, samovar.cli.main; print(*{'torch', 'transformers', 'gguf', 'safetensors'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ))
    assert found.stdout.strip() == ""


@pytest.mark.parametrize(
    ("code", "more"),
    [
        ("import samovar.llm", {"argparse", "shutil"}),
        ("from samovar.cli.main import build_parser; build_parser('generate')", {"rich", "prompt_toolkit", "markdown_it"}),
    ],
)
def test_nothing_is_imported_that_a_first_token_does_not_need(code, more) -> None:
    unneeded = more | {
        "jinja2", "platformdirs", "random", "subprocess", "tokenizers", "samovar.engine.draft_model",
        "samovar.formats.hf_folder", "samovar.kernels.reference", "samovar.text.gguf_vocabulary",
    }  # fmt: skip
    command = [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"]
    found = set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert "samovar.llm.llm" in found
    assert unneeded & found == set()
