"""What a loaded bundle costs: measured in a process of its own, merged, shown beside what was foreseen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edgephi.benchmarks import session_cost
from edgephi.benchmarks.session_cost import Question
from edgephi.runtime import probe
from edgephi.runtime.errors import RequestError

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc")


def test_a_session_is_measured_and_compared(
    tiny_bundle: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "SECONDS", 0.0)
    folder = tiny_bundle("mini", precision="int4")
    question = Question(prompt=40, answer=4, threads=1)
    cost = session_cost.measure(folder, question, compare=True, processor_time=True)
    answer, foreseen = cost.answer, cost.foreseen
    assert (answer.prompt_tokens, answer.threads, answer.graphs) == (40, 1, ("text",))
    assert 2 <= answer.answer_tokens <= 4
    assert answer.peak >= answer.answered.anonymous > 0 and answer.loading_peak > 0
    assert 0 < cost.first_token == answer.first_token.processor
    assert foreseen is not None and foreseen.tokens_per_second > 0
    # a tiny bundle is nothing but the program around it
    assert 0.5 < foreseen.memory / answer.peak < 1.5

    session_cost.note([cost], tmp_path)
    again = session_cost.note([cost], tmp_path)
    assert again == [cost]
    assert json.loads((tmp_path / session_cost.RESULTS_NAME).read_text())[0]["bundle"] == folder.name
    shown = (tmp_path / session_cost.TABLE_NAME).read_text()
    assert f"| {folder.name} |" in shown and "Foreseen by `edgephi fit`" in shown


def test_processor_time_is_that_of_one_thread(tiny_bundle: Callable[..., Path]) -> None:
    with pytest.raises(RequestError, match="add --threads 1"):
        session_cost.measure(tiny_bundle("mini"), Question(), compare=False, processor_time=True)


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / session_cost.RESULTS_NAME).write_text('[{"other": 1}]')
    with pytest.raises(RequestError, match="is not a list of session costs"):
        session_cost.note([], tmp_path)
