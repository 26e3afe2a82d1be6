"""The error of quantized encoders on a tiny checkpoint, and the figures against their definition."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edgephi.benchmarks import __main__ as command
from edgephi.benchmarks import encoder_error, media_answer


def test_errors_are_what_they_are_called() -> None:
    exact = np.array([[3.0, 4.0], [0.0, 10.0]], np.float32)
    found = np.array([[3.0, 5.0], [0.0, 10.0]], np.float32)
    error = encoder_error.compare("vision", "a.png", "int8", exact, found)
    assert error.tokens == 2
    assert error.relative == pytest.approx(1 / np.sqrt(125))
    assert error.worst_row == pytest.approx(1 / 5)


def test_quantized_encoders_are_compared_with_float_ones(tiny_multimodal: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(media_answer.picture(448, 1)["image"])
    (tmp_path / "b.wav").write_bytes(media_answer.speech(1.0, 1)["audio"])
    results = tmp_path / "results"
    arguments = [
        "encoder-error", str(tiny_multimodal), str(tmp_path / "a.jpg"), str(tmp_path / "b.wav"),
        "--threads", "1", "--results", str(results),
    ]
    result = CliRunner().invoke(command.cli, arguments)
    assert result.exit_code == 0, result.output
    errors = json.loads((results / encoder_error.RESULTS_NAME).read_text())["errors"]
    kinds = [("vision", "a.jpg"), ("speech", "b.wav"), ("speech, with pictures", "b.wav")]
    assert [(error["encoder"], error["medium"], error["precision"]) for error in errors] == [
        (*kind, "int8") for kind in kinds
    ]
    for error in errors:
        # 8 bits: steps of about 1/128 of a block's largest weight and of a row's largest input, averaged over a sum
        assert 1e-4 < error["relative"] <= error["worst_row"] < 0.1
    assert (results / encoder_error.TABLE_NAME).read_text() in result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "b.wav", "results"]


def test_other_files_are_refused_before_the_work(tiny_multimodal: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(command.cli, ["encoder-error", str(tiny_multimodal), "notes.txt"])
    assert "notes.txt is neither a picture nor a recording" in str(result.exception)
