"""`samovar quantize`: write a model as a GGUF file of smaller types."""

import argparse
import codecs
import json
from collections import Counter
from pathlib import Path

from samovar.cli.arguments import Subparsers, check_ranges
from samovar.cli.progress import ProgressBar, TokenBar
from samovar.cli.terminal import Streams, one_line
from samovar.convert.calibrate import calibrate
from samovar.convert.imatrix_file import read_imatrix
from samovar.convert.importance import Importance
from samovar.convert.quantise import QuantiseResult, quantise_model
from samovar.convert.type_mix import MIXES, Mix
from samovar.errors import BadRequest
from samovar.formats.hub import default_store, resolve
from samovar.formats.mapped_file import unreadable
from samovar.formats.part_file import is_begun
from samovar.kernels import Ops
from samovar.llm.setup import MAX_THREADS, choose_ops
from samovar.tensors.dtypes import F32

_EXAMPLES = """examples:
  samovar quantize ./Qwen3-4B ./qwen3-4b-q4_k.gguf --type q4_k
  samovar quantize ./Qwen3-4B ./qwen3-4b-q4_k.gguf --type q4_k --calibrate articles.txt
  samovar quantize big.gguf small.gguf --type q4_0 --imatrix big.imatrix.gguf

types, with the bits of a weight in the matrices of the layers:
  q8_0    8.5   all matrices Q8_0
  q6_k    6.6   all matrices Q6_K
  q5_k    5.5   as llama.cpp's Q5_K_M: some attn_v and ffn_down Q6_K
  q4_k    4.5   as llama.cpp's Q4_K_M: some attn_v and ffn_down Q6_K
  q4_0    4.5   all matrices Q4_0; with calibration ffn_down Q4_1 (5 bits) in the first eighth of the layers
  samovar-int4  4.25  Samovar's own int4, which other programs refuse by its name
  iq4_nl  4.5   16 uneven steps; attn_v Q5_K where 4 query heads or more share a key head

Beside types below Q8_0 the output head, and an embedding that is tied to it, take Q6_K. Norms, biases and the routers of
experts stay in F32. Rows that 256 does not divide take a finer type of blocks of 32: Q4_K becomes Q5_0, Q5_K Q5_1, Q6_K Q8_0.
An embedding that is not tied takes Q4_0 in files of samovar-int4. A tensor that already has its type is copied.


--calibrate loads the model into memory. Without it, a model of any size takes less than 2 GiB. A run that was stopped goes on
where it was when the command is given again.
"""
_TEXT_BYTES = 64 << 20


def add_parser(subparsers: Subparsers) -> None:
    """The command's arguments."""
    parser = subparsers.add_parser(
        "quantize", help="write a model as a smaller GGUF file", description=__doc__, epilog=_EXAMPLES
    )
    parser.add_argument("source", metavar="SRC", help="a GGUF file, a Hugging Face folder, or a name in the store")
    parser.add_argument("target", metavar="DST", type=Path, help="the GGUF file to write: NAME.gguf")
    parser.add_argument(
        "--type", required=True, type=str.lower, choices=list(MIXES), help="what the layers' matrices become, see below"
    )
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--calibrate", metavar="FILE", type=Path, help="text to measure on which weights count most")
    weights.add_argument("--imatrix", metavar="FILE", type=Path, help="the same from a file of llama-imatrix, .gguf or .dat")
    parser.add_argument(
        "--calibrate-tokens", metavar="N", type=int, default=1 << 15, help="most tokens of the text (default 32768)"
    )
    parser.add_argument("--threads", metavar="N", type=int, help="threads (default: all cores)")
    parser.add_argument("--force", action="store_true", help="replace DST if it is there")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace, streams: Streams) -> int:
    """Write the file, and print what became of the tensors."""
    check_ranges(args, {"threads": (1, MAX_THREADS), "calibrate_tokens": (1, 1 << 30)})
    if args.target.suffix != ".gguf":
        raise BadRequest(f"{args.target}: expected a file with a name that ends in .gguf", param="target")
    source = resolve(args.source, default_store())
    ops, slow_reason = choose_ops(streams.isa, args.threads)
    if slow_reason:
        streams.note(f"warning: {slow_reason}")
    try:
        importance = _importance(args, source, ops, streams)
    except KeyboardInterrupt:
        streams.note("interrupted; calibration starts anew when the command is given again")
        raise
    try:
        with ProgressBar(streams, "quantising") as progress:
            result = quantise_model(
                source, args.target, MIXES[args.type], ops, importance=importance, replace=args.force, progress=progress
            )
    except KeyboardInterrupt:
        streams.note_interrupted(is_begun=is_begun(args.target))
        raise
    for warning in result.warnings:
        streams.note(f"warning: {warning}")
    if args.json:
        print(json.dumps(_as_json(result)), file=streams.stdout)
    else:
        _print(result, MIXES[args.type], streams)
    return 0


def _importance(args: argparse.Namespace, source: Path, ops: Ops, streams: Streams) -> Importance | None:
    if args.imatrix is not None:
        return read_imatrix(args.imatrix)
    if args.calibrate is None:
        return None
    text = _read_text(args.calibrate)
    what = f"calibrating on {args.calibrate.name[-24:]}"
    with TokenBar(streams) as bar:
        return calibrate(
            source, text, ops, origin=str(args.calibrate), max_tokens=args.calibrate_tokens,
            progress=lambda done, total, _what: bar(done, total, what),
        )  # fmt: skip


def _read_text(path: Path) -> str:
    """The text, up to a bound, which may be inside a character. Raises BadRequest where it is none."""
    try:
        with path.open("rb") as file:
            data = file.read(_TEXT_BYTES)
            is_whole = not file.read(1)
    except OSError as error:
        raise unreadable(path, error) from None
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(data, final=is_whole)
    except UnicodeDecodeError as error:
        raise BadRequest(
            f"{path}: not UTF-8 text (at byte {error.start}); give a text to calibrate on", param="calibrate"
        ) from None


def _print(result: QuantiseResult, mix: Mix, streams: Streams) -> None:
    """A line for each type, for matrices with another type than most, by the mix or by their rows, and for the file."""
    by_type = Counter(tensor.type for tensor in result.tensors)
    for type_, n_tensors in by_type.most_common():
        same = [tensor for tensor in result.tensors if tensor.type == type_]
        lost, power = sum(t.error for t in same), sum(t.power for t in same)
        error = f", relative error {100 * (lost / power) ** 0.5:.3f} %" if power else ""
        size = sum(tensor.size_bytes for tensor in same)
        print(f"{type_.name:7} {n_tensors:5} tensors {size / 1e6:10,.1f} MB{error}", file=streams.stdout)
    by_mix = [t for t in result.tensors if t.wanted == t.type and t.type not in (mix.plain, F32)]
    others = Counter((t.name.split(".")[-2], t.type.name) for t in by_mix)
    if others:
        listed = ", ".join(f"{part} {type_name} ({n_tensors})" for (part, type_name), n_tensors in others.items())
        print(f"{mix.name} has these tensors in other types: {listed}", file=streams.stdout)
    for (wanted, type_), n_tensors in Counter((t.wanted, t.type) for t in result.tensors if t.wanted != t.type).items():
        same = [t for t in result.tensors if (t.wanted, t.type) == (wanted, type_)]
        parts = ", ".join(dict.fromkeys(t.name.split(".")[-2] for t in same))
        print(
            f"{n_tensors} tensors are {type_.name} instead of {wanted.name}, whose blocks of {wanted.block_elements} values "
            f"do not divide their rows: {one_line(parts)}",
            file=streams.stdout,
        )
    print(
        f"{one_line(str(result.path))}: {result.size_bytes / 1e6:,.1f} MB, {result.bits_per_weight:.2f} bits a weight",
        file=streams.stdout,
    )


def _as_json(result: QuantiseResult) -> dict[str, object]:
    return {
        "path": str(result.path),
        "size_bytes": result.size_bytes,
        "bits_per_weight": result.bits_per_weight,
        "tensors": [
            {
                "name": t.name,
                "source_type": t.source_type,
                "type": t.type.name,
                "wanted_type": t.wanted.name,
                "size_bytes": t.size_bytes,
                "relative_error": t.relative_error,
            }
            for t in result.tensors
        ],
    }
