"""What this process and those that it has started take of the machine, as /proc tells it (proc(5))."""

import os
from pathlib import Path
from typing import Final, NamedTuple

_PROC: Final = Path("/proc")
_PARENT, _UTIME, _STIME, _RSS = 1, 11, 12, 21  # fields of /proc/PID/stat, counted after the name


class ProcessLoad(NamedTuple):
    """Seconds of processor time so far, by process id; and bytes of memory now. Pages that processes share count in each."""

    cpu_s: dict[int, float]
    memory_bytes: int


def process_load() -> ProcessLoad:
    """The load of this process and all below it; empty where there is no /proc."""
    stats = {pid: fields for pid, fields in _stats() if len(fields) > _RSS}
    ours = {os.getpid()} & stats.keys()
    while more := {pid for pid, fields in stats.items() if int(fields[_PARENT]) in ours} - ours:
        ours |= more
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    cpu_s = {pid: (int(stats[pid][_UTIME]) + int(stats[pid][_STIME])) / ticks for pid in ours}
    return ProcessLoad(cpu_s, sum(int(stats[pid][_RSS]) * page for pid in ours))


def cpu_share(before: ProcessLoad, after: ProcessLoad, seconds: float) -> float:
    """The share of all processors that was taken between two looks, from 0 to 1."""
    used_s = sum(now_s - before.cpu_s.get(pid, 0.0) for pid, now_s in after.cpu_s.items())
    return min(1.0, max(0.0, used_s / (seconds * (os.cpu_count() or 1))))


def _stats() -> list[tuple[int, list[str]]]:
    found = []
    for path in _PROC.glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError):  # it has ended meanwhile
            continue
        found.append((int(path.parent.name), text.rpartition(")")[2].split()))
    return found
