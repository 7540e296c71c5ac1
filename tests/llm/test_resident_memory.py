"""Weights stay packed: a process that answers holds little more than the weight file, its KV cache, and the interpreter."""

import json
import subprocess
import sys

import pytest

PROGRAM = """
import json, sys
from samovar.llm import LLM
from samovar.llm.memory import kv_page_bytes
llm = LLM(sys.argv[1], max_context=2048)
llm.generate("The water in the samovar is hot. " * 100, max_tokens=20, temperature=0.7, seed=1)
fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
kib = {name: int(fields[name].split()[0]) for name in ("VmRSS", "VmHWM")}
print(json.dumps({**kib, "kv_bytes": 2048 // 32 * kv_page_bytes(llm.model.config, llm.kv_type), "isa": llm.ops.isa}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2", "qwen_coder"])
def test_resident_memory_is_bounded_by_the_file_and_the_cache(name, request):
    path = request.getfixturevalue(name)
    done = subprocess.run([sys.executable, "-c", PROGRAM, path], capture_output=True, text=True, timeout=300, check=True)
    found = json.loads(done.stdout)
    limit = 1.3 * path.stat().st_size + found["kv_bytes"] + 200 * 2**20
    assert found["VmRSS"] * 1024 <= limit
    assert found["VmHWM"] * 1024 <= limit
