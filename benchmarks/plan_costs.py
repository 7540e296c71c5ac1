"""What the constants of `samovar.plan.costs` come from: products, attention and calls on this machine, beside its own limits.

Run: python -m benchmarks.plan_costs [--types Q4_0 ...] [--rounds N]. For each storage type and number of rows: nanoseconds a
weight would take at the measured limits, and did take, as operations (multiplications and additions at the 8-bit rate) a weight
and row, and as a share of the memory's read rate. `cached` weights lie in the second-level cache, `large` ones do not.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.kernels import random_weight
from benchmarks.machine import describe_machine
from samovar.kernels import KV_DTYPES, PAGE_TOKENS, KvPages, KvType, Linear, Spans, WeightForm
from samovar.kernels.limits import measure_limits
from samovar.kernels.native import NativeOps, native_ops
from samovar.plan.costs import Machine
from samovar.plan.machine import measure_machine
from samovar.tensors.dtypes import GROUPED_TYPES, Q8_0, TENSOR_TYPES, TensorType

_WIDTH = 2048
_CACHED_ROWS, _LARGE_ROWS, _N_LARGE = 256, 8192, 8
_ROWS = (1, 4, 8, 16, 64, 512)


@dataclass(frozen=True, slots=True)
class Bench:
    """Times runs by a clock, beside the limits of the machine by the same clock."""

    ops: NativeOps
    rounds: int
    clock: Callable[[], float]
    limits: Callable[[], Machine]

    def seconds(self, run: Callable[[], object], least_s: float = 0.1) -> float:
        """Median of the runs that fit into `least_s`, three at least."""
        run()
        times, end = list[float](), self.clock() + least_s
        while self.clock() < end or len(times) < 3:
            start = self.clock()
            run()
            times.append(self.clock() - start)
        return statistics.median(times)

    def beside_limits(self, run: Callable[[], object]) -> tuple[float, Machine]:
        """Medians of its time, and of the larger of the limits before and after."""
        found, limits, before = [], [], self.limits()
        for _ in range(self.rounds):
            found.append(self.seconds(run))
            after = self.limits()
            read = max(before.read_bytes_per_s, after.read_bytes_per_s)
            limits.append((read, max(before.int8_ops_per_s, after.int8_ops_per_s)))
            before = after
        read, int8 = (statistics.median(column) for column in zip(*limits, strict=True))
        return statistics.median(found), Machine(read_bytes_per_s=read, int8_ops_per_s=int8)


def of_clock(ops: NativeOps) -> Machine:
    """The machine's limits by the clock, as `samovar bench` measures them."""
    limits = measure_limits(ops.isa, ops.n_threads)
    return Machine(read_bytes_per_s=limits.read_bytes_per_s, int8_ops_per_s=limits.int8_ops_per_s)


def products(bench: Bench, type_: TensorType, form: WeightForm) -> None:
    """Cached and large weights of one type."""
    ops = bench.ops
    small: Linear = ops.pack(random_weight(type_, _CACHED_ROWS, _WIDTH), form)
    large = [ops.pack(random_weight(type_, _LARGE_ROWS, _WIDTH), form) for _ in range(_N_LARGE)]
    name, n_small, n_large = "int4" if form == "int4" else type_.name, _CACHED_ROWS * _WIDTH, _LARGE_ROWS * _WIDTH
    for n_rows in _ROWS:
        x = np.random.default_rng(0).standard_normal((n_rows, _WIDTH), np.float32)
        used = large[:1] if n_rows >= 64 else large
        cached_s, limits = bench.beside_limits(lambda x=x: ops.linear(x, small))
        ops_small = cached_s * limits.int8_ops_per_s / n_small / n_rows
        large_s, limits = bench.beside_limits(lambda x=x, used=used: [ops.linear(x, w) for w in used])
        large_s /= len(used)
        share = large[0].size_bytes / large_s / limits.read_bytes_per_s
        ops_large = large_s * limits.int8_ops_per_s / n_large / n_rows
        print(
            f"{name:10} {8 * large[0].size_bytes / n_large:6.3f} bits  rows {n_rows:4}  cached {ops_small:7.2f} ops  "
            f"large {ops_large:7.2f} ops, {share:5.2f} of {limits.read_bytes_per_s / 1e9:.1f} GB/s, "
            f"{limits.int8_ops_per_s / 1e12:.3f} TOPS",
            flush=True,
        )


def attention(bench: Bench, kv_type: KvType) -> None:
    """Layers of 16 to 8 heads of 128, one after the other, as a step goes through them."""
    n_heads, n_kv, d_head = 16, 8, 128
    for n_rows, n_keys, n_layers in ((1, 64, 8), (1, 1024, 24), (1, 4096, 12), (128, 128, 2), (512, 512, 1), (512, 2048, 1)):
        n_pages = -(-n_keys // PAGE_TOKENS)
        layers = [KvPages.empty(kv_type, n_pages, n_kv, d_head) for _ in range(n_layers)]
        for pages in layers:
            for part in (pages.k_PGKB, pages.v_PGBK):
                part[:] = 0x3F80 if kv_type == "bf16" else 1
        spans = Spans(
            row_starts=np.array([0, n_rows], np.int32),
            positions=np.array([n_keys - n_rows], np.int32),
            page_tables_SP=np.arange(n_pages, dtype=np.int32)[None],
        )
        q = np.ones((n_rows, n_heads, d_head), np.float32)
        taken, limits = bench.beside_limits(
            lambda q=q, layers=layers, spans=spans: [bench.ops.attention(q, pages, spans, 0.1) for pages in layers]
        )
        taken /= n_layers
        n_pairs = n_heads * d_head * sum(range(n_keys - n_rows + 1, n_keys + 1))
        n_bytes = 2 * n_kv * n_keys * d_head * KV_DTYPES[kv_type].itemsize
        print(
            f"attention {kv_type:5} rows {n_rows:4} keys {n_keys:6}: {1e6 * taken:9.1f} us, "
            f"{taken * limits.int8_ops_per_s / (4 * n_pairs):7.2f} 8-bit operations for each of its own, "
            f"{n_bytes / taken / limits.read_bytes_per_s:5.2f} of the read rate",
            flush=True,
        )


def calls(bench: Bench) -> None:
    """What is left of a call when there is nothing to compute."""
    ops = bench.ops
    x, weight, packed = np.ones((1, 64), np.float32), np.ones(64, np.float32), ops.pack(random_weight(Q8_0, 16, 64))
    print(f"smallest linear: {1e6 * bench.seconds(lambda: ops.linear(x, packed)):.2f} us, "
          f"rms_norm: {1e6 * bench.seconds(lambda: ops.rms_norm(x, weight, 1e-5)):.2f} us")  # fmt: skip


def main() -> None:
    """Print one line for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    types = {t.name: t for t in (*TENSOR_TYPES, *GROUPED_TYPES)}
    parser.add_argument("--types", nargs="*", choices=[*types, "int4"], default=[*types, "int4"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cpu", action="store_true", help="one thread, in processor time: for a machine with other work")
    options = parser.parse_args()
    ops = native_ops(n_threads=1 if options.cpu else None)
    if options.cpu:
        bench = Bench(ops, options.rounds, time.process_time, lambda: measure_machine(ops.isa, 1))
    else:
        bench = Bench(ops, options.rounds, time.perf_counter, lambda: of_clock(ops))
    print(f"{describe_machine()}, {ops.isa}, {ops.n_threads} threads")
    calls(bench)
    for kv_type in KV_DTYPES:
        attention(bench, kv_type)
    for name in options.types:
        products(bench, types.get(name, types["Q8_0"]), "int4" if name == "int4" else "stored")


if __name__ == "__main__":
    main()
