"""What do the weights of quantised Hugging Face folders cost to compute on, beside GGUF's types of as many bits?

Run: python benchmarks/folder_types.py [--isa ISA] [--threads N] [--rows 1 16 512]. Types take turns, so that a change of the
machine's pace meets all of them. Prints the median of the passes over a stack of 4096 x 4096 weights that no cache holds, with
the spread; GB/s counts stored bytes.
"""

import argparse
import statistics
import time

import numpy as np

from benchmarks.kernels import random_weight
from samovar.kernels import Linear
from samovar.kernels.native import NativeOps, native_ops
from samovar.tensors.dtypes import BF16, GROUPED_TYPES, Q4_0, Q8_0, TensorType
from samovar.tensors.stored import StoredTensor

WIDTH = 4096
STACK_BYTES = 96 << 20
TYPES = (Q4_0, Q8_0, BF16, *(t for t in GROUPED_TYPES if t.name.split("_")[1] in ("G32", "G128") and t.name[:4] != "E5M2"))


def stack(ops: NativeOps, type_: TensorType) -> tuple[list[Linear], list[Linear], int]:
    """Weights of one type, one of them with an order of its inputs, and the bytes of the first list."""
    stored = random_weight(type_, WIDTH, WIDTH)
    order = np.random.default_rng(0).permutation(WIDTH).astype(np.int32)
    n = max(2, STACK_BYTES // stored.size_bytes)
    ordered = StoredTensor(
        name="w", type=type_, shape=stored.shape, data=stored.data, source="random", input_order=order
    )
    return [ops.pack(stored) for _ in range(n)], [ops.pack(ordered)], n * stored.size_bytes


def one_pass(ops: NativeOps, weights: list[Linear], x: np.ndarray) -> float:
    """Seconds that the products of x with all weights take."""
    start = time.perf_counter()
    for weight in weights:
        ops.linear(x, weight)
    return time.perf_counter() - start


def main() -> None:
    """Print one line for each type and number of rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--isa")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 16, 512])
    parser.add_argument("--passes", type=int, default=15)
    options = parser.parse_args()
    ops = native_ops(options.isa, options.threads)
    print(f"isa {ops.isa}, {ops.n_threads} threads")
    stacks = {type_: stack(ops, type_) for type_ in TYPES}
    for n_rows in options.rows:
        x = np.random.default_rng(1).standard_normal((n_rows, WIDTH)).astype(np.float32)
        times: dict[TensorType, list[float]] = {type_: [] for type_ in TYPES}
        for _ in range(max(3, options.passes // max(1, n_rows // 64))):
            for type_, (weights, _, _) in stacks.items():
                times[type_].append(one_pass(ops, weights[: 2 if n_rows > 64 else None], x))
        for type_, (weights, _, n_bytes) in stacks.items():
            first, median, third = statistics.quantiles(times[type_], n=4)
            n_weights = 2 if n_rows > 64 else len(weights)
            print(
                f"rows {n_rows:4}  {type_.name:9} {1e3 * median / n_weights:8.3f} ms a weight +-{100 * (third - first) / median:3.0f} % "
                f" {n_bytes / len(weights) * n_weights / median / 1e9:6.2f} GB/s  "
                f"{n_rows * n_weights * WIDTH**2 / median / 1e9:7.1f} G multiply-adds/s"
            )


if __name__ == "__main__":
    main()
