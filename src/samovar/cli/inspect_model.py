"""`samovar inspect`: what is in a model file or folder. Reads headers only."""

import argparse
import json

from samovar.cli.arguments import Subparsers
from samovar.cli.model_summary import ModelSummary, summarise, to_json
from samovar.cli.table import table
from samovar.cli.terminal import Streams, one_line
from samovar.formats import open_checkpoint
from samovar.formats.hub import default_store, resolve
from samovar.models.config import DecoderConfig

_EXAMPLES = """examples:
  samovar inspect model.gguf
  samovar inspect qwen2.5-coder:0.5b
  samovar inspect ./Qwen3-0.6B --json
"""
_TEMPLATE_LINES = 3
_MAX_WIDTH = 100


def add_parser(subparsers: Subparsers) -> None:
    """The command's arguments."""
    parser = subparsers.add_parser("inspect", help="show what is in a model file", description=__doc__, epilog=_EXAMPLES)
    parser.add_argument("model", metavar="FILE", help="a GGUF file, a Hugging Face folder, or a name in the store")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace, streams: Streams) -> int:
    """Print the summary."""
    summary = summarise(open_checkpoint(resolve(args.model, default_store())))
    text = json.dumps(to_json(summary)) if args.json else "\n\n".join((_facts(summary), _types(summary), _memory(summary)))
    streams.stdout.write(text + "\n")
    return 0


def _facts(summary: ModelSummary) -> str:
    config = summary.config
    rows = [
        ("file", str(summary.path)),
        ("format", summary.format),
        ("name", summary.name or "not stated"),
        ("architecture", summary.architecture),
        ("runs here", "yes" if summary.refusal is None else f"no: {summary.refusal}"),
        ("parameters", f"{summary.n_parameters / 1e6:,.1f} million"),
        ("size", _mib(summary.size_bytes)),
    ]
    if config is not None:
        rows += [
            ("layers", f"{config.n_layers} of width {config.d_model}{_mixers(config)}, {_feed_forward(config)}"),
            ("attention", f"{config.n_heads} query heads on {config.n_kv_heads} key/value heads of width {config.d_head}"),
            ("output head", _head(config)),
            ("context", f"{config.max_context:,} tokens{_beyond(config)}"),
        ]
    vocabulary = f", {summary.n_vocabulary:,} tokens" if summary.n_vocabulary is not None else ""
    rows.append(("tokenizer", summary.tokenizer + vocabulary))
    rows.append(("chat template", f"yes, {len(summary.template):,} characters" if summary.template else "none"))
    lines = [f"{label:14} {one_line(value)}" for label, value in rows]
    for line in (summary.template or "").splitlines()[:_TEMPLATE_LINES]:
        shown = one_line(line)
        lines.append(f"{'':14} | {shown[:_MAX_WIDTH]}{'...' if len(shown) > _MAX_WIDTH else ''}")
    return "\n".join(lines)


def _head(config: DecoderConfig) -> str:
    if config.outputs.kind == "none":
        return "none: it makes vectors of texts, and writes none"
    if config.outputs.kind == "labels":
        return f"a classifier of {config.outputs.n_labels} rows: it scores texts, and writes none"
    return "tied to the embedding" if config.is_tied else "of its own"


def _feed_forward(config: DecoderConfig) -> str:
    if (experts := config.experts) is None:
        return f"feed-forward {config.d_ffn}"
    dense = f"; {len(experts.dense_layers)} layers dense, {config.d_ffn}" if experts.dense_layers else ""
    shared = f" beside a shared one of {config.d_shared_expert}" if config.d_shared_expert else ""
    return f"{experts.n_experts} experts of width {experts.d_ffn}, {experts.n_chosen} for each token{shared}{dense}"


def _mixers(config: DecoderConfig) -> str:
    if (net := config.delta_net) is None:
        return ""
    return f", {len(net.layers)} of them gated delta nets with {net.n_value_heads} memories of {net.d_key} x {net.d_value}"


def _types(summary: ModelSummary) -> str:
    header = ("type", "tensors", "parameters", "size", "bits/weight")
    rows = [
        (s.type.name, f"{s.n_tensors:,}", f"{s.n_elements:,}", _mib(s.size_bytes), f"{s.type.bits_per_weight:.2f}")
        for s in summary.types
    ]
    n_bytes = sum(share.size_bytes for share in summary.types)
    total = ("all", f"{sum(s.n_tensors for s in summary.types):,}", f"{summary.n_parameters:,}", _mib(n_bytes))
    mean = f"{8 * n_bytes / summary.n_parameters:.2f}" if summary.n_parameters else "-"
    return table([header, *rows, (*total, mean)])


def _beyond(config: DecoderConfig) -> str:
    return "" if config.long_context is None else f", by YaRN up to {config.long_context.longest:,}"


def _memory(summary: ModelSummary) -> str:
    if not summary.memory:
        return "memory: not known, since this version cannot run the model"
    rows = [
        (f"{need.context:,}", _mib(need.weights_bytes), _mib(need.kv_bytes), _mib(need.weights_bytes + need.kv_bytes))
        for need in summary.memory
    ]
    return table([("context", "weights", f"keys+values ({summary.kv_type})", "memory"), *rows])


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:,.2f} GiB" if size_bytes >= 2**30 else f"{size_bytes / 2**20:,.1f} MiB"
