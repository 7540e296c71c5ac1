"""Does `samovar plan` foretell what `samovar bench` measures? Predictions beside measurements, on shapes of several sizes.

Run: python -m benchmarks.plan_check [--shapes NAME:QUANT[:LAYERS] ...] [--rounds N]. Each shape is written with random weights,
loaded, and measured by `samovar bench`'s own runs. The machine's limits are measured between all runs, since they change with
what else it has to do: each prediction is made from the mean of those before and after its measurement, and from the costs of
products, measured in each round. Ratios are those of measured to predicted rates. With --cpu one thread is used, and its
processor time counts for all of it: other work on the machine then matters less.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.machine import describe_machine
from benchmarks.plan_costs import of_clock
from samovar.engine.engine import Engine
from samovar.formats import open_checkpoint
from samovar.llm import LLM
from samovar.llm.random_model import SHAPES, write_random_model
from samovar.llm.speed import bench_engine, random_prompts, timed_run
from samovar.plan.costs import KernelCost, Machine
from samovar.plan.machine import measure_machine
from samovar.plan.planned_model import PlannedModel

_SHAPES = (
    "qwen3-0.6b:q4_0", "qwen3-0.6b:q4_k_m", "qwen3-0.6b:q8_0", "qwen3-1.7b:q4_0", "qwen3-1.7b:q4_k_m", "qwen3-1.7b:q8_0",
    "qwen3-4b:q4_0:12", "qwen3-4b:q4_k_m:12", "qwen3-4b:q8_0:12", "qwen3-30b-a3b:q4_0:4", "qwen3-30b-a3b:q4_k_m:4",
    "qwen3-30b-a3b:q8_0:2",
)  # fmt: skip
_SHORT, _PROMPT = 16, 512


@dataclass(slots=True)
class Found:
    """Ratios of one kind of run, and the last measured and predicted rate."""

    ratios: list[float] = field(default_factory=list)
    measured: list[float] = field(default_factory=list)
    predicted: list[float] = field(default_factory=list)

    def add(self, measured: float, predicted: float) -> None:
        """One round."""
        self.measured.append(measured)
        self.predicted.append(predicted)
        self.ratios.append(measured / predicted)

    def line(self, what: str) -> str:
        """Medians."""
        middle = statistics.median
        return (
            f"{what:34} measured {middle(self.measured):8.2f}  predicted {middle(self.predicted):8.2f} tokens/s  "
            f"ratio {middle(self.ratios):5.2f} ({min(self.ratios):.2f} to {max(self.ratios):.2f})"
        )


def check(name: str, options: argparse.Namespace, folder: Path) -> list[float]:
    """Measure one shape; the median ratios."""
    shape_name, quant, *rest = name.split(":")
    shape = SHAPES[shape_name].with_layers(int(rest[0])) if rest else SHAPES[shape_name]
    path = folder / "random.gguf"
    write_random_model(path, shape, quant)
    model = PlannedModel.of(open_checkpoint(path), name=name, quant=quant, form=options.weights)
    longest = max(_PROMPT + 1, options.context + options.tokens)
    n_threads = 1 if options.cpu else None
    llm = LLM(path, max_context=_SHORT, cache=False, speculation="off", weights=options.weights, n_threads=n_threads)
    vocab_size = shape.vocab_size

    def limits() -> Machine:
        return measure_machine(llm.ops.isa, 1) if options.cpu else of_clock(llm.ops)

    engine = bench_engine(llm, n_streams=options.streams, n_tokens=longest)
    assert llm.model.packed_bytes == model.decoder.packed_bytes, name
    assert llm.model.read_bytes == model.decoder.read_bytes, name

    def decode(n_streams: int, context: int) -> Callable[[int], float]:
        prompts = lambda seed: random_prompts(n_streams, context, seed, vocab_size)  # noqa: E731
        return lambda seed: n_streams * (options.tokens - 1) / seconds(engine, prompts(seed), options)

    middle = _SHORT + options.tokens // 2
    runs: list[tuple[str, Callable[[int], float], Callable[[Machine], float]]] = [
        ("decode", decode(1, _SHORT), lambda m: model.decode_tokens_per_s(m, context=middle)),
        (
            f"prefill {_PROMPT}",
            lambda seed: _PROMPT / seconds(engine, random_prompts(1, _PROMPT, seed, vocab_size), options, is_first=True),
            lambda m: model.prefill_tokens_per_s(m, _PROMPT),
        ),
        (
            f"decode of {options.streams}",
            decode(options.streams, _SHORT),
            lambda m: model.decode_tokens_per_s(m, context=middle, n_streams=options.streams),
        ),
    ]
    if options.context > _SHORT:
        at = options.context + options.tokens // 2
        runs.append(
            (f"decode at {options.context}", decode(1, options.context), lambda m: model.decode_tokens_per_s(m, context=at))
        )
    found = {what: Found() for what, _, _ in runs}
    for _, run, _ in runs:
        run(-1)
    before = limits()
    for seed in range(options.rounds):
        kernels = measure_machine(llm.ops.isa, llm.ops.n_threads, sorted(model.kernels)).kernels
        for what, run, predict in runs:
            rate = run(seed)
            after = limits()
            found[what].add(rate, predict(_machine(before, after, kernels)))
            before = after
    llm.close()
    for what, of_run in found.items():
        print(of_run.line(f"{name} {what}"), flush=True)
    return [statistics.median(of_run.ratios) for of_run in found.values()]


def seconds(engine: Engine, prompts: list[list[int]], options: argparse.Namespace, *, is_first: bool = False) -> float:
    """Of the first token, or of all that follow; in processor time the first run's is taken off the second's."""
    if not options.cpu:
        run = timed_run(engine, prompts, 1 if is_first else options.tokens)
        return run.first_s if is_first else run.rest_s
    started = time.process_time()
    timed_run(engine, prompts, 1)
    first_s = time.process_time() - started
    if is_first:
        return first_s
    started = time.process_time()
    timed_run(engine, prompts, options.tokens)
    return time.process_time() - started - first_s


def _machine(one: Machine, other: Machine, kernels: Mapping[str, KernelCost]) -> Machine:
    return Machine(
        read_bytes_per_s=(one.read_bytes_per_s + other.read_bytes_per_s) / 2,
        int8_ops_per_s=(one.int8_ops_per_s + other.int8_ops_per_s) / 2,
        kernels=kernels,
    )


def main() -> None:
    """Print a line for each shape and kind of run, and how many are within a quarter."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", default=_SHAPES, metavar="NAME:QUANT[:LAYERS]")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--cpu", action="store_true", help="one thread, in processor time")
    parser.add_argument("--weights", choices=("stored", "int4"), default="stored")
    options = parser.parse_args()
    print(describe_machine())
    ratios = []
    with tempfile.TemporaryDirectory(prefix="samovar-plan-") as folder:
        for name in options.shapes:
            ratios += check(name, options, Path(folder))
    n_near = sum(0.75 <= 1 / ratio <= 1.25 for ratio in ratios)
    print(f"{n_near} of {len(ratios)} predictions within 25 % of what was measured")


if __name__ == "__main__":
    main()
