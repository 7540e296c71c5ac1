"""`samovar plan`: which models fit this machine or another, and how fast they will be there."""

import argparse
import contextlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.table import Table

from samovar.cli.arguments import Subparsers, add_weights_option, size_bytes
from samovar.cli.terminal import Streams
from samovar.errors import BadRequest, ModelNotFound
from samovar.formats import open_checkpoint
from samovar.formats.hub import default_store, resolve
from samovar.kernels import KV_DTYPES
from samovar.kernels.cores import usable_cores
from samovar.kernels.limits import Limits, measure_limits
from samovar.kernels.native import native_ops
from samovar.llm.memory import available_bytes, size
from samovar.llm.random_model import QUANTS, SHAPES
from samovar.plan.costs import Machine
from samovar.plan.outlook import (
    FAMILY_QUANTS,
    MAX_USERS,
    PROMPT_TOKENS,
    Outlook,
    Wish,
    advice,
    best,
    distinct_shapes,
    look_at_all,
    shape_candidates,
)
from samovar.plan.planned_model import PlannedModel

_EXAMPLES = """examples:
  samovar plan
  samovar plan qwen3-8b --context 32768 --users 4
  samovar plan ./Qwen3-4B-Q4_K_M.gguf
  samovar plan --all --memory 64G --bandwidth 50G --cores 16
  samovar plan qwen3-30b-a3b --quant q4_k_m q8_0 --json

Speeds come from the bytes and operations of the engine's own kernels, and from two figures of the machine that are measured in
a second or two: how fast memory is read, and how many 8-bit products the cores form. They hold where nothing else runs.
"""
_SYSTEM_SHARE = 0.05  # of another machine's memory, for its system and what else runs there
_BUSY_SHARE = 0.5  # of the cores, by the system's load: more is other programs' work
_MEASURINGS = 2  # the larger of the figures counts: other work makes them smaller, nothing makes them larger


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """The machine planned for. `memory` and `rates` say where its figures come from, `is_busy` that others take part."""

    machine: Machine
    usable_bytes: int
    memory: str
    rates: str
    is_busy: bool


def add_parser(subparsers: Subparsers) -> None:
    """The command's arguments."""
    parser = subparsers.add_parser("plan", help="what fits this machine, and how fast", description=__doc__, epilog=_EXAMPLES)
    what = f"a GGUF file, a Hugging Face folder, a name in the store, or a shape: {', '.join(SHAPES)} (default: --all)"
    parser.add_argument("model", nargs="?", metavar="MODEL", help=what)
    parser.add_argument("--all", action="store_true", help="the whole Qwen3 family")
    group = parser.add_argument_group("what for")
    group.add_argument("--context", type=int, metavar="N", help="tokens of prompt and answer together (default: 4096)")
    group.add_argument("--users", type=int, default=1, metavar="N", help="sequences of that length at once (default: 1)")
    group.add_argument(
        "--speed", type=float, default=8.0, metavar="X", help="tokens/s below which a model is not proposed (default: 8)"
    )
    group.add_argument("--quant", nargs="+", choices=QUANTS, help="of shapes: quantisations to look at")
    group.add_argument("--kv-type", choices=tuple(KV_DTYPES), help="number format of the stored keys and values")
    add_weights_option(group)
    group = parser.add_argument_group("another machine")
    group.add_argument("--memory", type=size_bytes, metavar="SIZE", help="its memory, as in 64G (default: what is free here)")
    group.add_argument(
        "--bandwidth", type=rate_bytes, metavar="RATE", help="bytes that it reads a second, as in 50G (default: measured here)"
    )
    group.add_argument(
        "--cores", type=int, metavar="N", help="its cores, each as fast as one here (default: those that this process may use)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace, streams: Streams) -> int:
    """Measure, predict, and print."""
    wish = _read_wish(args)
    named = _named_model(args)  # a wrong name is said before anything is measured
    place = _place(args, streams)
    if named is not None:
        models: Sequence[PlannedModel] = [named]
        wish = _within(wish, named.config.max_context, args)
        same: dict[str, tuple[str, ...]] = {}
    else:
        same = distinct_shapes() if args.model is None else {args.model: ()}
        quants = args.quant or (FAMILY_QUANTS if args.model is None else tuple(QUANTS))
        models = list(shape_candidates(same, quants, kv_type=args.kv_type, form=args.weights))
    outlooks = look_at_all(models, place.machine, place.usable_bytes, wish)
    if args.json:
        streams.stdout.write(json.dumps(_to_json(outlooks, place, wish)) + "\n")
        return 0
    console = streams.console(streams.stdout)
    console.print(_table(outlooks, wish, best(outlooks, wish)))
    lines = [f"memory: {place.memory}", f"rates: {place.rates}"]
    lines += [f"same sizes: {', '.join(others)} as {name}" for name, others in same.items() if others]
    if place.is_busy:
        lines.append(
            "other programs are busy here: the rates are what they leave; plan again when they rest, or give --bandwidth"
        )
    lines.append(advice(outlooks, wish, place.usable_bytes))
    console.print("\n".join(lines), soft_wrap=True)
    return 0


def rate_bytes(text: str) -> float:
    """An argument such as 50G or 50GB/s; units are powers of 1000, as rates are given."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?(/s)?", text.strip(), re.IGNORECASE)
    value = float(found[1]) * 1000 ** " KMGT".index(found[2].upper() or " ") if found else 0.0
    if not value:
        raise argparse.ArgumentTypeError(f"{text!r} is no rate; expected one as in 50G, bytes a second")
    return value


def _read_wish(args: argparse.Namespace) -> Wish:
    """Ends the program with code 2 where options are out of range or contradict each other."""
    if args.all and args.model is not None:
        args.parser.error("give MODEL or --all, not both")
    ranges = (("context", 2, 1 << 24), ("users", 1, MAX_USERS), ("cores", 1, 1024), ("memory", 1 << 20, 1 << 50))
    for option, low, high in ranges:
        value = getattr(args, option)
        if value is not None and not low <= value <= high:
            args.parser.error(f"--{option} is {value}; expected {low} to {high}")
    if not 0 <= args.speed <= 1e6:
        args.parser.error(f"--speed is {args.speed}; expected 0 to 1000000")
    return Wish(context=args.context or 4096, n_users=args.users, least_tokens_per_s=args.speed)


def _named_model(args: argparse.Namespace) -> PlannedModel | None:
    """The file or folder that is named; None for a shape, or for all."""
    if args.model is None or args.model in SHAPES:
        return None
    try:
        path = resolve(args.model, default_store())
    except ModelNotFound as error:
        raise ModelNotFound(f"{error}; or a shape: {', '.join(SHAPES)}") from None
    if args.quant is not None:
        raise BadRequest(f"--quant belongs to shapes, and {args.model} is a file: leave it out", param="quant")
    quant = "as stored" if args.weights == "stored" else args.weights
    name = path.name if os.sep in args.model else args.model
    return PlannedModel.of(open_checkpoint(path), name=name, quant=quant, kv_type=args.kv_type, form=args.weights)


def _within(wish: Wish, max_context: int, args: argparse.Namespace) -> Wish:
    """A context that was not asked for is no longer than the model's."""
    if args.context is not None:
        return wish
    return Wish(context=min(wish.context, max_context), n_users=wish.n_users, least_tokens_per_s=wish.least_tokens_per_s)


def _place(args: argparse.Namespace, streams: Streams) -> _Place:
    n_here, free, load = usable_cores(), available_bytes(), os.getloadavg()[0]
    n_cores = args.cores or n_here
    limits = _measured(streams, n_here)
    machine = Machine(
        read_bytes_per_s=args.bandwidth or limits.read_bytes_per_s, int8_ops_per_s=limits.int8_ops_per_s * n_cores / n_here
    )
    usable = free if args.memory is None else int(args.memory * (1 - _SYSTEM_SHARE))
    memory = f"{size(free)} free here" if args.memory is None else f"{size(usable)} of {size(args.memory)}, 5 % for the system"
    read = f"{machine.read_bytes_per_s / 1e9:.1f} GB/s read ({'as given' if args.bandwidth else 'measured'})"
    cores = f"{n_cores} cores" if n_cores == n_here else f"{n_cores} cores as fast as the {n_here} here"
    products = f"{machine.int8_ops_per_s / 1e12:.2f} TOPS of 8-bit products ({cores})"
    is_busy = load > _BUSY_SHARE * n_here
    return _Place(machine=machine, usable_bytes=usable, memory=memory, rates=f"{read}, {products}", is_busy=is_busy)


def _measured(streams: Streams, n_threads: int) -> Limits:
    """This machine's limits; a line on a terminal says what is waited for."""
    isa = native_ops(streams.isa, 1).isa
    console = streams.console(streams.stderr)
    with console.status("measuring memory and cores") if console.is_terminal else contextlib.nullcontext():
        found = [measure_limits(isa, n_threads) for _ in range(_MEASURINGS)]
    return Limits(
        read_bytes_per_s=max(limits.read_bytes_per_s for limits in found),
        int8_ops_per_s=max(limits.int8_ops_per_s for limits in found),
    )


def _table(outlooks: Sequence[Outlook], wish: Wish, choice: Outlook | None) -> Table:
    """A line a candidate; models of which nothing fits have one line for the smallest."""
    users = "" if wish.n_users == 1 else f" x {wish.n_users} users"
    title = f"contexts of {wish.context:,} tokens{users}; tokens/s expected"
    table = Table(title=title, title_justify="left")
    for heading in ("model", "quant"):
        table.add_column(heading, no_wrap=True)
    for heading in ("bits", "weights", "memory", "fits", "longest", "decode", f"at {wish.context:,}"):
        table.add_column(heading, justify="right", no_wrap=heading != "fits")
    if wish.n_users > 1:
        table.add_column(f"{wish.n_users} users", justify="right")
    table.add_column(f"prefill {PROMPT_TOKENS}", justify="right")
    for index, outlook in enumerate(outlooks):
        if not _is_shown(outlook, outlooks):
            continue
        is_last = index + 1 == len(outlooks) or outlooks[index + 1].model != outlook.model
        table.add_row(*_cells(outlook, wish), style="bold" if outlook is choice else None, end_section=is_last)
    return table


def _is_shown(outlook: Outlook, outlooks: Sequence[Outlook]) -> bool:
    """Of a model whose weights never fit, the smallest alone."""
    of_model = [other for other in outlooks if other.model == outlook.model]
    if any(other.most_context for other in of_model):
        return True
    return outlook is min(of_model, key=lambda other: other.memory_bytes)


def _cells(outlook: Outlook, wish: Wish) -> list[str]:
    if outlook.is_too_long:
        fits = f"takes {outlook.model_context:,} at most"
    else:
        fits = "yes" if outlook.fits else f"{_gib(outlook.missing_bytes)} short"
    cells = [outlook.model, outlook.quant, f"{outlook.bits_per_weight:.2f}", _gib(outlook.weight_bytes)]
    cells += [_gib(outlook.memory_bytes), fits, f"{outlook.most_context:,}" if outlook.most_context else "-"]
    rates = [outlook.decode, outlook.decode_full, *([outlook.decode_users] if wish.n_users > 1 else []), outlook.prefill]
    return cells + [f"{rate:.3g}" if rate < 1000 else f"{rate:,.0f}" for rate in rates]


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.2f} GiB" if n_bytes < 100 << 30 else f"{n_bytes / 2**30:.0f} GiB"


def _to_json(outlooks: Sequence[Outlook], place: _Place, wish: Wish) -> dict[str, object]:
    """Bytes, tokens, and tokens a second."""
    choice = best(outlooks, wish)
    return {
        "context": wish.context,
        "users": wish.n_users,
        "least_tokens_per_s": wish.least_tokens_per_s,
        "usable_bytes": place.usable_bytes,
        "read_bytes_per_s": place.machine.read_bytes_per_s,
        "int8_ops_per_s": place.machine.int8_ops_per_s,
        "is_busy": place.is_busy,
        "prompt_tokens": PROMPT_TOKENS,
        "candidates": [asdict(outlook) | {"fits": outlook.fits} for outlook in outlooks],
        "best": None if choice is None else {"model": choice.model, "quant": choice.quant},
        "advice": advice(outlooks, wish, place.usable_bytes),
    }
