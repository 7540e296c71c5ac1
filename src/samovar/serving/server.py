"""What the routes of a server share: its models, its callers' limits, and how a request is begun."""

import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from samovar import __version__
from samovar.errors import BadRequest, EngineFailed, SamovarError
from samovar.serving.background import Background
from samovar.serving.caller import Caller, Forbidden
from samovar.serving.chat import Answers, ChatAsk, TextAsk, start
from samovar.serving.drain import Drain, ShuttingDown
from samovar.serving.failures import Failure, failure_of
from samovar.serving.limits import Limits
from samovar.serving.metrics import Metrics
from samovar.serving.record import record_of
from samovar.serving.records import Records
from samovar.serving.registry import Fetch, Opened, Registry

Handler = Callable[["Server", Request], Awaitable[Response]]
Table = Sequence[tuple[str, str, Handler]]  # method, path, handler
LOG: Final = logging.getLogger("samovar.serving")
MAX_PRIORITY_KEY: Final = "samovar.max_priority"  # in the scope of a request of a batch: what it may have at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The state behind all routes. `fingerprint` stands for the build: the same request and seed give the same tokens.

    `any_model_scores` lets models make vectors and scores that have no recipe for it. `records` is None where nothing is kept.
    `fetch` gets models that clients ask for, None where they may not. `endpoints` are the routes that take a POST, for batches.
    """

    registry: Registry
    limits: Limits = field(default_factory=Limits)
    records: Records | None = None
    any_model_scores: bool = False
    fetch: Fetch | None = None
    background: Background = field(default_factory=Background)
    endpoints: dict[str, Handler] = field(default_factory=dict)
    drain: Drain = field(default_factory=Drain)
    metrics: Metrics = field(default_factory=Metrics)
    fingerprint: str = field(default_factory=lambda: f"samovar-{hashlib.sha256(__version__.encode()).hexdigest()[:10]}")

    async def start(self, request: Request, ask: ChatAsk | TextAsk) -> Answers:
        """Begin a caller's request, within its limits. To be closed with `Answers.aclose`. Raises what `chat.start` does."""
        ask = _with_priority(ask, request.scope.get(MAX_PRIORITY_KEY))
        answers, record = await start(self.registry, self.limits, caller_of(request), ask), record_of(request)
        record.answers, answers.on_close = answers, lambda: self.metrics.observe_answers(answers, record.started)
        return answers

    @asynccontextmanager
    async def use(self, request: Request, model: str | None) -> AsyncIterator[tuple[Opened, Callable[[int], None]]]:
        """A model for a caller's request that writes no text, within its limits, and what counts its tokens.

        Raises LimitReached, UnknownModel, and what opening the model raises.
        """
        with self.limits.admit(caller_of(request)) as count:
            async with self.registry.use(model) as opened:
                record = record_of(request)
                record.model = opened.name

                def counted(n_tokens: int) -> None:
                    record.n_prompt += n_tokens
                    count(n_tokens)

                yield opened, counted

    def kept(self) -> Records:
        """The server's records. Raises BadRequest where it keeps none."""
        if self.records is None:
            raise BadRequest("this server keeps no records, which this route needs: start it with a folder for them")
        return self.records

    def failed(self, error: Exception) -> Failure:
        """What to tell a client about an error; what no client caused goes to the log as well."""
        if not isinstance(error, SamovarError):
            LOG.error("internal error", exc_info=error)
        if isinstance(error, EngineFailed) and self.drain.is_over:  # which is why it failed
            return failure_of(ShuttingDown())
        if isinstance(error, EngineFailed):
            LOG.warning("a request failed: %s", error)
        return failure_of(error)


def _with_priority(ask: ChatAsk | TextAsk, most: int | None) -> ChatAsk | TextAsk:
    """The request with a priority of `most` or less."""
    if most is None:
        return ask
    priority = min(most, ask.options.get("priority") or 0)
    if isinstance(ask, ChatAsk):
        return replace(ask, options={**ask.options, "priority": priority})
    return replace(ask, options={**ask.options, "priority": priority})


def caller_of(request: Request) -> Caller:
    """Who sends the request, as `auth` found out."""
    caller = request.state.caller
    assert isinstance(caller, Caller)
    return caller


def require_admin(request: Request) -> None:
    """Raises Forbidden for a caller without an admin's key."""
    if not (caller := caller_of(request)).is_admin:
        raise Forbidden(f"the key {caller.name!r} may not do this; it takes an admin's key")
