"""What a table of figures was measured on."""

import os
import platform
from pathlib import Path

INTERESTING_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimd", "i8mm")


def describe_machine() -> str:
    """CPU, cores, instruction sets, memory and systems."""
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fields = dict(line.split(":", 1) for line in cpuinfo.splitlines() if ":" in line)
    values = {key.strip(): value.strip() for key, value in fields.items()}
    flags = values.get("flags", values.get("Features", "")).split()
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    name = f"{values.get('model name', platform.processor())} (family {values.get('cpu family')}, model {values.get('model')})"
    used = " ".join(flag for flag in INTERESTING_FLAGS if flag in flags)
    return (
        f"{name}, {len(os.sched_getaffinity(0))} usable cores, {used}, {memory_gib:.0f} GiB, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f} at start"
    )
