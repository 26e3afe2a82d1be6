"""Constraints over tokenizers: thoughts are free and end cleanly, what is forced reads as the grammar says."""

from __future__ import annotations

import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import edgephi
from edgephi import RequestError
from edgephi.runtime.answer import AnswerReader
from edgephi.runtime.constraint import Constraints
from edgephi.runtime.grammar import CallMarks, Grammar, answer_form, build_grammar
from edgephi.runtime.tokens import Tokenizer

DATA = Path(os.environ.get("EDGEPHI_SHARED_DATA", Path(edgephi.__file__).parent.parent / "shared" / "data"))
NAMES = {"type": "object", "properties": {"name": {"enum": ["alpha", "beta"]}}, "required": ["name"]}


def _grammar() -> Grammar:
    built = build_grammar(
        answer_form(schema={**NAMES, "additionalProperties": False}), None, "auto", CallMarks(None, None)
    )
    assert built is not None
    return built


def _finish(constraint: object, ends: list[int], pick: np.random.Generator) -> list[int]:
    made: list[int] = []
    while not made or made[-1] not in ends:
        forced = constraint.forced  # type: ignore[attr-defined]
        allowed = constraint.allowed()  # type: ignore[attr-defined]
        made.append(forced[0] if forced else int(pick.choice(np.flatnonzero(allowed))))
        constraint.accept(made[-1])  # type: ignore[attr-defined]
        assert len(made) < 100
    return made


@pytest.mark.parametrize(
    ("name", "vocabulary", "ends"),
    [("phi-4-mini", 200064, [200020, 199999]), ("phi-4", 100352, [100265]), ("phi-3-mini", 32064, [32007, 32000])],
)
def test_published_tokenizers_force_and_allow_what_reads_right(
    name: str, vocabulary: int, ends: list[int], tmp_path: Path
) -> None:
    packed = DATA / name / "tokenizer.json.xz"
    if not packed.exists():
        pytest.skip(f"{packed} is not there")
    (tmp_path / "tokenizer.json").write_bytes(lzma.decompress(packed.read_bytes()))
    tokenizer = Tokenizer.open(tmp_path)
    constraints, pick = Constraints(tokenizer, vocabulary, ends), np.random.default_rng(0)
    texts = set()
    for _ in range(8):
        made = _finish(constraints.begin(_grammar(), []), ends, pick)
        text = b"".join(map(tokenizer.token_bytes, made[:-1])).decode()
        assert json.dumps(json.loads(text)) == text
        texts.add(text)
    assert texts == {'{"name": "alpha"}', '{"name": "beta"}'}
    # The thought of a model that spells its tags: no token may close it and begin the answer at once.
    thinking = constraints.begin(_grammar(), tokenizer.encode_text("<think>"))
    *before, last = tokenizer.encode_text("so 1 < 2 </think>")
    assert tokenizer.token_bytes(last) == b">"
    for token_id in before:
        allowed = thinking.allowed()
        assert allowed is not None and allowed[token_id] and not allowed[ends].any()
        thinking.accept(token_id)
    closing = thinking.allowed()
    assert closing is not None
    for token_id in np.flatnonzero(~closing):
        text = tokenizer.token_bytes(int(token_id)).decode("utf-8", "replace")
        assert token_id in ends or (text.startswith(">") and text.strip() != ">")
    assert closing[last] and not closing.all()
    thinking.accept(last)
    made = _finish(thinking, ends, pick)
    assert b"".join(map(tokenizer.token_bytes, made[:-1])).decode() in texts


def test_guesses_that_a_grammar_forbids_are_cut(tiny_bundle: Callable[..., Path]) -> None:
    tokenizer = Tokenizer.open(tiny_bundle("mini"))
    regex = build_grammar(answer_form(regex="[0-9]{4}"), None, "auto", CallMarks(None, None))
    assert regex is not None
    constraint = Constraints(tokenizer, 448, [387, 384]).begin(regex, [])
    digits, letters = tokenizer.encode_text("1") + tokenizer.encode_text("2"), tokenizer.encode_text("x")
    assert constraint.possible([*digits, *letters, *digits]) == 2
    assert constraint.possible(letters) == 0


def test_grammars_are_compiled_once_and_answers_do_not_share_them(tiny_bundle: Callable[..., Path]) -> None:
    constraints = Constraints(Tokenizer.open(tiny_bundle("mini")), 448, [387, 384])
    first, second = (constraints.begin(_grammar(), []) for _ in range(2))
    _finish(first, [387], np.random.default_rng(1))
    assert list(second.forced) and list(second.forced) == list(constraints.begin(_grammar(), []).forced)


def test_parameters_keep_their_own_references() -> None:
    tool = {"name": "go", "strict": True, "parameters": {
        "type": "object", "properties": {"to": {"$ref": "#/$defs/place"}}, "$defs": {"place": {"enum": ["A", "B"]}},
    }}
    built = build_grammar(None, [tool], "auto", CallMarks(None, None))
    assert built is not None
    arguments = json.loads(built.text)["grammars"][1]["json_schema"]
    assert arguments["$defs"] == tool["parameters"]["$defs"]  # type: ignore[index]


def test_auto_constrains_nothing_where_no_tool_is_strict() -> None:
    assert build_grammar(None, [{"name": "go"}], "auto", CallMarks(None, None)) is None
    assert build_grammar(None, [{"name": "go", "strict": True}], "none", CallMarks(None, None)) is None
    with pytest.raises(RequestError, match="none of the tools"):
        build_grammar(None, [{"name": "go"}], "come", CallMarks(None, None))


def test_a_call_that_cannot_be_read_is_a_part_of_its_own(tiny_bundle: Callable[..., Path]) -> None:
    tokenizer = Tokenizer.open(tiny_bundle("mini"))
    opening, closing = tokenizer.control_id("<|tool_call|>"), tokenizer.control_id("<|/tool_call|>")
    assert opening is not None and closing is not None
    reader = AnswerReader(tokenizer, ("stop",), [], tools=True)
    ids = [*tokenizer.encode_text("Well. "), opening, *tokenizer.encode_text('[{"name": "stop" 5}]'), closing]
    parts = [part for token_id in ids for part in reader.push(token_id)] + reader.flush()
    assert "".join(part.text for part in parts if part.kind == "answer") == "Well. "
    (spoilt,) = [part for part in parts if part.kind == "malformed_call"]
    assert spoilt.malformed is not None and spoilt.malformed.text == spoilt.text == '{"name": "stop" 5}'
    assert "not valid JSON" in spoilt.malformed.reason and not reader.stopped
