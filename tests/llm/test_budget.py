"""A stated budget holds under load: weights, keys and values of many requests, and all else there is in the process."""

import json
import subprocess
import sys

import pytest

from samovar.errors import OutOfMemory
from samovar.llm import LLM

PROGRAM = """
import json, sys
from samovar.llm import LLM
llm = LLM(sys.argv[1], memory=int(sys.argv[2]), cache=sys.argv[3] == "cached")
prompts = [f"{i} " + "The water in the samovar is hot. " * (6 + i) for i in range(24)]
results = llm.generate(prompts, max_tokens=12, temperature=0.8, seed=1)
llm.embed(prompts[:8], any_model=True)
llm.log_likelihoods([(prompt, "and cold") for prompt in prompts[-4:]])
llm.generate(prompts[:4], max_tokens=8, json_object=True)
fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
pool = llm._engine.pool
print(json.dumps({
    "peak": int(fields["VmHWM"].split()[0]) * 1024, "errors": [r.error for r in results if r.error], "n_pages": pool.n_pages,
    "n_free": pool.n_free,
}))
"""


def run(path, memory: int, cache: str) -> dict[str, object]:
    command = [sys.executable, "-c", PROGRAM, str(path), str(memory), cache]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=True)
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2", "qwen_coder"])
def test_resident_memory_stays_within_the_budget_while_many_requests_run(name, request):
    path = request.getfixturevalue(name)
    with pytest.raises(OutOfMemory) as caught:
        LLM(path, memory=1 << 20)
    least = float(str(caught.value).split("allow ")[1].split(" MiB")[0])
    memory = int((least + 60) * 2**20)
    for cache in ("uncached", "cached", "cached"):  # packed afresh, packed and kept, mapped
        found = run(path, memory, cache)
        assert found["errors"] == []
        assert found["n_free"] < found["n_pages"] / 2  # the pages were used
        assert found["peak"] <= memory, f"{cache}: {found['peak'] / 2**20:.0f} MiB of {memory / 2**20:.0f}"
