"""Boxes are read out of answers as models write them, and nothing else is taken for one."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgephi.runtime.grounding import Box, find_boxes, instruction

SHARE = st.floats(0, 1, allow_nan=False)


@given(st.tuples(SHARE, SHARE), st.tuples(SHARE, SHARE), st.text(max_size=20), st.text(max_size=20))
def test_a_written_box_is_read_back(
    across: tuple[float, float], down: tuple[float, float], before: str, after: str
) -> None:
    (x1, x2), (y1, y2) = sorted(across), sorted(down)
    (box,) = find_boxes(f"{before} [{x1:.4f}, {y1:.4f}, {x2:.4f}, {y2:.4f}] {after}")
    assert all(
        math.isclose(found, wanted, abs_tol=1e-4)  # what four digits hold
        for found, wanted in zip((box.x1, box.y1, box.x2, box.y2), (x1, y1, x2, y2), strict=True)
    )


@given(st.text(max_size=200))
def test_any_text_is_read(answer: str) -> None:
    for box in find_boxes(answer):
        assert 0 <= box.x1 <= box.x2 <= 1 and 0 <= box.y1 <= box.y2 <= 1


@pytest.mark.parametrize(("answer", "boxes"), [
    ("The button is at [0.174,0.868,0.224,0.977].", [Box(0.174, 0.868, 0.224, 0.977)]),
    ("[ 0, 0 ,1,\n1.0 ]", [Box(0, 0, 1, 1)]),
    ("[.5, .25, .75, 1]", [Box(0.5, 0.25, 0.75, 1)]),
    ("first [0.1, 0.2, 0.3, 0.4], then [[0.5, 0.6, 0.7, 0.8]]", [Box(0.1, 0.2, 0.3, 0.4), Box(0.5, 0.6, 0.7, 0.8)]),
    ("[0.3, 0.2, 0.1, 0.4]", []),  # right of its own right side
    ("[0.1, 0.4, 0.3, 0.2]", []),
    ("[10, 20, 30, 40]", []),  # pixels, of which picture nobody knows
    ("[0.1, 0.2, 0.3]", []), ("[0.1, 0.2, 0.3, 0.4, 0.5]", []), ("[-0.1, 0.2, 0.3, 0.4]", []),
    ("[a, b, c, d] [1e-2, 0, 1, 1] [0..1, 0, 1, 1]", []), ("", []),
    (f"[0.{'1' * 400}, 0, 1, 1]", []),
])
def test_answers(answer: str, boxes: list[Box]) -> None:
    assert find_boxes(answer) == boxes


def test_a_long_answer_takes_no_time_to_speak_of() -> None:
    """Whatever opens many lists and closes none must not make the search quadratic in the length of a number."""
    assert find_boxes("[" * 100_000) == find_boxes("[0.1," * 50_000) == find_boxes("[0" + "0" * 100_000) == []


def test_pixels_of_a_picture() -> None:
    box = Box(0.174, 0.868, 0.224, 0.977)
    assert box.pixels(1920, 1080) == (334, 937, 430, 1055)
    assert Box(0, 0, 1, 1).pixels(640, 480) == (0, 0, 640, 480)
    assert box.centre == pytest.approx((0.199, 0.9225))


def test_the_question_is_the_one_of_training() -> None:
    asked = instruction(" start playback. ")
    assert asked.startswith("Locate the the UI element this instruction describes: start playback. Output its bbox")
    assert asked.endswith("using relative coordinates from 0.0000 to 1.0000.")
    assert instruction("{0}").count("{0}") == 1
