"""Numbers for Prometheus. They name routes, models and states; no caller, and nothing of what was said."""

from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest

from samovar import __version__
from samovar.llm.engine_stats import EngineStats
from samovar.serving.chat import Answers
from samovar.serving.record import Record, n_cached

_FIRST_TOKEN_S: Final = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300)
_BETWEEN_S: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_REQUEST_S: Final = (0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Since the server's start, of all models: requests that got an answer's first piece, and tokens, cached ones among the
    prompts'."""

    n_requests: int
    n_prompt: int
    n_cached: int
    n_completion: int


class Metrics:
    """All of a server's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        Info("samovar_build", "The version that runs.", registry=registry).info({"version": __version__})
        labels = ("method", "route", "status", "model")
        self._requests = Counter("samovar_requests", "Requests that are over.", labels, registry=registry)
        self._gone = Counter("samovar_clients_gone", "Requests whose client left first.", ("route",), registry=registry)
        self._tokens = Counter(
            "samovar_tokens",
            "Tokens; cached ones are part of prompt, reasoning ones part of completion.",
            ("model", "kind"),
            registry=registry,
        )
        self._duration = Histogram(
            "samovar_request_seconds", "From a request's arrival to its end.", ("route",), buckets=_REQUEST_S, registry=registry
        )
        self._first = Histogram(
            "samovar_first_token_seconds",
            "From a request's arrival to the first piece of its answer.",
            ("model",),
            buckets=_FIRST_TOKEN_S,
            registry=registry,
        )
        self._between = Histogram(
            "samovar_inter_token_seconds",
            "Between two pieces of an answer, which are a token or a few each.",
            ("model",),
            buckets=_BETWEEN_S,
            registry=registry,
        )
        self._add_gauges(registry)

    def _add_gauges(self, registry: CollectorRegistry) -> None:
        self._open = Gauge("samovar_open_requests", "Requests being served, those in queues included.", registry=registry)
        self._offered = Gauge("samovar_offered_models", "Models that requests may name.", registry=registry)
        self._loaded = Gauge("samovar_loaded_models", "Models that are open.", registry=registry)
        self._up = Gauge("samovar_model_up", "1 where an open model's engine answers.", ("model",), registry=registry)
        self._running = Gauge("samovar_running_streams", "Answers being computed.", ("model",), registry=registry)
        self._waiting = Gauge("samovar_waiting_requests", "Requests in the engine's queue.", ("model",), registry=registry)
        self._pages = Gauge(
            "samovar_pages",
            "Pages of keys and values: used by answers, cached for prompts to come, or free.",
            ("model", "state"),
            registry=registry,
        )
        self._resident = Gauge(
            "samovar_engine_resident_bytes",
            "Memory of the process that a model's engine runs in.",
            ("model",),
            registry=registry,
        )
        self._per_model = (self._up, self._running, self._waiting, self._pages, self._resident)

    def observe(self, record: Record) -> None:
        """Count a request that is over."""
        route, model = record.route or "none", record.model
        self._requests.labels(record.method if record.route else "", route, str(record.status), model).inc()
        self._duration.labels(route).observe(record.duration_s)
        if record.is_client_gone:
            self._gone.labels(route).inc()
        if record.answers is None and record.n_prompt:
            self._tokens.labels(model, "prompt").inc(record.n_prompt)

    def observe_answers(self, answers: Answers, started: float) -> None:
        """Count what answers took that are over; their request came at `started` (time.perf_counter)."""
        model, usages = answers.model, answers.usages
        for kind, n_tokens in (
            ("prompt", answers.n_prompt),
            ("cached", n_cached(answers)),
            ("completion", sum(usage.n_completion for usage in usages)),
            ("reasoning", sum(usage.n_thinking for usage in usages)),
        ):
            if n_tokens:
                self._tokens.labels(model, kind).inc(n_tokens)
        if answers.pace.first is not None:
            self._first.labels(model).observe(answers.pace.first - started)
        for gap_s in answers.pace.gaps_s:
            self._between.labels(model).observe(gap_s)

    def totals(self) -> Totals:
        """What the counters of all models add up to."""
        tokens = {"prompt": 0.0, "cached": 0.0, "completion": 0.0, "reasoning": 0.0}
        for sample in (sample for metric in self._tokens.collect() for sample in metric.samples):
            if sample.name.endswith("_total"):
                tokens[sample.labels["kind"]] += sample.value
        first = (sample for metric in self._first.collect() for sample in metric.samples)
        return Totals(
            n_requests=int(sum(sample.value for sample in first if sample.name.endswith("_count"))),
            n_prompt=int(tokens["prompt"]),
            n_cached=int(tokens["cached"]),
            n_completion=int(tokens["completion"]),
        )

    def text(self, *, n_open: int, n_offered: int, stats: dict[str, EngineStats | None]) -> bytes:
        """All metrics in Prometheus's text format. `stats` are of the open models, None for one that does not answer."""
        self._open.set(n_open)
        self._offered.set(n_offered)
        self._loaded.set(len(stats))
        for gauge in self._per_model:
            gauge.clear()
        for model, found in stats.items():
            self._up.labels(model).set(found is not None)
            if found is not None:
                self._running.labels(model).set(found.n_running)
                self._waiting.labels(model).set(found.n_waiting)
                for state, n_pages in (("used", found.n_used), ("cached", found.n_cached), ("free", found.n_free)):
                    self._pages.labels(model, state).set(n_pages)
                self._resident.labels(model).set(found.resident_bytes)
        return generate_latest(self.registry)
