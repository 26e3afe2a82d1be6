"""What `edgephi export` costs: wall and processor time, peak memory with file-backed pages, and the size of every file.

Boundary: runs the command in a child process, as a user would, and reads only its --json report. Results are merged
into export_cost.json and shown as a table in export_cost.md beside it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgephi.runtime.errors import RequestError

from . import machine, processes

RESULTS_NAME = "export_cost.json"
TABLE_NAME = "export_cost.md"


@dataclass(frozen=True)
class Case:
    """How a checkpoint is exported."""

    precision: str
    preset: str = "balanced"
    method: str = "grid_search"

    @classmethod
    def parse(cls, text: str) -> Case:
        """`int4`, `int4:fast` or `int4:fast:round_to_nearest`. Raises RequestError."""
        parts = text.split(":")
        if not all(parts) or len(parts) > 3:
            raise RequestError(f"a case is PRECISION[:PRESET[:METHOD]], such as int4:fast; found {text!r}")
        return cls(*parts)


@dataclass(frozen=True)
class Cost:
    """One export: bytes and seconds. `files` are the sizes of the bundle's files.

    `load_before` is the load average of the minute before it began: work of others, which lengthens `seconds`.
    """

    checkpoint: str
    precision: str
    preset: str
    checkpoint_bytes: int
    bundle_bytes: int
    files: dict[str, int]
    seconds: float
    cpu_seconds: float
    peak_resident: int
    peak_anonymous: int
    peak_file_backed: int
    reported_peak: int
    load_before: float
    date: str
    machine: dict[str, str | int]
    versions: dict[str, str]
    method: str = "grid_search"

    def key(self) -> tuple[str, ...]:
        """A later measurement of the same thing replaces an earlier one."""
        return self.checkpoint, self.precision, self.preset, self.method, json.dumps(self.machine, sort_keys=True)


def measure(
    checkpoint: Path, cases: Sequence[Case], bundles: Path | None, threads: int | None, results: Path
) -> list[Cost]:
    """Export a checkpoint in every way asked for and note the costs in the folder `results`.

    Bundles stay in the folder `bundles` as CHECKPOINT-PRECISION-PRESET; None throws each away. Raises RequestError when
    an export fails.
    """
    costs = []
    for case in cases:
        with tempfile.TemporaryDirectory() if bundles is None else nullcontext(bundles) as folder:
            costs.append(_export(checkpoint, case, Path(folder), threads))
        note(costs[-1:], results)
    return costs


def _export(checkpoint: Path, case: Case, folder: Path, threads: int | None) -> Cost:
    bundle = folder / f"{checkpoint.name}-{case.precision}-{case.preset}"
    command = [
        sys.executable, "-m", "edgephi", "export", str(checkpoint), "-o", str(bundle), "--precision", case.precision,
        "--preset", case.preset, "--method", case.method, "--json",
        *(() if threads is None else ("--threads", str(threads))),
    ]
    load = round(os.getloadavg()[0], 2)
    usage = processes.run(command)
    files = {path.name: path.stat().st_size for path in sorted(bundle.iterdir())}
    return Cost(
        checkpoint.name, case.precision, case.preset, json.loads(usage.output)["checkpoint_bytes"], sum(files.values()),
        files, round(usage.seconds, 1), round(usage.cpu_seconds, 1),
        usage.peak_resident, usage.peak_anonymous, usage.peak_file_backed, usage.reported_peak, load,
        datetime.now(UTC).date().isoformat(), machine.describe(), machine.versions(), case.method,
    )


def note(costs: Sequence[Cost], results: Path) -> None:
    """Merge costs into the files of the folder `results`. Raises RequestError if they hold something else."""
    path = results / RESULTS_NAME
    known = [] if not path.is_file() else _read(path)
    merged = {cost.key(): cost for cost in (*known, *costs)}
    results.mkdir(parents=True, exist_ok=True)
    ordered = [asdict(merged[key]) for key in sorted(merged)]
    path.write_text(json.dumps(ordered, indent=2) + "\n", encoding="utf-8")
    (results / TABLE_NAME).write_text(table(list(merged.values())), encoding="utf-8")


def table(costs: Sequence[Cost]) -> str:
    """The costs as Markdown, one table for each machine."""
    parts = ["# What an export costs\n"]
    costs = sorted(costs, key=Cost.key)
    for described in {json.dumps(cost.machine, sort_keys=True): cost.machine for cost in costs}.values():
        parts.append(
            f"\n{described['processor']}, {described['processors']} processors, "
            f"{int(described['memory_bytes']) / 1e9:.0f} GB of memory, {described['system']}\n\n"
            "| checkpoint | precision | preset | method | size | bundle | peak memory | processor | wall | load "
            "| date |\n"
            "|---|---|---|---|---|---|---|---|---|---|---|\n"
        )
        parts += [
            f"| {cost.checkpoint} | {cost.precision} | {cost.preset} | {cost.method} "
            f"| {_gigabytes(cost.checkpoint_bytes)} | {_gigabytes(cost.bundle_bytes)} "
            f"| {_gigabytes(cost.peak_resident)} | {cost.cpu_seconds:.0f} s | {cost.seconds:.0f} s "
            f"| {cost.load_before:.1f} | {cost.date} |\n"
            for cost in costs if cost.machine == described
        ]
    parts.append(
        "\nWeights are random and of full size. Peak memory is the largest resident set of the process, anonymous and "
        "file-backed pages together. Processor and wall are times; load is the work of other programs in the minute "
        "before, which lengthens the latter.\n"
    )
    return "".join(parts)


def _read(path: Path) -> list[Cost]:
    try:
        records: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return [Cost(**record) for record in records]
    except (ValueError, TypeError) as error:
        raise RequestError(f"{path} is not a list of export costs ({error}): move it away") from error


def _gigabytes(nbytes: int) -> str:
    return f"{nbytes / 1e9:.2f} GB"
