"""The bundles that a server offers, by name, each with the worker that answers for it.

Boundary: finds a model and its worker; nothing here waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import RequestError
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
    """One bundle and its worker; one that answers with an adapter has the worker and the tokenizer of its `base`."""

    def __init__(self, bundle: Bundle, worker: Worker, base: Model | None = None) -> None:
        self.bundle = bundle
        self.worker = worker
        self._base = base
        self._tokenizer: Tokenizer | None = None
        self._opening = threading.Lock()

    def tokenizer(self) -> Tokenizer:
        """The tokenizer, for raw prompts and the text of single tokens; slow the first time. Raises BundleError."""
        if self._base is not None:
            return self._base.tokenizer()
        with self._opening:
            if self._tokenizer is None:
                self._tokenizer = Tokenizer.open(self.bundle.folder)
            return self._tokenizer


@dataclass(frozen=True)
class Models:
    """All models of a server, in the order in which they were named."""

    models: Sequence[Model]

    @property
    def bundles(self) -> list[Model]:
        """Each bundle once, without its adapters."""
        return [model for model in self.models if model.bundle.adapter is None]

    @classmethod
    def open(cls, settings: Settings, metrics: Metrics, open_engine: OpenEngine) -> Models:
        """Read every bundle's manifest. Raises BundleError, RequestError for a name twice; loads none of them."""
        limits, seats = settings.limits, Seats(settings.limits.loaded)
        models: list[Model] = []
        for name, folder in settings.bundles.items():
            bundle = Bundle.open(name, folder, settings.loading)
            worker = Worker(name, _opener(open_engine, bundle), limits, seats, metrics.answered(name))
            metrics.watch(name, worker)
            base = Model(bundle, worker)
            models += [base, *(Model(tuned, worker, base) for tuned in bundle.with_adapters())]
        names = [model.bundle.name for model in models]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise RequestError(f"a bundle and an adapter of another one are both called {twice!r}: name one otherwise")
        loading = settings.loading
        for kind, part, device in (
            ("image", "vision", loading.vision_device), ("audio", "speech", loading.speech_device),
        ):
            if device is not None and not any(kind in model.bundle.takes for model in models):
                raise RequestError(f"none of the bundles takes {kind}: leave out --{part}-device")
        return cls(tuple(models))

    def find(self, name: str | None) -> Model:
        """The model of that name; without a name the only bundle. Raises Refused."""
        if name is None and len(self.bundles) == 1:
            return self.bundles[0]
        known = ", ".join(model.bundle.name for model in self.models)
        if name is None:
            raise Refused(Problem(400, f"model is missing; the models are {known}", "missing_value", "model"))
        for model in self.models:
            if model.bundle.name == name:
                return model
        text = f"there is no model {name!r:.100}; the models are {known}"
        raise Refused(Problem(404, text, "model_not_found", "model"))

    def choose(self, name: str | None, adapter: str | None) -> Model:
        """The model of that name, answering with `adapter` where one is named beside it. Raises Refused."""
        found = self.find(name)
        if adapter is None or adapter == found.bundle.adapter:
            return found
        if found.bundle.adapter is not None:
            text = f"adapter is {adapter!r:.80}, and model names {found.bundle.adapter!r}: leave out one of them"
            raise Refused(Problem(400, text, "invalid_value", "adapter"))
        tuned = [model for model in self.models if model.bundle.adapter and model.worker is found.worker]
        for model in tuned:
            if model.bundle.adapter == adapter:
                return model
        known = ", ".join(str(model.bundle.adapter) for model in tuned) or "none"
        text = f"adapter is {adapter!r:.80}, which {found.bundle.name!r} does not have; its adapters: {known}"
        raise Refused(Problem(404, text, "adapter_not_found", "adapter"))

    def start(self, *, preload: bool) -> None:
        """Start every worker."""
        for model in self.bundles:
            model.worker.start(preload=preload)

    def stop(self, *, at_once: bool) -> None:
        """Take no more jobs; `at_once`: end those in progress."""
        for model in self.bundles:
            model.worker.stop(at_once=at_once)

    def join(self, seconds: float) -> None:
        """Wait for the workers, after `stop`."""
        for model in self.bundles:
            model.worker.join(seconds)


def load_engine(bundle: Bundle) -> Engine:
    """Load a bundle as its settings say. Raises what `edgephi.load` raises."""
    from ..loading import load

    loading = bundle.loading
    return load(
        bundle.folder, device=loading.device, threads=loading.threads, context=loading.context, mapped=loading.mapped,
        allow_oversized=loading.allow_oversized, prefix_cache=loading.prefix_cache, kv=loading.kv,
        vision_device=loading.vision_device if "image" in bundle.takes else None,
        speech_device=loading.speech_device if "audio" in bundle.takes else None,
    )


def _opener(open_engine: OpenEngine, bundle: Bundle) -> Callable[[], Engine]:
    return lambda: open_engine(bundle)
