"""`samovar quality`: perplexity of models on a text, and how far they are from a reference, with intervals."""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from samovar import __version__
from samovar.cli.arguments import Subparsers, add_weights_option, check_ranges, option_message
from samovar.cli.progress import TokenBar
from samovar.cli.table import table
from samovar.cli.terminal import Streams, one_line
from samovar.errors import BadRequest
from samovar.evals.chart import check_chart, draw
from samovar.evals.figures import about_model, figure, percent
from samovar.evals.interval import BLOCK, LEAST_BLOCKS, N_DRAWS, Estimate
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
    try:
        if args.chart is not None:
            check_chart(args.chart)
        with TokenBar(streams) as bar:
            found = measure(args.models, settings, bar)
    except BadRequest as error:
        if error.param in ("chart", "window"):  # options at fault, though only the model tells how long a window may be
            args.parser.error(option_message(error))
        raise
    if args.chart is not None:
        draw(args.chart, found, reference=_reference_name(settings), text=_caption(found, settings))
    if args.json:
        streams.stdout.write(json.dumps(_to_json(found, settings)) + "\n")
    else:
        _print(found, settings, streams)
    return 0


def _print(found: Sequence[Quality], settings: Settings, streams: Streams) -> None:
    """The table, and what its figures are; as wide as it takes into a pipe."""
    console, is_terminal = streams.console(streams.stdout), streams.stdout.isatty()
    reference = _reference_name(settings)
    caption = _caption(found, settings) + (f"; reference: {reference}" if reference else "")
    about = _about_intervals(found) + (_EXPLAINED if reference else "")
    console.print(one_line(caption), end="\n\n", soft_wrap=not is_terminal)
    console.print(_table(found, console.width if is_terminal else None, has_reference=reference is not None), soft_wrap=True)
    console.print(f"\n{about}", soft_wrap=not is_terminal)


def _read_settings(args: argparse.Namespace, streams: Streams) -> Settings:
    """Ends the program with code 2 where options are out of range."""
    ranges = {"window": (2, 1 << 20), "skip": (1, args.window - 1), "tokens": (1, 1 << 30), "threads": (1, MAX_THREADS)}
    check_ranges(args, ranges)
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


def _table(found: Sequence[Quality], width: int | None, *, has_reference: bool) -> str:
    """Two lines a model: figures, and below each its interval. Where they are wider than `width`, models stand above them."""
    names, rows = ["model"], [["perplexity", *(_BESIDE if has_reference else ("bits a byte",))]]
    for quality in found:
        form = "" if quality.weights == "stored" else f", {quality.weights}"
        names += [one_line(f"{Path(quality.model).name}{form}"), about_model(quality)]
        rows += _figures(quality)
    whole = table([[name, *cells] for name, cells in zip(names, rows, strict=True)]).split("\n")
    if width is None or max(map(len, whole)) <= width:
        lines = [*whole[:1], *(line for at in range(1, len(whole), 2) for line in ("", *whole[at : at + 2]))]
    else:
        bare = table([["", *cells] for cells in rows]).split("\n")
        lines = bare[:1]
        for at in range(1, len(bare), 2):
            about = f"{names[at]}: {names[at + 1]}"
            heads = [about] if len(about) <= width else names[at : at + 2]
            lines += ["", *heads, *filter(None, bare[at : at + 2])]
    return "\n".join(lines)


def _figures(quality: Quality) -> tuple[list[str], list[str]]:
    """The figures, and their intervals."""
    if (beside := quality.beside) is None:
        pairs = [_shown(quality.perplexity), _shown(quality.bits_per_byte)]
    else:
        pairs = [
            _shown(quality.perplexity),
            _shown(beside.perplexity_ratio),
            _shown(beside.kl),
            (figure(beside.kl_99), ""),
            _shown(beside.top_1.scaled(100), percent),
        ]
    return [value for value, _ in pairs], [interval for _, interval in pairs]


def _shown(estimate: Estimate, form: Callable[[float], str] = figure) -> tuple[str, str]:
    """The figure, and its interval; empty where there is none."""
    if estimate.low is None or estimate.high is None:
        return form(estimate.value), ""
    return form(estimate.value), f"{form(estimate.low)}-{form(estimate.high)}"


def _about_intervals(found: Sequence[Quality]) -> str:
    """How they are made, or why there are none."""
    n_without = sum(quality.perplexity.low is None for quality in found)
    if n_without:
        whose = "no intervals" if n_without == len(found) else f"no intervals for {n_without} of the models"
        return f"{whose}: the text is too short for {LEAST_BLOCKS} blocks of up to {BLOCK} scored tokens; give a longer one"
    return f"intervals of 95 %: bootstrap over blocks of {BLOCK} neighbouring tokens, {N_DRAWS:,} draws"


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
