"""`samovar rm`: remove a model from the store, with what the cache keeps of it."""

import argparse
import shutil
from contextlib import suppress

from samovar.cli.arguments import Subparsers
from samovar.cli.cache import entries_made_of
from samovar.cli.table import size_text
from samovar.cli.terminal import Streams, one_line
from samovar.errors import BadRequest, ModelNotFound, StoreError
from samovar.formats.hub import default_cache, default_store
from samovar.formats.pull_lock import pull_lock
from samovar.formats.stored_models import StoredModel, find_repository, find_stored, remove_stored

_EXAMPLES = """examples:
  samovar rm qwen3:0.6b          asks first
  samovar rm qwen3:0.6b --yes    does not
  samovar rm --unfinished        what pulls that broke off have left
"""


class _Busy(Exception):
    """Another process holds the lock."""


def add_parser(subparsers: Subparsers) -> None:
    """The command's arguments."""
    parser = subparsers.add_parser("rm", help="remove a model from the store", description=__doc__, epilog=_EXAMPLES)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a name that samovar list shows")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--unfinished", action="store_true", help="remove what unfinished pulls have left")
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace, streams: Streams) -> int:
    """Remove, and say how much is free again."""
    if not args.names and not args.unfinished:
        args.parser.error("remove what? give the name of a model, or --unfinished")
    models = [_found(name) for name in args.names]
    for name, model in zip(args.names, models, strict=True):
        _tell_other_names(name, model, streams)
    if models and not args.yes and not _agrees(models, streams):
        streams.note("nothing was removed")
        return 1
    try:
        n_bytes = sum(map(_removed, models)) + (_drop_unfinished(streams) if args.unfinished else 0)
    except OSError as error:
        raise StoreError(
            f"{error.filename}: {error.strerror}; check who owns it, and whether the disk can be written"
        ) from None
    print(f"{size_text(n_bytes)} freed", file=streams.stdout)
    return 0


def _found(name: str) -> StoredModel:
    store = default_store()
    found = find_stored(name, store) or find_repository(name, store)
    if found is None:
        raise ModelNotFound(f"{name}: no model of that name is in the store (see: samovar list)")
    return found


def _tell_other_names(name: str, model: StoredModel, streams: Streams) -> None:
    """Say which further names a model has."""
    others = [own for own in (model.record.names if model.record else ()) if own.lower() != name.lower()]
    if others:
        streams.note(f"{name} is also called {', '.join(others)}: those names go with it")


def _agrees(models: list[StoredModel], streams: Streams) -> bool:
    """Ask at a terminal. Raises BadRequest where nobody is there to answer."""
    if streams.stdin is None or not (streams.stdin.isatty() and streams.stderr.isatty()):
        raise BadRequest("nobody is there to be asked; to remove it all the same, give --yes")
    for model in models:
        streams.note(f"{model.name}: {size_text(model.size_bytes)} in {model.path}")
    print("remove? [y/N] ", end="", file=streams.stderr, flush=True)
    return streams.stdin.readline().strip().lower() in ("y", "yes")


def _removed(model: StoredModel) -> int:
    """Remove a model and what was made of it; returns the bytes."""
    cache = default_cache()
    entries = entries_made_of(model.path, cache)
    return remove_stored(model) + sum(map(cache.remove, entries))


def _drop_unfinished(streams: Streams) -> int:
    """Remove the working folders of pulls that no process is busy with; returns the bytes."""
    n_bytes = 0
    tmp = default_store() / "tmp"

    def is_held() -> None:
        raise _Busy

    for folder in sorted(path for path in tmp.iterdir() if path.is_dir() and not path.is_symlink()) if tmp.is_dir() else ():
        try:
            with pull_lock(tmp / f"{folder.name}.lock", is_held):
                n_bytes += sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
                shutil.rmtree(folder)
        except _Busy:
            streams.note(f"{one_line(folder.name)} is being pulled by another process, and stays")
    for lock in sorted(tmp.glob("*.lock")):
        with suppress(_Busy), pull_lock(lock, is_held):
            lock.unlink()
    return n_bytes
