"""ONE FILE PER DEVICE, found by listing this folder; each defines `PROVIDER`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence

from ..errors import ProviderUnavailable
from .provider import Generation, Provider

KINDS = ("cpu", "gpu", "npu")
# The record whose graphs an export for a kind makes; the others of that kind run the same ones.
_MODELS = {"cpu": "cpu", "gpu": "webgpu", "npu": "qnn"}


def names() -> tuple[str, ...]:
    """The devices of this version, in alphabetical order."""
    return tuple(sorted(item.name for item in pkgutil.iter_modules(__path__) if item.name != "provider"))


def find(name: str) -> Provider:
    """The record of one device; "NAME:GENERATION" for one generation of it.

    Raises ProviderUnavailable for a name that no file of this folder has, and for a generation that its record has not.
    """
    name, marked, generation = name.partition(":")
    if marked:
        record = find(name)
        return record.for_generation(generations(record, [generation])[0])
    if name not in names():
        raise ProviderUnavailable(
            f"device {name!r} is not known; this version serves {', '.join(names())}: choose one of them"
        )
    module = importlib.import_module(f".{name}", __package__)
    provider = module.PROVIDER
    if not isinstance(provider, Provider):
        raise ProviderUnavailable(f"device file {name}.py defines no Provider record; mend it or remove the file")
    return provider


def candidates(device: str) -> tuple[Provider, ...]:
    """The records that a request for a device means: a name, a kind, or "auto" for every one but simulators.

    Raises ProviderUnavailable for what is none of these.
    """
    if device not in (*KINDS, "auto"):
        return (find(device),)
    records = [find(name) for name in names()]
    return tuple(record for record in records if record.kind == device or (device == "auto" and record.kind in KINDS))


def for_export(device: str) -> Provider:
    """The record whose wishes an export for a kind or a name follows. Raises ProviderUnavailable."""
    return find(_MODELS.get(device, device))


def generations(provider: Provider, wanted: Sequence[str]) -> tuple[Generation, ...]:
    """The generations of a device that a user names, each once. Raises ProviderUnavailable for one it has not."""
    found: dict[str, Generation] = {}
    for name in wanted:
        generation = provider.find_generation(name)
        if generation is None:
            known = ", ".join(f"{item.name} ({item.chip}, {item.title})" for item in provider.generations)
            raise ProviderUnavailable(
                f"device {provider.name!r} has no generation {name.strip()!r:.80}: "
                + (f"choose among {known}" if known else "its graphs are not compiled ahead of time")
            )
        found[generation.name] = generation
    return tuple(found.values())
