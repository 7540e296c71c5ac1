"""What `samovar serve` says when clients can connect: where it is, and how it is used."""

import argparse
import contextlib
import socket
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from samovar.cli.terminal import Streams, one_line

if TYPE_CHECKING:
    from samovar.serving.guard import Guard

_ALL: Final = {"0.0.0.0": socket.AF_INET, "::": socket.AF_INET6}  # noqa: S104
_ELSEWHERE: Final = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}  # of documentation (RFC 5737, RFC 3849)


def greet(args: argparse.Namespace, streams: Streams, url: str, names: list[str], guard: "Guard", code: str | None) -> None:
    """Say where the server is and how it is used. `code` is the set-up code, where the app's first account takes one."""
    from samovar.serving.log import LOG

    if args.log_format == "json":
        LOG.info("listening", extra={"fields": {"url": url, "models": names} | ({"setup_code": code} if code else {})})
        return
    are_there = guard.keys is not None and guard.keys.are_there()
    asks = guard.needs_key or are_there
    key = "one is needed with every request" if asks else "none is needed; only this machine reaches the server"
    if asks and not are_there:
        key += " of the APIs, and there is none yet; make one with: samovar keys create NAME"
    option = " -H 'Authorization: Bearer KEY'" if asks else ""
    hello = """'{"messages": [{"role": "user", "content": "Hello"}]}'"""
    lines = (
        f"samovar serves {one_line(', '.join(names))}",
        *(() if args.no_app else _app_lines(args, url, code)),
        f"  OpenAI     {url}/v1",
        f"  Anthropic  {url}",
        f"  Ollama     {url}",
        f"  key        {key}",
        f"  try        curl {url}/v1/chat/completions{option} -H 'Content-Type: application/json' -d {hello}",
    )
    print("\n".join(lines), file=streams.stderr, flush=True)


def _app_lines(args: argparse.Namespace, url: str, code: str | None) -> list[str]:
    from samovar.serving.guard import is_loopback  # start-up waits for imports, and no other command needs it

    parts = urlsplit(url)
    others = [f"{parts.scheme}://{host}:{parts.port}" for host in _addresses(args.host)]
    lines = [f"  app        {url}"] + [f"             {other} from other machines" for other in others]
    if code is not None:
        asked = "the app asks for this code once, to make the first account, an administrator's"
        lines += [f"  set-up     {code}", f"             {asked}"]
    if args.tls_cert is None and not args.trusted_proxy and not is_loopback(args.host):
        lines.append("  passwords  can be read by others on the network: use --tls-cert, or a proxy with TLS")
    return lines


def _addresses(host: str) -> list[str]:
    """The addresses by which others find a server that listens at all of them, as URLs have them."""
    if (family := _ALL.get(host)) is None:
        return []
    found = list[str]()
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((_ELSEWHERE[family], 9))  # sends nothing, and chooses the address that a packet would come from
        found.append(probe.getsockname()[0])
    with contextlib.suppress(OSError):
        found += [str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None, family)]
    shown = dict.fromkeys(one for one in found if not one.startswith(("127.", "fe80:")) and one != "::1")
    return [f"[{one}]" if family == socket.AF_INET6 else one for one in shown]
