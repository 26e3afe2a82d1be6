"""The two files that a measurement leaves: NAME.json holds everything, NAME.md the table for people."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from . import machine


def circumstances() -> dict[str, object]:
    """When and on what something was measured: the date, the machine, the versions."""
    return {
        "date": datetime.now(UTC).date().isoformat(), "machine": machine.describe(), "versions": machine.versions(),
    }


def write(results: Path, name: str, record: object, table: str) -> None:
    """Write both files into the folder `results`, which is made where it is missing."""
    results.mkdir(parents=True, exist_ok=True)
    (results / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (results / f"{name}.md").write_text(table, encoding="utf-8")
