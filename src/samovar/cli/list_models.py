"""`samovar list`: the models in the store."""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

from samovar.cli.arguments import Subparsers
from samovar.cli.table import size_text, table
from samovar.cli.terminal import Streams, one_line
from samovar.errors import SamovarError, UnsupportedModel
from samovar.formats import open_checkpoint
from samovar.formats.gguf import GgufCheckpoint
from samovar.formats.hub import default_cache, default_store
from samovar.formats.stored_models import StoredModel, catalogue_licence, stored_models
from samovar.llm.model_card import quantization_of

_EXAMPLES = """examples:
  samovar list             what is on this machine
  samovar list --json      the same for scripts: sizes in bytes
  samovar list --known     names that samovar pull knows by heart
"""


def add_parser(subparsers: Subparsers) -> None:
    """The command's arguments."""
    parser = subparsers.add_parser("list", help="list the models in the store", description=__doc__, epilog=_EXAMPLES)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--known", action="store_true", help="list the names that can be pulled instead")
    parser.set_defaults(run=run, parser=parser)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """A model as it is listed. `type` is None where its headers cannot be read."""

    name: str
    names: tuple[str, ...]
    size_bytes: int
    type: str | None
    licence: str | None
    source: str | None
    pulled_at: str
    path: str


def run(args: argparse.Namespace, streams: Streams) -> int:
    """Print the list."""
    if args.known:
        return _print_known(args, streams)
    store = default_store()
    rows = [_row(model) for model in stored_models(store)]
    if args.json:
        print(
            json.dumps({"models": [{name: getattr(row, name) for name in _Row.__slots__} for row in rows]}), file=streams.stdout
        )
    elif rows:
        header = ("NAME", "SIZE", "TYPE", "LICENCE", "PULLED", "PATH")
        cells = [
            (row.name, size_text(row.size_bytes), row.type or "damaged", row.licence or "-", row.pulled_at[:10], row.path)
            for row in rows
        ]
        lines = table([header, *(tuple(map(one_line, row)) for row in cells)], flush_left=(0, 2, 3, 4, 5))
        print(lines, file=streams.stdout)
    else:
        streams.note("there are no models in the store; get one with: samovar pull qwen3:0.6b")
    if n_bytes := sum(path.stat().st_size for path in unfinished(store)):
        streams.note(f"unfinished pulls hold {size_text(n_bytes)}; go on with samovar pull, or: samovar rm --unfinished")
    return 0


def unfinished(store: Path) -> list[Path]:
    """The files of pulls that broke off, and of those under way."""
    return [path for path in (store / "tmp").rglob("*") if path.is_file() and path.suffix != ".lock"]


def _row(model: StoredModel) -> _Row:
    kind, licence = None, model.record.licence if model.record else catalogue_licence(model.path)
    try:
        checkpoint = open_checkpoint(model.model_path, default_cache())
        kind = quantization_of(checkpoint)
        if licence is None and isinstance(checkpoint, GgufCheckpoint):
            stated = checkpoint.metadata.get("general.license")
            licence = stated if isinstance(stated, str) else None
    except UnsupportedModel:
        kind = "unsupported"
    except SamovarError:  # whoever opens it is told what is wrong with it
        pass
    came = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(model.changed_s))
    return _Row(
        name=model.name,
        names=model.record.names if model.record else (model.name,),
        size_bytes=model.size_bytes,
        type=kind,
        licence=licence,
        source=model.record.origin if model.record else None,
        pulled_at=model.record.pulled_at if model.record else came,
        path=str(model.model_path),
    )


def _print_known(args: argparse.Namespace, streams: Streams) -> int:
    from samovar.formats.catalogue import CATALOGUE
    from samovar.formats.family import FAMILY

    rows = [(name, "package index") for name in CATALOGUE]
    rows += [(name, f"{entry.repo}{f':{entry.quantisation}' if entry.quantisation else ''}") for name, entry in FAMILY.items()]
    if args.json:
        print(json.dumps({"known": [{"name": name, "source": source} for name, source in rows]}), file=streams.stdout)
    else:
        print(table([("NAME", "SOURCE"), *rows], flush_left=(0, 1)), file=streams.stdout)
    return 0
