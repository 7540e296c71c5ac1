"""`samovar cache`: what is kept on disk so that models start at once."""

import argparse
import time
from pathlib import Path

from samovar.cli.arguments import Subparsers
from samovar.cli.terminal import Streams, one_line
from samovar.errors import ModelNotFound, SamovarError
from samovar.formats.cache import CacheEntry, CacheStore
from samovar.formats.hub import default_cache, default_store, resolve

_EXAMPLES = """examples:
  samovar cache                        what is in the cache, how large, and when it was last used
  samovar cache clear smollm2:135m     delete what was made of one model
  samovar cache clear --all            delete everything

The cache is made again when it is needed. It lies in $SAMOVAR_HOME/cache, or in the platform's data folder. A file is
unfinished where the program was killed while it wrote it; the next file written takes it away.
"""


def add_parser(subparsers: Subparsers) -> None:
    """The command's arguments."""
    parser = subparsers.add_parser("cache", help="list or clear packed weights", description=__doc__, epilog=_EXAMPLES)
    parser.add_argument("action", nargs="?", choices=("list", "clear"), default="list", help="what to do (default: list)")
    parser.add_argument("model", nargs="?", metavar="NAME", help="with clear: a model, by its name or path")
    parser.add_argument("--all", action="store_true", help="with clear: everything")
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace, streams: Streams) -> int:
    """List or clear."""
    if args.action == "list":
        if args.model is not None or args.all:
            args.parser.error("a model and --all belong to clear: samovar cache clear ...")
        _print_entries(streams)
    elif args.all == (args.model is not None):
        args.parser.error("clear what? give a model, or --all")
    else:
        store = default_cache()
        entries = store.entries() if args.all else _entries_of(args.model, store)
        freed = sum(map(store.remove, entries))
        print(f"{freed / 2**20:.1f} MiB freed", file=streams.stdout)
        if n_written := sum(entry.state == "being written" for entry in entries):
            streams.note(f"{n_written} file{'s' if n_written > 1 else ''} being written by a running samovar stayed")
    return 0


def _print_entries(streams: Streams) -> None:
    store = default_cache()
    entries = sorted(store.entries(), key=lambda entry: -entry.used_s)
    for entry in entries:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used_s))
        kind = entry.state if entry.state != "finished" else entry.header.kind if entry.header else "unusable"
        print(f"{entry.size_bytes / 2**20:9.1f} MiB  {kind:13}  {used}  {one_line(_source(entry))}", file=streams.stdout)
    total = sum(entry.size_bytes for entry in entries)
    print(f"{total / 2**20:9.1f} MiB in {len(entries)} files in {one_line(str(store.folder))}", file=streams.stdout)


def _source(entry: CacheEntry) -> str:
    """The model that an entry was made of."""
    return str(entry.header.meta.get("source", "")) if entry.header else entry.path.name


def _entries_of(name: str, store: CacheStore) -> list[CacheEntry]:
    """What was made of a model, which may be gone itself. Raises ModelNotFound where there is nothing."""
    try:
        path = resolve(name, default_store())
    except SamovarError:
        path = Path(name)
    if not (found := entries_made_of(path, store)):
        raise ModelNotFound(f"{name}: nothing of this model is in the cache (see: samovar cache)")
    return found


def entries_made_of(path: Path, store: CacheStore) -> list[CacheEntry]:
    """What was made of the model at `path`, a file, or of those in it."""
    sources = {str(path.absolute()), str(path.resolve())}
    return [entry for entry in store.entries() if (source := _source(entry)) in sources or str(Path(source).parent) in sources]
