"""`samovar convert`: a GGUF file to a Hugging Face folder, without a change of value."""

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
  samovar convert model.gguf ./model           a folder with safetensors, config, tokenizer and template

Quantised weights become float32, which holds each of their values and takes 4 to 8 times the space.
"""


def add_parser(subparsers: Subparsers) -> None:
    """The command's arguments."""
    parser = subparsers.add_parser(
        "convert", help="bring a model into another file format, lossless", description=__doc__, epilog=_EXAMPLES
    )
    parser.add_argument("source", metavar="SRC", help="a GGUF file, or a name in the store")
    parser.add_argument("target", metavar="DST", type=Path, help="the folder to write")
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace, streams: Streams) -> int:
    """Convert, and print the path on stdout."""
    # Imported where it is needed: start-up waits for imports, and no other command needs these.
    from samovar.convert.to_folder import write_folder

    checkpoint = open_checkpoint(resolve(args.source, default_store()))
    if not isinstance(checkpoint, GgufCheckpoint):
        raise BadRequest(f"{args.source}: a folder already", param="source")
    with ProgressBar(streams, "converting") as progress:
        write_folder(checkpoint, args.target, progress)
    print(one_line(str(args.target)), file=streams.stdout)
    return 0
