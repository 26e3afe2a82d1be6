"""Tables: columns, rows by schema, long texts, cut answers, and both ways to write them."""

from __future__ import annotations

import csv
import io
import json

import jsonschema
import pytest

from edgephi import RequestError
from edgephi.runtime.skills.asking import Cost
from edgephi.runtime.skills.table import Table, make_table

from .conftest import Scripted

MINUTES = "Ada brings cake on Friday.\nBo books the room.\n"


def _rows(*rows: tuple[str, str]) -> str:
    return json.dumps({"rows": [{"who": who, "what": what} for who, what in rows]})


def test_the_model_chooses_columns_and_fills_them() -> None:
    columns = json.dumps({"columns": ["who", " what\nfor ", "who", ""]})
    rows = json.dumps({"rows": [{"who": "Ada", "what for": " cake \n today"}, {"who": "", "what for": ""}]})
    session = Scripted(columns, rows)
    table = make_table(session, MINUTES)
    assert table.columns == ("who", "what for")
    assert table.rows == (("Ada", "cake today"),)
    assert table.finish_reason == "stop" and table.cost.answers == 2
    validator = jsonschema.Draft202012Validator(session.options[1]["schema"])
    assert validator.is_valid(json.loads(rows))
    assert not validator.is_valid({"rows": [{"who": "Ada"}]}), "a row has every column"
    assert not validator.is_valid({"rows": [{"who": "Ada", "what for": "", "when": ""}]}), "and no other"


def test_columns_that_are_given_are_not_asked_for() -> None:
    session = Scripted(_rows(("Ada", "cake"), ("Bo", "room")))
    table = make_table(session, MINUTES, columns=["who", " what "])
    assert table.columns == ("who", "what") and table.rows == (("Ada", "cake"), ("Bo", "room"))
    assert len(session.prompts) == 1 and '"who", "what"' in session.prompts[0]


def test_rows_of_a_long_text_are_those_of_its_parts_without_repetitions() -> None:
    text = "".join(f"Person {number} does thing {number} for the feast.\n" for number in range(80))

    def answer(part: str) -> str:
        people = [line.split()[1] for line in part.splitlines()]
        return _rows(("Ada", "cake"), *((f"Person {number}", f"thing {number}") for number in people))

    session = Scripted(answer, context=400)
    table = make_table(session, text, columns=["who", "what"])
    assert "".join(session.texts) == text and len(session.texts) > 2
    assert len(table.rows) == 81 and len(set(table.rows)) == 81
    assert table.rows[1] == ("Person 0", "thing 0") and table.rows[-1] == ("Person 79", "thing 79")


def test_an_answer_that_was_cut_is_asked_for_again_in_halves() -> None:
    session = Scripted('{"rows": [{"who": "Ada", "wh', _rows(("Ada", "cake")), _rows(("Bo", "room")), finishes=[
        "length", "stop"
    ])
    table = make_table(session, MINUTES, columns=["who", "what"])
    assert table.rows == (("Ada", "cake"), ("Bo", "room"))
    assert session.texts == [MINUTES, *MINUTES.splitlines(keepends=True)]
    single = make_table(Scripted('{"rows": [', finishes=["length"]), "one line", columns=["who", "what"])
    assert single.rows == () and single.finish_reason == "length"


def test_a_stop_ends_it() -> None:
    session = Scripted('{"colu', finishes=["cancelled"])
    assert make_table(session, MINUTES).finish_reason == "cancelled"
    assert len(session.prompts) == 1


def test_markdown_and_csv_hold_every_character() -> None:
    table = Table(("a|b", "c"), (('say "hi", |x|', "back\\slash"), ("ä", "")), "stop", Cost(1, 1, 1))
    assert list(csv.reader(io.StringIO(table.to_csv(), newline=""))) == [list(table.columns), *map(list, table.rows)]
    assert table.to_markdown() == (
        '| a\\|b | c |\n| --- | --- |\n| say "hi", \\|x\\| | back\\\\slash |\n| ä |  |\n'
    )


@pytest.mark.parametrize("columns", [[], [""], ["a", " a"], [str(number) for number in range(13)]])
def test_columns_that_are_none(columns: list[str]) -> None:
    with pytest.raises(RequestError, match="columns"):
        make_table(Scripted("x"), MINUTES, columns=columns)


def test_an_empty_text_is_an_error() -> None:
    with pytest.raises(RequestError, match="empty"):
        make_table(Scripted("x"), "")
