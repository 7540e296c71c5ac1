"""`samovar app`: the chat app in the browser, on this machine."""

import argparse
import sys
import threading
import webbrowser
from collections.abc import Mapping

from samovar.cli.arguments import Subparsers
from samovar.cli.serve import add_options, serve
from samovar.cli.terminal import Streams
from samovar.errors import ModelNotFound, SamovarError
from samovar.formats.hub import default_store
from samovar.formats.stored_models import StoredModel, stored_models

_EXAMPLES = """examples:
  samovar app                                    the newest model in the store
  samovar app qwen3:0.6b
  samovar app small=./qwen3-0.6b.gguf coder=qwen2.5-coder:0.5b      the app lets you choose between them
  samovar app --no-browser --port 8080           only says where the app is

It is `samovar serve`, with all its options, and opens the app once the server listens. The APIs are at the same address.
Chats stay on this machine. Ctrl-C ends it.
"""


def add_parser(subparsers: Subparsers) -> None:
    """The command's arguments."""
    parser = subparsers.add_parser("app", help="open the chat app in the browser", description=__doc__, epilog=_EXAMPLES)
    add_options(parser)
    parser.add_argument("--no-browser", action="store_true", help="open no browser, only print the address")
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace, streams: Streams) -> int:
    """Serve, with the app open in a browser, until a signal says otherwise."""
    if args.no_app:
        args.parser.error("--no-app leaves the app out; use samovar serve for this")
    if not args.model:
        model = _newest()
        streams.note(f"no model is named: {model.name} is the newest in the store")
        args.model = [f"{model.name}={model.model_path}" if "/" not in model.name else str(model.model_path)]

    def show(url: str) -> None:
        print(f"{url}/", file=streams.stdout, flush=True)
        if args.no_browser:
            return
        if not has_browser(streams.environ, sys.platform):
            streams.note("no browser can be opened from here; open the address in one")
            return
        threading.Thread(target=_open, args=(f"{url}/", streams), daemon=True).start()  # some browsers return when closed

    return serve(args, streams, show)


def has_browser(environ: Mapping[str, str], platform: str) -> bool:
    """Whether a browser can show itself. Without a display there are only those for a terminal, which the server needs."""
    return platform in ("darwin", "win32") or any(environ.get(name) for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"))


def _newest() -> StoredModel:
    """The model that came last into the store and writes text. Raises ModelNotFound where there is none."""
    from samovar.llm.model_card import card_at

    for model in sorted(stored_models(default_store()), key=lambda model: model.changed_s, reverse=True):
        try:
            if card_at(str(model.model_path)).writes_text:
                return model
        except SamovarError:  # damaged, or of a kind that is not known: another one may do
            continue
    raise ModelNotFound("there is no model to chat with in the store; get one with: samovar pull qwen3:0.6b (or smollm2:135m)")


def _open(url: str, streams: Streams) -> None:
    """Open `url`, and say so where that fails."""
    try:
        is_open = webbrowser.open(url)
    except (webbrowser.Error, OSError):
        is_open = False
    if not is_open:
        streams.note("the browser did not open; open the address in one")
