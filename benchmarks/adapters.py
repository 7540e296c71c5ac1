"""What LoRA adapters cost in decoding: a step without any beside steps whose streams have adapters, alternating in one run.

    python -m benchmarks.adapters model.gguf [--rank 16] [--rounds 40] [--threads 2] [--context 128] [--isa avx2]

Adapters are random, in bfloat16, on all linear layers of every decoder layer, and alternate among the streams. The table
shows medians of the time of a step (minimum and maximum), and the ratio to the same step without adapters.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.machine import describe_machine
from samovar import LLM
from samovar.engine.batch import Slice
from samovar.engine.page_pool import PagePool, n_pages_for
from samovar.engine.prefix_cache import PrefixCache
from samovar.engine.request import Request, SamplingParams
from samovar.engine.runner import Runner, make_runner
from samovar.engine.sequence import Sequence
from samovar.kernels import Linear, Ops
from samovar.models.lora import LoraAdapter, LowRank
from samovar.tensors.dtypes import BF16
from samovar.tensors.stored import StoredTensor

CASES = ((1, 0), (1, 1), (8, 0), (8, 1), (8, 4), (8, 8))  # streams, adapters among them


def random_adapter(llm: LLM, rank: int, seed: int) -> LoraAdapter:
    """An adapter on every linear layer; its values are small, and the time does not depend on them."""
    rng = np.random.default_rng(seed)

    def packed(ops: Ops, *shape: int) -> Linear:
        bits = (rng.normal(0, 0.01, shape).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        data = bits.reshape(-1).view(np.uint8)
        return ops.pack(StoredTensor(name="random", type=BF16, shape=shape, data=data, source="random"))

    return LoraAdapter(
        terms={
            name: LowRank(packed(llm.ops, rank, n_in), packed(llm.ops, n_out, rank))
            for name, (n_out, n_in) in llm.model.projections.items()
        }
    )


def start(n_streams: int, n_adapters: int) -> list[Sequence]:
    """Sequences whose adapters alternate."""
    names = [f"adapter-{i}" for i in range(n_adapters)] or [None]
    sampling = SamplingParams(temperature=0)
    return [
        Sequence(request=Request(prompt_ids=(1,), sampling=sampling, adapter=names[s % len(names)]), token_ids=[])
        for s in range(n_streams)
    ]


def step(runner: Runner, sequences: list[Sequence], count: int) -> float:
    """Seconds of a step that computes `count` tokens of each sequence."""
    slices = []
    for i, sequence in enumerate(sequences):
        PrefixCache(runner.pool).grow(sequence.pages, sequence.n_computed + count)
        ids = tuple((1000 * i + 7 * (sequence.n_computed + t)) % 30_000 for t in range(count))
        slices.append(Slice(sequence, sequence.n_computed, ids, 1))
        sequence.n_computed += count
    started = time.perf_counter()
    runner.run(slices)
    return time.perf_counter() - started


def main() -> int:
    """Measure all cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--isa")
    args = parser.parse_args()
    llm = LLM(args.model, n_threads=args.threads, isa=args.isa, max_context=args.context + args.rounds + 8, speculation="off")
    config = llm.model.config
    n_pages = sum(s for s, _ in CASES) * n_pages_for(args.context + args.rounds + 8)
    pool = PagePool(llm.kv_type, n_pages=n_pages, n_layers=config.n_layers, n_kv_heads=config.n_kv_heads, d_head=config.d_head)
    runner = make_runner(llm.model, llm.ops, pool)
    for i in range(max(n for _, n in CASES)):
        runner.load(f"adapter-{i}", random_adapter(llm, args.rank, i))
    print(describe_machine())
    print(f"{args.model.name}, rank {args.rank}, {runner.adapters['adapter-0'].size_bytes >> 20} MiB an adapter")
    streams = {case: start(*case) for case in CASES}
    times: dict[tuple[int, int], list[float]] = {case: [] for case in CASES}
    for sequences in streams.values():
        step(runner, sequences, args.context)
        for _ in range(3):  # shapes are recorded
            step(runner, sequences, 1)
    for _ in range(args.rounds):
        for case, sequences in streams.items():
            times[case].append(1000 * step(runner, sequences, 1))
    print("| streams | adapters | step, ms | ratio |\n|---|---|---|---|")
    for (n_streams, n_adapters), found in times.items():
        middle = statistics.median(found)
        ratio, spread = middle / statistics.median(times[n_streams, 0]), f"{min(found):.1f} to {max(found):.1f}"
        print(f"| {n_streams} | {n_adapters} | {middle:.1f} ({spread}) | {ratio:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
