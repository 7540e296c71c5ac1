"""Who may come in: from the headers of a request to its caller."""

from collections.abc import Iterable
from typing import Final

from samovar.serving.caller import LOCAL, Caller, NoKey
from samovar.serving.keys import Keys

Headers = Iterable[tuple[bytes, bytes]]
# Whoever sends one of these is a proxy, and speaks for somebody who may be anywhere.
_FORWARDED: Final = frozenset(
    (b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip", b"via", b"cf-connecting-ip")
)
_MAKE: Final = "make one with: samovar keys create NAME"


def is_forwarded(headers: Headers) -> bool:
    """Whether a proxy passed the request on."""
    return any(name in _FORWARDED for name, _ in headers)


def find_caller(headers: Headers, keys: Keys | None, *, needs_key: bool) -> Caller:
    """The holder of the request's key; LOCAL where none is asked for.

    A key is asked for where `needs_key` says so, as soon as there is one, and of requests that a proxy passed on. Raises
    NoKey, or what reading the keys raises.
    """
    given = list(headers)
    came_by_proxy = is_forwarded(given)
    are_there = keys is not None and keys.are_there()
    if not (needs_key or are_there or came_by_proxy):
        return LOCAL
    text = _presented(given)
    if text is None:
        why = "it came through a proxy" if came_by_proxy and not (needs_key or are_there) else "this server asks for keys"
        raise NoKey(f"the request has no key, and {why}: send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'; {_MAKE}")
    caller = keys.holder(text) if keys is not None else None
    if caller is None:
        raise NoKey(f"the request's key is not valid here: it is unknown, revoked or expired; {_MAKE}")
    return caller


def _presented(headers: Headers) -> str | None:
    """The text of a request's key. A bearer token counts before an x-api-key."""
    found = dict(headers)
    scheme, _, token = found.get(b"authorization", b"").partition(b" ")
    text = token.strip() if scheme.lower() == b"bearer" else b""
    text = text or found.get(b"x-api-key", b"").strip()
    return text.decode("latin-1") if text else None
