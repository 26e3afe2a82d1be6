"""Which devices are there: providers are loaded and asked what they drive.

Boundary: finds and says what is missing; opens no graph.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from . import windows_ml
from .engine import ENGINE_ERRORS, FATAL, WARNING, first_line, ort, takes_compiled
from .errors import ProviderUnavailable
from .providers.provider import Plugin, Provider


def hardware(provider: Provider) -> tuple[str, ...]:
    """What this machine has for a provider, in words: one entry a device.

    Raises ProviderUnavailable saying what is missing: the package, the library, its dependencies or the device.
    """
    found = devices(provider)
    described = [
        " ".join([str(item.device.vendor or item.ep_vendor), item.device.type.name, *item.device.metadata.values()])
        for item in found
    ]
    return tuple(described) or (provider.ort_name,)


def devices(provider: Provider) -> list[Any]:
    """ONNX Runtime's handles of what a provider drives here; none for a provider inside ONNX Runtime itself."""
    if provider.plugin is not None:
        _register(provider, provider.plugin)
        found = [item for item in ort.get_ep_devices() if provider.is_called(item.ep_name)]
        fitting = [item for item in found if item.device.type.name in provider.hardware]
        if not fitting:
            kinds = sorted({item.device.type.name for item in found})
            raise ProviderUnavailable(
                f"device {provider.name!r} is not in this machine: {provider.ort_name} needs "
                f"{' or '.join(provider.hardware)} and finds {', '.join(kinds) or 'nothing'}: {provider.install}"
            )
        return fitting
    if provider.ort_name not in ort.get_available_providers():
        raise ProviderUnavailable(
            f"device {provider.name!r} needs {provider.ort_name}, this ONNX Runtime {ort.__version__} offers "
            f"{', '.join(ort.get_available_providers())}: {provider.install}; or choose another device"
        )
    return []


def compiler_version(provider: Provider) -> str | None:
    """The version of the compiler that a provider brings along, as "2.51.0"; None where it does not tell."""
    if provider.plugin is None or provider.plugin.compiler is None:
        return None
    module, attribute = provider.plugin.compiler
    try:
        return str(getattr(importlib.import_module(module), attribute))
    except (ImportError, AttributeError):
        return None


def takes(provider: Provider, compatibility: str) -> bool:
    """Whether the device that is there takes compiled graphs of which its provider said `compatibility`."""
    return takes_compiled(devices(provider), compatibility)


def _register(provider: Provider, plugin: Plugin) -> None:
    """Let ONNX Runtime load the library of a plugin, once a process."""
    if any(map(provider.is_called, ort.get_available_providers())):
        return
    try:
        name, library = _library(provider, plugin)
    except (OSError, RuntimeError) as error:
        raise ProviderUnavailable(_missing_library(provider, plugin, first_line(error))) from error
    if not os.path.isfile(library):
        raise ProviderUnavailable(_missing_library(provider, plugin, f"there is no {library}"))
    os.environ.update(plugin.environment)
    ort.set_default_logger_severity(FATAL)
    try:
        ort.register_execution_provider_library(name, library)
    except ENGINE_ERRORS as error:
        raise ProviderUnavailable(_missing_library(provider, plugin, first_line(error))) from error
    finally:
        ort.set_default_logger_severity(WARNING)


def _library(provider: Provider, plugin: Plugin) -> tuple[str, str]:
    """The name to register a plugin by and its library: from its package, else from Windows ML."""
    if plugin.package != windows_ml.PACKAGE:
        try:
            return provider.ort_name, str(importlib.import_module(plugin.package).get_library_path())
        except ImportError:
            pass  # not installed
    delivered = windows_ml.find(provider.engines) if plugin.in_catalog else None
    if delivered is None:
        raise ProviderUnavailable(
            f"device {provider.name!r} needs the package {plugin.distribution}, which is not installed: "
            f"{provider.install}"
        )
    return delivered.name, delivered.library


def _missing_library(provider: Provider, plugin: Plugin, reason: str) -> str:
    return (
        f"device {provider.name!r}: the library of {plugin.distribution} does not load ({reason}): install the package "
        "again, and the driver of the device; or choose another device"
    )
