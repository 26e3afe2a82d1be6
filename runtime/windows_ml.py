"""The execution providers that Windows delivers: the catalog of Windows ML, through Microsoft's package `windowsml`.

Boundary: asks what is on this machine and gives its library. Windows would download what is not: that is left to the
user, because nothing here reaches for the network. Names and states are those of Microsoft's documentation of
ExecutionProviderCatalog; none of it has been run on Windows.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .errors import ProviderUnavailable

PACKAGE = "windowsml"
# NotReady: on the machine, and not yet in this process; NotPresent: to be downloaded
_PRESENT, _ABSENT = ("Ready", "NotReady"), "NotPresent"


@dataclass(frozen=True)
class Delivered:
    """A provider that is on this machine: its name, which ONNX Runtime registers it by, and its library."""

    name: str
    library: str


def find(engines: Sequence[str]) -> Delivered | None:
    """The first of the providers `engines`, names in any case, that is on this machine; None without the package.

    Raises ProviderUnavailable saying what the catalog has, and what to do for one that Windows has not downloaded.
    """
    try:
        offered = list(_catalog().find_all_providers())
    except ImportError:
        return None
    except (OSError, RuntimeError, AttributeError) as error:
        raise ProviderUnavailable(
            f"the catalog of Windows ML does not open ({error}): it needs Windows 11 24H2 or later and the package "
            f"{PACKAGE}; or choose another device"
        ) from error
    by_name = {str(item.name).casefold(): item for item in offered}
    wanted = [by_name[engine.casefold()] for engine in engines if engine.casefold() in by_name]
    for item in wanted:
        if item.ready_state.name in _PRESENT:
            return _ready(item)
    absent = [str(item.name) for item in wanted if item.ready_state.name == _ABSENT]
    if absent:
        raise ProviderUnavailable(
            f"Windows ML offers {', '.join(absent)} and has not downloaded it: call ensure_ready() of that entry of "
            f"{PACKAGE}.EpCatalog().find_all_providers() once, which does; nothing is downloaded here"
        )
    raise ProviderUnavailable(
        f"Windows ML has none of {', '.join(engines)} for this machine, but "
        f"{', '.join(str(item.name) for item in offered) or 'nothing'}: update Windows and the driver of the device, "
        "or choose another device"
    )


def _ready(item: Any) -> Delivered:
    """Let this process see the provider's library."""
    try:
        item.ensure_ready()
    except (OSError, RuntimeError) as error:
        raise ProviderUnavailable(
            f"Windows ML does not make {item.name} ready ({error}): update Windows and the driver of the device, or "
            "choose another device"
        ) from error
    return Delivered(str(item.name), str(item.library_path))


@functools.cache
def _catalog() -> Any:
    """Never closed: releasing the catalog ends the process with some drivers (microsoft/winml-cli, pull 729)."""
    return importlib.import_module(PACKAGE).EpCatalog()
