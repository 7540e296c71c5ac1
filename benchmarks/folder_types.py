"""What do the weights of quantised Hugging Face folders cost to compute on, beside GGUF's types of as many bits?

Run: python -m benchmarks.folder_types [--isa ISA] [--threads N] [--rows 1 16 512]. Types take turns, so that a change of the
machine's pace meets all of them. Prints the median time of a product with a 4096 x 4096 weight, out of a stack that no cache
holds, and the spread; GB/s counts stored bytes. "ordered" has inputs in an order of their own, as GPTQ's act-order asks for.
"""

import argparse
import statistics
import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.kernels import random_weight
from samovar.kernels.native import NativeOps, native_ops
from samovar.tensors.dtypes import BF16, GROUPED_TYPES, Q4_0, Q8_0
from samovar.tensors.stored import StoredTensor

WIDTH = 4096
STACK_BYTES = 96 << 20
SHOWN = ("U4_G32", "U4_G128", "U8_G128", "E4M3_G128", "E5M2_G128")


def cases() -> dict[str, StoredTensor]:
    """A weight of each type."""
    types = (Q4_0, Q8_0, BF16, *(type_ for type_ in GROUPED_TYPES if type_.name in SHOWN))
    weights = {type_.name: random_weight(type_, WIDTH, WIDTH) for type_ in types}
    order = np.random.default_rng(0).permutation(WIDTH).astype(np.int32)
    return weights | {"U4_G128, ordered": replace(weights["U4_G128"], input_order=order)}


def seconds_of(ops: NativeOps, weight: StoredTensor, x: NDArray[np.float32], n_passes: int) -> list[float]:
    """Seconds of a product in each pass over a stack of weights."""
    stack = [ops.pack(weight) for _ in range(1 if len(x) > 64 else max(2, STACK_BYTES // weight.size_bytes))]
    times = []
    for _ in range(n_passes):
        start = time.perf_counter()
        for packed in stack:
            ops.linear(x, packed)
        times.append((time.perf_counter() - start) / len(stack))
    return times


def main() -> None:
    """Print one line for each type and number of rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--isa")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 16, 512])
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    ops = native_ops(options.isa, options.threads)
    print(f"isa {ops.isa}, {ops.n_threads} threads")
    weights = cases()
    for n_rows in options.rows:
        x = np.random.default_rng(1).standard_normal((n_rows, WIDTH)).astype(np.float32)
        times: dict[str, list[float]] = {name: [] for name in weights}
        for _ in range(options.turns):
            for name, weight in weights.items():
                times[name] += seconds_of(ops, weight, x, 3)
        for name, weight in weights.items():
            first, median, third = statistics.quantiles(times[name], n=4)
            print(
                f"rows {n_rows:4}  {name:16} {1e3 * median:8.3f} ms (best {1e3 * min(times[name]):8.3f}) "
                f"+-{100 * (third - first) / median:3.0f} %  {weight.size_bytes / median / 1e9:6.2f} GB/s  "
                f"{n_rows * WIDTH**2 / median / 1e9:7.1f} G multiply-adds/s"
            )


if __name__ == "__main__":
    main()
