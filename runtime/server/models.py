"""The bundles that a server offers, by name, each with the worker that answers for it.

Boundary: finds a model and its worker; nothing here waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..tokens import Tokenizer
from .bundles import Bundle
from .jobs import Engine
from .metrics import Metrics
from .problems import Problem, Refused
from .seats import Seats
from .settings import Settings
from .worker import Worker

OpenEngine = Callable[[Bundle], Engine]


class Model:
    """One bundle and its worker."""

    def __init__(self, bundle: Bundle, worker: Worker) -> None:
        self.bundle = bundle
        self.worker = worker
        self._tokenizer: Tokenizer | None = None
        self._opening = threading.Lock()

    def tokenizer(self) -> Tokenizer:
        """The tokenizer, for raw prompts and the text of single tokens; slow the first time. Raises BundleError."""
        with self._opening:
            if self._tokenizer is None:
                self._tokenizer = Tokenizer.open(self.bundle.folder)
            return self._tokenizer


@dataclass(frozen=True)
class Models:
    """All models of a server, in the order in which they were named."""

    models: Sequence[Model]

    @classmethod
    def open(cls, settings: Settings, metrics: Metrics, open_engine: OpenEngine) -> Models:
        """Read every bundle's manifest. Raises BundleError; loads none of them."""
        limits, seats = settings.limits, Seats(settings.limits.loaded)
        models = []
        for name, folder in settings.bundles.items():
            bundle = Bundle.open(name, folder, settings.loading)
            worker = Worker(name, _opener(open_engine, bundle), limits, seats, metrics.answered(name))
            metrics.watch(name, worker)
            models.append(Model(bundle, worker))
        return cls(tuple(models))

    def find(self, name: str | None) -> Model:
        """The model of that name; without a name the only one. Raises Refused."""
        if name is None and len(self.models) == 1:
            return self.models[0]
        known = ", ".join(model.bundle.name for model in self.models)
        if name is None:
            raise Refused(Problem(400, f"model is missing; the models are {known}", "missing_value", "model"))
        for model in self.models:
            if model.bundle.name == name:
                return model
        text = f"there is no model {name!r:.100}; the models are {known}"
        raise Refused(Problem(404, text, "model_not_found", "model"))

    def start(self, *, preload: bool) -> None:
        """Start every worker."""
        for model in self.models:
            model.worker.start(preload=preload)

    def stop(self, *, at_once: bool) -> None:
        """Take no more jobs; `at_once`: end those in progress."""
        for model in self.models:
            model.worker.stop(at_once=at_once)

    def join(self, seconds: float) -> None:
        """Wait for the workers, after `stop`."""
        for model in self.models:
            model.worker.join(seconds)


def load_engine(bundle: Bundle) -> Engine:
    """Load a bundle as its settings say. Raises what `edgephi.load` raises."""
    from ..loading import load

    loading = bundle.loading
    return load(
        bundle.folder, device=loading.device, threads=loading.threads, context=loading.context, mapped=loading.mapped,
        allow_oversized=loading.allow_oversized, prefix_cache=loading.prefix_cache,
    )


def _opener(open_engine: OpenEngine, bundle: Bundle) -> Callable[[], Engine]:
    return lambda: open_engine(bundle)
