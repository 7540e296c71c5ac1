"""A batch survives its server: a true process, killed in the middle of the work."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import httpx
import openai
import pytest

from tests.text.witnesses import template

N_LINES = 600
SERVE = """
import sys
from pathlib import Path
import uvicorn
from samovar.llm import LLM
from samovar.serving.app import build_app
from samovar.serving.records import Records
from samovar.serving.registry import Offered, Registry
from samovar.serving.server import Server

model, records, port = sys.argv[1:]
llm = LLM(model, n_threads=1, cache=False)
offered = Offered(name="tiny", open_model=lambda: llm, keep_alive_s=None, llm=llm)
server = Server(registry=Registry({"tiny": offered}), records=Records(Path(records)))
uvicorn.run(build_app(server), host="127.0.0.1", port=int(port), log_level="warning")
"""


@contextmanager
def server_process(*args):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-c", SERVE, *map(str, args), str(port)])
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(600):
            assert process.poll() is None
            try:
                httpx.get(f"{url}/health")
                break
            except httpx.ConnectError:
                time.sleep(0.1)
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            yield process, client
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(60)


def n_written(folder):
    return sum(path.read_bytes().count(b"\n") for path in (folder / "files").iterdir() if path.stat().st_size)


@pytest.mark.slow
def test_after_a_kill_a_batch_has_each_line_once_and_a_background_response_has_failed(models, tmp_path):
    folder, model = tmp_path / "records", tmp_path / "model"
    shutil.copytree(models._folder, model)
    (model / "chat_template.jinja").write_text(template("qwen3"))
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, "temperature": 0}
    lines = [{"custom_id": str(i), "method": "POST", "url": "/v1/chat/completions", "body": body} for i in range(N_LINES)]
    lines[7] = {"custom_id": "bad"}
    with server_process(model, folder) as (process, client):
        data = "".join(json.dumps(line) + "\n" for line in lines).encode()
        file = client.files.create(file=("in.jsonl", data), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
        while n_written(folder) < N_LINES + 50:  # the input's own lines count, too
            time.sleep(0.005)
        running = client.responses.create(model="tiny", input="Hello", background=True)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert n_written(folder) < 2 * N_LINES, "it was in the middle of the work"
    with server_process(model, folder) as (_, client):
        while (now := client.batches.retrieve(batch.id)).status == "in_progress":
            time.sleep(0.05)
        good, bad = (
            [json.loads(x) for x in client.files.content(i).text.splitlines()] for i in (now.output_file_id, now.error_file_id)
        )
        assert client.responses.retrieve(running.id).status == "failed"
    assert now.status == "completed"
    assert sorted(r["custom_id"] for r in good) == sorted(line["custom_id"] for line in lines if line is not lines[7])
    assert [r["custom_id"] for r in bad] == ["bad"]
    assert (now.request_counts.completed, now.request_counts.failed) == (N_LINES - 1, 1)
    answers = {r["response"]["body"]["choices"][0]["message"]["content"] for r in good}
    assert len(answers) == 1, "the same request has the same answer before the kill and after it"
