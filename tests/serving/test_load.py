"""A public load generator against the process: 200 users on 16 slots."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.packages import missing
from tests.real_models import SMOLLM2, real_model
from tests.serving.processes import running

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
LOCUST = ROOT / ".venv-clients/bin/locust"
SECONDS = 20


def users(url, folder):
    """What 200 of them saw, by the path that they asked."""
    command = [LOCUST, "-f", ROOT / "tests/serving/load.py", "--headless", "--json", "--users", "200", "--spawn-rate", "100"]
    command += ["--run-time", f"{SECONDS}s", "--stop-timeout", "60", "--host", url]
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "LOCUST_SKIP_UPDATE_CHECK": "1", "NO_PROXY": "*"}
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return {entry["name"]: entry for entry in json.loads(ended.stdout)}


def quantile(entry, share):
    """Of the answers' times, in ms: locust gives them rounded, with how often each came."""
    seen = 0
    for milliseconds in sorted(entry["response_times"], key=float):
        seen += entry["response_times"][milliseconds]
        if seen >= share * entry["num_requests"]:
            return float(milliseconds)
    return 0.0


def test_two_hundred_users_on_sixteen_slots_see_no_error(tmp_path):
    if not LOCUST.exists():
        missing("locust is not there; run: make .venv-clients/.installed")
    with running(tmp_path, f"small={real_model(SMOLLM2)}", "--max-streams", "16", "--ctx-size", "1024") as server:
        seen = users(server.url, tmp_path)
        assert server.client.get("/health").json()["status"] == "ok"
        refused = [line for line in server.log_lines() if line["event"] == "request" and line["status"] >= 400]
        assert {line["status"] for line in refused} <= {429, 503}
        assert [line for line in server.log_lines() if line["level"] == "error"] == []
    chat, health = seen["/v1/chat/completions"], seen["/health"]
    print(f"chats: {chat['num_requests']}, refused {len(refused)}; p99 until an answer begins {quantile(chat, 0.99):.0f} ms")
    print(f"/health: {health['num_requests']}; p99 {quantile(health, 0.99):.0f} ms, most {health['max_response_time']:.0f} ms")
    assert (chat["num_failures"], health["num_failures"]) == (0, 0)
    assert chat["num_requests"] >= 200
    assert health["num_requests"] > SECONDS
    assert health["max_response_time"] <= 1000
