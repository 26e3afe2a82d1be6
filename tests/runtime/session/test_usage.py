"""What an answer costs: what is measured, and what is kept so that the next one costs less."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import edgephi
from edgephi import RequestError, Session
from edgephi.runtime import usage
from edgephi.runtime.decode import Work
from edgephi.runtime.generation import Step

from .conftest import QUESTION


def test_usage_counts_tokens_time_and_memory(folder: Path) -> None:
    with edgephi.load(folder, threads=1) as session:
        first = session.generate(QUESTION, max_tokens=8).usage
        again = session.generate(QUESTION, max_tokens=8).usage
        prompt = len(session.encode(QUESTION))
        one = session.generate(QUESTION, max_tokens=1).usage
    assert (first.prompt_tokens, first.cached_tokens, first.completion_tokens) == (prompt, 0, 8)
    assert again.cached_tokens == prompt - 1
    for cost in (first, again):
        measured = (cost.time_to_first_token, cost.prefill_rate, cost.decode_rate)
        assert all(value is not None and value > 0 for value in measured)
        assert cost.peak_memory > 10 << 20 and (cost.recomputed_tokens, cost.recompute_seconds) == (0, 0.0)
        assert (cost.device, cost.threads) == ("cpu", 1)
    assert one.decode_rate is None


def test_what_the_caller_does_between_pieces_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(usage, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def steps() -> Iterator[Step]:
        for seconds, work in ((2.0, Work(10, 90, 0, 1.5)), (0.5, Work(0, 1, 0, 0.4)), (9.0, Work(0, 100, 99, 8.5)),
                              (0.5, Work(0, 1, 0, 0.4))):
            clock[0] += seconds
            yield Step(1, None, work, None)

    meter = usage.Meter(100, 0.25)
    for _ in meter.timed(steps()):
        clock[0] += 1000
    measured = meter.usage("cpu", 2)
    assert (measured.prompt_tokens, measured.cached_tokens, measured.completion_tokens) == (100, 10, 4)
    assert (measured.time_to_first_token, measured.prefill_rate) == (2.25, 60.0)
    # three tokens in 10 s, of which 8.5 s were spent on computing 99 tokens again
    assert (measured.decode_rate, measured.recomputed_tokens, measured.recompute_seconds) == (2.0, 99, 8.5)


def test_the_conversation_before_is_not_computed_again(phi: Session) -> None:
    phi.clear()
    messages = [{"role": "user", "content": QUESTION}]
    first = phi.chat(messages, max_tokens=5)
    # as ids, since the text of random tokens is not always encoded the way it was generated
    ids = [*phi.encode(messages), *first.token_ids, *phi.encode(messages)]
    assert phi.generate(ids, max_tokens=1).usage.cached_tokens == len(phi.encode(messages)) + 4
    phi.clear()
    assert phi.generate(ids, max_tokens=1).usage.cached_tokens == 0


def test_a_snapshot_brings_a_conversation_back(phi: Session, tiny_bundle: Callable[..., Path]) -> None:
    phi.generate(QUESTION, max_tokens=3)
    kept = phi.snapshot()
    phi.generate("Explain rotary embeddings.", max_tokens=3)
    phi.restore(kept)
    assert kept.tokens == len(phi.encode(QUESTION)) + 2
    assert phi.generate(QUESTION, max_tokens=3).usage.cached_tokens == len(phi.encode(QUESTION)) - 1
    with edgephi.load(tiny_bundle("mini", precision="int8"), threads=1) as other:
        with pytest.raises(RequestError, match="the snapshot was taken from another bundle"):
            other.restore(kept)


def test_an_idle_session_costs_no_processor_time(phi: Session) -> None:
    phi.generate(QUESTION, max_tokens=20)
    before = time.process_time()
    time.sleep(0.5)
    # threads that spin would use most of it
    assert time.process_time() - before < 0.1
