"""Requests that schemathesis makes from the server's OpenAPI document, valid ones and others: does one break it?

Boundary: runs `edgephi serve` and schemathesis in processes of their own, and reads what the latter says of its end.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from edgephi.runtime.errors import RequestError

from . import machine
from .load import serving

RESULTS_NAME = "fuzz.json"
TABLE_NAME = "fuzz.md"
# No status of 500, and no status, type or shape of an answer that the document does not tell.
CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")
PHASES = ("examples", "coverage", "fuzzing", "stateful")
_CONTEXT = 1200  # tokens: a model that never ends must end somewhere
_COUNTS = re.compile(r"(\d+) generated(?:, (\d+) passed)?")


@dataclass(frozen=True)
class Fuzz:
    """One run: requests that were made, those that passed all checks, and the last words where not all did."""

    bundle: str
    takes: tuple[str, ...]
    examples: int
    seed: int
    generated: int
    passed: int
    exit_code: int
    failures: str
    date: str
    machine: dict[str, str | int]
    versions: dict[str, str]


def measure(bundle: Path, examples: int, seed: int, threads: int | None) -> Fuzz:
    """Fuzz a server of `bundle`. Raises RequestError if one of the two programs does not start."""
    takes = tuple(json.loads((bundle / "edgephi.json").read_bytes())["capabilities"])
    with serving(bundle, threads, "--context", str(_CONTEXT)) as (_, port):
        command = [
            sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{port}/openapi.json", "--no-color",
            "--max-examples", str(examples), "--seed", str(seed), "--phases", ",".join(PHASES), "--checks",
            ",".join(CHECKS), "--generation-database", "none", "--request-timeout", "90", "--continue-on-failure",
        ]
        done = subprocess.run(command, capture_output=True, text=True)
    counts = _COUNTS.search(done.stdout)
    if counts is None:
        raise RequestError(f"schemathesis did not run: {' '.join((done.stdout + done.stderr).split())[-500:]}")
    return Fuzz(
        bundle.name, takes, examples, seed, int(counts[1]), int(counts[2] or 0), done.returncode,
        done.stdout[-6000:] if done.returncode else "", datetime.now(UTC).date().isoformat(), machine.describe(),
        machine.versions(),
    )


def write(found: Fuzz, results: Path) -> None:
    """Put a run into fuzz.json and fuzz.md of the folder `results`, in place of an earlier one of the same bundle."""
    path = results / RESULTS_NAME
    known = json.loads(path.read_bytes()) if path.is_file() else []
    runs = [run for run in known if run["bundle"] != found.bundle] + [asdict(found)]
    results.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(runs, indent=2) + "\n", encoding="utf-8")
    lines = [
        f"| {run['bundle']} ({', '.join(run['takes'])}) | {run['examples']} | {run['seed']} | {run['generated']} "
        f"| {run['generated'] - run['passed']} | {run['date']} |\n"
        for run in runs
    ]
    head = "| bundle | examples for each operation | seed | requests | failed | date |\n|---|---|---|---|---|---|\n"
    checked = f"Checked: {', '.join(CHECKS)}; phases: {', '.join(PHASES)}.\n"
    text = f"# Requests made by schemathesis\n\n{head}{''.join(lines)}\n{checked}"
    (results / TABLE_NAME).write_text(text, encoding="utf-8")
