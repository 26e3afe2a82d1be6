"""The load on a server: what its clients would notice, and a short one on the demo's bundle."""

from __future__ import annotations

import dataclasses
import http.client
import io
from pathlib import Path

import pytest

from edgephi.benchmarks import load
from edgephi.benchmarks.load_clients import Talk, Tally, stream_chunks


def test_an_answer_of_another_client_is_wrong_and_a_cut_one_lost() -> None:
    tally = Tally()
    tally.answered("1 + 1?", "2", "2", "stop")
    tally.answered("1 + 1?", "2", "Paris", "stop")
    tally.answered("1 + 1?", "2", "2", "cancelled")
    tally.answered("1 + 1?", "2", "", None)
    assert tally.right == 1
    assert len(tally.wrong) == 1 and "Paris" in tally.wrong[0]
    assert len(tally.lost) == 2


def test_a_stream_without_its_end_is_noticed() -> None:
    class Body(io.BytesIO, http.client.HTTPResponse):  # type: ignore[misc]
        """The lines of a response."""

    whole = b'data: {"choices": []}\n\n: keep-alive\n\ndata: [DONE]\n\n'
    assert list(stream_chunks(Body(whole))) == [{"choices": []}]
    with pytest.raises(ValueError, match="without its mark"):
        list(stream_chunks(Body(whole.partition(b": keep")[0])))


def test_later_turns_repeat_the_right_answers() -> None:
    talk = Talk(("a?", "b?"), ("A", "B"))
    assert talk.messages(0) == [{"role": "user", "content": "a?"}]
    assert [message["content"] for message in talk.messages(1)] == ["a?", "A", "b?"]


def test_a_short_load_is_answered_right_and_ends_well(demo_bundle: Path, tmp_path: Path) -> None:
    found = load.measure(demo_bundle, 6, 4.0, places=3, talks=4, threads=1, seed=1)
    assert found.mistakes == () and found.wrong == found.lost == 0
    assert found.right > 0 and found.left > 0 and found.refused > 0
    assert found.refused_without_advice == found.left_behind == 0
    assert found.exit_code == 0 and found.ended_streams == found.open_streams > 0
    assert found.late_resident > 0 and found.late_files > 0 and found.late_threads > 0
    load.write(found, tmp_path)
    assert (tmp_path / load.TABLE_NAME).read_text() == load.table(found)
    assert f'"right": {found.right},' in (tmp_path / load.RESULTS_NAME).read_text()
    worse = dataclasses.replace(found, wrong=3)
    assert "| wrong or mixed answers | 3 |" in load.table(worse)
