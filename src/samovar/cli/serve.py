"""`samovar serve`: answer over HTTP, in the OpenAI, Anthropic and Ollama dialects."""

import argparse
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from samovar.cli.arguments import ModelArguments, Subparsers, add_model_options, read_model_arguments
from samovar.cli.loading import load_llm
from samovar.cli.progress import ProgressBar
from samovar.cli.terminal import Streams
from samovar.formats.hub import EMBEDDED_DEFAULT
from samovar.llm import LLM

_EXAMPLES = """examples:
  samovar serve
  samovar serve ./qwen3-0.6b-q4_0.gguf --port 8080
  samovar serve small=./qwen3-0.6b.gguf coder=qwen2.5-coder:0.5b --keep-alive 600

A MODEL is opened at its first request, under its file's name or the one before `=`; a single one at once.
"""


def add_parser(subparsers: Subparsers) -> None:
    """The command's arguments."""
    parser = subparsers.add_parser("serve", help="answer over HTTP", description=__doc__, epilog=_EXAMPLES)
    add_model_options(parser, many=True)
    group = parser.add_argument_group("server")
    group.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen at (default: this machine only)"
    )
    group.add_argument("--port", type=int, default=8000, metavar="N", help="port to listen at (default: 8000; 0: any free one)")
    group.add_argument(
        "--keep-alive", type=float, default=300.0, metavar="S", help="close a model that was unused for S seconds (-1: never)"
    )
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace, streams: Streams) -> int:
    """Serve until a signal says otherwise."""
    import uvicorn  # start-up waits for imports, and no other command needs these

    from samovar.serving.app import build_app
    from samovar.serving.registry import Offered, Registry
    from samovar.serving.server import Server

    settings = read_model_arguments(args)
    offered = {}
    for given in args.model or [EMBEDDED_DEFAULT]:
        name, path = _named(given)
        keep_alive_s = None if args.keep_alive < 0 or len(args.model) < 2 else args.keep_alive
        offered[name] = Offered(name=name, open_model=_opener(replace(settings, name=path), streams), keep_alive_s=keep_alive_s)
    if len(offered) == 1:
        (only,) = offered.values()
        only.llm = only.open_model()
    app = build_app(Server(registry=Registry(offered)))
    logging.basicConfig(level=logging.INFO)
    uvicorn.run(app, host=args.host, port=args.port, log_config=None, server_header=False, timeout_graceful_shutdown=30)
    return 0


def _named(given: str) -> tuple[str, str]:
    """The name and the path of a MODEL argument."""
    name, equals, path = given.partition("=")
    if equals and name and "/" not in name:
        return name, path
    return Path(given).name.removesuffix(".gguf"), given


def _opener(settings: ModelArguments, streams: Streams) -> Callable[[], LLM]:
    def open_model() -> LLM:
        with ProgressBar(streams, "packing") as progress:
            return load_llm(settings, streams, progress, process=True)

    return open_model
