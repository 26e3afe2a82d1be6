"""What Prometheus is told: requests, queues, tokens and times, by model; never what was asked or answered.

Boundary: counts; the text format is that of prometheus_client.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

if TYPE_CHECKING:
    from ..session import Usage

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Watched(Protocol):
    """What is read from a worker when the metrics are asked for."""

    @property
    def state(self) -> str:
        """One of "unloaded", "loading" and "loaded"."""

    @property
    def waiting(self) -> int:
        """Jobs that wait."""

    @property
    def busy(self) -> bool:
        """Whether a job is being answered."""


class Metrics:
    """The metrics of one server. Safe to use from all threads."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        model = ("model",)
        self._requests = Counter(
            "edgephi_requests", "Requests by route and status.", ("route", "status"), registry=registry
        )
        self._request_seconds = Histogram(
            "edgephi_request_seconds", "Time until a response ended.", ("route",), buckets=_SECONDS, registry=registry
        )
        self._answers = Counter("edgephi_answers", "Answers by their end.", ("model", "finish"), registry=registry)
        self._tokens = Counter(
            "edgephi_tokens", "Of prompts, cached ones among these, of answers.", ("model", "kind"), registry=registry
        )
        self._first = Histogram(
            "edgephi_time_to_first_token_seconds", "Without the wait in the queue.", model, buckets=_SECONDS,
            registry=registry,
        )
        self._decode_rate = Gauge(
            "edgephi_decode_tokens_per_second", "Of the latest answer.", model, registry=registry
        )
        self._waiting = Gauge("edgephi_requests_waiting", "Requests in the queue.", model, registry=registry)
        self._busy = Gauge("edgephi_requests_running", "Requests being answered.", model, registry=registry)
        self._loaded = Gauge("edgephi_model_loaded", "1 while the model is in memory.", model, registry=registry)

    def text(self) -> bytes:
        """Everything, in CONTENT_TYPE."""
        return generate_latest(self._registry)

    def requested(self, route: str, status: int, seconds: float) -> None:
        """Count a request that has ended. `route` is one of ours, whatever the client asked for."""
        self._requests.labels(route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def answered(self, model: str) -> Callable[[Usage, str], None]:
        """Counts the answers of one model."""

        def count(usage: Usage, finish: str) -> None:
            self._answers.labels(model, finish).inc()
            kinds = ("prompt", "cached", "answer")
            counts = (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)
            for kind, tokens in zip(kinds, counts, strict=True):
                self._tokens.labels(model, kind).inc(tokens)
            if usage.time_to_first_token is not None:
                self._first.labels(model).observe(usage.time_to_first_token)
            if usage.decode_rate is not None:
                self._decode_rate.labels(model).set(usage.decode_rate)

        return count

    def watch(self, model: str, worker: Watched) -> None:
        """Read the state of a worker whenever the metrics are asked for."""
        self._waiting.labels(model).set_function(lambda: worker.waiting)
        self._busy.labels(model).set_function(lambda: worker.busy)
        self._loaded.labels(model).set_function(lambda: worker.state == "loaded")
