"""How many cores this process may use: its affinity, and the quota of its control group."""

import math
import os
from pathlib import Path


def usable_cores(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int:
    """At least 1. Reads cgroup v2 (`cpu.max`) and v1 (`cpu.cfs_quota_us`), the process's own group and those above it."""
    try:
        n_cores = float(len(os.sched_getaffinity(0)))
    except AttributeError:  # not on this system
        n_cores = float(os.cpu_count() or 1)
    for folder in _group_folders(root, membership):
        n_cores = min(n_cores, _quota_v2(folder), _quota_v1(folder))
    return max(1, math.floor(n_cores))


def _group_folders(root: Path, membership: Path) -> list[Path]:
    """The group's folder and all above it, for both versions' layouts."""
    folders = [root, root / "cpu"]
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return folders
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers not in ("", "cpu", "cpu,cpuacct", "cpuacct,cpu"):
            continue
        top = root / controllers if controllers else root
        parts = [part for part in path.split("/") if part not in ("", "..")]
        folders += [top.joinpath(*parts[:n]) for n in range(len(parts) + 1)]
    return folders


def _quota_v2(folder: Path) -> float:
    try:
        quota, period = (folder / "cpu.max").read_text().split()[:2]
        return math.inf if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf


def _quota_v1(folder: Path) -> float:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
        return quota / period if quota > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf
