"""How often somebody may guess: failures by name and by address, which run off with time. Kept in memory."""

import ipaddress
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from samovar.serving.limits import LimitReached

_MOST_KEPT: Final = 10_000


@dataclass(frozen=True, slots=True)
class Allowance:
    """`n` failures at once, and one more every `each_s` seconds."""

    n: int
    each_s: float


BY_NAME: Final = Allowance(10, 60.0)
BY_ADDRESS: Final = Allowance(30, 20.0)  # several people may sit behind one


class LoginLimits:
    """Counts failures. Belongs to the server's event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._levels = dict[tuple[str, str], tuple[float, float]]()  # level of failures, as of when

    @contextmanager
    def attempt(self, address: str, name: str | None = None) -> Iterator[None]:
        """One guess, which counts as a failure unless the context ends well: guesses made side by side count at once.

        Raises LimitReached where there were too many.
        """
        keys: list[tuple[tuple[str, str], Allowance]] = [(("address", _network(address)), BY_ADDRESS)]
        if name is not None:
            keys.append((("name", name.casefold()), BY_NAME))
        self._check(keys)
        for key, allowance in keys:
            self._add(key, allowance, 1.0)
        yield
        for key, allowance in keys:
            self._add(key, allowance, -1.0)

    def _check(self, keys: Sequence[tuple[tuple[str, str], Allowance]]) -> None:
        for key, allowance in keys:
            if (excess := self._level(key, allowance) + 1 - allowance.n) > 0:
                raise LimitReached("too many logins failed; wait a while and try again", excess * allowance.each_s)

    def _level(self, key: tuple[str, str], allowance: Allowance) -> float:
        level, at_s = self._levels.get(key, (0.0, 0.0))
        return max(0.0, level - (self._clock() - at_s) / allowance.each_s)

    def _add(self, key: tuple[str, str], allowance: Allowance, n: float) -> None:
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
