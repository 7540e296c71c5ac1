"""`samovar quality`: perplexity of models on a text, and how far they are from a reference, with intervals."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.box import SIMPLE
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from samovar import __version__
from samovar.cli.arguments import Subparsers, add_weights_option
from samovar.cli.terminal import Streams, one_line
from samovar.errors import BadRequest
from samovar.evals.chart import check_chart, draw
from samovar.evals.interval import BLOCK, N_DRAWS, Estimate
from samovar.evals.quality import Quality, Settings, measure
from samovar.evals.windows import DEFAULT_SKIPPED, DEFAULT_WINDOW, as_text, default_text, read_text
from samovar.formats.hub import default_store, resolve
from samovar.kernels import KV_DTYPES
from samovar.llm.setup import MAX_THREADS

_EXAMPLES = """examples:
  samovar quality smollm2:135m --text book.txt
  samovar quality smollm2:135m --exact
  samovar quality Qwen3-4B-Q4_K_M.gguf Qwen3-4B-Q8_0.gguf --against ./Qwen3-4B --chart quality.svg
  samovar quality Qwen3-4B-Q8_0.gguf --against Qwen3-4B-Q8_0.gguf --weights int4 --kv-type int8

The text is cut into windows, each computed by itself; of each, the first tokens give context and the others are scored. The
reference is computed in the types of its file, its keys and values in float32; with --exact in float32 throughout, by the NumPy
kernels, which takes longer. Charts need matplotlib: pip install 'samovar[chart]'.
"""
_BESIDE = ("x reference", "mean KL", "99 % KL", "top-1 %")
_EXPLAINED = "\nx reference: perplexity over the reference's; KL: divergence in nats; top-1: both put the same token first"
_DEFAULT_TEXT = "Universal Declaration of Human Rights"


def add_parser(subparsers: Subparsers) -> None:
    """The command's arguments."""
    parser = subparsers.add_parser(
        "quality", help="measure perplexity, and distance from a reference", description=__doc__, epilog=_EXAMPLES
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="GGUF files, Hugging Face folders, or names in the store")
    group = parser.add_argument_group("reference")
    group.add_argument("--against", metavar="MODEL", help="hold every model against this one, of the same vocabulary")
    group.add_argument(
        "--exact", action="store_true", help="compute the reference in float32; without --against, each model is its own"
    )
    group = parser.add_argument_group("text")
    group.add_argument("--text", metavar="FILE", help=f"UTF-8 text, or - for standard input (default: {_DEFAULT_TEXT})")
    group.add_argument("--tokens", type=int, metavar="N", help="use its first N tokens (default: all)")
    group.add_argument("--window", type=int, default=DEFAULT_WINDOW, metavar="N", help="tokens a window (default: %(default)s)")
    group.add_argument(
        "--skip",
        type=int,
        default=DEFAULT_SKIPPED,
        metavar="N",
        help="tokens of each that are not scored (default: %(default)s)",
    )
    group = parser.add_argument_group("engine")
    group.add_argument("--threads", type=int, metavar="N", help="compute threads (default: the cores this process may use)")
    group.add_argument("--kv-type", choices=tuple(KV_DTYPES), help="number format of the models' keys and values")
    add_weights_option(group)
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw a picture, .svg or .png")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace, streams: Streams) -> int:
    """Measure, and print a table or JSON."""
    settings = _read_settings(args, streams)
    names = [*args.models, *([args.against] if args.against else [])]
    for name in names:  # the last one's absence is said before the first is computed
        resolve(name, default_store())
    if args.chart is not None:
        check_chart(args.chart)
    with _Bar(streams) as bar:
        found = measure(args.models, settings, bar)
    if args.chart is not None:
        draw(args.chart, found, reference=_reference_name(settings), text=_caption(found, settings))
    if args.json:
        streams.stdout.write(json.dumps(_to_json(found, settings)) + "\n")
    else:
        console = streams.console(streams.stdout)
        reference = _reference_name(settings)
        about = f"intervals of 95 %: bootstrap over blocks of {BLOCK} neighbouring tokens, {N_DRAWS:,} draws"
        console.print(_caption(found, settings) + (f"; reference: {reference}" if reference else ""), soft_wrap=True)
        console.print(_table(found, has_reference=reference is not None))
        console.print(about + (_EXPLAINED if reference else ""), soft_wrap=True)
    return 0


def _read_settings(args: argparse.Namespace, streams: Streams) -> Settings:
    """Ends the program with code 2 where options are out of range."""
    ranges = {"window": (2, 1 << 20), "skip": (1, args.window - 1), "tokens": (1, 1 << 30), "threads": (1, MAX_THREADS)}
    for option, (low, high) in ranges.items():
        value = getattr(args, option)
        if value is not None and not low <= value <= high:
            args.parser.error(f"--{option} is {value}; expected {low} to {high}")
    if args.text is None:
        text, name = default_text(), _DEFAULT_TEXT
    elif args.text == "-":
        if streams.stdin is None:
            raise BadRequest("standard input is closed; expected a text, or --text FILE")
        text, name = as_text(streams.stdin.buffer.read(), "standard input"), "standard input"
    else:
        text, name = read_text(Path(args.text)), args.text
    return Settings(
        text=text,
        text_name=name,
        window=args.window,
        n_skipped=args.skip,
        n_tokens=args.tokens,
        against=args.against,
        is_exact=args.exact,
        kv_type=args.kv_type,
        weights=args.weights,
        n_threads=args.threads,
        isa=streams.isa,
    )


class _Bar:
    """A progress bar on a terminal, with the time that the model in work will take."""

    def __init__(self, streams: Streams) -> None:
        console = streams.console(streams.stderr)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f} tokens"),
        )
        left = (TextColumn("left"), TimeRemainingColumn())
        self._bar = Progress(*columns, *left, console=console, transient=True, disable=not console.is_terminal)
        self._task: TaskID | None = None
        self._what = ""

    def __enter__(self) -> "_Bar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, done: int, total: int, what: str) -> None:
        if self._task is None or what != self._what or not done:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task, self._what = self._bar.add_task(one_line(what)[-40:], total=total), what
        self._bar.update(self._task, completed=done)


def _reference_name(settings: Settings) -> str | None:
    """What distances are from; None where there is no reference."""
    name = None if settings.against is None else Path(settings.against).name
    if settings.is_exact:
        return f"{name} in float32" if name else "itself in float32"
    return name


def _caption(found: Sequence[Quality], settings: Settings) -> str:
    """What was measured, in a line."""
    counts = sorted({quality.n_tokens for quality in found})
    tokens = " to ".join(f"{n:,}" for n in ([counts[0]] if len(counts) == 1 else [counts[0], counts[-1]]))
    return f"{Path(settings.text_name).name}: {tokens} tokens scored, windows of {settings.window}"


def _table(found: Sequence[Quality], *, has_reference: bool) -> Table:
    """Two lines a model: figures, and below each its interval."""
    table = Table(box=SIMPLE, pad_edge=False, collapse_padding=True)
    table.add_column("model", overflow="fold", min_width=18)
    for heading in ("perplexity", *(_BESIDE if has_reference else ("bits a byte",))):
        table.add_column(heading, justify="right", no_wrap=True)
    for quality in found:
        form = "" if quality.weights == "stored" else f", {quality.weights}"
        sizes = f"{_size(quality.packed_bytes)}, {quality.bits_per_weight:.2f} bits, kv {quality.kv_type}"
        cells = [f"{Path(quality.model).name}{form}\n{sizes}", _shown(quality.perplexity)]
        if (beside := quality.beside) is None:
            cells.append(_shown(quality.bits_per_byte))
        else:
            cells += [
                _shown(beside.perplexity_ratio),
                _shown(beside.kl),
                f"{beside.kl_99:.3g}",
                _shown(beside.top_1.scaled(100), "{:.1f}"),
            ]
        table.add_row(*cells, end_section=True)
    return table


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.2f} GiB" if n_bytes >= 1 << 30 else f"{n_bytes / 2**20:.0f} MiB"


def _shown(estimate: Estimate, form: str = "{:#.3g}") -> str:
    value = form.format(estimate.value)
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value}\n{form.format(estimate.low)}-{form.format(estimate.high)}"


def _to_json(found: Sequence[Quality], settings: Settings) -> dict[str, object]:
    """Everything; intervals are null where the text is too short for one."""
    return {
        "version": __version__,
        "text": settings.text_name,
        "window": settings.window,
        "skipped": settings.n_skipped,
        "against": settings.against,
        "exact": settings.is_exact,
        "interval": {"level": 0.95, "method": "block bootstrap", "block_tokens": BLOCK, "draws": N_DRAWS},
        "models": [asdict(quality) for quality in found],
    }
