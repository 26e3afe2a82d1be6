"""What there is to know of this machine and of edgephi on it: the facts that `edgephi doctor` prints.

Boundary: looks and asks, changes nothing and sends nothing. Names no user, no folder but those of device libraries.
"""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from . import drivers, large_pages, providers
from .encoder_devices import MEDIA
from .engine import TELEMETRY_OFF
from .fit import judge as judge_memory
from .manifest import read_manifest
from .memory import available_memory
from .selection import judge

# Resident bytes of each parameter of an INT4 bundle, measured: Phi-4-mini holds 2.96 GB for 3.8 billion.
BYTES_PER_PARAMETER = 0.78
CONVERSATION = 1 << 30  # keys and values of 8192 tokens of Phi-4-mini, and as a margin
LIBRARIES = (
    "edgephi", "onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-qnn", "onnxruntime-ep-openvino",
    "onnxruntime-ep-webgpu", "onnxruntime-windowsml", "windowsml", "numpy", "tokenizers", "onnx-ir",
)


@dataclass(frozen=True)
class DeviceReport:
    """One device of this version. `accepted`: it is there; `reason` says why not; `found` is what the machine has."""

    name: str
    kind: str
    provider: str
    accepted: bool
    found: tuple[str, ...]
    reason: str | None


@dataclass(frozen=True)
class BundleReport:
    """One bundle: the devices that could serve it, why each other one could not, and how its memory looks.

    `encoders`: its parts that can have a device of their own among these.
    `needs` and `largest_context` are bytes and tokens on the CPU for a conversation of `context` tokens.
    """

    bundle: str
    made_for: str
    serves: tuple[str, ...]
    encoders: tuple[str, ...]
    refused: dict[str, str]
    context: int
    needs: int
    fits: bool | None
    largest_context: int | None


@dataclass(frozen=True)
class Report:
    """Everything. `available_memory` in bytes, None where the system does not tell; `int4_parameters` would fit.

    `drivers`: of GPUs and NPUs, on Linux; elsewhere they are told with the devices that they drive.
    """

    system: str
    processor: str
    python: str
    logical_processors: int
    threads: int
    versions: dict[str, str]
    drivers: tuple[str, ...]
    telemetry: str
    large_pages: str
    available_memory: int | None
    int4_parameters: int | None
    devices: tuple[DeviceReport, ...]
    bundles: tuple[BundleReport, ...]


def diagnose(bundles: tuple[Path, ...] = ()) -> Report:
    """Look at this machine, and at what it could do with `bundles`. Raises BundleError for one that is damaged."""
    available = available_memory()
    parameters = None if available is None else round(max(0, available - CONVERSATION) / BYTES_PER_PARAMETER)
    return Report(
        system=f"{platform.system()} {platform.release()} {platform.machine()}", processor=_processor(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        logical_processors=os.cpu_count() or 1, threads=providers.find("cpu").default_threads(),
        versions=_versions(), drivers=drivers.found(), telemetry=_telemetry(), large_pages=large_pages.state(),
        available_memory=available, int4_parameters=parameters,
        devices=tuple(map(_device, providers.names())),
        bundles=tuple(_bundle(folder, available) for folder in bundles),
    )


def _device(name: str) -> DeviceReport:
    provider = providers.find(name)
    verdict = judge(provider, None)
    return DeviceReport(
        name, provider.kind, provider.ort_name, verdict.reason is None, verdict.found, verdict.reason
    )


def _bundle(folder: Path, available: int | None) -> BundleReport:
    manifest = read_manifest(folder)
    verdicts = [judge(providers.find(name), providers.find(manifest.device)) for name in providers.names()]
    context = min(4096, manifest.text.context_length)
    memory = judge_memory(manifest, context, available)
    return BundleReport(
        folder.name, manifest.device, tuple(verdict.provider.name for verdict in verdicts if verdict.reason is None),
        tuple(name for name in MEDIA if name in manifest.graphs),
        {verdict.provider.name: verdict.reason for verdict in verdicts if verdict.reason is not None},
        context, memory.footprint.total, memory.fits, memory.largest_context,
    )


def _telemetry() -> str:
    state = "off" if os.environ.get(TELEMETRY_OFF) == "1" else "NOT off"
    return f"{state} ({TELEMETRY_OFF}={os.environ.get(TELEMETRY_OFF)}, set before ONNX Runtime is imported)"


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    if sys.platform == "linux":
        try:
            lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            lines = []
        named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        if named:
            return named[0]
    return platform.processor() or platform.machine()
