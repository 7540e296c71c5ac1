"""`samovar convert`: a model between GGUF and a Hugging Face folder, without a change of value."""

import argparse
from pathlib import Path

from samovar.cli.arguments import Subparsers
from samovar.cli.progress import ProgressBar
from samovar.cli.terminal import Streams, one_line
from samovar.errors import BadRequest
from samovar.formats import open_checkpoint
from samovar.formats.gguf import GgufCheckpoint
from samovar.formats.hub import default_store, resolve

_EXAMPLES = """examples:
  samovar convert ./Qwen3-0.6B qwen3-0.6b.gguf     safetensors to GGUF: BF16 stays BF16
  samovar convert qwen3-0.6b.gguf ./folder         GGUF to safetensors, config, tokenizer and template

Quantised weights become float32, which holds each of their values and takes 4 to 8 times the space; `samovar quantize` writes
smaller files. GGUF holds 1 + the weights of centred norms (Gemma, Qwen3-Next), and -exp(A_log) of delta nets, in float32: the
values that this rounds are kept in the metadata, and come back to the bit. A run that was stopped goes on when the command is
given again: where it was in a GGUF file, after the last shard that was whole (4 GiB) in a folder.
"""


def add_parser(subparsers: Subparsers) -> None:
    """The command's arguments."""
    parser = subparsers.add_parser(
        "convert", help="bring a model into the other file format, lossless", description=__doc__, epilog=_EXAMPLES
    )
    parser.add_argument("source", metavar="SRC", help="a GGUF file, a Hugging Face folder, or a name in the store")
    parser.add_argument("target", metavar="DST", type=Path, help="the folder to write, or the file: NAME.gguf")
    parser.add_argument("--force", action="store_true", help="replace the file DST if it is there; folders are never replaced")
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace, streams: Streams) -> int:
    """Convert, and print the path on stdout."""
    # Imported where it is needed: start-up waits for imports, and no other command needs these.
    from samovar.convert import to_folder
    from samovar.convert.to_gguf import write_gguf_file
    from samovar.formats import part_file
    from samovar.llm.setup import choose_ops

    checkpoint = open_checkpoint(resolve(args.source, default_store()))
    is_to_gguf = args.target.suffix == ".gguf"
    if is_to_gguf == isinstance(checkpoint, GgufCheckpoint):
        found, expected = ("GGUF file", "a folder") if is_to_gguf else ("folder", "a file with a name that ends in .gguf")
        raise BadRequest(f"{args.target}: the source is a {found} already; expected {expected} to write", param="target")
    warnings: tuple[str, ...] = ()
    try:
        with ProgressBar(streams, "converting") as progress:
            if isinstance(checkpoint, GgufCheckpoint):
                warnings = to_folder.write_folder(checkpoint, args.target, progress)
            else:
                ops = choose_ops(streams.isa, None)[0]
                warnings = write_gguf_file(checkpoint, args.target, ops, progress, replace=args.force)
    except KeyboardInterrupt:
        is_begun = part_file.is_begun(args.target) if is_to_gguf else to_folder.is_begun(args.target)
        streams.note_interrupted(is_begun=is_begun)
        raise
    for warning in warnings:
        streams.note(f"warning: {warning}")
    print(one_line(str(args.target)), file=streams.stdout)
    return 0
