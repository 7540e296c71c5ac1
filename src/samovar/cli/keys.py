"""`samovar keys`: make, list and revoke the keys that `samovar serve` asks for."""

import argparse
import time

from samovar.cli.arguments import Parser, Subparsers
from samovar.cli.terminal import Streams
from samovar.formats.hub import default_store

_EXAMPLES = """examples:
  samovar keys create laptop
  samovar keys create team --requests-per-minute 60 --tokens-per-minute 20000 --max-streams 4 --expires 90
  samovar keys create ops --admin
  samovar keys list
  samovar keys revoke laptop

A key is shown once: only its SHA-256 is kept, in keys.json in the store. A server that runs heeds a change within a second.
"""


def add_parser(subparsers: Subparsers) -> None:
    """The command's arguments."""
    parser = subparsers.add_parser("keys", help="make and revoke API keys", description=__doc__, epilog=_EXAMPLES)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True, parser_class=Parser)
    create = actions.add_parser("create", help="make a key, and print it")
    create.add_argument("name", metavar="NAME", help="what the key is called in lists and logs")
    create.add_argument("--admin", action="store_true", help="allow what changes the server: adapters, and the like")
    create.add_argument("--requests-per-minute", type=int, metavar="N", help="most requests a minute")
    create.add_argument("--tokens-per-minute", type=int, metavar="N", help="most tokens a minute, of prompts and answers")
    create.add_argument("--max-streams", type=int, metavar="N", help="most requests at once")
    create.add_argument("--expires", type=float, metavar="DAYS", help="refuse it after so many days")
    create.set_defaults(run=_create)
    actions.add_parser("list", help="show the keys, but not their text").set_defaults(run=_list)
    revoke = actions.add_parser("revoke", help="forget a key")
    revoke.add_argument("name", metavar="NAME", help="its name or id")
    revoke.set_defaults(run=_revoke)


def _create(args: argparse.Namespace, streams: Streams) -> int:
    from samovar.serving.keys import KeyFile

    text = KeyFile(default_store() / "keys.json").create(
        args.name,
        is_admin=args.admin,
        requests_per_minute=args.requests_per_minute,
        tokens_per_minute=args.tokens_per_minute,
        max_streams=args.max_streams,
        days=args.expires,
    )
    streams.note(f"the key of {args.name}, which is not shown again:")
    print(text, file=streams.stdout)
    return 0


def _list(_: argparse.Namespace, streams: Streams) -> int:
    from samovar.serving.keys import KeyFile

    keys = KeyFile(default_store() / "keys.json").read()
    if not keys:
        streams.note("there are no keys; make one with: samovar keys create NAME")
    for key in keys:
        limits = (
            ("requests a minute", key.requests_per_minute),
            ("tokens a minute", key.tokens_per_minute),
            ("at once", key.max_streams),
        )
        is_over = key.expires_s is not None and key.expires_s <= time.time()
        facts = [
            "admin" if key.is_admin else "user",
            *(f"{value} {what}" for what, value in limits if value is not None),
            f"made {_date(key.created_s)}",
            *([] if key.expires_s is None else [f"{'expired' if is_over else 'expires'} {_date(key.expires_s)}"]),
        ]
        print(f"{key.id}  {key.name}  {', '.join(facts)}", file=streams.stdout)
    return 0


def _revoke(args: argparse.Namespace, streams: Streams) -> int:
    from samovar.serving.keys import KeyFile

    key = KeyFile(default_store() / "keys.json").revoke(args.name)
    streams.note(f"the key of {key.name} ({key.id}) is revoked")
    return 0


def _date(unix_s: int) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(unix_s))
