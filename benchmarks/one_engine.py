"""Measures one engine on one model in a process of its own, and prints one JSON object. `vs_llama_cpp` starts it.

Every engine gets the same texts: one of about 16 tokens for start-up and decode, several of 512 tokens that share no
beginning for prefill, so that no cache can help. Nothing is imported that the engine does not need itself.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

N_CONTEXT = 1024
N_DECODED = 128
MIN_DECODED = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """Texts, the same for every engine. `long` ones have exactly `n_long` tokens."""

    short: str
    long: list[str]
    n_long: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one process measured. `kv_bytes` is 0 where the engine does not say."""

    engine: str
    start_up_s: float
    prefill_tokens_per_s: list[float]
    decode_tokens_per_s: float
    n_decoded: int
    peak_bytes: int
    kv_bytes: int


class Engine(Protocol):
    """An opened model."""

    @property
    def description(self) -> str:
        """Name, version and build."""
        ...

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values for the whole context, or 0."""
        ...

    def run(self, prompt: str, n_tokens: int) -> tuple[int, float, int, float]:
        """Greedy: prompt tokens, seconds for them, tokens generated after the first, seconds for these."""
        ...


class Samovar:
    """This project, through `LLM.generate`."""

    def __init__(self, path: Path, n_threads: int) -> None:
        from samovar.llm import LLM

        self._llm = LLM(path, n_threads=n_threads, max_context=N_CONTEXT)

    @property
    def description(self) -> str:
        """Version, and the instruction set of the kernels."""
        from importlib.metadata import PackageNotFoundError, version

        try:
            number = version("samovar")
        except PackageNotFoundError:
            number = "from source"
        return f"samovar {number} ({self._llm.ops.isa})"

    @property
    def kv_bytes(self) -> int:
        """As the config and the type of keys and values say."""
        from samovar.engine.page_pool import n_pages_for
        from samovar.llm.memory import kv_page_bytes

        return n_pages_for(N_CONTEXT) * kv_page_bytes(self._llm.model.config, self._llm.kv_type)

    def run(self, prompt: str, n_tokens: int) -> tuple[int, float, int, float]:
        """As the result's own timing says."""
        result = self._llm.generate(prompt, temperature=0, max_tokens=n_tokens)
        n_new = result.usage.n_prompt - result.usage.n_cached
        return n_new, result.timing.prefill_s, result.usage.n_completion - 1, result.timing.decode_s


class LlamaCppPython:
    """llama.cpp as `llama-cpp-python` builds it from source, for this machine."""

    kv_bytes = 0

    def __init__(self, path: Path, n_threads: int) -> None:
        from benchmarks.llama_cpp_peer import LlamaCpp, describe

        self.description = describe()
        self._llama = LlamaCpp(path, n_threads=n_threads, n_context=N_CONTEXT)

    def run(self, prompt: str, n_tokens: int) -> tuple[int, float, int, float]:
        """By the wall clock; encoding is not counted. An end token does not stop it."""
        self._llama.restart()
        ids = self._llama.encode(prompt)
        start = time.perf_counter()
        token_id = self._llama.next_id(ids)
        first = time.perf_counter()
        for _ in range(n_tokens - 1):
            token_id = self._llama.next_id([token_id])
        return len(ids), first - start, n_tokens - 1, time.perf_counter() - first


class XLlamaCpp:
    """llama.cpp as the prebuilt wheel of `xllamacpp` has it, through its server's own timings."""

    kv_bytes = 0

    def __init__(self, path: Path, n_threads: int) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.verbosity, params.warmup = N_CONTEXT, 1, 0, False
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = n_threads
        self._server = xllamacpp.Server(params)
        self.description = f"xllamacpp {xllamacpp.__version__} ({_used_flags(xllamacpp.get_system_info())})"

    def run(self, prompt: str, n_tokens: int) -> tuple[int, float, int, float]:
        """As the server's timings say; they must not claim less than nine tenths of the wall clock for long runs."""
        start = time.perf_counter()
        answer = self._server.handle_completions(
            {"prompt": prompt, "n_predict": n_tokens, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        )
        wall_s = time.perf_counter() - start
        times = answer["timings"]
        prefill_s, decode_s = times["prompt_ms"] / 1000, times["predicted_ms"] / 1000
        if wall_s > 0.5 and not 0.9 * wall_s < prefill_s + decode_s <= wall_s * 1.01:
            sys.exit(f"xllamacpp's timings say {prefill_s + decode_s:.2f} s, the clock {wall_s:.2f} s")
        return times["prompt_n"], prefill_s, times["predicted_n"] - 1, decode_s


ENGINES = {"samovar": Samovar, "llama-cpp-python": LlamaCppPython, "xllamacpp": XLlamaCpp}


def measure(engine: Engine, prompts: Prompts, start_up_s: float) -> Measured:
    """Prefill of each long prompt, then one decode run."""
    prefill: list[float] = []
    for text in prompts.long:
        n_prompt, prefill_s, _, _ = engine.run(text, 1)
        if abs(n_prompt - prompts.n_long) > 1:
            sys.exit(f"{engine.description} computed {n_prompt} tokens of a prompt; expected {prompts.n_long}")
        prefill.append(n_prompt / prefill_s)
    _, _, n_decoded, decode_s = engine.run(prompts.short, N_DECODED)
    if n_decoded < MIN_DECODED:
        sys.exit(f"{engine.description} stopped after {n_decoded} tokens; expected at least {MIN_DECODED}")
    return Measured(
        engine=engine.description,
        start_up_s=start_up_s,
        prefill_tokens_per_s=prefill,
        decode_tokens_per_s=n_decoded / decode_s,
        n_decoded=n_decoded,
        peak_bytes=_peak_bytes(),
        kv_bytes=engine.kv_bytes,
    )


def _peak_bytes() -> int:
    """Most memory this process ever held. `ru_maxrss` will not do: a child starts with its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _used_flags(system_info: str) -> str:
    flags = system_info.removeprefix("CPU : ").split("|")
    return ", ".join(flag.split("=")[0].strip() for flag in flags if flag.strip().endswith("= 1"))


def main() -> None:
    """Open the model, generate one token (start-up ends here), and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("model", type=Path)
    parser.add_argument("prompts", type=Path, help="JSON file")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--started", type=float, required=True, help="time.monotonic() when this process was asked for")
    args = parser.parse_args()
    prompts = Prompts(**json.loads(args.prompts.read_text()))
    engine = ENGINES[args.engine](args.model, args.threads)
    engine.run(prompts.short, 1)
    start_up_s = time.monotonic() - args.started
    print(json.dumps(asdict(measure(engine, prompts, start_up_s))))


if __name__ == "__main__":
    main()
