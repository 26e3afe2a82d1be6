"""`edgephi demo` as a user runs it: answers on stdout, the rest on stderr, files in one folder only."""

from __future__ import annotations

import json
from importlib.resources import as_file, files
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgephi.demo import shipped
from edgephi.demo.cli import demo
from edgephi.demo.showcase import conversation, examples
from edgephi.demo.tasks import TASKS, media
from edgephi.demo.tasks.example import Example


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def questions(seed: int) -> list[Example]:
    """What the verb asks: text drawn by the seed, and the pictures and recordings that ship with the package."""
    with as_file(files("edgephi.demo") / "media") as folder:
        return [*examples(seed), *shipped.examples(folder, ("image", "audio"))]


def test_it_answers_one_question_of_each_kind(elsewhere: Path) -> None:
    result = CliRunner().invoke(demo, ["--threads", "1"], catch_exceptions=False)
    assert result.exit_code == 0
    answers, asked = result.stdout.splitlines(), questions(0)
    assert len(answers) == len(asked) == len(TASKS) + len(media.TASKS)
    right = sum(given == example.answer for given, example in zip(answers, asked, strict=True))
    assert f"{right} of {len(asked)} right" in result.stderr
    assert "real-time" in result.stderr
    assert "edgephi run edgephi-demo" in result.stderr
    assert [path.name for path in elsewhere.iterdir()] == ["edgephi-demo"]


def test_json_holds_everything_and_nothing_else_is_printed(elsewhere: Path) -> None:
    options = ["--json", "--precision", "int8", "--seed", "5", "--threads", "1", "-o", "bundle"]
    result = CliRunner().invoke(demo, options, catch_exceptions=False)
    assert result.exit_code == 0
    assert result.stderr == ""
    report = json.loads(result.stdout)
    assert [given["task"] for given in report["answers"]] == [*TASKS, *media.TASKS]
    assert [given["expected"] for given in report["answers"]] == [example.answer for example in questions(5)]
    assert report["right"] == sum(given["answer"] == given["expected"] for given in report["answers"])
    assert all(given["usage"]["completion_tokens"] > 0 for given in report["answers"])
    assert report["bundle_bytes"] == sum(
        path.stat().st_size for path in (elsewhere / "bundle").iterdir() if path.name != "edgephi.json"
    )
    assert [path.name for path in elsewhere.iterdir()] == ["bundle"]


def test_a_folder_that_is_no_bundle_is_left_alone(elsewhere: Path) -> None:
    kept = elsewhere / "edgephi-demo" / "letter.txt"
    kept.parent.mkdir()
    kept.write_text("mine", encoding="utf-8")
    result = CliRunner().invoke(demo, ["--threads", "1"])
    assert result.exit_code != 0
    assert kept.read_text(encoding="utf-8") == "mine"


def test_tools_reach_the_session_as_tools() -> None:
    (example,) = [example for example in examples(0) if example.task == "tools"]
    turns, tools = conversation(example)
    assert "tools" not in turns[0]
    assert json.loads(str(example.turns[0]["tools"])) == tools != []
