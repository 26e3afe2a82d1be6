"""Which device serves a bundle: the one that was named, or the fastest of those that are really there.

Boundary: decides and remembers; what is asked is graphs.py (is the device there?) and the caller (how fast is it?).
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from . import providers
from .devices import hardware
from .engine import RUNTIME
from .errors import EdgePhiError, ProviderUnavailable
from .manifest import Manifest
from .providers.provider import Provider
from .user_files import cached, write_whole

Measure = Callable[[Provider], float]


@dataclass(frozen=True)
class Choice:
    """The device and why it is this one, in words for the user. `instead`: the next where it turns out not to serve."""

    provider: Provider
    reason: str
    instead: Provider | None = None


@dataclass(frozen=True)
class Verdict:
    """What became of one candidate: what the machine has for it, or why it cannot serve."""

    provider: Provider
    found: tuple[str, ...]
    reason: str | None


def judge(provider: Provider, made_for: Provider | None) -> Verdict:
    """Whether a device is there and, for a bundle `made_for` some device, can run its graphs."""
    try:
        found = hardware(provider)
    except ProviderUnavailable as error:
        return Verdict(provider, (), str(error))
    refusal = None if made_for is None else provider.refusal(made_for)
    return Verdict(provider, found, refusal)


def choose(
    device: str, manifest: Manifest, measure: Measure, memory: Path | None = None, *, part: str = "text"
) -> Choice:
    """The device for a `part` of a bundle. `measure` gives seconds, and is called where several could serve.

    `memory`: the file where the winner is remembered, by default one in the user's cache folder. Raises
    ProviderUnavailable with the reason and the next step where no device that `device` means can serve.
    """
    made_for = providers.find(manifest.device)
    candidates = providers.candidates(device)
    if len(candidates) == 1:
        refusal = candidates[0].refusal(made_for)
        if refusal is not None:
            raise ProviderUnavailable(
                f"device {device!r} cannot run this bundle: {refusal}: choose {manifest.device!r} or export the "
                f"checkpoint with --device {device}"
            )
        hardware(candidates[0])
        return Choice(candidates[0], "asked for")
    verdicts = [judge(candidate, made_for) for candidate in candidates]
    serving = [verdict for verdict in verdicts if verdict.reason is None]
    if not serving:
        reasons = "; ".join(f"{verdict.provider.name}: {verdict.reason}" for verdict in verdicts)
        raise ProviderUnavailable(f"no {device} of this machine serves this bundle ({reasons})")
    if len(serving) == 1:
        return Choice(serving[0].provider, "the only device of this machine that serves this bundle")
    memory = cached("devices.json") if memory is None else memory
    return _fastest([verdict.provider for verdict in serving], _key(serving, manifest, part), measure, memory)


def _fastest(serving: list[Provider], key: str, measure: Measure, memory: Path) -> Choice:
    times, failures, how = _recall(memory, key), list[str](), "remembered"
    by_name = {provider.name: provider for provider in serving}
    if not times or not times.keys() <= by_name.keys():
        times, how = {}, "measured"
        for provider in serving:
            try:
                times[provider.name] = measure(provider)
            except EdgePhiError as error:
                failures.append(f"{provider.name}: {error}")
        if not times:
            raise ProviderUnavailable(f"no device of this machine runs this bundle ({'; '.join(failures)})")
        if not failures:  # a driver that is mended is tried again
            _remember(memory, key, times)
    best = min(times, key=lambda name: times[name])
    shown = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in sorted(times.items(), key=lambda item: item[1]))
    return Choice(by_name[best], "; ".join([f"the fastest here ({how}: {shown})", *failures]))


def _key(serving: list[Verdict], manifest: Manifest, part: str) -> str:
    """The same machine, ONNX Runtime, graphs, candidates and their hardware have the same winner for a part."""
    files = sorted(record.sha256 for record in manifest.files.values())
    candidates = [(verdict.provider.name, verdict.found) for verdict in serving]
    facts = (platform.node(), platform.machine(), RUNTIME, candidates, files, part)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


def _recall(memory: Path, key: str) -> dict[str, float]:
    """Seconds by device; empty where nothing, or nothing readable, is remembered."""
    entry = _read(memory).get(key)
    if not isinstance(entry, dict):
        return {}
    return {name: value for name, value in entry.items() if isinstance(value, float)}


def _read(memory: Path) -> dict[str, object]:
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _remember(memory: Path, key: str, times: Mapping[str, float]) -> None:
    """Best effort: a cache folder that cannot be written costs a measurement next time."""
    known = _read(memory) | {key: dict(times)}
    try:
        write_whole(memory, json.dumps(known).encode())
    except OSError:
        return
