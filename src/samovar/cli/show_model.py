"""`samovar show`: what a model is, where it came from, and how it wants to be used. Reads headers only."""

import argparse
import json
from collections.abc import Mapping

import msgspec

from samovar.cli.arguments import Subparsers
from samovar.cli.model_summary import ModelSummary, summarise, to_json
from samovar.cli.table import size_text
from samovar.cli.terminal import Streams, one_line, printable
from samovar.errors import SamovarError
from samovar.formats import Checkpoint, open_checkpoint
from samovar.formats.gguf import GgufCheckpoint
from samovar.formats.hub import default_cache, default_store, resolve
from samovar.formats.pull_record import PullRecord, read_record
from samovar.formats.stored_models import catalogue_licence
from samovar.llm.model_card import quantization_of, read_card
from samovar.llm.model_text import read_model_text

_EXAMPLES = """examples:
  samovar show qwen3:0.6b
  samovar show qwen3:0.6b --json
  samovar show qwen3:0.6b --template > template.jinja

All tensors, and the memory that contexts take: samovar inspect
"""


def add_parser(subparsers: Subparsers) -> None:
    """The command's arguments."""
    parser = subparsers.add_parser("show", help="show a model's source and defaults", description=__doc__, epilog=_EXAMPLES)
    parser.add_argument("model", metavar="NAME", help="a name that samovar list shows, or a path")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object")
    form.add_argument("--template", action="store_true", help="print the chat template alone")
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace, streams: Streams) -> int:
    """Print what is known."""
    path = resolve(args.model, default_store())
    checkpoint = open_checkpoint(path, default_cache())
    summary = summarise(checkpoint)
    if args.template:
        streams.write_text((summary.template or "").rstrip("\n") + "\n" if summary.template else "")
        return 0
    record = read_record(path) or read_record(path.parent)
    sampling, kind, licence = _sampling(checkpoint, summary), quantization_of(checkpoint), _licence(checkpoint, record)
    if args.json:
        report = to_json(summary) | {"quantisation": kind, "licence": licence, "sampling": sampling}
        print(json.dumps(report | {"record": msgspec.to_builtins(record)}), file=streams.stdout)
    else:
        rows = [*_rows(summary, kind, licence, sampling), *_source_rows(record)]
        print("\n".join(f"{label:14} {one_line(value)}".rstrip() for label, value in rows), file=streams.stdout)
        for line in printable(summary.template or "").splitlines():
            print(f"  | {line}", file=streams.stdout)
    return 0


def _rows(summary: ModelSummary, kind: str, licence: str | None, sampling: Mapping[str, float] | None) -> list[tuple[str, str]]:
    config = summary.config
    shown = "not known, since this version cannot run the model"
    if sampling is not None:
        shown = ", ".join(f"{name} {value:g}" for name, value in sampling.items()) or "none of its own"
    return [
        ("model", summary.name or summary.path.name),
        ("path", str(summary.path)),
        ("architecture", summary.architecture),
        ("runs here", "yes" if summary.refusal is None else f"no: {summary.refusal}"),
        ("parameters", f"{summary.n_parameters / 1e6:,.1f} million"),
        ("quantisation", f"{kind}, {8 * _weights_bytes(summary) / max(1, summary.n_parameters):.2f} bits per weight"),
        ("size", size_text(summary.size_bytes)),
        ("context", f"{config.max_context:,} tokens" if config is not None else "not known"),
        ("licence", licence or "not stated"),
        ("sampling", shown),
        ("template", f"{len(summary.template):,} characters" if summary.template else "none"),
    ]


def _source_rows(record: PullRecord | None) -> list[tuple[str, str]]:
    """Where it came from, and its hashes."""
    if record is None:
        return [("source", "not recorded")]
    rows = [
        ("source", record.origin),
        ("revision", record.revision or "none"),
        ("pulled", record.pulled_at),
        ("names", ", ".join(record.names)),
    ]
    checked = {
        "sha256": "as the source states",
        "git-sha1": "git's hash as the source states",
        "size": "not stated by the source",
    }
    return rows + [("sha256", f"{file.sha256}  {file.path} ({checked[file.checked]})") for file in record.files]


def _weights_bytes(summary: ModelSummary) -> int:
    return sum(share.size_bytes for share in summary.types)


def _licence(checkpoint: Checkpoint, record: PullRecord | None) -> str | None:
    """The licence as the source states it, else as the file does."""
    if record is not None and record.licence is not None:
        return record.licence
    if (known := catalogue_licence(checkpoint.path)) is not None:
        return known
    stated = checkpoint.metadata.get("general.license") if isinstance(checkpoint, GgufCheckpoint) else None
    return stated if isinstance(stated, str) else None


def _sampling(checkpoint: Checkpoint, summary: ModelSummary) -> Mapping[str, float] | None:
    """The sampling values where a request gives none; None where the model cannot be run."""
    if summary.config is None:
        return None
    try:
        return dict(read_card(checkpoint, summary.config, read_model_text(checkpoint, default_cache())).sampling)
    except SamovarError:  # whoever runs it is told what is wrong with it
        return None
