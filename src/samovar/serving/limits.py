"""How much each caller may ask for: requests and tokens a minute, and streams at once."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from samovar.errors import SamovarError
from samovar.serving.caller import Caller

_WINDOW_S: Final = 60.0


class LimitReached(SamovarError):
    """A caller asks for more than its key allows. `retry_s` is when it may ask again."""

    def __init__(self, message: str, retry_s: float) -> None:
        super().__init__(message)
        self.retry_s = retry_s


@dataclass(slots=True)
class _Spent:
    """What a caller has used: levels that run off evenly within a minute, as of `at_s`."""

    at_s: float
    requests: float = 0.0
    tokens: float = 0.0
    n_streams: int = field(default=0)


class Limits:
    """Counts what callers use. Belongs to the server's event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._spent = clock, dict[str, _Spent]()

    @contextmanager
    def admit(self, caller: Caller) -> Iterator[Callable[[int], None]]:
        """One request of a caller, for as long as it lasts. Gives a function that counts the tokens it took.

        Raises LimitReached.
        """
        spent = self._now(caller)
        self._check(caller, spent)
        spent.requests += 1
        spent.n_streams += 1

        def count(n_tokens: int) -> None:
            self._now(caller).tokens += n_tokens

        try:
            yield count
        finally:
            spent.n_streams -= 1

    def _check(self, caller: Caller, spent: _Spent) -> None:
        if caller.max_streams is not None and spent.n_streams >= caller.max_streams:
            raise LimitReached(f"{spent.n_streams} requests of this key are open, as many as it may have at once", 1.0)
        for what, level, limit in (
            ("requests", spent.requests + 1, caller.max_requests_per_minute),
            ("tokens", spent.tokens, caller.max_tokens_per_minute),
        ):
            if limit is not None and level > limit:
                raise LimitReached(f"this key may use {limit} {what} a minute", (level - limit) * _WINDOW_S / limit)

    def _now(self, caller: Caller) -> _Spent:
        now = self._clock()
        spent = self._spent.setdefault(caller.id, _Spent(now))
        share = (now - spent.at_s) / _WINDOW_S
        spent.requests = max(0.0, spent.requests - share * (caller.max_requests_per_minute or 0))
        spent.tokens = max(0.0, spent.tokens - share * (caller.max_tokens_per_minute or 0))
        spent.at_s = now
        return spent
