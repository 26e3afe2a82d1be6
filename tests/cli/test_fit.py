"""`edgephi fit`: the same answer for a checkpoint as for the bundle that is made of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgephi.runtime import loading, memory, probe

Program = Callable[..., Any]


@pytest.fixture(autouse=True)
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 8 << 30)


@pytest.mark.parametrize("kv", ["float", "int8"])
@pytest.mark.parametrize("precision", ["int4", "int8", "fp16", "fp32"])
def test_a_checkpoint_is_foreseen_as_its_bundle(
    tiny_checkpoint: Callable[..., Path], tiny_bundle: Callable[..., Path], program: Program, precision: str, kv: str
) -> None:
    options = ("--precision", precision, "--kv", kv, "--no-probe", "--json")
    sources = (tiny_bundle("mini", precision=precision), tiny_checkpoint("mini"))
    found = [json.loads(program("fit", source, *options).out) for source in sources]
    assert found[0] == found[1] and found[0]["kv"] == kv
    assert found[0]["fits"] is True and found[0]["largest_context"] == 16384
    assert found[0]["footprint"]["total"] > found[0]["footprint"]["weights"] > 0


def test_people_read_what_is_needed_and_what_helps(
    tiny_bundle: Callable[..., Path], program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = program("fit", tiny_bundle("mini"), "--no-probe")
    assert done.code == 0 and done.err == ""
    assert "for 4,096 tokens" in done.out and "it fits, with up to 16,384 tokens" in done.out
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    done = program("fit", tiny_bundle("mini"), "--no-probe")
    assert done.code == 0
    assert "it does not fit" in done.out and "close other programs" in done.out
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    assert "this system does not tell" in program("fit", tiny_bundle("mini"), "--no-probe").out


def test_speed_is_said_for_the_prompt_and_the_end(
    tiny_bundle: Callable[..., Path], program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    speed = probe.Speed(step=0.5, step_per_position=0.0001, row=0.01, row_per_position=0.0, heads=4, threads=3)
    monkeypatch.setattr(probe, "measure", lambda *_, kv: speed)
    said = json.loads(program("fit", tiny_bundle("mini"), "--context", 5000, "--prompt", 100, "--json").out)["speed"]
    assert said == {
        "threads": 3, "prompt": 100, "first_token_seconds": pytest.approx(1.5),
        "tokens_per_second": pytest.approx(1 / 0.51), "tokens_per_second_at_end": pytest.approx(1.0),
    }
    assert "2.0 tokens/s behind 512 tokens" not in program("fit", tiny_bundle("mini"), "--prompt", 100).out
    assert "1.0 behind 5,000" in program("fit", tiny_bundle("mini"), "--context", 5000).out


def test_the_kind_of_cache_is_that_of_memory_and_speed(
    tiny_bundle: Callable[..., Path], program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[str] = []

    def measure(*_: object, kv: str) -> probe.Speed:
        timed.append(kv)
        return probe.Speed(step=0.5, step_per_position=0.0, row=0.01, row_per_position=0.0, heads=4, threads=1)

    monkeypatch.setattr(probe, "measure", measure)
    sizes = [
        json.loads(program("fit", tiny_bundle("mini"), "-c", 1024, "--kv", kv, "--json").out)["footprint"]["cache"]
        for kv in ("float", "int8")
    ]
    assert sizes[0] == 4 * sizes[1] and timed == ["float", "int8"]
    assert "keys and values as INT8" in program("fit", tiny_bundle("mini"), "--kv", "int8", "--no-probe").out


def test_an_int8_cache_is_refused_where_the_bundle_takes_none(
    tiny_multimodal_bundle: Callable[..., Path], program: Program
) -> None:
    done = program("fit", tiny_multimodal_bundle(), "--kv", "int8", "--no-probe")
    assert done.code == 1 and "this one takes more than text" in done.err


@pytest.mark.parametrize(("folder", "options", "named"), [
    ("nowhere", (), "is no folder: give a bundle or a checkpoint"), ("", (), "there is no edgephi.json in it"),
])
def test_what_is_no_model_is_refused(
    tmp_path: Path, program: Program, folder: str, options: tuple[str, ...], named: str
) -> None:
    done = program("fit", tmp_path / folder, *options)
    assert done.code == 1 and named in done.err


@pytest.mark.parametrize("option", ["--context", "--prompt"])
def test_more_tokens_than_the_model_takes_are_refused(
    tiny_bundle: Callable[..., Path], program: Program, option: str
) -> None:
    done = program("fit", tiny_bundle("mini"), option, 20000)
    assert done.code == 1 and "the model takes 16384 tokens, asked for is 20000: choose fewer" in done.err


def test_run_refuses_what_does_not_fit(
    tiny_bundle: Callable[..., Path], program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "available_memory", lambda: 1000)
    done = program("run", tiny_bundle("mini"), "hello", "-n", 2)
    assert done.code == 1 and "of memory for a context of 512 tokens, 0 MB are free" in done.err
    assert program("run", tiny_bundle("mini"), "hello", "-n", 2, "--allow-oversized").code == 0


@pytest.mark.parametrize(("load", "said"), [(99.0, True), (0.5, False)])
def test_a_busy_machine_is_named(
    tiny_bundle: Callable[..., Path], program: Program, monkeypatch: pytest.MonkeyPatch, load: float, said: bool
) -> None:
    speed = probe.Speed(step=0.5, step_per_position=0.0, row=0.01, row_per_position=0.0, heads=4, threads=1)
    monkeypatch.setattr(probe, "measure", lambda *_, kv: speed)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, load, load), raising=False)
    assert ("keep this machine busy" in program("fit", tiny_bundle("mini")).out) is said
