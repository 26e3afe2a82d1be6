"""The verbs on the demo's bundle: files, stdin, formats, failures. What its small model makes of texts is not held."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

import edgephi
from edgephi.runtime.skills.rewrite import rewrite
from edgephi.runtime.skills.summarize import summarize
from edgephi.runtime.skills.table import make_table

from .conftest import Done

Program = Callable[..., Done]
TEXT = "Sam has 3 apples. Ella has 5 pears.\n"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_they_print_what_the_functions_return(demo_bundle: Path, text: Path, program: Program) -> None:
    with edgephi.load(demo_bundle, threads=1) as session:
        summary = summarize(session, TEXT, form="bullets").text
        other = rewrite(session, TEXT, tone="formal").text
        table = make_table(session, TEXT, columns=["who", "what"])
    done = program("summarize", demo_bundle, text, "--form", "bullets", "-t", "1")
    assert done.code == 0 and done.out.strip() == summary
    done = program("rewrite", demo_bundle, "--tone", "formal", "-t", "1", stdin=TEXT.encode())
    assert done.code == 0 and done.out.strip() == other.strip()
    done = program("table", demo_bundle, "-", "--columns", "who,what", "-o", "csv", "-t", "1", stdin=TEXT.encode())
    assert done.code == 0 and list(csv.reader(io.StringIO(done.out))) == [["who", "what"], *map(list, table.rows)]
    done = program("table", demo_bundle, text, "--columns", "who,what", "-t", "1")
    assert done.out == table.to_markdown()


def test_one_bad_file_does_not_stop_the_rest(demo_bundle: Path, text: Path, tmp_path: Path, program: Program) -> None:
    bad, empty, wide = tmp_path / "bad.txt", tmp_path / "empty.txt", tmp_path / "wide.txt"
    bad.write_bytes(b"\xff\xff\x00 no text")
    empty.write_text("")
    wide.write_text(TEXT, encoding="utf-16")
    done = program("summarize", demo_bundle, bad, text, empty, wide, "--json", "-t", "1")
    assert done.code == 1
    told = [json.loads(line) for line in done.out.splitlines()]
    assert ["error" in each for each in told] == [True, False, True, False]
    assert "UTF-8" in told[0]["error"] and "empty" in told[2]["error"]
    assert told[1]["text"] == told[3]["text"] and told[1]["cost"]["answers"] == 1
    assert "2 of 4 texts failed" in done.err


def test_results_can_be_files(demo_bundle: Path, text: Path, tmp_path: Path, program: Program) -> None:
    done = program("table", demo_bundle, text, "--columns", "who", "-o", "csv", "-d", tmp_path / "out", "-t", "1")
    assert done.code == 0 and done.out == ""
    assert (tmp_path / "out" / "text.table.csv").read_text().splitlines()[0] == "who"
    assert program("rewrite", demo_bundle, text, "--beside", "-t", "1").code == 0
    again = program("rewrite", demo_bundle, text, "--beside", "-t", "1")
    assert again.code == 1 and "--overwrite" in again.err
    assert (tmp_path / "text.rewritten.txt").exists()


def test_a_long_text_goes_through_a_small_context(demo_bundle: Path, tmp_path: Path, program: Program) -> None:
    long = tmp_path / "long.txt"
    long.write_text("".join(f"Sam has {number} apples.\n\n" for number in range(60)))
    done = program("rewrite", demo_bundle, long, "-c", "512", "--json", "-t", "1")
    told = json.loads(done.out)
    assert done.code == 0 and told["cost"]["answers"] > 1 and told["text"]


@pytest.mark.parametrize("verb", ["summarize", "rewrite", "table"])
def test_help_and_wrong_usage(verb: str, program: Program, text: Path) -> None:
    done = program(verb, "--help")
    assert done.code == 0 and "Example" in done.out
    done = program(verb, "no-bundle", text, "--beside", "-d", "folder")
    assert done.code == 2 and "exclude" in done.err


def test_an_adapter_writes_and_an_unknown_one_is_refused_before_any_file(
    adapted_bundle: Path, text: Path, program: Program
) -> None:
    with edgephi.load(adapted_bundle, threads=1) as session:
        tuned, plain = rewrite(session, TEXT, adapter="one").text, rewrite(session, TEXT).text
    assert tuned != plain
    done = program("rewrite", adapted_bundle, text, "--adapter", "one", "-t", "1", "--json")
    assert done.code == 0 and json.loads(done.out)["text"] == tuned
    failed = program("summarize", adapted_bundle, text, "--adapter", "three", "-t", "1", "--json")
    assert failed.code == 1 and not failed.out and "has no adapter 'three'; its adapters: one, two" in failed.err
