"""A public tester reads our OpenAPI document, and tries whatever it can think of against the process."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.packages import missing
from tests.real_models import SMOLLM2, real_model
from tests.serving.processes import running

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
SCHEMATHESIS = ROOT / ".venv-clients/bin/st"
CHECKS = ("not_a_server_error", "content_type_conformance", "response_schema_conformance", "unsupported_method")


def test_nothing_that_the_document_allows_or_forbids_is_a_servers_error(tmp_path):
    if not SCHEMATHESIS.exists():
        missing("schemathesis is not there; run: make .venv-clients/.installed")
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "NO_COLOR": "1", "NO_PROXY": "*"}
    bounds = [
        "--max-examples",
        "8",
        "--max-time",
        "60",
        "--request-timeout",
        "20",
        "--seed",
        "1",
        "--phases",
        "coverage,fuzzing",
    ]
    with running(tmp_path, f"small={real_model(SMOLLM2)}", "--ctx-size", "256") as server:
        command = [SCHEMATHESIS, "run", f"{server.url}/openapi.json", "--continue-on-failure", "--checks", ",".join(CHECKS)]
        ended = subprocess.run(
            [*command, *bounds], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL
        )
        asked = [line for line in server.log_lines() if line["event"] == "request"]
        errors = [line for line in server.log_lines() if line["level"] == "error" or line.get("status", 0) >= 500]
        assert server.client.get("/health").json()["status"] == "ok"
    print(f"{len(asked)} requests to {len({line['route'] for line in asked})} routes")
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]
    assert len(asked) > 300
    assert errors == []
