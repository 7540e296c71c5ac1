"""What the constants of `samovar.plan.costs` come from: products, attention and calls on this machine, beside its own limits.

Run: python -m benchmarks.plan_costs [--types Q4_0 ...] [--rounds N]. For each storage type and number of rows: nanoseconds a
weight would take at the measured limits, and did take, as operations (multiplications and additions at the 8-bit rate) a weight
and row, and as a share of the memory's read rate. `cached` weights lie in the second-level cache, `large` ones do not.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from benchmarks.kernels import random_weight
from benchmarks.machine import describe_machine
from samovar.kernels import KV_DTYPES, PAGE_TOKENS, KvPages, KvType, Linear, Spans, WeightForm
from samovar.kernels.limits import Limits, measure_limits
from samovar.kernels.native import NativeOps, native_ops
from samovar.tensors.dtypes import GROUPED_TYPES, Q8_0, TENSOR_TYPES, TensorType

_WIDTH = 2048
_CACHED_ROWS, _LARGE_ROWS, _N_LARGE = 512, 8192, 12
_ROWS = (1, 2, 4, 8, 16, 32, 64, 512)


def seconds(run: Callable[[], object], least_s: float = 0.15) -> float:
    """Median of the runs that fit into `least_s`, five at least."""
    run()
    times, end = [], time.perf_counter() + least_s
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def with_limits(ops: NativeOps, run: Callable[[], float], rounds: int) -> tuple[float, Limits]:
    """Medians of a time, and of the larger of the limits before and after."""
    found, limits = [], []
    before = measure_limits(ops.isa, ops.n_threads)
    for _ in range(rounds):
        found.append(run())
        after = measure_limits(ops.isa, ops.n_threads)
        limits.append((max(before.read_bytes_per_s, after.read_bytes_per_s), max(before.int8_ops_per_s, after.int8_ops_per_s)))
        before = after
    read, int8 = (statistics.median(column) for column in zip(*limits, strict=True))
    return statistics.median(found), Limits(read_bytes_per_s=read, int8_ops_per_s=int8)


def products(ops: NativeOps, type_: TensorType, form: WeightForm, rounds: int) -> None:
    """Cached and large weights of one type."""
    small: Linear = ops.pack(random_weight(type_, _CACHED_ROWS, _WIDTH), form)
    large = [ops.pack(random_weight(type_, _LARGE_ROWS, _WIDTH), form) for _ in range(_N_LARGE)]
    name = "int4" if form == "int4" else type_.name
    for n_rows in _ROWS:
        x = np.random.default_rng(0).standard_normal((n_rows, _WIDTH), np.float32)
        n_small, n_large = _CACHED_ROWS * _WIDTH, _LARGE_ROWS * _WIDTH
        used = large[:2] if n_rows >= 64 else large

        def cached(x: object = x) -> float:
            return seconds(lambda: ops.linear(x, small))  # type: ignore[arg-type]

        def big(x: object = x, used: list[Linear] = used) -> float:
            return seconds(lambda: [ops.linear(x, w) for w in used]) / len(used)  # type: ignore[arg-type]

        cached_s, limits = with_limits(ops, cached, rounds)
        ops_small = cached_s * limits.int8_ops_per_s / n_small / n_rows
        large_s, limits = with_limits(ops, big, rounds)
        share = large[0].size_bytes / large_s / limits.read_bytes_per_s
        ops_large = large_s * limits.int8_ops_per_s / n_large / n_rows
        print(
            f"{name:10} {8 * large[0].size_bytes / n_large:6.3f} bits  rows {n_rows:4}  cached {ops_small:7.2f} ops  "
            f"large {ops_large:7.2f} ops, {share:5.2f} of {limits.read_bytes_per_s / 1e9:.1f} GB/s, "
            f"{limits.int8_ops_per_s / 1e12:.3f} TOPS",
            flush=True,
        )


def attention(ops: NativeOps, kv_type: KvType, rounds: int) -> None:
    """A layer of 16 to 8 heads of 128."""
    n_heads, n_kv, d_head = 16, 8, 128
    for n_rows, n_keys in ((1, 64), (1, 1024), (1, 16384), (128, 128), (512, 512), (512, 4096)):
        pages = KvPages.empty(kv_type, -(-n_keys // PAGE_TOKENS), n_kv, d_head)
        for part in (pages.k_PGKB, pages.v_PGBK):
            part[:] = np.ones(1, KV_DTYPES[kv_type]) if kv_type != "bf16" else 0x3F80
        spans = Spans(
            row_starts=np.array([0, n_rows], np.int32),
            positions=np.array([n_keys - n_rows], np.int32),
            page_tables_SP=np.arange(-(-n_keys // PAGE_TOKENS), dtype=np.int32)[None],
        )
        q = np.ones((n_rows, n_heads, d_head), np.float32)
        taken, limits = with_limits(
            ops, lambda q=q, pages=pages, spans=spans: seconds(lambda: ops.attention(q, pages, spans, 0.1)), rounds
        )
        n_pairs = n_heads * d_head * sum(range(n_keys - n_rows + 1, n_keys + 1))
        n_bytes = 2 * n_kv * n_keys * d_head * KV_DTYPES[kv_type].itemsize
        print(
            f"attention {kv_type:5} rows {n_rows:4} keys {n_keys:6}: {1e6 * taken:9.1f} us, "
            f"{taken * limits.int8_ops_per_s / (4 * n_pairs):7.2f} 8-bit operations for each of its own, "
            f"{n_bytes / taken / limits.read_bytes_per_s:5.2f} of the read rate",
            flush=True,
        )


def calls(ops: NativeOps) -> None:
    """What is left of a call when there is nothing to compute."""
    x, weight, packed = np.ones((1, 64), np.float32), np.ones(64, np.float32), ops.pack(random_weight(Q8_0, 16, 64))
    print(f"smallest linear: {1e6 * seconds(lambda: ops.linear(x, packed)):.2f} us, "
          f"rms_norm: {1e6 * seconds(lambda: ops.rms_norm(x, weight, 1e-5)):.2f} us")  # fmt: skip


def main() -> None:
    """Print one line for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    types = {t.name: t for t in (*TENSOR_TYPES, *GROUPED_TYPES)}
    parser.add_argument("--types", nargs="*", choices=[*types, "int4"], default=[*types, "int4"])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    ops = native_ops()
    print(f"{describe_machine()}, {ops.isa}")
    calls(ops)
    for kv_type in KV_DTYPES:
        attention(ops, kv_type, options.rounds)
    for name in options.types:
        products(ops, types.get(name, types["Q8_0"]), "int4" if name == "int4" else "stored", options.rounds)


if __name__ == "__main__":
    main()
