"""Measures one engine on one model in a process of its own, and prints one JSON object. `vs_peers` starts it.

Every engine gets the same prompts: a short text, whose first token ends the start-up, and then random token ids that share no
beginning, so that no cache can help. Decoding is greedy and does not stop at an end token. Nothing is imported that the
engine does not need itself.
"""

import argparse
import json
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Protocol

TEXT = "the capital of france is"
N_SHORT = 16
LOW_ID, HIGH_ID = 300, 30_000  # ordinary tokens in every vocabulary here
SPARE_TOKENS = 64  # of context, beyond what is measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one process measured. Decode counts the tokens of all streams; its keys are numbers of streams."""

    engine: str
    first_token_s: float
    prefill_tokens_per_s: list[float]
    decode_tokens_per_s: dict[int, float]
    resident_bytes: int


class Engine(Protocol):
    """An opened model."""

    @property
    def description(self) -> str:
        """Name, version and build."""
        ...

    def start(self, text: str) -> None:
        """Encode a text, and compute one token after it."""
        ...

    def run(self, prompts_ST: list[list[int]], n_tokens: int) -> tuple[float, float]:
        """Continue all prompts together, greedily: seconds until each has its first token, and for the others."""
        ...


class Samovar:
    """This project. No speculation."""

    weights: Literal["stored", "int4"] = "stored"

    def __init__(self, path: Path, n_threads: int, n_context: int, n_streams: int) -> None:
        from samovar.llm import LLM
        from samovar.llm.speed import bench_engine

        self._llm = LLM(path, n_threads=n_threads, max_context=n_context, weights=self.weights, speculation="off")
        self._engine = bench_engine(self._llm, n_streams=n_streams, n_tokens=n_context)

    @property
    def description(self) -> str:
        """Version, and the instruction set of the kernels."""
        from samovar import __version__

        return f"samovar {__version__} ({self._llm.ops.isa}, weights {self.weights})"

    def start(self, text: str) -> None:
        """Through the public door."""
        self._llm.generate(text, temperature=0, max_tokens=1)

    def run(self, prompts_ST: list[list[int]], n_tokens: int) -> tuple[float, float]:
        """By the events of the engine."""
        from samovar.llm.speed import timed_run

        run = timed_run(self._engine, prompts_ST, n_tokens)
        return run.first_s, run.rest_s


class SamovarInt4(Samovar):
    """The same file, its layers rounded to int4."""

    weights = "int4"


class LlamaCppPython:
    """llama.cpp as `llama-cpp-python` builds it from source, for this machine."""

    def __init__(self, path: Path, n_threads: int, n_context: int, _n_streams: int) -> None:
        from benchmarks.llama_cpp_peer import LlamaCpp, describe

        self.description = describe()
        self._n_context, self._n_streams = n_context, 1
        self._llama = LlamaCpp(path, n_threads=n_threads, n_context=n_context)

    def start(self, text: str) -> None:
        """With its own tokenizer."""
        self._llama.restart()
        self._llama.next_ids([self._llama.encode(text)], 0)

    def run(self, prompts_ST: list[list[int]], n_tokens: int) -> tuple[float, float]:
        """By the wall clock. The context is made for the number of streams before the clock starts."""
        if len(prompts_ST) != self._n_streams:
            self._n_streams = len(prompts_ST)
            self._llama.resize(len(prompts_ST[0]) + n_tokens + SPARE_TOKENS, self._n_streams)
        self._llama.restart()
        start = time.perf_counter()
        ids, position = self._llama.next_ids(prompts_ST, 0), len(prompts_ST[0])
        first = time.perf_counter()
        for step in range(n_tokens - 1):
            ids = self._llama.next_ids([[token_id] for token_id in ids], position + step)
        return first - start, time.perf_counter() - first


class OpenVino:
    """OpenVINO GenAI on a folder made by `benchmarks.openvino_peer`."""

    def __init__(self, path: Path, n_threads: int, n_context: int, n_streams: int) -> None:
        from benchmarks.openvino_peer import Pipeline, describe

        self.description = describe()
        self._pipeline = Pipeline(path, n_threads=n_threads, n_context=n_context * n_streams)

    def start(self, text: str) -> None:
        """With its own tokenizer."""
        self._pipeline.continue_text(text, 1)

    def run(self, prompts_ST: list[list[int]], n_tokens: int) -> tuple[float, float]:
        """As the pipeline's own metrics say."""
        return self._pipeline.run(prompts_ST, n_tokens)


ENGINES = {"samovar": Samovar, "samovar-int4": SamovarInt4, "llama.cpp": LlamaCppPython, "openvino": OpenVino}


def prompts(n_streams: int, n_tokens: int, seed: int) -> list[list[int]]:
    """Random token ids [S, T]."""
    source = random.Random(f"{n_streams} {n_tokens} {seed}")
    return [[source.randrange(LOW_ID, HIGH_ID) for _ in range(n_tokens)] for _ in range(n_streams)]


def measure(engine: Engine, args: argparse.Namespace, first_token_s: float) -> Measured:
    """Prefill of several long prompts, then decode with each number of streams, each after an untimed run."""
    engine.run(prompts(1, args.prompt_tokens, -1), 1)
    prefill = [args.prompt_tokens / engine.run(prompts(1, args.prompt_tokens, i), 1)[0] for i in range(args.repeats)]
    decode = {}
    for n_streams in args.streams:
        engine.run(prompts(n_streams, N_SHORT, 1), 3)
        _, seconds = engine.run(prompts(n_streams, N_SHORT, 0), args.tokens)
        decode[n_streams] = n_streams * (args.tokens - 1) / seconds
    return Measured(
        engine=engine.description,
        first_token_s=first_token_s,
        prefill_tokens_per_s=prefill,
        decode_tokens_per_s=decode,
        resident_bytes=_peak_bytes(),
    )


def _peak_bytes() -> int:
    """Most memory this process ever held. `ru_maxrss` will not do: a child starts with its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """Open the model, generate one token (start-up ends here), and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 16, 32])
    parser.add_argument("--repeats", type=int, default=2, help="long prompts in this process")
    parser.add_argument("--started", type=float, required=True, help="time.monotonic() when this process was asked for")
    args = parser.parse_args()
    n_context = max(args.prompt_tokens, N_SHORT + args.tokens) + SPARE_TOKENS
    n_streams = -(-max(args.streams, default=1) * (N_SHORT + args.tokens + SPARE_TOKENS) // n_context)
    engine = ENGINES[args.engine](args.model, args.threads, n_context, n_streams)
    engine.start(TEXT)
    first_token_s = time.monotonic() - args.started
    print(json.dumps(asdict(measure(engine, args, first_token_s))))


if __name__ == "__main__":
    main()
