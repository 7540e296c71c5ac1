"""Agents that people use, on the real small model: what is asserted is that they and the server understand each other."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.packages import missing
from tests.real_models import QWEN_CODER, real_model
from tests.serving.processes import running

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / ".venv-clients"
SETTINGS = {
    "privacy": {"usageStatisticsEnabled": False},
    "telemetry": {"enabled": False},
    "general": {"disableAutoUpdate": True, "enableAutoUpdate": False},
    "model": {"generationConfig": {"samplingParams": {"max_tokens": 150, "temperature": 0}}},
}
# Node asks this for the address of every machine: other machines have none.
NO_NAMES = """
const dns = require("node:dns"), lookup = dns.lookup;
dns.lookup = (host, options, callback) => /^(127\\.|localhost$|::1$)/.test(host) ? lookup(host, options, callback)
  : process.nextTick(callback ?? options, new Error(`tests may only reach loopback addresses, not ${host}`));
"""


@pytest.fixture(scope="module")
def serving(tmp_path_factory):
    """The process with the small real model that knows tools."""
    with running(tmp_path_factory.mktemp("serving"), f"coder={real_model(QWEN_CODER)}", "--max-streams", "4") as server:
        yield server


@pytest.fixture
def answered(serving):
    """Every chat of the test is answered, and well."""
    n_before = len(serving.log_lines())
    yield
    lines = serving.log_lines()[n_before:]
    asked = [line for line in lines if line["event"] == "request"]
    for line in asked:
        print(
            {key: line[key] for key in ("route", "status", "prompt_tokens", "cached_tokens", "completion_tokens", "duration_s")}
        )
    assert asked
    assert {line["status"] for line in asked} == {200}
    assert [line for line in lines if line["level"] == "error"] == []


def environment(folder):
    """A home of its own, and nothing of the network: a proxy where nobody answers, and for Node no names."""
    nowhere, guard = "http://127.0.0.1:9", folder / "guard.cjs"
    guard.write_text(NO_NAMES)
    proxies = {"http_proxy": nowhere, "https_proxy": nowhere, "no_proxy": "127.0.0.1,localhost"}
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return {"PATH": os.environ["PATH"], "HOME": str(folder), "NODE_OPTIONS": f"--require {guard}", **offline, **proxies}


def run(command, seconds, **more):
    """What a client writes, once it has ended well."""
    ended = subprocess.run(command, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL, **more)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return ended.stdout


def test_qwen_agent_calls_its_tool_and_reads_the_result(serving, answered, tmp_path):
    python = CLIENTS / "bin/python"
    if not list(CLIENTS.glob("lib/*/site-packages/qwen_agent")):
        missing("qwen-agent is not there; run: make .venv-clients/.installed")
    script = ROOT / "tests/serving/weather_agent.py"
    lines = run([python, "-W", "ignore", script, f"{serving.url}/v1"], 240, env=environment(tmp_path), cwd=tmp_path)
    read = [json.loads(line) for line in lines.splitlines()]
    print(*read, sep="\n")
    ends = {line["raw"]: line["messages"] for line in read if "raw" in line}
    assert set(ends) == {True, False}
    for messages in ends.values():
        assert any(message.get("content") or message.get("function_call") for message in messages)


def node_version():
    """The major number; 0 without node."""
    if (node := shutil.which("node")) is None:
        return 0
    return int(run([node, "--version"], 30).lstrip("v").split(".")[0])


def test_qwen_code_answers_without_a_terminal(serving, answered, tmp_path):
    """With its own prompts it sends 22,000 tokens, which take minutes; `--bare` sends a tenth of them."""
    program = CLIENTS / "node_modules/.bin/qwen"
    if not program.exists() or node_version() < 20:
        missing("qwen-code or node >= 20 is not there; run: make .venv-clients/.installed")
    (tmp_path / ".qwen").mkdir()
    (tmp_path / ".qwen/settings.json").write_text(json.dumps(SETTINGS))
    proxies = {"http_proxy": "", "https_proxy": ""}  # it would ask one for loopback, too
    own = proxies | {"OPENAI_BASE_URL": f"{serving.url}/v1", "OPENAI_API_KEY": "none", "OPENAI_MODEL": "coder", "NO_COLOR": "1"}
    command = [program, "--auth-type", "openai", "-p", "Say hello", "--output-format", "json", "--max-session-turns", "3"]
    command += ["--bare", "--system-prompt", "You are a helper."]
    written = run(command, 300, env=environment(tmp_path) | own, cwd=tmp_path)
    result = json.loads(written)[-1]
    print(result)
    assert (result["type"], result["subtype"], result["is_error"]) == ("result", "success", False)
    assert result["result"] or result["stats"]["tools"]["totalCalls"]
    assert all(model["api"]["totalErrors"] == 0 for model in result["stats"]["models"].values())
