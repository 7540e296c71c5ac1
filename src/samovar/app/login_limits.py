"""How often somebody may guess: failures by address, and by address and name, which run off with time. Kept in memory.

Failures with a name from all addresses only hold up addresses that have failed themselves, and with this name not succeeded
before: many machines guess one password slowly, and nobody is kept out by the guesses of others."""

import ipaddress
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from samovar.serving.limits import LimitReached

_MOST_KEPT: Final = 10_000
_Key = tuple[str | None, str | None]  # an address, a name


@dataclass(frozen=True, slots=True)
class Allowance:
    """`n` failures at once, and one more every `each_s` seconds."""

    n: int
    each_s: float


BY_NAME: Final = Allowance(10, 60.0)  # from one address, and from all
BY_ADDRESS: Final = Allowance(30, 20.0)  # several people may sit behind one


class LoginLimits:
    """Counts failures. Belongs to the server's event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._levels = dict[_Key, tuple[float, float]]()  # level of failures, as of when
        self._known = dict[tuple[str, str], None]()  # addresses and names that have succeeded

    @contextmanager
    def attempt(self, address: str, name: str | None = None) -> Iterator[None]:
        """One guess, which counts as a failure unless the context ends well: guesses made side by side count at once.

        Raises LimitReached where there were too many.
        """
        address, name = _network(address), None if name is None else name.casefold()
        keys: list[tuple[_Key, Allowance]] = [((address, None), BY_ADDRESS)]
        bounding = keys[:]
        if name is not None:
            keys += [((address, name), BY_NAME), ((None, name), BY_NAME)]
            is_trusted = (address, name) in self._known or not self._level((address, None), BY_ADDRESS)
            bounding = keys[:2] if is_trusted else keys
        self._check(bounding)
        for key, allowance in keys:
            self._add(key, allowance, 1.0)
        yield
        for key, allowance in keys:
            self._add(key, allowance, -1.0)
        if name is not None:
            self._known.pop((address, name), None)
            self._known[address, name] = None
            if len(self._known) > _MOST_KEPT:
                del self._known[next(iter(self._known))]

    def _check(self, keys: Sequence[tuple[_Key, Allowance]]) -> None:
        for key, allowance in keys:
            if (excess := self._level(key, allowance) + 1 - allowance.n) > 0:
                wait_s = max(1, math.ceil(excess * allowance.each_s))
                raise LimitReached(f"too many logins failed: try again in {wait_s} s", wait_s)

    def _level(self, key: _Key, allowance: Allowance) -> float:
        level, at_s = self._levels.get(key, (0.0, 0.0))
        return max(0.0, level - (self._clock() - at_s) / allowance.each_s)

    def _add(self, key: _Key, allowance: Allowance, n: float) -> None:
        level = max(0.0, self._level(key, allowance) + n)
        self._levels.pop(key, None)  # so that the oldest come first
        if level:
            self._levels[key] = level, self._clock()
        while len(self._levels) > _MOST_KEPT:
            del self._levels[next(iter(self._levels))]


def _network(address: str) -> str:
    """What one person has: an IPv4 address, or 64 bits of IPv6."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        mapped = found.ipv4_mapped
        return str(mapped) if mapped else str(ipaddress.ip_network((found, 64), strict=False))
    return address
