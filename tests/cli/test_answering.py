"""How pieces are shown: thoughts beside the answer, nothing that could steer a terminal, statistics in one line."""

from __future__ import annotations

import dataclasses
import sys

import pytest

from edgephi.runtime.answer import Kind
from edgephi.runtime.cli.answering import Finished, Shown, note_end, statistics
from edgephi.runtime.usage import Piece, Usage

USAGE = Usage(
    prompt_tokens=12,
    cached_tokens=8,
    completion_tokens=5,
    time_to_first_token=0.25,
    prefill_rate=16.0,
    decode_rate=8.0,
    recomputed_tokens=0,
    recompute_seconds=0.0,
    peak_memory=2_000_000_000,
    device="cpu",
    threads=2,
)


def _show(*pieces: tuple[Kind, str], thoughts: bool = True) -> None:
    shown = Shown(thoughts=thoughts)
    for kind, text in pieces:
        shown.piece(Piece(text, 1, None, kind))
    shown.piece(Piece("", None, None, pieces[-1][0], None, "stop", USAGE))


def _on_terminal(monkeypatch: pytest.MonkeyPatch, *, out: bool, err: bool) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: out)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: err)


def test_the_answer_alone_goes_to_stdout(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    _on_terminal(monkeypatch, out=False, err=True)
    _show(("thinking", "hm"), ("thinking", " so"), ("answer", "Yes"), ("answer", "."))
    captured = capsys.readouterr()
    assert captured.out == "Yes.\n"
    assert "hm" in captured.err and " so" in captured.err and "Yes" not in captured.err


def test_thoughts_are_not_for_files(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    _on_terminal(monkeypatch, out=False, err=False)
    _show(("thinking", "hm"), ("answer", "Yes\n"))
    assert capsys.readouterr() == ("Yes\n", "")


def test_thoughts_are_dim_and_can_be_hidden(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _on_terminal(monkeypatch, out=True, err=True)
    _show(("thinking", "hm"), ("answer", "Yes"))
    shown = capfd.readouterr()
    assert shown.out == "Yes\n" and "hm" in shown.err
    _show(("thinking", "hm"), ("answer", "Yes"), thoughts=False)
    assert capfd.readouterr() == ("Yes\n", "")


def test_tool_calls_stand_on_lines_of_their_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _on_terminal(monkeypatch, out=False, err=False)
    _show(("tool_call", '{"name": "f"}'), ("tool_call", '{"name": "g"}'))
    assert capsys.readouterr().out == '{"name": "f"}\n{"name": "g"}\n'


def test_a_terminal_gets_no_escapes_of_the_model(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "a\x1b[31m\x07\r\x9b\tb\n"
    _on_terminal(monkeypatch, out=True, err=True)
    _show(("answer", text))
    assert capsys.readouterr().out == "a␛[31m␇␍\ufffd\tb\n"
    _on_terminal(monkeypatch, out=False, err=True)
    _show(("answer", text))
    assert capsys.readouterr().out == text


def _finished(reason: str, *, interrupted: bool = False) -> Finished:
    return Finished("Yes", "", (), (), (1, 2), reason, USAGE, interrupted)


def test_statistics_are_one_line_with_units() -> None:
    assert statistics(_finished("stop")) == (
        "prompt 12 tokens, 8 cached | prefill 16.0 tokens/s | first token 0.25 s | answer 5 tokens | "
        "decode 8.0 tokens/s | peak memory 2.00 GB | cpu, 2 threads, stop"
    )


@pytest.mark.parametrize(
    ("reason", "interrupted", "said"),
    [
        ("stop", False, ""),
        ("length", False, "(cut after 5 tokens, by the limit of max_tokens or of the context)\n"),
        ("cancelled", True, "(stopped)\n"),
    ],
)
def test_a_cut_is_said(reason: str, interrupted: bool, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    note_end(_finished(reason, interrupted=interrupted))
    assert capsys.readouterr() == ("", said)


def test_what_was_thought_is_counted_apart(capsys: pytest.CaptureFixture[str]) -> None:
    thought = dataclasses.replace(_finished("length"), usage=dataclasses.replace(USAGE, thinking_tokens=3))
    assert "| answer 5 tokens, 3 of them thought |" in statistics(thought)
    note_end(thought)
    assert "thought" not in capsys.readouterr().err
    note_end(dataclasses.replace(thought, text="", thinking="hm"))
    assert "all of it is thought, which a budget would end" in capsys.readouterr().err
