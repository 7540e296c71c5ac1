"""What the routes of a server share: its models, its callers' limits, and how a request is begun."""

import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from samovar import __version__
from samovar.errors import EngineFailed, SamovarError
from samovar.serving.caller import Caller
from samovar.serving.chat import Answers, ChatAsk, TextAsk, start
from samovar.serving.drain import Drain, ShuttingDown
from samovar.serving.failures import Failure, failure_of
from samovar.serving.limits import Limits
from samovar.serving.metrics import Metrics
from samovar.serving.record import record_of
from samovar.serving.registry import Registry

Handler = Callable[["Server", Request], Awaitable[Response]]
Table = Sequence[tuple[str, str, Handler]]  # method, path, handler
LOG: Final = logging.getLogger("samovar.serving")


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The state behind all routes. `fingerprint` stands for the build: the same request and seed give the same tokens."""

    registry: Registry
    limits: Limits = field(default_factory=Limits)
    drain: Drain = field(default_factory=Drain)
    metrics: Metrics = field(default_factory=Metrics)
    fingerprint: str = field(default_factory=lambda: f"samovar-{hashlib.sha256(__version__.encode()).hexdigest()[:10]}")

    async def start(self, request: Request, ask: ChatAsk | TextAsk) -> Answers:
        """Begin a caller's request, within its limits. To be closed with `Answers.aclose`. Raises what `chat.start` does."""
        answers = await start(self.registry, self.limits, caller_of(request), ask)
        record_of(request).answers = answers
        return answers

    def failed(self, error: Exception) -> Failure:
        """What to tell a client about an error; a bug of our own goes to the log."""
        if not isinstance(error, SamovarError):
            LOG.error("internal error", exc_info=error)
        if isinstance(error, EngineFailed) and self.drain.is_over:  # which is why it failed
            return failure_of(ShuttingDown())
        return failure_of(error)


def caller_of(request: Request) -> Caller:
    """Who sends the request, as `auth` found out."""
    caller = request.state.caller
    assert isinstance(caller, Caller)
    return caller
