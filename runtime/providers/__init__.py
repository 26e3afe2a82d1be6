"""ONE FILE PER DEVICE KIND, found by listing this folder; each defines `PROVIDER`."""

from __future__ import annotations

import importlib
import pkgutil

from ..errors import ProviderUnavailable
from .provider import Provider


def names() -> tuple[str, ...]:
    """The devices of this version, in alphabetical order."""
    return tuple(sorted(item.name for item in pkgutil.iter_modules(__path__) if item.name != "provider"))


def find(name: str) -> Provider:
    """The record of one device. Raises ProviderUnavailable for a name that no file of this folder has."""
    if name not in names():
        raise ProviderUnavailable(
            f"device {name!r} is not known; this version serves {', '.join(names())}: choose one of them"
        )
    module = importlib.import_module(f".{name}", __package__)
    provider = module.PROVIDER
    if not isinstance(provider, Provider):
        raise ProviderUnavailable(f"device file {name}.py defines no Provider record; mend it or remove the file")
    return provider
