"""Watching and ending the processes of models, for tests."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from samovar.llm import LLM

PROMPT = "The water in the samovar is hot, and the tea"
LONG = {"temperature": 1.0, "seed": 3, "ignore_eos": True, "max_tokens": 110}


def pid(llm: LLM) -> int | None:
    return llm._client.process_id


def until(is_so: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for something that comes by itself."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.005)


def is_running(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def crash(llm: LLM, how: signal.Signals = signal.SIGKILL) -> int:
    """End the model's process, and wait until another has taken its place."""
    gone = pid(llm)
    os.kill(gone, how)
    os.kill(gone, signal.SIGCONT)
    until(lambda: pid(llm) not in (gone, None))
    return gone


def children() -> list[str]:
    """The children of this process that run an engine, zombies included."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = path.read_text().partition("(")[2].rpartition(")")
            if int(rest.split()[1]) == os.getpid() and (
                rest.split()[0] == "Z" or b"engine_worker" in (path.parent / "cmdline").read_bytes()
            ):
                found.append(f"{path.parent.name} {name}")
    return found


def n_files() -> int:
    """Open files of this process."""
    return len([*Path("/proc/self/fd").iterdir()])
