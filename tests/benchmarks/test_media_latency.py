"""Questions about media to a tiny bundle, each in a process of its own, and what becomes of the figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgephi.benchmarks import __main__ as command
from edgephi.benchmarks import media_answer, media_latency
from edgephi.runtime.audio import prepare_audio
from edgephi.runtime.image import prepare_image

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps").is_file(), reason="memory is measured through /proc")

ASKED = ("text", "picture of 448×448", "10 s of speech")


def test_media_are_what_their_names_say() -> None:
    assert len(prepare_image(media_answer.picture(448, 1)["image"]).pixel_values) == 1 + 1
    assert len(prepare_image(media_answer.picture(1344, 1)["image"]).pixel_values) == 1 + 3 * 3
    first, again, other = (prepare_audio(media_answer.speech(10.0, seed)["audio"]) for seed in (1, 1, 2))
    assert first.frames == 998
    assert first.sha256 == again.sha256 != other.sha256


def test_a_question_about_text_maps_neither_encoders_nor_adapters(
    tiny_multimodal_bundle: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media_latency, "CASES", {name: media_answer.CASES[name] for name in ASKED})
    arguments = ["media-latency", str(tiny_multimodal_bundle("int8")), "--threads", "1", "--results", str(tmp_path)]
    result = CliRunner().invoke(command.cli, arguments)
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / media_latency.RESULTS_NAME).read_text())
    text, picture, speech = record["answers"]
    assert text["graphs"] == ["text", "embedding"]
    assert not set(text["memory"]["mapped"]) & {"vision.onnx.data", "speech.onnx.data", "lora.onnx.data"}
    assert picture["graphs"] == ["text-media", "embedding", "vision"]
    assert speech["graphs"] == ["text-media", "embedding", "speech"]
    for answer in record["answers"]:
        assert answer["time_to_first_token"] > answer["preparing"] > 0
        # Linux counts pages in batches for each processor: the peak may lag behind by some
        assert answer["peak_resident"] + (1 << 20) >= answer["memory"]["resident"]
        assert answer["memory"]["resident"] > answer["memory"]["anonymous"] > 10 << 20
    assert (text["real_time_factor"], picture["real_time_factor"]) == (None, None)
    assert speech["real_time_factor"] >= speech["time_to_first_token"] / 10
    assert speech["prompt_tokens"] > 125 and picture["prompt_tokens"] > 545
    table = (tmp_path / media_latency.TABLE_NAME).read_text()
    assert all(table.count(f"| {name} |") == 3 for name in ASKED)


def test_mapped_files_of_a_bundle_are_seen(tmp_path: Path) -> None:
    import mmap

    path = tmp_path / "vision.onnx.data"
    path.write_bytes(b"x" * (1 << 20))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        assert sum(view[::4096]) > 0
        assert media_answer.read_memory(tmp_path).mapped == {"vision.onnx.data": 1 << 20}
    assert media_answer.read_memory(tmp_path).mapped == {}


def test_a_bundle_for_text_is_refused(tiny_bundle: Callable[..., Path], tmp_path: Path) -> None:
    result = CliRunner().invoke(command.cli, ["media-latency", str(tiny_bundle()), "--results", str(tmp_path)])
    assert "no audio and no image" in str(result.exception)
    assert list(tmp_path.iterdir()) == []
