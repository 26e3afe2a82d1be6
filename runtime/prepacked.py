"""Weights as the kernels of this processor want them, in a file that sessions map instead of copying.

Boundary: where such files are and how one comes about; ONNX Runtime writes and reads them. By default a session packs
the weights of a bundle into memory of its own. Mapped from a prepared file, they are pages of a file: sessions and
processes share them, and a system short of memory drops and reads them again instead of swapping. It costs 1.8 to 2.4
times the bundle on disk, for the original codes must be there too: ONNX Runtime packs them at every load and finds the
prepared form by a hash of the result. The first time it costs the memory of a usual session; answers and speed are the
same.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import tempfile
from pathlib import Path

from .engine import RUNTIME
from .errors import RequestError
from .footprint import footprint
from .graphs import write_prepacked
from .manifest import Manifest
from .providers.provider import Provider
from .user_files import cached

GRAPH, DATA = "graph.onnx", "graph.onnx.data"
_CPUINFO = Path("/proc/cpuinfo")
_HEADROOM = 1.2


def default_folder() -> Path:
    """Where prepared files are kept: a folder of the user's cache, which may be emptied at any time."""
    return cached("prepared")


def find(manifest: Manifest, name: str, provider: Provider, folder: Path) -> Path | None:
    """The prepared form of the graph `name`, None where there is none yet."""
    path = _place(manifest, name, provider, folder) / GRAPH
    return path if path.is_file() else None


def prepare(bundle: Path, manifest: Manifest, name: str, provider: Provider, folder: Path) -> Path:
    """The prepared form of the graph `name`; made where there is none yet. Raises RequestError without room on disk."""
    found = find(manifest, name, provider, folder)
    if found is not None:
        return found
    place = _place(manifest, name, provider, folder)
    folder.mkdir(parents=True, exist_ok=True)
    _require_room(manifest, name, folder)
    made = Path(tempfile.mkdtemp(prefix=f"{place.name}.", dir=folder))
    try:
        write_prepacked(bundle / manifest.graphs[name].file, provider, made / GRAPH, DATA)
        os.rename(made, place)
    except OSError:
        if not (place / GRAPH).is_file():  # unless another process was faster
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return place / GRAPH


def _place(manifest: Manifest, name: str, provider: Provider, folder: Path) -> Path:
    """A folder for the same weights, the same ONNX Runtime and the same processor."""
    graph = manifest.graphs[name]
    files = [(file, manifest.files[file].sha256) for file in (graph.file, *graph.data)]
    facts = repr((files, RUNTIME, provider.name, _processor()))
    return folder / hashlib.sha256(facts.encode()).hexdigest()[:32]


def _processor() -> tuple[str, ...]:
    """What kernels are chosen by: the processor's name and, where the system tells, its features."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    told = [line for line in lines if line.startswith(("model name", "flags", "CPU part", "Features"))]
    return platform.machine(), platform.processor(), *dict.fromkeys(told)


def _require_room(manifest: Manifest, name: str, folder: Path) -> None:
    stored = sum(manifest.files[file].size for file in manifest.graphs[name].data)
    needed = stored + round(_HEADROOM * footprint(manifest, 1).weights)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise RequestError(
            f"weights prepared for mapping need {needed / 1e9:.1f} GB in {folder}, {free / 1e9:.1f} GB are free there: "
            "free some space, or load the bundle without mapping"
        )
