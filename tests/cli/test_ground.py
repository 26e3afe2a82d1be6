"""`edgephi run --ground`: boxes of an answer in pixels of the picture, on stdout as one JSON object."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import edgephi
from edgephi.runtime.grounding import instruction

Program = Callable[..., Any]


@pytest.fixture(scope="module")
def screen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("screens") / "screen.png"
    Image.new("RGB", (640, 480), (200, 210, 220)).save(path)
    return path


@pytest.fixture(scope="module")
def seeing(tiny_multimodal_bundle: Callable[..., Path]) -> Path:
    return tiny_multimodal_bundle("fp32")


def test_the_question_of_training_is_asked_and_the_answer_shown(seeing: Path, screen: Path, program: Program) -> None:
    done = program("run", seeing, "-i", screen, "--ground", "start", "playback", "-n", "4", "--temp", "0")
    assert done.code == 0
    found = json.loads(done.out)
    assert found["image"] == {"file": str(screen), "width": 640, "height": 480}
    content = [{"type": "image", "image": str(screen)}, {"type": "text", "text": instruction("start playback")}]
    with edgephi.load(seeing) as session:
        reply = session.chat([{"role": "user", "content": content}], max_tokens=4, temperature=0)
    assert found["answer"] == reply.text
    assert found["boxes"] == [] and "names no place" in done.err  # a random model names none


def test_boxes_are_printed_in_pixels(
    seeing: Path, screen: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is put into the mouth of the model, which is random; everything around it is real."""
    from edgephi.runtime.answer import AnswerReader, Part

    monkeypatch.setattr(AnswerReader, "push", lambda self, token_id: [])
    monkeypatch.setattr(AnswerReader, "flush", lambda self: [Part("answer", "It is at [0.25, 0.5, 0.5, 0.75].")])
    done = program("run", seeing, "-i", screen, "--ground", "the button", "-n", "1")
    assert done.code == 0
    assert json.loads(done.out)["boxes"] == [{"pixels": [160, 240, 320, 360], "relative": [0.25, 0.5, 0.5, 0.75]}]


@pytest.mark.parametrize("more", [(), ("--json",), ("--stream-json",), ("-i", "b.png"), ("-a", "c.wav")], ids=str)
def test_it_takes_one_picture_and_nothing_that_contradicts_it(
    seeing: Path, screen: Path, program: Program, more: tuple[str, ...]
) -> None:
    images = () if not more else ("-i", str(screen))
    done = program("run", seeing, "the button", "--ground", *images, *more)
    assert done.code == 2 and "one --image" in done.err and not done.out
