"""`samovar plan`: which models fit this machine or another, and how fast they will be there."""

import argparse
import contextlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from samovar.cli.arguments import Subparsers, add_weights_option, size_bytes
from samovar.cli.plan_table import plan_lines
from samovar.cli.terminal import Streams, printable
from samovar.errors import BadRequest, ModelNotFound
from samovar.formats import open_checkpoint
from samovar.formats.hub import default_store, resolve
from samovar.kernels import KV_DTYPES
from samovar.kernels.cores import usable_cores
from samovar.kernels.native import native_ops
from samovar.llm.memory import available_bytes, size
from samovar.llm.random_model import QUANTS, SHAPES
from samovar.plan.costs import Machine
from samovar.plan.machine import measure_machine
from samovar.plan.names import near_shapes, shape_of
from samovar.plan.outlook import (
    FAMILY_QUANTS,
    MAX_USERS,
    PROMPT_TOKENS,
    SHAPE_QUANTS,
    Outlook,
    Wish,
    advice,
    best,
    distinct_shapes,
    look_at_all,
    shape_candidates,
    yarn_notes,
)
from samovar.plan.planned_model import PlannedModel

_EXAMPLES = """examples:
  samovar plan
  samovar plan qwen3-8b --context 32768 --users 4
  samovar plan qwen3:30b-a3b-q4_k_m
  samovar plan ./Qwen3-4B-Q4_K_M.gguf
  samovar plan --all --memory 64G --bandwidth 50G --cores 16
  samovar plan qwen3-30b-a3b --quant q4_k_m q8_0 --json

Speeds come from the bytes and operations of the engine's own kernels, and from two figures of the machine that are measured in
a second or two: how fast memory is read, and how many 8-bit products the cores form. They hold where nothing else runs.
"""
_SYSTEM_SHARE = 0.05  # of another machine's memory, for its system and what else runs there
_BUSY_SHARE = 0.5  # of the cores, by the system's load: more is other programs' work
_LEAST_RATE, _MOST_RATE = 1e8, 1e14  # bytes a second
_LEAST_MEMORY, _MOST_MEMORY = 16 << 20, 1 << 50
_BUSY = (
    "other programs are busy here: speeds are those of a machine where nothing else runs (the time that others took of the "
    "cores is counted out, what they read of memory is not), and less certain; while they run, expect less"
)


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
    what = (
        f"a GGUF file, a folder, a name in the store or of the family (qwen3:0.6b), or a shape: {', '.join(SHAPES)} (or --all)"
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help=what)
    parser.add_argument("--all", action="store_true", help="the whole Qwen3 family")
    group = parser.add_argument_group("what for")
    group.add_argument("--context", type=int, metavar="N", help="tokens of prompt and answer together (default: 4096)")
    group.add_argument("--users", type=int, default=1, metavar="N", help="sequences of that length at once (default: 1)")
    group.add_argument(
        "--speed", type=float, default=8.0, metavar="X", help="tokens/s below which a model is not proposed (default: 8)"
    )
    group.add_argument(
        "--quant",
        nargs="+",
        choices=QUANTS,
        metavar="TYPE",
        help=f"of shapes: quantisations to look at: {', '.join(QUANTS)}",
    )
    group.add_argument("--kv-type", choices=tuple(KV_DTYPES), help="number format of the stored keys and values")
    add_weights_option(group)
    group = parser.add_argument_group("another machine")
    group.add_argument("--memory", type=memory_bytes, metavar="SIZE", help="its memory, as in 64G (default: what is free here)")
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
    same: dict[str, tuple[str, ...]] = {}
    if isinstance(named, PlannedModel):
        models: Sequence[PlannedModel] = [named]
        wish = _within(wish, named.config.max_context, args)
    else:
        same = distinct_shapes(wish.context) if named is None else {named[0]: ()}
        quants = args.quant or (FAMILY_QUANTS if named is None else SHAPE_QUANTS if named[1] is None else (named[1],))
        models = list(shape_candidates(same, quants, kv_type=args.kv_type, form=args.weights))
    place = _place(args, streams, sorted({kernel for model in models for kernel in model.kernels}))
    outlooks = look_at_all(models, place.machine, place.usable_bytes, wish)
    if args.json:
        streams.stdout.write(json.dumps(_to_json(outlooks, place, wish)) + "\n")
        return 0
    _print(outlooks, place, wish, same, streams)
    return 0


def rate_bytes(text: str) -> float:
    """An argument such as 50G or 50GB/s; units are powers of 1000, as rates are given."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?(/s)?", text.strip(), re.IGNORECASE)
    value = float(found[1]) * 1000 ** " KMGT".index(found[2].upper() or " ") if found else 0.0
    if found is None or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is no rate; expected one as in 50G, bytes a second")
    if not _LEAST_RATE <= value <= _MOST_RATE:
        raise argparse.ArgumentTypeError(f"{text!r} is {value:g} bytes a second, which no memory reads; {_instead(found[1])}")
    return value


def memory_bytes(text: str) -> int:
    """An argument such as 64G."""
    value = size_bytes(text)
    if not _LEAST_MEMORY <= value <= _MOST_MEMORY:
        number = re.match(r"[\d.]+", text.strip())
        raise argparse.ArgumentTypeError(
            f"{text!r} is {value} bytes, which no machine has; {_instead(number[0] if number else '')}"
        )
    return value


def _instead(number: str) -> str:
    """What may have been meant by a number with a unit that makes no sense."""
    return f"did you mean {number}G?" if 0.1 <= float(number or 0) <= 1e5 else "expected one as in 50G"


def _read_wish(args: argparse.Namespace) -> Wish:
    """Ends the program with code 2 where options are out of range or contradict each other."""
    if args.all and args.model is not None:
        args.parser.error("give MODEL or --all, not both")
    ranges = (("context", 2, 1 << 24), ("users", 1, MAX_USERS), ("cores", 1, 1024))
    for option, low, high in ranges:
        value = getattr(args, option)
        if value is not None and not low <= value <= high:
            args.parser.error(f"--{option} is {value}; expected {low} to {high}")
    if not 0 <= args.speed <= 1e6:
        args.parser.error(f"--speed is {args.speed}; expected 0 to 1000000")
    return Wish(context=args.context or 4096, n_users=args.users, least_tokens_per_s=args.speed)


def _named_model(args: argparse.Namespace) -> PlannedModel | tuple[str, str | None] | None:
    """The file or folder that is named, else a shape and the quantisation that its name has, if any; None for all.

    A name of the family is what the store holds of it; where it holds nothing, or --quant is given, the shape.
    """
    name = args.model
    if name is None or name in SHAPES:
        return None if name is None else (name, None)
    try:
        path = resolve(name, default_store())
    except ModelNotFound as error:
        if (shape := shape_of(name)) is None:
            near = near_shapes(name)
            raise ModelNotFound(
                f"{error}; or a shape, {'near this one' if near else 'as in'}: {', '.join(near or ('qwen3-4b',))}"
            ) from None
    else:
        if args.quant is None:
            return _planned_file(path, args)
        shape = None if os.sep in name else shape_of(name)
        if shape is None:
            raise BadRequest(f"--quant belongs to shapes, and {name} is a file: leave it out", param="quant")
    if args.quant is not None and shape[1] is not None:
        args.parser.error(f"{name} names a quantisation already: leave out --quant, or give {shape[0]}")
    return shape


def _planned_file(path: Path, args: argparse.Namespace) -> PlannedModel:
    quant = "as stored" if args.weights == "stored" else args.weights
    name = path.name if os.sep in args.model else args.model
    return PlannedModel.of(open_checkpoint(path), name=name, quant=quant, kv_type=args.kv_type, form=args.weights)


def _within(wish: Wish, max_context: int, args: argparse.Namespace) -> Wish:
    """A context that was not asked for is no longer than the model's."""
    if args.context is not None:
        return wish
    return Wish(context=min(wish.context, max_context), n_users=wish.n_users, least_tokens_per_s=wish.least_tokens_per_s)


def _place(args: argparse.Namespace, streams: Streams, kernels: Sequence[str]) -> _Place:
    n_here, free, load = usable_cores(), available_bytes(), os.getloadavg()[0]
    n_cores = args.cores or n_here
    here = _measured(streams, n_here, kernels)
    read = args.bandwidth or here.read_bytes_per_s
    machine = replace(here, read_bytes_per_s=read, int8_ops_per_s=here.int8_ops_per_s * n_cores / n_here)
    usable = free if args.memory is None else int(args.memory * (1 - _SYSTEM_SHARE))
    memory = f"{size(free)} free here" if args.memory is None else f"{size(usable)} of {size(args.memory)}, 5 % for the system"
    rate = f"{read / 1e9:.1f} GB/s read ({'as given' if args.bandwidth else 'measured'})"
    cores = f"{n_cores} cores" if n_cores == n_here else f"{n_cores} cores as fast as the {n_here} here"
    products = f"{machine.int8_ops_per_s / 1e12:.2f} TOPS of 8-bit products ({cores})"
    is_busy = load > _BUSY_SHARE * n_here
    return _Place(machine=machine, usable_bytes=usable, memory=memory, rates=f"{rate}, {products}", is_busy=is_busy)


def _measured(streams: Streams, n_threads: int, kernels: Sequence[str]) -> Machine:
    """This machine; a line on a terminal says what is waited for."""
    isa = native_ops(streams.isa, 1).isa
    console = streams.console(streams.stderr)
    with console.status("measuring memory and cores") if console.is_terminal else contextlib.nullcontext():
        return measure_machine(isa, n_threads, kernels)


def _print(outlooks: Sequence[Outlook], place: _Place, wish: Wish, same: Mapping[str, Sequence[str]], streams: Streams) -> None:
    """The table, and what is to be known beside it; as wide as it takes into a pipe."""
    console, is_terminal = streams.console(streams.stdout), streams.stdout.isatty()
    users = "" if wish.n_users == 1 else f" for each of {wish.n_users} users"
    console.print(
        f"contexts of {wish.context:,} tokens{users}; decode and prompt in tokens/s", end="\n\n", soft_wrap=not is_terminal
    )
    choice = best(outlooks, wish)
    for line, outlook in plan_lines(outlooks, wish, console.width if is_terminal else None):
        console.print(line, style="bold" if outlook is not None and outlook is choice else None, soft_wrap=True)
    lines = ["", f"memory: {place.memory}", f"rates: {place.rates}"]
    lines += [f"same sizes: {', '.join(others)} as {name}" for name, others in same.items() if others]
    lines += yarn_notes(outlooks, wish)
    lines += [_BUSY] if place.is_busy else []
    lines.append(advice(outlooks, wish, place.usable_bytes))
    console.print(printable("\n".join(lines)), soft_wrap=not is_terminal)


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
