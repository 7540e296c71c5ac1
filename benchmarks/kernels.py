"""How fast are the kernels alone? Weight products and attention at the shapes of real models, on random weights.

Run: python benchmarks/kernels.py [--isa ISA] [--threads N]. Prints medians with their spread; GB/s counts stored weight bytes.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from samovar.engine.request import Request, SamplingParams
from samovar.engine.sampler import Row, sample_rows
from samovar.engine.sequence import Sequence
from samovar.kernels import PAGE_TOKENS, DeltaNet, Experts, KvPages, Spans, States
from samovar.kernels.native import NativeOps, native_ops
from samovar.tensors.dtypes import GROUPED_TYPES, Q4_0, Q4_1, Q4_K, Q5_0, Q6_K, Q8_0, TensorType
from samovar.tensors.stored import StoredTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A model: its width, ffn width, heads, layers, and the types of its weights."""

    name: str
    d: int
    d_ffn: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    n_layers: int
    n_vocabulary: int
    layer_type: TensorType
    down_types: tuple[TensorType, ...]
    head_type: TensorType


SAMPLINGS: dict[str, dict[str, float]] = {
    "greedy": {"temperature": 0.0},
    "top-k, top-p": {"temperature": 0.6, "top_k": 20, "top_p": 0.95},
    "top-p": {"temperature": 0.3, "top_p": 0.9},
    "top-p, flat": {"temperature": 5.0, "top_p": 0.95},
    "all": {"temperature": 1.0, "top_p": 1.0},
}
SHAPES = (
    Shape(
        name="SmolLM2-135M", d=576, d_ffn=1536, n_heads=9, n_kv_heads=3, d_head=64, n_layers=30, n_vocabulary=49152,
        layer_type=Q4_1, down_types=(Q4_1,), head_type=Q8_0,
    ),
    Shape(
        name="Qwen2.5-0.5B", d=896, d_ffn=4864, n_heads=14, n_kv_heads=2, d_head=64, n_layers=24, n_vocabulary=151936,
        layer_type=Q5_0, down_types=(Q6_K, Q4_K), head_type=Q8_0,
    ),
)  # fmt: skip


def random_weight(type_: TensorType, n_out: int, n_in: int) -> StoredTensor:
    """Random bytes; the numbers mean nothing, the work is the same. float32 scales are not subnormal, which would cost more."""
    n_bytes = n_out * n_in // type_.block_elements * type_.block_bytes
    data = np.random.default_rng(0).integers(0, 60, n_bytes, dtype=np.uint8)
    if type_ in GROUPED_TYPES:
        data.reshape(-1, type_.block_bytes)[:, :4] = np.array([0.01], np.float32).view(np.uint8)
    return StoredTensor(name="w", type=type_, shape=(n_out, n_in), data=data, source="random")


def timed(run: Callable[[], object], seconds: float) -> tuple[float, float]:
    """Median seconds of one run, and the spread (third less first quartile) as a share of it."""
    run()
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    first, median, third = statistics.quantiles(times, n=4)
    return median, (third - first) / median


def layer_products(ops: NativeOps, shape: Shape, n_rows: int) -> tuple[Callable[[], None], int, int]:
    """One pass over all layers' weights; stored bytes; multiply-adds."""
    layers, n_bytes, n_products = [], 0, 0
    for layer in range(shape.n_layers):
        d_q, d_kv = shape.n_heads * shape.d_head, shape.n_kv_heads * shape.d_head
        down = shape.down_types[layer % len(shape.down_types)]
        stored = [random_weight(shape.layer_type, n, shape.d) for n in (d_q, d_kv, d_kv)]
        stored += [random_weight(shape.layer_type, shape.d, d_q)]
        stored += [random_weight(shape.layer_type, n, shape.d) for n in (shape.d_ffn, shape.d_ffn)]
        stored += [random_weight(down, shape.d, shape.d_ffn)]
        n_bytes += sum(w.size_bytes for w in stored)
        n_products += sum(w.n_elements for w in stored) * n_rows
        layers.append([ops.pack(w) for w in stored])
    x, attended, hidden = (np.ones((n_rows, n), np.float32) for n in (shape.d, shape.n_heads * shape.d_head, shape.d_ffn))

    def run() -> None:
        for q, k, v, o, gate, up, down in layers:
            ops.linears(x, (q, k, v))
            ops.linear(attended, o)
            ops.linears(x, (gate, up))
            ops.linear(hidden, down)

    return run, n_bytes, n_products


def measure_products(ops: NativeOps, shape: Shape, n_rows: int, seconds: float) -> None:
    """All layers' weights once, for `n_rows` rows."""
    run, n_bytes, n_products = layer_products(ops, shape, n_rows)
    median, spread = timed(run, seconds)
    print(
        f"{shape.name:14} layers  rows {n_rows:4}: {1e3 * median:8.2f} ms +-{100 * spread:3.0f} %  "
        f"{n_bytes / median / 1e9:6.1f} GB/s {n_products / median / 1e9:7.0f} G multiply-adds/s  {n_rows / median:8.0f} rows/s"
    )


def measure_experts(ops: NativeOps, n_rows: int, seconds: float) -> None:
    """A layer of 30B-A3B's experts in Q4_0, each row with a choice of its own; bytes are those of the experts chosen."""
    n_experts, n_chosen, d_model, d_ffn, random = 128, 8, 2048, 768, np.random.default_rng(1)

    def stacked(n_out: int, n_in: int) -> StoredTensor:
        flat = random_weight(Q4_0, n_experts * n_out, n_in)
        return replace(flat, shape=(n_experts, n_out, n_in))

    gate, up, down = (ops.pack_stack((stacked(*shape),)) for shape in ((d_ffn, d_model), (d_ffn, d_model), (d_model, d_ffn)))
    x = np.ones((n_rows, d_model), np.float32)
    logits = [random.standard_normal((n_rows, n_experts), np.float32) for _ in range(16)]
    choices = [ops.route(logits_TE, n_chosen, is_renormalised=True) for logits_TE in logits]
    turns = itertools.cycle(choices)
    median, spread = timed(lambda: ops.experts(x, Experts(gate=gate, up=up, down=down), *next(turns), x), seconds)
    n_read = statistics.mean(len(np.unique(ids)) for ids, _ in choices)
    n_bytes = n_read * (gate.size_bytes + up.size_bytes + down.size_bytes) / n_experts
    n_products = n_rows * n_chosen * 3 * d_model * d_ffn
    print(
        f"30B-A3B        experts rows {n_rows:4}: {1e3 * median:8.2f} ms +-{100 * spread:3.0f} %  "
        f"{n_bytes / median / 1e9:6.1f} GB/s {n_products / median / 1e9:7.0f} G multiply-adds/s  {n_rows / median:8.0f} rows/s"
    )


def measure_delta_net(ops: NativeOps, n_rows: int, n_streams: int, seconds: float) -> None:
    """A gated delta net of Qwen3-Next-80B-A3B: its convolution and its memories, `n_rows` rows of each stream. The states of 36
    such layers are used in turn, since in a model they come from memory."""
    n_key_heads, n_heads, d_head, n_taps = 16, 32, 128, 4
    n_channels, random = (2 * n_key_heads + n_heads) * d_head, np.random.default_rng(1)
    net = DeltaNet(
        taps_JM=random.standard_normal((n_taps, n_channels), np.float32), rate_H=np.ones(n_heads, np.float32),
        bias_H=np.zeros(n_heads, np.float32),
    )  # fmt: skip
    layers = [States.empty(n_streams, n_taps, n_channels, n_heads, d_head, d_head) for _ in range(36)]
    for states in layers:
        states.inputs_ZJM.fill(0)
        states.memory_ZHKU.fill(0)
    turns, n_tokens = itertools.cycle(layers), n_rows * n_streams
    x, gates = (random.standard_normal((n_tokens, n), np.float32) for n in (n_channels, 2 * n_heads))
    spans = Spans(
        row_starts=np.arange(n_streams + 1, dtype=np.int32) * n_rows, positions=np.ones(n_streams, np.int32),
        page_tables_SP=np.zeros((n_streams, 1), np.int32), states_S=np.arange(n_streams, dtype=np.int32),
    )  # fmt: skip
    for name, run in (
        ("convolve", lambda: ops.convolve(x, net, next(turns), spans)),
        ("delta", lambda: ops.delta_rule(x, gates, net, next(turns), spans)),
    ):
        median, spread = timed(run, seconds)
        print(
            f"Next-80B-A3B   {name:8} rows {n_rows:3} of {n_streams}: {1e6 * median / n_tokens:8.1f} us a row "
            f"+-{100 * spread:3.0f} %"
        )


def measure_head(ops: NativeOps, shape: Shape, seconds: float) -> None:
    """The output head for one row."""
    stored = random_weight(shape.head_type, shape.n_vocabulary, shape.d)
    head, x = ops.pack(stored), np.ones((1, shape.d), np.float32)
    median, spread = timed(lambda: ops.linear(x, head), seconds)
    print(
        f"{shape.name:14} head    rows    1: {1e3 * median:8.2f} ms +-{100 * spread:3.0f} %  "
        f"{stored.size_bytes / median / 1e9:6.1f} GB/s"
    )


def measure_attention(ops: NativeOps, shape: Shape, n_rows: int, n_keys: int, seconds: float) -> None:
    """One layer's attention of the last `n_rows` of `n_keys` positions."""
    n_pages = -(-n_keys // PAGE_TOKENS)
    k = np.random.default_rng(0).standard_normal((n_pages, shape.n_kv_heads, shape.d_head, PAGE_TOKENS)).astype(np.float16)
    pages = KvPages(type="f16", k_PGKB=k, v_PGBK=np.ascontiguousarray(k.swapaxes(2, 3)))
    spans = Spans(
        row_starts=np.array([0, n_rows], np.int32),
        positions=np.array([n_keys - n_rows], np.int32),
        page_tables_SP=np.arange(n_pages, dtype=np.int32)[None],
    )
    q = np.ones((n_rows, shape.n_heads, shape.d_head), np.float32)
    median, spread = timed(lambda: ops.attention(q, pages, spans, shape.d_head**-0.5), seconds)
    n_products = 2 * shape.n_heads * shape.d_head * sum(range(n_keys - n_rows + 1, n_keys + 1))
    print(
        f"{shape.name:14} attend  rows {n_rows:4}: {1e3 * median:8.3f} ms +-{100 * spread:3.0f} %  keys {n_keys}  "
        f"{n_products / median / 1e9:.0f} G multiply-adds/s"
    )


def measure_sampling(ops: NativeOps, shape: Shape, seconds: float) -> None:
    """A token from each of 1 and of 16 rows of normal logits; flatter than what a model gives."""
    for n_rows in (1, 16):
        logits = np.random.default_rng(0).normal(0, 2.5, (n_rows, shape.n_vocabulary)).astype(np.float32)
        for name, settings in SAMPLINGS.items():
            params = SamplingParams(**settings)  # type: ignore[arg-type]
            request = Request(prompt_ids=(0,), sampling=params)
            rows = [Row(Sequence(request=request, token_ids=list(range(n)))) for n in range(1, n_rows + 1)]

            def run(logits: NDArray[np.float32] = logits, rows: list[Row] = rows) -> None:
                sample_rows(ops, logits, rows)

            median, spread = timed(run, seconds)
            print(f"{shape.name:14} {name:12} rows {n_rows:2}: {1e6 * median / n_rows:8.1f} us a row +-{100 * spread:3.0f} %")


def measure_calls(ops: NativeOps, seconds: float) -> None:
    """What a call costs when there is next to nothing to compute."""
    x, weight = np.ones((1, 64), np.float32), np.ones(64, np.float32)
    packed = ops.pack(random_weight(Q8_0, 16, 64))
    for name, run in (("rms_norm", lambda: ops.rms_norm(x, weight, 1e-5)), ("linear", lambda: ops.linear(x, packed))):
        median, _ = timed(run, seconds)
        print(f"smallest {name} call: {1e6 * median:.2f} us")


def main() -> None:
    """Print one line for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--isa")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 4, 16, 512])
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    ops = native_ops(options.isa, options.threads)
    print(f"isa {ops.isa}, {ops.n_threads} threads")
    measure_calls(ops, options.seconds / 4)
    for n_rows in options.rows:
        measure_experts(ops, n_rows, options.seconds)
    for n_rows, n_streams in ((1, 1), (1, 8), (16, 1), (512, 1)):
        measure_delta_net(ops, n_rows, n_streams, options.seconds / 2)
    for shape in SHAPES:
        for n_rows in options.rows:
            measure_products(ops, shape, n_rows, options.seconds)
        measure_head(ops, shape, options.seconds)
        measure_sampling(ops, shape, options.seconds / 8)
        for n_rows, n_keys in ((1, 256), (1, 4096), (512, 512)):
            measure_attention(ops, shape, n_rows, n_keys, options.seconds / 2)


if __name__ == "__main__":
    main()
