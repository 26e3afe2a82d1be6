"""The cost of a tiny export, and what becomes of the figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgephi.benchmarks import __main__ as command
from edgephi.benchmarks import checkpoints, export_cost
from edgephi.benchmarks.export_cost import Case, Cost
from edgephi.runtime.errors import RequestError

from .test_checkpoints import TINY

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is measured through /proc")

COST = Cost(
    "phi", "int4", "fast", 7_700_000_000, 2_400_000_000, {"text.onnx": 5}, 200.4, 380.0, 900_000_000, 800_000_000,
    100_000_000, 900_000_000, 1.25, "2026-01-01",
    {"processor": "CPU", "processors": 2, "memory_bytes": 8_000_000_000, "system": "Linux"}, {"python": "3.11"},
)


def test_a_case_is_a_precision_and_perhaps_a_preset() -> None:
    assert Case.parse("int4:fast") == Case("int4", "fast")
    assert Case.parse("int8") == Case("int8", "balanced")
    assert Case.parse("int4:fast:round_to_nearest") == Case("int4", "fast", "round_to_nearest")
    with pytest.raises(RequestError, match="found ':fast'"):
        Case.parse(":fast")


def test_a_tiny_export_is_measured(tmp_path: Path) -> None:
    nbytes = checkpoints.write(TINY, tmp_path / "tiny")
    arguments = [
        "export-cost", str(tmp_path / "tiny"), "--case", "int4:fast", "--case", "fp32", "--threads", "1",
        "-o", str(tmp_path / "bundles"), "--results", str(tmp_path / "results"),
    ]
    result = CliRunner().invoke(command.cli, arguments)
    assert result.exit_code == 0, result.output
    records = json.loads((tmp_path / "results" / "export_cost.json").read_text())
    assert [(record["precision"], record["preset"]) for record in records] == [("fp32", "balanced"), ("int4", "fast")]
    assert records[0]["bundle_bytes"] > records[1]["bundle_bytes"] > 0
    for record in records:
        bundle = tmp_path / "bundles" / f"tiny-{record['precision']}-{record['preset']}"
        files = {name: (bundle / name).stat().st_size for name in record["files"]}
        assert files == record["files"]
        assert record["bundle_bytes"] == sum(files.values())
        assert record["checkpoint_bytes"] == nbytes
        assert record["cpu_seconds"] > 0
        assert record["peak_resident"] >= record["peak_anonymous"] > 10 << 20
        assert str(tmp_path) not in json.dumps(record)
    assert (tmp_path / "results" / "export_cost.md").read_text() in result.output


def test_without_a_folder_no_bundle_stays(tmp_path: Path) -> None:
    checkpoints.write(replace(TINY, layers=1), tmp_path / "tiny")
    costs = export_cost.measure(tmp_path / "tiny", [Case("int8", "balanced")], None, 1, tmp_path / "results")
    assert costs[0].files["edgephi.json"] > 0
    assert {path.name for path in tmp_path.iterdir()} == {"tiny", "results"}


def test_later_figures_replace_earlier_ones(tmp_path: Path) -> None:
    export_cost.note([COST, replace(COST, precision="int8")], tmp_path)
    export_cost.note([replace(COST, seconds=100.0), replace(COST, machine={**COST.machine, "processors": 4})], tmp_path)
    records = [Cost(**record) for record in json.loads((tmp_path / "export_cost.json").read_text())]
    assert sorted((cost.precision, cost.machine["processors"], cost.seconds) for cost in records) == [
        ("int4", 2, 100.0), ("int4", 4, 200.4), ("int8", 2, 200.4),
    ]


def test_the_table_shows_units_and_machines(tmp_path: Path) -> None:
    text = export_cost.table([COST, replace(COST, machine={**COST.machine, "processors": 4})])
    row = "| phi | int4 | fast | grid_search | 7.70 GB | 2.40 GB | 0.90 GB | 380 s | 200 s | 1.2 | 2026-01-01 |"
    assert text.count(row) == 2
    assert "CPU, 2 processors, 8 GB of memory, Linux" in text
    assert "CPU, 4 processors" in text


def test_other_files_are_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "export_cost.json"
    for content in ('{"mine": 1}', "[{}]", "no JSON"):
        path.write_text(content)
        with pytest.raises(RequestError, match="is not a list of export costs"):
            export_cost.note([COST], tmp_path)
        assert path.read_text() == content


def test_a_failing_export_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RequestError, match="ended with"):
        export_cost.measure(tmp_path / "none", [Case("int4", "fast")], None, 1, tmp_path / "results")
    assert not (tmp_path / "results").exists()
    assert "Traceback" not in capfd.readouterr().err
