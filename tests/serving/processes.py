"""A real `samovar serve` process, for what only a process shows: signals, crashes, what it writes."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx


@dataclass(frozen=True)
class Running:
    """A server's process, a client of it, and the file that its standard error goes to."""

    process: subprocess.Popen
    client: httpx.Client
    url: str
    log: Path

    def engine_pid(self) -> int:
        """Of the process that runs the model."""
        return next(iter(children(self.process.pid)))

    def log_lines(self) -> list[dict]:
        """The JSON lines of the log."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def ended(self, seconds: float = 20) -> int:
        """The exit code, once it is there."""
        return self.process.wait(seconds)


@contextlib.contextmanager
def running(folder: Path, *argv: str, environ: dict[str, str] | None = None) -> Iterator[Running]:
    """`samovar serve --port 0 ARGV`, with a store in `folder`. It has to end before, or is killed."""
    log = folder / f"serve-{time.monotonic_ns()}.log"
    env = {**os.environ, "SAMOVAR_HOME": str(folder / "store"), "PYTHONPATH": os.pathsep.join(sys.path)} | (environ or {})
    command = [sys.executable, "-m", "samovar", "serve", "--port", "0", "--log-format", "json", *argv]
    with log.open("w") as stderr:
        process = subprocess.Popen(command, stderr=stderr, stdin=subprocess.DEVNULL, env=env)
    try:
        url = _url(process, log)
        with httpx.Client(base_url=url, timeout=30) as client:
            yield Running(process, client, url, log)
    finally:
        engines = children(process.pid)
        if process.poll() is None:
            process.kill()
            process.wait()
        for pid in engines:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def children(pid: int) -> list[int]:
    """The processes that a process has started and that run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent, *_ = path.read_text().rpartition(")")[2].split()
            if int(parent) == pid and state != "Z":
                found.append(int(path.parent.name))
    return found


def _url(process: subprocess.Popen, log: Path) -> str:
    end = time.monotonic() + 60
    while (found := re.search(r'"url": "([^"]+)"', log.read_text())) is None:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, "it does not listen"
        time.sleep(0.02)
    return found[1]
