"""`samovar serve`: answer over HTTP, in the OpenAI, Anthropic and Ollama dialects, and show the chat app."""

import argparse
import re
import socket
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from samovar.cli.arguments import ModelArguments, Subparsers, add_model_options, read_model_arguments, read_text, size_bytes
from samovar.cli.greeting import greet
from samovar.cli.loading import load_llm
from samovar.cli.progress import ProgressBar
from samovar.cli.terminal import Streams
from samovar.errors import BadRequest, ModelNotFound
from samovar.formats.catalogue import CATALOGUE
from samovar.formats.hub import EMBEDDED_DEFAULT, default_store, pull, resolve
from samovar.llm import LLM

if TYPE_CHECKING:
    from samovar.serving.dialect import Mounted
    from samovar.serving.guard import Guard
    from samovar.serving.registry import Offered
    from samovar.serving.server import Server

_EXAMPLES = """examples:
  samovar serve
  samovar serve ./qwen3-0.6b-q4_0.gguf --port 8080
  samovar serve small=./qwen3-0.6b.gguf coder=qwen2.5-coder:0.5b --keep-alive 600
  samovar keys create me && samovar serve --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem
  samovar serve ./qwen3-0.6b.gguf --adapter support=./lora-support

A MODEL goes by its file's name, or the one before `=`. A single one is opened at once, each of several at its first request.

Keys: as soon as others can reach the server (--host, --allow-host, --trusted-proxy) every request of the APIs needs one; while
there is none, only the chat app can be used, which has accounts of its own. On this machine alone keys are asked for as soon as
there is one, or with --require-key.

SIGTERM and Ctrl-C let open answers end (--drain-timeout); a second one ends all at once.
"""
_MIN_KEY_CHARS = 20
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+")


def add_parser(subparsers: Subparsers) -> None:
    """The command's arguments."""
    parser = subparsers.add_parser("serve", help="answer over HTTP", description=__doc__, epilog=_EXAMPLES)
    add_options(parser)
    parser.set_defaults(run=run, parser=parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The models, and how they are served."""
    add_model_options(parser, many=True)
    _add_offer_options(parser.add_argument_group("models"))
    _add_network_options(parser.add_argument_group("network"))
    _add_access_options(parser.add_argument_group("access"))


def _add_offer_options(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--keep-alive",
        type=float,
        default=300.0,
        metavar="S",
        help="of several models, close one that was unused for S seconds (default: 300; -1: never)",
    )
    group.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="a LoRA adapter, which requests name as their model; of one of several models NAME@MODEL=FOLDER; repeatable",
    )
    group.add_argument(
        "--allow-pull",
        action="store_true",
        help="let admins have models of the catalogue fetched and served over HTTP (Ollama's /api/pull)",
    )
    group.add_argument(
        "--chat-template-file", type=Path, metavar="FILE", help="use this chat template in place of the model's own"
    )
    group.add_argument(
        "--any-model-scores",
        action="store_true",
        help="let any model make embeddings and rerank scores, also one whose files do not say how it does",
    )
    group.add_argument(
        "--max-streams", type=int, default=64, metavar="N", help="most answers at once, for each model (default: 64)"
    )
    group.add_argument(
        "--records",
        type=Path,
        metavar="FOLDER",
        help="where responses, files and batches are kept, for one server at a time (default: in the store)",
    )
    group.add_argument(
        "--app-data",
        type=Path,
        metavar="FOLDER",
        help="where the chat app keeps its chats, for one server at a time (default: app in the store)",
    )
    group.add_argument("--no-app", action="store_true", help="answer over HTTP alone, without the chat app")
    group.add_argument(
        "--max-waiting",
        type=int,
        default=1024,
        metavar="N",
        help="most requests that wait; more are told to try later (default: 1024)",
    )


def _add_network_options(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen at (default: this machine only)"
    )
    group.add_argument("--port", type=int, default=8000, metavar="N", help="port to listen at (default: 8000; 0: any free one)")
    group.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate chain, in PEM form; answers over HTTPS")
    group.add_argument("--tls-key", type=Path, metavar="FILE", help="its key, where it is not in the same file")
    group.add_argument(
        "--trusted-proxy",
        type=_list,
        default=(),
        metavar="ADDRESS[,..]",
        help="believe X-Forwarded-For and -Proto from these addresses or networks",
    )
    group.add_argument(
        "--drain-timeout",
        type=float,
        default=30.0,
        metavar="S",
        help="on SIGTERM, let open answers go on for so long (default: 30)",
    )


def _add_access_options(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--require-key", action="store_true", help="ask for a key on this machine too, from the start")
    group.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="a name that the server may be called by; repeatable"
    )
    group.add_argument(
        "--cors-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="an origin whose pages may use the server, as in https://chat.example.org; repeatable",
    )
    group.add_argument(
        "--max-body", type=size_bytes, default=32 << 20, metavar="SIZE", help="largest request (default: 32MiB; files 256MiB)"
    )
    group.add_argument(
        "--log-format", choices=("text", "json"), default="text", help="form of the log on standard error (default: text)"
    )


def run(args: argparse.Namespace, streams: Streams) -> int:
    """Serve until a signal says otherwise."""
    return serve(args, streams)


def serve(args: argparse.Namespace, streams: Streams, on_listen: Callable[[str], None] = lambda _: None) -> int:
    """Serve until a signal says otherwise. Once clients can connect, `on_listen` is called with the server's address."""
    model_settings = _check(args)
    from samovar.serving.app import build_app  # start-up waits for imports, and no other command needs these
    from samovar.serving.listen import ListenSettings, bind, listen, tls_context
    from samovar.serving.log import start_log
    from samovar.serving.records import Records
    from samovar.serving.registry import Registry
    from samovar.serving.server import Server

    start_log(streams.stderr, args.log_format)
    offered, guard = _offered(args, model_settings, streams), _guard(args, streams)
    tls = None if args.tls_cert is None else tls_context(args.tls_cert, args.tls_key)
    for given in args.model:  # a missing one is said at once, and not to its first client
        resolve(_named(given)[1], default_store())
    with bind(args.host, args.port) as bound:  # an address in use is said before a large model is opened
        if len(offered) == 1:
            (only,) = offered.values()
            only.llm = only.open_model()
            for name, folder in only.adapters.items():
                only.llm.load_adapter(name, folder)
        server = Server(
            registry=Registry(offered),
            records=Records(args.records or default_store() / "records"),
            any_model_scores=args.any_model_scores,
            fetch=partial(_fetched, args, model_settings, streams) if args.allow_pull else None,
        )
        settings = ListenSettings(drain_timeout_s=args.drain_timeout, trusted_proxies=args.trusted_proxy, tls=tls)
        names, url = server.registry.names(), _url(args, bound)
        part, code = _chat_app(args, server, guard)

        def ready() -> None:
            greet(args, streams, url, names, guard, code)
            on_listen(url)

        listen(build_app(server, guard, part), server, bound, settings, ready)
    return 0


def _chat_app(args: argparse.Namespace, server: "Server", guard: "Guard") -> "tuple[Mounted | None, str | None]":
    """The chat app, None where it is not wanted; and the code that its first account takes, None where it takes none.

    Raises StoreError for a database that cannot be opened.
    """
    if args.no_app:
        return None, None
    import asyncio

    from samovar.app.access import Access
    from samovar.app.app import App
    from samovar.app.dashboard import Dashboard
    from samovar.app.database import Database
    from samovar.app.more_routes import more_routes
    from samovar.app.mount import mounted
    from samovar.serving.keys import KeyFile

    database = Database(args.app_data or default_store() / "app")
    access = Access(database, keys=guard.keys, is_private=not guard.needs_key)
    more = more_routes(access, KeyFile(default_store() / "keys.json"), dashboard := Dashboard())
    part = mounted(App(server=server, database=database, callers=access), more=more, lives=[dashboard.life])
    return part, asyncio.run(access.code_to_print())


def _check(args: argparse.Namespace) -> ModelArguments:
    """How models are opened. Ends the program with code 2 for options that contradict each other."""
    if args.tls_key is not None and args.tls_cert is None:
        args.parser.error("--tls-key is given without --tls-cert")
    if not 0 <= args.port <= 65_535:
        args.parser.error(f"--port is {args.port}; expected 0 to 65535")
    if not args.drain_timeout >= 0:
        args.parser.error(f"--drain-timeout is {args.drain_timeout}; expected 0 or more")
    if "*" in args.cors_origin:
        args.parser.error("--cors-origin * would let every page of the web use the server; name the origins")
    for origin in args.cors_origin:
        if not _ORIGIN.fullmatch(origin):  # browsers send nothing else, and anything else would fit no page
            args.parser.error(f"--cors-origin is {origin!r}; expected an origin, as in https://chat.example.org")
    if any(name in ("", "*") for name in (*args.allow_host, *args.trusted_proxy)):
        args.parser.error("--allow-host and --trusted-proxy take names and addresses, and no *")
    for name in ("max_streams", "max_body"):
        if getattr(args, name) < 1:
            args.parser.error(f"--{name.replace('_', '-')} is {getattr(args, name)}; expected 1 or more")
    if args.max_waiting < 0:
        args.parser.error(f"--max-waiting is {args.max_waiting}; expected 0 or more")
    return replace(
        read_model_arguments(args),
        max_streams=args.max_streams,
        max_waiting=args.max_waiting,
        chat_template=None if args.chat_template_file is None else read_text(args.chat_template_file, "a chat template"),
    )


def _guard(args: argparse.Namespace, streams: Streams) -> "Guard":
    """Who may use the server, and how. Raises BadRequest where it asks for keys, there is none, and no app."""
    from samovar.serving.guard import LOOPBACK_NAMES, MAX_UPLOAD_BYTES, Guard, host_name, is_loopback
    from samovar.serving.keys import KeyFile, Keys

    own = streams.environ.get("SAMOVAR_API_KEY") or None
    if own is not None and len(own) < _MIN_KEY_CHARS:
        raise BadRequest(f"SAMOVAR_API_KEY has {len(own)} characters; expected {_MIN_KEY_CHARS} or more that nobody can guess")
    keys = Keys(KeyFile(default_store() / "keys.json"), own=own)
    is_local = is_loopback(args.host)
    allowed = {host_name(name) for name in args.allow_host}
    is_private = is_local and not args.trusted_proxy and allowed <= LOOPBACK_NAMES
    needs_key = args.require_key or not is_private
    if needs_key and (args.no_app or args.require_key) and not keys.are_there():  # the app has its own accounts
        raise BadRequest("this server has to ask for keys, and there is none; make one with: samovar keys create NAME")
    return Guard(
        keys=keys,
        needs_key=needs_key,
        hosts=LOOPBACK_NAMES | allowed | {host_name(args.host)} if is_local or args.allow_host else None,
        origins=tuple(args.cors_origin),
        max_body_bytes=args.max_body,
        max_upload_bytes=max(args.max_body, MAX_UPLOAD_BYTES),
        max_open=max(1024, 2 * (args.max_streams + args.max_waiting)),
    )


def _offered(args: argparse.Namespace, settings: ModelArguments, streams: Streams) -> "dict[str, Offered]":
    """The models by name, none of them open. Raises BadRequest for a name that is given twice, or an adapter of no model."""
    offered: dict[str, Offered] = {}
    for given in args.model or [EMBEDDED_DEFAULT]:
        name, path = _named(given)
        if name in offered:
            raise BadRequest(f"two models are named {name}; give each a name of its own, as in NAME=MODEL")
        keep_alive_s = None if args.keep_alive < 0 or len(args.model) < 2 else args.keep_alive
        offered[name] = _offer(name, path, keep_alive_s, settings, streams)
    for given in args.adapter:
        target, equals, folder = given.partition("=")
        name, at, model = target.partition("@")
        model = model if at else next(iter(offered)) if len(offered) == 1 else ""
        if not (equals and name and folder) or model not in offered:
            raise BadRequest(f"--adapter is {given!r}; expected NAME=FOLDER, or NAME@MODEL=FOLDER with several models")
        if name in offered or any(name in other.adapters for other in offered.values()):
            raise BadRequest(f"--adapter names {name} twice, or as a model; give it a name of its own")
        offered[model].adapters[name] = folder
    return offered


def _offer(name: str, path: str, keep_alive_s: float | None, settings: ModelArguments, streams: Streams) -> "Offered":
    """A model under a name, not open."""
    from samovar.llm.model_card import card_at
    from samovar.serving.registry import Offered

    return Offered(
        name=name,
        open_model=_opener(replace(settings, name=path), streams),
        keep_alive_s=keep_alive_s,
        read_card=lru_cache(partial(card_at, path)),
    )


def _fetched(
    args: argparse.Namespace, settings: ModelArguments, streams: Streams, name: str, report: Callable[[int, int, str], None]
) -> "Offered":
    """A model that a client asked for, in the store by then. Raises ModelNotFound for names outside the catalogue."""
    from samovar.formats.family import FAMILY

    if name not in CATALOGUE and name.lower() not in FAMILY:
        raise ModelNotFound(f"{name} is no name of the catalogue, which are those that clients can have fetched")
    path = pull(name, default_store(), report)
    return _offer(name, str(path), None if args.keep_alive < 0 else args.keep_alive, settings, streams)


def _url(args: argparse.Namespace, bound: socket.socket) -> str:
    """Where this machine finds the server, without a slash at the end."""
    from samovar.serving.guard import host_name

    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(args.host, host_name(args.host))  # noqa: S104
    return f"{'http' if args.tls_cert is None else 'https'}://{host}:{bound.getsockname()[1]}"


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


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))
