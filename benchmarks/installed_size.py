"""What an installation for inference takes: bytes of every package, processor time and modules of a start.

Boundary: reads what is installed and starts processes; nothing of an extra is counted. Sizes are those of the files
that pip installed, compiled bytecode left out.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

import edgephi

from . import machine

RESULTS_NAME = "installed_size.json"
TABLE_NAME = "installed_size.md"
ROOT = "edgephi"
STARTS = {
    "edgephi --help": "from edgephi.__main__ import main; sys.argv = ['edgephi', '--help']; main()",
    "import edgephi": "import edgephi",
    "all that a session needs": "import edgephi.runtime.loading",
}
_RUNS = 5
_FOLDERS = ("benchmarks", "demo", "export", "quantize", "runtime")


@dataclass(frozen=True)
class Package:
    """An installed distribution; `nbytes` of its files."""

    name: str
    version: str
    nbytes: int


@dataclass(frozen=True)
class Start:
    """A fresh process: median processor time in seconds beyond a bare interpreter's, and modules loaded in all."""

    name: str
    cpu_seconds: float
    modules: int


def packages() -> list[Package]:
    """edgephi and what its base install brings along, largest first."""
    found = [Package(ROOT, distribution(ROOT).version, _own_bytes())]
    found += [Package(item.name, item.version, _bytes(item)) for item in _needed(ROOT, {ROOT})]
    return sorted(found, key=lambda package: -package.nbytes)


def _needed(name: str, seen: set[str]) -> Iterator[Distribution]:
    for text in distribution(name).requires or ():
        requirement = Requirement(text)
        needed = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if needed in seen or (requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})):
            continue
        seen.add(needed)
        try:
            found = distribution(needed)
        except PackageNotFoundError:  # a choice between several, of which another one is installed
            continue
        yield found
        yield from _needed(needed, seen)


def _bytes(item: Distribution) -> int:
    paths = [Path(str(item.locate_file(file))) for file in item.files or () if "__pycache__" not in file.parts]
    return sum(path.stat().st_size for path in paths if path.is_file())


def _own_bytes() -> int:
    """The package itself, wherever it is imported from: an editable install lists none of its files."""
    root = Path(edgephi.__file__).parent
    files = [*root.glob("*.py"), *(path for folder in _FOLDERS for path in (root / folder).rglob("*"))]
    return sum(
        path.stat().st_size for path in files
        if path.is_file() and "__pycache__" not in path.parts and path.parent.name != "results"
    )


def starts() -> list[Start]:
    """The cost of each of STARTS."""
    bare = statistics.median(_start("pass")[0] for _ in range(_RUNS))
    measured = []
    for name, statement in STARTS.items():
        runs = [_start(statement) for _ in range(_RUNS)]
        measured.append(Start(name, round(statistics.median(run[0] for run in runs) - bare, 3), runs[0][1]))
    return measured


def _start(statement: str) -> tuple[float, int]:
    """Processor seconds and modules of a process that runs `statement`."""
    code = f"import atexit, sys; atexit.register(lambda: print(len(sys.modules), file=sys.stderr)); {statement}"
    before = os.times()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after = os.times()
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    return seconds, int(done.stderr.split()[-1])


def write(measured: list[Package], started: list[Start], results: Path) -> None:
    """Write installed_size.json and installed_size.md to the folder `results`."""
    results.mkdir(parents=True, exist_ok=True)
    record = {
        "date": datetime.now(UTC).date().isoformat(), "machine": machine.describe(),
        "packages": [asdict(package) for package in measured], "starts": [asdict(start) for start in started],
    }
    (results / RESULTS_NAME).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (results / TABLE_NAME).write_text(table(measured, started), encoding="utf-8")


def table(measured: list[Package], started: list[Start]) -> str:
    """Markdown: packages and starts."""
    lines = [
        "# What an installation for inference takes\n",
        f"{sum(package.nbytes for package in measured) / 1e6:.0f} MB in all, bytecode left out.\n",
        "| package | version | MB |", "|---|---|---|",
        *(f"| {package.name} | {package.version} | {package.nbytes / 1e6:.1f} |" for package in measured),
        "\nA start, beyond what a bare interpreter takes:\n",
        "| start | processor | modules |", "|---|---|---|",
        *(f"| `{start.name}` | {start.cpu_seconds:.2f} s | {start.modules} |" for start in started),
    ]
    return "\n".join(lines) + "\n"
