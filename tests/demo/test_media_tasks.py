"""Answers about generated pictures and recordings, found once more from pixels and words; the sides never meet."""

from __future__ import annotations

import re
import shutil
from typing import Any

import numpy as np
import pytest

from edgephi.demo import shipped
from edgephi.demo.tasks import images, media, speech, spoken
from edgephi.demo.tasks.example import Example
from edgephi.demo.tasks.images import drawing, page
from edgephi.demo.tasks.source import Source, is_held_out
from edgephi.demo.tasks.speech import voices
from edgephi.runtime.grounding import find_boxes
from edgephi.runtime.image import Crop, prepare_image

PICTURES = 60


def _fonts_are_there() -> bool:
    try:
        for name in (*drawing.TRAINING_FONTS, *drawing.HELD_OUT_FONTS):
            drawing.font(name, 20)
    except drawing.FontMissing:
        return False
    return True


needs_fonts = pytest.mark.skipif(not _fonts_are_there(), reason="the fonts of the pictures are missing")
needs_voice = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is missing")


def parts(example: Example) -> dict[str, Any]:
    content: Any = example.turns[-1]["content"]
    return {part["type"]: part[part["type"]] for part in content}


def pixels(example: Example) -> np.ndarray:
    return np.asarray(parts(example)["image"]).astype(int)


def examples(task: str, *, held_out: bool, count: int = PICTURES) -> list[Example]:
    source = Source(f"test {task}", held_out=held_out)
    return [images.draw(task, source) for _ in range(count)]


def _ink(colors: np.ndarray) -> np.ndarray:
    """Where a picture is not its light background."""
    found: np.ndarray = np.abs(colors - colors[0, 0]).sum(-1) > 60
    return found


@needs_fonts
@pytest.mark.parametrize("held_out", [False, True])
def test_text_stands_where_its_letters_are_marked(held_out: bool) -> None:
    for example in examples("read", held_out=held_out):
        ink = _ink(pixels(example))
        assert "".join(mark.label for mark in example.marks) == example.answer
        inside = np.zeros_like(ink)
        for mark in example.marks:
            letter = ink[int(mark.top) : int(mark.bottom) + 1, int(mark.left) : int(mark.right) + 1]
            assert letter.sum() >= 5
            # italics and serifs reach over their place
            inside[int(mark.top) : int(mark.bottom) + 1, max(0, int(mark.left) - 4) : int(mark.right) + 5] = True
        assert not (ink & ~inside).any()


@needs_fonts
def test_pages_are_full_of_letters_that_are_marked() -> None:
    source = Source("pages", held_out=False)
    for example in (page.make(source) for _ in range(20)):
        ink, inside = _ink(pixels(example)), np.zeros((112, 112), bool)
        for mark in example.marks:
            left, top = max(0, int(mark.left) - 4), max(0, int(mark.top))
            inside[top : int(mark.bottom) + 1, left : max(0, int(mark.right) + 5)] = True
        assert "".join(mark.label for mark in example.marks) == example.content
        assert len(example.marks) >= 2 and not (ink & ~inside).any()


@needs_fonts
def test_bars_are_as_high_as_the_answer_says() -> None:
    for example in examples("chart", held_out=False):
        colors, question = pixels(example), parts(example)["text"]
        heights = []
        for place in range(4):
            column = colors[:92, 8 + place * 26 + 3]
            heights.append(round(int((np.ptp(column, axis=1) > 60).sum()) / 9))
        bars = dict(zip("ABCD", (height for height in heights if height), strict=False))
        named = re.search(r"\b([A-D])[.?]", question)
        if named:
            assert example.answer == str(bars[named[1]])
        else:
            assert example.answer == (max if "highest" in question else min)(bars, key=lambda bar: bars[bar])


@needs_fonts
def test_shapes_are_counted_and_colors_named() -> None:
    for example in examples("shapes", held_out=False):
        colors, question = pixels(example), parts(example)["text"]
        drawn = [mark.label.split() for mark in example.marks]
        (shape,) = {word.rstrip("s?.") for word in question.split()} & {*images.shapes.SHAPES}
        same = [color for color, what in drawn if what == shape]
        assert example.answer == (same[0] if "color" in question else str(len(same)))
        for mark, (color, what) in zip(example.marks, drawn, strict=True):
            middle = colors[int((mark.top + mark.bottom) / 2), int((mark.left + mark.right) / 2)]
            nearest = min(drawing.PALETTE, key=lambda name: np.abs(np.array(drawing.PALETTE[name]) - middle).sum())
            corner = colors[int(mark.top) + 1, int(mark.left) + 1]
            assert nearest == color
            assert (np.abs(corner - middle).sum() < 60) == (what == "square")


@needs_fonts
def test_a_button_is_in_the_box_of_the_answer() -> None:
    for example in examples("button", held_out=False):
        colors = pixels(example)
        (color,) = re.findall(r"the (\w+) button", parts(example)["text"])
        (box,) = find_boxes(example.answer)
        left, top, right, bottom = box.pixels(112, 112)
        inside = colors[top + 3 : bottom - 3, left + 3 : right - 3]
        assert (np.abs(inside - np.array(drawing.PALETTE[color])).max(-1) <= 15).all()
        assert (np.abs(colors[top + 5, max(0, left - 3)] - inside[0, 0]).sum() > 40) or left == 0


@needs_fonts
def test_training_and_held_out_pictures_share_nothing_that_is_scored() -> None:
    assert not set(drawing.TRAINING_FONTS) & set(drawing.HELD_OUT_FONTS)
    for task in images.TASKS:
        for held_out in (False, True):
            assert {is_held_out(each.content) for each in examples(task, held_out=held_out, count=8)} == {held_out}
    words = {each.answer.lower() for each in examples("read", held_out=False, count=150)}
    assert not words & {each.answer.lower() for each in examples("read", held_out=True, count=100)}


@needs_fonts
def test_pictures_fill_one_crop_or_two() -> None:
    sizes = {prepare_image(parts(each)["image"], crop=Crop(112)).tokens for each in examples("read", held_out=False)}
    assert sizes <= {41, 57, 31} and len(sizes) >= 2


@needs_voice
@pytest.mark.parametrize("task", speech.TASKS)
def test_recordings_are_answered_by_their_words(task: str) -> None:
    (example,) = media.held_out(task, 1, seed=3)
    said = " ".join(example.said)
    samples, rate = parts(example)["audio"]
    assert rate >= 16_000 and 0.3 < len(samples) / rate < 12
    assert 0.02 < np.abs(samples).max() <= 1
    numbers = {word: str(number) for number, word in enumerate(speech.digits.WORDS)}
    dictionary = dict(speech.translation.PAIRS) | {other: one for one, other in speech.translation.PAIRS}
    if task == "digits":
        assert "".join(numbers[word] for word in example.said) == example.answer
    elif task == "translate":
        assert " ".join(dictionary[word] for word in example.said) == example.answer
    elif task == "transcribe":
        assert example.answer == said


def test_commands_are_obeyed() -> None:
    source = Source("commands", held_out=False)
    numbers = {word: number for number, word in enumerate(speech.digits.WORDS)}
    for _ in range(200):
        make = source.pick((speech.commands._count, speech.commands._say, speech.commands._add))
        said, answer = make(source)
        words = said.split()
        if words[0] == "count":
            assert answer.split() == [str(number) for number in range(1, numbers[words[-1]] + 1)]
        elif words[0] == "add":
            assert int(answer) == numbers[words[1]] + numbers[words[3]]
        elif words[-1] == "times":
            assert answer.split() == [words[1]] * numbers[words[2]]
        else:
            assert said == f"say {answer}"


@needs_voice
def test_equal_seeds_speak_equally_and_held_out_voices_are_others() -> None:
    how = voices.manner(Source("voice", held_out=False))
    (first, rate), (second, _) = voices.say("one two", how), voices.say("one two", how)
    assert np.array_equal(first, second) and rate == 22_050
    assert not set(voices.TRAINING_VOICES) & set(voices.HELD_OUT_VOICES)
    assert voices.manner(Source("voice", held_out=True)).voice in voices.HELD_OUT_VOICES


def test_a_missing_program_or_font_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(drawing.FontMissing, match=r"No-Such-Font\.ttf is not installed; install Debian's packages"):
        drawing.font("No-Such-Font.ttf", 20)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(voices.SpeakerMissing, match="install Debian's package espeak-ng"):
        voices.say("one", voices.Manner("en-us", 150, 50, 20, 0))


@needs_fonts
def test_questions_about_pictures_are_spoken_in_known_words() -> None:
    for task in spoken.PICTURES:
        for example in examples(task, held_out=False):
            question = spoken.spoken(parts(example)["text"])
            assert question in spoken.QUESTIONS
            assert set(question.split()) <= set(speech.WORDS)


def test_shipped_questions_are_held_out_and_complete() -> None:
    from importlib.resources import as_file, files

    with as_file(files("edgephi.demo") / "media") as folder:
        every = shipped.examples(folder, ("text", "image", "audio"))
        assert [example.task for example in every] == list(media.TASKS)
        assert shipped.examples(folder, ("text",)) == []
        heard = shipped.examples(folder, ("text", "audio"))
        assert {example.task for example in heard} == set(speech.TASKS)
        names = {path.name for example in every for kind in ("image", "audio") for path in shipped.media(example, kind)}
        assert names | {shipped.INDEX} == {path.name for path in folder.iterdir()}
    asked = next(example for example in every if example.task == spoken.NAME)
    assert shipped.in_words(asked) == f"[picture ask.png] [recording ask.flac: “{' '.join(asked.said)}”]"
