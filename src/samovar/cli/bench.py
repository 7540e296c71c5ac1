"""`samovar bench`: how fast a model runs on this machine, and what share of the machine's own limits that is."""

import argparse
import json
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from samovar import __version__
from samovar.cli.arguments import MODEL_HELP, Subparsers, add_weights_option, check_ranges
from samovar.cli.bench_run import N_SHORT, Report, Settings, n_steps, run_bench, temporary_folder
from samovar.cli.progress import ProgressBar
from samovar.cli.terminal import Streams
from samovar.errors import OutOfMemory
from samovar.formats import open_checkpoint
from samovar.formats.hub import EMBEDDED_DEFAULT, default_store, resolve
from samovar.kernels import KV_DTYPES
from samovar.llm.memory import available_bytes
from samovar.llm.random_model import QUANTS, SHAPES, Shape, random_model_bytes, write_random_model
from samovar.llm.setup import MAX_THREADS

_EXAMPLES = """examples:
  samovar bench
  samovar bench qwen2.5-coder:0.5b --rounds 5
  samovar bench --shape qwen3-4b --quant q4_k_m --layers 12
  samovar bench model.gguf --streams 1 8 --json > speed.json

Random weights are written to a file in the temporary folder (TMPDIR) and removed at the end. Decoding starts after 16
tokens. First token: from starting a process until its output, the weights packed by an earlier start.
"""
_WORKING_BYTES = 600 << 20  # beside weights, keys and values: the buffer that is read to measure the memory, and Python
_STREAMS = (1, 4, 16, 32)


def add_parser(subparsers: Subparsers) -> None:
    """The command's arguments."""
    parser = subparsers.add_parser("bench", help="measure speed on this machine", description=__doc__, epilog=_EXAMPLES)
    parser.add_argument("model", nargs="?", metavar="MODEL", help=MODEL_HELP)
    group = parser.add_argument_group("random weights")
    group.add_argument(
        "--shape", choices=SHAPES, metavar="NAME", help=f"random weights of this shape, not a model's: {', '.join(SHAPES)}"
    )
    group.add_argument(
        "--quant",
        choices=QUANTS,
        metavar="TYPE",
        help=f"with --shape: how the weights are stored (default: q4_0): {', '.join(QUANTS)}",
    )
    group.add_argument("--layers", type=int, metavar="N", help="with --shape: cut the model to N layers")
    group = parser.add_argument_group("measurement")
    group.add_argument("--rounds", type=int, default=3, metavar="N", help="how often to measure (default: 3)")
    group.add_argument("--prompt-tokens", type=int, default=512, metavar="N", help="length of the prompt (default: 512)")
    group.add_argument("--tokens", type=int, default=64, metavar="N", help="tokens to decode in each stream (default: 64)")
    group.add_argument(
        "--streams",
        type=int,
        nargs="+",
        default=_STREAMS,
        metavar="N",
        help="sequences decoded together; shares of the machine need a 1",
    )
    group.add_argument("--threads", type=int, metavar="N", help="compute threads (default: the cores this process may use)")
    group.add_argument("--ctx-size", type=int, metavar="N", help="most tokens of prompt and answer together")
    group.add_argument("--kv-type", choices=tuple(KV_DTYPES), help="number format of the stored keys and values")
    add_weights_option(group)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace, streams: Streams) -> int:
    """Measure, and print a table or JSON."""
    settings = _read_settings(args, streams)
    if args.shape is None:
        path = resolve(args.model or EMBEDDED_DEFAULT, default_store())
        _check_memory(str(path), open_checkpoint(path).size_bytes, "choose a smaller model")
        report = _run_under_bar(path, settings, streams)
        name = args.model or EMBEDDED_DEFAULT
    else:
        shape, quant = _shape(args), args.quant or "q4_0"
        name = f"{args.shape} {quant}, {shape.n_layers} layers, random weights"
        _check_memory(name, random_model_bytes(shape, quant), "cut the model with --layers, or choose a smaller --quant")
        with temporary_folder() as folder:
            path = folder / "random.gguf"
            with ProgressBar(streams, "random weights") as progress:
                write_random_model(path, shape, quant, progress=progress)
            report = _run_under_bar(path, settings, streams)
    if args.json:
        streams.stdout.write(json.dumps(_to_json(name, report, settings)) + "\n")
    else:
        streams.console(streams.stdout).print(_table(name, report, settings))
    return 0


def _read_settings(args: argparse.Namespace, streams: Streams) -> Settings:
    """Ends the program with code 2 where options are out of range or contradict each other."""
    if args.shape is not None and args.model is not None:
        args.parser.error("give MODEL or --shape, not both")
    if args.shape is None and (args.quant is not None or args.layers is not None):
        args.parser.error("--quant and --layers belong to random weights; add --shape")
    ranges = {"rounds": (1, 1000), "prompt_tokens": (1, 1 << 20), "tokens": (2, 1 << 20), "threads": (1, MAX_THREADS)}
    ranges |= {"layers": (1, SHAPES[args.shape].n_layers)} if args.shape else {}
    check_ranges(args, ranges)
    if not all(1 <= n <= 1024 for n in args.streams):
        args.parser.error(f"--streams is {' '.join(map(str, args.streams))}; expected numbers from 1 to 1024")
    needed = max(args.prompt_tokens + 1, N_SHORT + args.tokens)
    if args.ctx_size is not None and args.ctx_size < needed:
        args.parser.error(f"--ctx-size is {args.ctx_size}; these prompts and answers need {needed}")
    return Settings(
        n_rounds=args.rounds,
        n_prompt=args.prompt_tokens,
        n_tokens=args.tokens,
        streams=tuple(sorted(set(args.streams))),
        n_threads=args.threads,
        max_context=args.ctx_size,
        kv_type=args.kv_type,
        weights=args.weights,
        isa=streams.isa,
    )


def _shape(args: argparse.Namespace) -> Shape:
    shape = SHAPES[args.shape]
    return shape if args.layers is None else shape.with_layers(args.layers)


def _check_memory(name: str, weight_bytes: int, advice: str) -> None:
    """Raises OutOfMemory before anything is written or loaded."""
    needed, free = weight_bytes + _WORKING_BYTES, available_bytes()
    if needed > free:
        raise OutOfMemory(
            f"{name}: measuring needs about {needed / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} GiB are free; {advice}"
        )


def _run_under_bar(path: Path, settings: Settings, streams: Streams) -> Report:
    console = streams.console(streams.stderr)
    columns = (TextColumn("measuring"), BarColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=n_steps(settings))

        def advance(what: str) -> None:
            bar.update(task, description=what)
            bar.advance(task)

        return run_bench(path, settings, advance)


def _table(name: str, report: Report, settings: Settings) -> Table:
    """Medians with minimum and maximum."""
    kinds = f"weights {settings.weights}, keys and values {report.kv_type}"
    title = f"{name}\n{_machine()}, {report.isa}, {report.n_threads} threads, {kinds}"
    caption = "one round" if settings.n_rounds == 1 else f"medians of {settings.n_rounds} rounds"
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    for heading in ("measured", "median", "minimum to maximum", "unit"):
        table.add_column(heading, justify="right" if heading in ("median", "minimum to maximum") else "left")

    def add(what: str, values: Sequence[float], unit: str, digits: int = 1) -> None:
        if values:
            low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
            table.add_row(what, f"{statistics.median(values):.{digits}f}", f"{low} to {high}", unit)

    add(f"prefill of {settings.n_prompt}", report.prefill, "tokens/s")
    for n, rates in report.decode.items():
        add(f"decode, {n} stream{'s together' if n > 1 else ''}", rates, "tokens/s")
    add("process start to first token", report.first_token_s, "s", 3)
    add("the same, first start of all", [report.first_start_s], "s", 3)
    add("tokenizer start-up", [1000 * s for s in report.tokenizer_s], "ms")
    add("plain read of memory", [limits.read_bytes_per_s / 1e9 for limits in report.limits], "GB/s")
    add("share of it in decode", [100 * share for share in report.bandwidth_share], "%")
    add("8-bit products in registers", [limits.int8_ops_per_s / 1e12 for limits in report.limits], "TOPS", 3)
    add("share of them in prefill", [100 * share for share in report.peak_share], "%")
    add("Python's share of a decode step", [100 * share for share in report.python_shares], "%")
    add("weights read for each token", [report.weight_bytes / 2**20], "MiB", 0)
    add("resident memory", [report.resident_bytes / 2**20], "MiB", 0)
    return table


def _to_json(name: str, report: Report, settings: Settings) -> dict[str, object]:
    """Medians; `rounds` holds every figure they come from."""
    middle = statistics.median
    reads = [limits.read_bytes_per_s for limits in report.limits]
    decode = {str(n): middle(rates) for n, rates in report.decode.items()}
    return {
        "model": name,
        "version": __version__,
        "machine": _machine(),
        "isa": report.isa,
        "threads": report.n_threads,
        "weights": settings.weights,
        "kv_type": report.kv_type,
        "prompt_tokens": settings.n_prompt,
        "tokens": settings.n_tokens,
        "prefill_tokens_per_s": middle(report.prefill),
        "decode_tokens_per_s": decode.get("1"),
        "batched_decode_tokens_per_s": decode,
        "first_token_s": middle(report.first_token_s),
        "first_start_s": report.first_start_s,
        "tokenizer_s": middle(report.tokenizer_s),
        "resident_bytes": report.resident_bytes,
        "weight_bytes": report.weight_bytes,
        "bandwidth_share": middle(report.bandwidth_share) if report.bandwidth_share else None,
        "peak_share": middle(report.peak_share) if report.peak_share else None,
        "read_bytes_per_s": middle(reads) if reads else None,
        "int8_ops_per_s": middle(limits.int8_ops_per_s for limits in report.limits) if reads else None,
        "python_share": middle(report.python_shares) if report.python_shares else None,
        "rounds": {
            "prefill_tokens_per_s": report.prefill,
            "batched_decode_tokens_per_s": {str(n): rates for n, rates in report.decode.items()},
            "first_token_s": report.first_token_s,
            "python_share": report.python_shares,
        },
    }


def _machine() -> str:
    """The processor's name, as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {platform.system()} {platform.release()}"
