"""The comparison with other runtimes: one real round of our own, then statistics of runs made up by hand."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgephi.benchmarks import comparison, comparison_report, environments, turns
from edgephi.benchmarks.comparison import Answer, Run, Stage
from edgephi.benchmarks.environments import PEERS, Contender, Cost
from edgephi.runtime.errors import RequestError

COST = Cost(10.0, 20.0, 1_000_000_000, 900_000_000, 1, 0.5, "2026-01-01")
RUN = Run(
    "ours:fast", 0, True, 40e9, 0.1, 2.0, 3.0, (Answer(512, 8.0, (0.1, 0.05, 0.05), 3_000_000_000, 2_000_000_000),),
    3_500_000_000, 2_500_000_000, 20.0, 12.0,
)
VOCABULARY = 448


def _contender(peer: str, variant: str, model: Path) -> Contender:
    return Contender(PEERS[peer], variant, sys.executable, {peer: "1"}, model, COST)


needs_linux = pytest.mark.skipif(
    not Path("/proc/stat").is_file() or shutil.which("cc") is None, reason="needs /proc and a C compiler"
)


@needs_linux
def test_a_round_of_our_own(tiny_bundle: Callable[..., Path]) -> None:
    bundle = tiny_bundle("mini", precision="int4")
    said: list[str] = []
    stages = [Stage(16, 2, 3), Stage(40, 1, 2)]
    runs = list(comparison.measure([_contender("ours", "fast", bundle)], stages, 1, VOCABULARY, said.append))
    assert [(run.round, run.cold) for run in runs] == [(0, True), (1, False)]
    assert [[answer.length for answer in run.answers] for run in runs] == [[16, 40], [16]]
    for run in runs:
        assert 0 < run.load < run.first_token < run.seconds
        assert run.bandwidth > 0 and run.peak_anonymous <= run.peak_resident
        # a random model may end its answer, and nothing else shortens it
        assert all(answer.first > 0 and len(answer.steps) <= 3 and min(answer.steps) > 0 for answer in run.answers)
    assert len(said) == 2 and "round 1 of 2, ours:fast" in said[0]


@needs_linux
def test_the_variant_that_maps_keeps_its_prepared_file_with_the_model(
    tiny_bundle: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "ours-fast-int8-cache-mapped"
    shutil.copytree(tiny_bundle("mini", precision="int4"), model)
    alone = _contender("ours", "fast-int8-cache-mapped", model).disk
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))  # and put back what the verb changes
    PEERS["ours"].verbs["prepare"](str(model), 1)
    contender = _contender("ours", "fast-int8-cache-mapped", model)
    assert list((model / "cache").rglob("graph.onnx.data")) and contender.disk > alone
    assert not (tmp_path / "elsewhere").exists()
    (run,) = comparison.measure([contender], [Stage(4, 1, 1)], 1, VOCABULARY, lambda text: None)
    assert run.contender == "ours:fast-int8-cache-mapped" and run.load > 0


def test_what_a_peer_prints_goes_before_its_report(tmp_path: Path) -> None:
    """A failing process is an error that names the command."""
    with pytest.raises(RequestError, match="ended with 1"):
        list(comparison.measure([_contender("ours", "fast", tmp_path)], [Stage(4, 1, 1)], 1, VOCABULARY, print))


@pytest.mark.parametrize("text", ["512", "512:0", "0:1", "512:x", ":"])
def test_stages_that_mean_nothing(text: str) -> None:
    with pytest.raises(RequestError, match="LENGTH:ROUNDS"):
        Stage.parse(text, 8)


def test_the_longest_prompt_leaves_room_for_its_answer() -> None:
    assert Stage.parse("4096:1", 24) == Stage(4071, 1, 24)
    assert Stage.parse("2048:2", 24) == Stage(2048, 2, 24)


def test_peers_by_name() -> None:
    assert [(peer.name, variant) for peer, variant in environments.choose(("genai:best", "llama_cpp"))] == [
        ("genai", "best"), ("llama_cpp", "Q4_K_M"), ("llama_cpp", "Q4_0"),
    ]
    with pytest.raises(RequestError, match="openvino:default"):
        environments.choose(("genai:worst",))


def test_figures_ratios_and_files(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").write_bytes(bytes(1000))
    contenders = [_contender("ours", "fast", model), _contender("genai", "best", model)]
    slow = replace(RUN.answers[0], first=16.0, steps=(0.1, 0.1))
    runs = [
        RUN, replace(RUN, round=1, cold=False, first_token=1.0),
        replace(RUN, contender="genai:best", answers=(slow,), first_token=6.0),
        replace(RUN, contender="genai:best", answers=(slow,), round=1, cold=False, first_token=4.0),
    ]
    figures = {figure.name: figure for figure in comparison_report.figures(contenders, runs)}
    assert figures["prefill 512"].values == {"ours:fast": (64.0, 64.0), "genai:best": (32.0, 32.0)}
    assert figures["decode at 512"].values == {"ours:fast": (20.0, 20.0), "genai:best": (10.0, 10.0)}
    assert figures["first token, cold"].values == {"ours:fast": (3.0,), "genai:best": (6.0,)}
    assert figures["first token, warm"].values == {"ours:fast": (1.0,), "genai:best": (4.0,)}
    assert figures["disk"].values["ours:fast"] == (1e-6,)
    text = comparison_report.write("tiny", 2, contenders, runs, tmp_path / "results", "made-up")
    assert "| prefill 512 | tokens/s | 64.0 [64.0–64.0] | 32.0 [32.0–32.0] |" in text
    # faster and quicker are both "better by a factor of two"
    for row in ("| prefill 512 | 2.00 |", "| first token, cold | 2.00 |", "| first token, warm | 4.00 |"):
        assert row in text
    record = json.loads((tmp_path / "results" / "made-up.json").read_text(encoding="utf-8"))
    assert len(record["runs"]) == 4 and record["contenders"][1]["variant"] == PEERS["genai"].variants["best"]
    assert (tmp_path / "results" / "made-up.md").read_text(encoding="utf-8") == text


@needs_linux
def test_runtimes_decode_in_turns(tiny_bundle: Callable[..., Path], tmp_path: Path) -> None:
    bundle = tiny_bundle("mini", precision="int4")
    said: list[str] = []
    contenders = [_contender("ours", "fast", bundle), _contender("ours", "balanced", bundle)]
    measured = turns.measure(contenders, [16, 40], 3, 2, 1, VOCABULARY, "tiny", said.append)
    assert [each.length for each in measured.rounds] == [16] * 3 + [40] * 3
    assert all(set(each.seconds) == {"ours:fast", "ours:balanced"} for each in measured.rounds)
    assert all(taken > 0 for each in measured.rounds for taken in each.seconds.values())
    assert sum("reads" in line for line in said) == 4 and sum("round 3 of 3" in line for line in said) == 2
    with pytest.raises(RequestError, match="openvino:default goes on while others have their turn"):
        turns.measure([_contender("openvino", "default", bundle)], [16], 1, 1, 1, VOCABULARY, "tiny", said.append)
    with pytest.raises(RequestError, match="ours:fast ended before its turn"):
        turns.measure([_contender("ours", "fast", tmp_path)], [16], 1, 1, 1, VOCABULARY, "tiny", said.append)


def test_turns_are_written_beside_those_of_other_contenders(tmp_path: Path) -> None:
    def measured(*others: str) -> turns.Measured:
        rounds = tuple(
            turns.Round(512, {"ours:fast": 0.050, **dict.fromkeys(others, slow)}) for slow in (0.060, 0.075, 0.055)
        )
        described = dict.fromkeys(("ours:fast", *others), "a runtime")
        return turns.Measured("tiny", 2, 8, rounds, described, "2026-11-30", {
            "processor": "P", "processors": 2, "system": "S", "memory_bytes": 1,
        })

    turns.write(measured("genai:best"), tmp_path)
    turns.write(measured("openvino:default"), tmp_path)
    text = turns.write(measured("genai:best"), tmp_path)
    assert (tmp_path / "turns.md").read_text(encoding="utf-8") == text
    assert text.count("| 512 | 50.0 [50.0–50.0] | 60.0 [55.0–75.0] |") == 2
    assert text.count("| 512 | 1.20 [1.10–1.50] |") == 2
    assert len(json.loads((tmp_path / "turns.json").read_text(encoding="utf-8"))) == 2
