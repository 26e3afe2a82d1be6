"""The public class: streams, replies, ends, errors, and that nothing of one call reaches another."""

from __future__ import annotations

import dataclasses
import gc
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import edgephi
from edgephi import (
    ContextOverflow,
    HashMismatch,
    ManifestError,
    Piece,
    ProviderUnavailable,
    RequestError,
    Session,
    SessionBusy,
)
from edgephi.runtime import usage
from edgephi.runtime.decode import Work
from edgephi.runtime.generation import Step
from edgephi.runtime.manifest import MANIFEST_NAME
from edgephi.runtime.tokens import Tokenizer

QUESTION = "What does the sign say?"


@pytest.fixture(scope="module")
def folder(tiny_bundle: Callable[..., Path]) -> Path:
    return tiny_bundle("mini")


@pytest.fixture(scope="module")
def phi(folder: Path) -> Iterator[Session]:
    with edgephi.load(folder, threads=2) as session:
        yield session


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.open(folder)


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "bundle"))


def _rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / MANIFEST_NAME
    manifest = json.loads(path.read_text(encoding="utf-8"))
    change(manifest)
    path.write_text(json.dumps(manifest), encoding="utf-8")


def test_a_stream_is_its_reply(phi: Session, tokenizer: Tokenizer) -> None:
    pieces = list(phi.stream(QUESTION, max_tokens=30, logprobs=True))
    reply = phi.generate(QUESTION, max_tokens=30, logprobs=True, draft=False)
    assert "".join(piece.text for piece in pieces) == reply.text
    assert tuple(piece.token_id for piece in pieces if piece.token_id is not None) == reply.token_ids
    assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert all(piece.usage is None for piece in pieces[:-1])
    assert pieces[-1].finish_reason == reply.finish_reason == "length"
    assert reply.logprobs is not None and len(reply.logprobs) == len(reply.token_ids) == 30
    assert reply.text == tokenizer.decode(reply.token_ids)
    assert {piece.kind for piece in pieces} == {"answer"}


def test_log_probabilities_are_those_of_the_logits(phi: Session) -> None:
    ids = phi.encode(QUESTION)
    reply = phi.generate(ids, max_tokens=5, temperature=1.3, seed=2, logprobs=True)
    logits = phi.logits([*ids, *reply.token_ids])[len(ids) - 1 : -1].astype(np.float64)
    wanted = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert reply.logprobs is not None
    chosen = [wanted[row, token] for row, token in enumerate(reply.token_ids)]
    assert np.allclose(reply.logprobs, chosen, atol=1e-4)  # two ways of cutting the same sequence, in float32


def test_a_prompt_is_text_messages_or_ids(phi: Session, tokenizer: Tokenizer) -> None:
    messages = [{"role": "user", "content": QUESTION}]
    ids = phi.encode(QUESTION)
    assert phi.encode(messages) == ids == phi.encode(ids) == phi.encode(tuple(np.array(ids)))
    user, end, assistant = (tokenizer.control_id(name) for name in ("<|user|>", "<|end|>", "<|assistant|>"))
    assert ids == [user, *tokenizer.encode_text(QUESTION), end, assistant]
    assert user not in phi.encode("<|user|>")[1:]
    replies = [phi.generate(prompt, max_tokens=4).token_ids for prompt in (QUESTION, messages, ids)]
    assert replies[0] == replies[1] == replies[2] == phi.chat(messages, max_tokens=4).token_ids
    assert phi.logits(messages).shape == (len(ids), 448)


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


def test_stop_strings_end_the_answer_across_tokens_and_are_never_shown(phi: Session) -> None:
    plain = [piece for piece in phi.stream(QUESTION, max_tokens=60) if piece.token_id is not None]
    text = "".join(piece.text for piece in plain)
    # a stop that begins in one token and ends in another
    starts = np.cumsum([0, *(len(piece.text) for piece in plain)]).tolist()
    border = next(at for at in starts if 12 < at < len(text) - 3)
    stop = text[border - 2 : border + 2]
    cut = text.index(stop)
    for stops in (stop, [stop], ["never there", stop]):
        shown = ""
        for piece in phi.stream(QUESTION, max_tokens=60, stop=stops):
            shown += piece.text
            assert text[:cut].startswith(shown)
        assert shown == text[:cut] and piece.finish_reason == "stop"
    assert phi.generate(QUESTION, max_tokens=60, stop="never there").text == text
    with pytest.raises(RequestError, match=r"stop\[0\] is ''"):
        phi.stream(QUESTION, stop="")


def test_an_end_token_ends_the_answer_and_is_no_text(copied: Path, phi: Session, tokenizer: Tokenizer) -> None:
    plain = phi.generate(QUESTION, max_tokens=10)
    _rewrite(copied, lambda manifest: manifest["tokens"].update(eos=[plain.token_ids[3], 5]))
    with edgephi.load(copied, threads=2) as session:
        reply = session.generate(QUESTION, max_tokens=10)
    length = plain.token_ids.index(plain.token_ids[3]) + 1
    assert reply.finish_reason == "stop" and reply.token_ids == plain.token_ids[:length]
    assert reply.text == tokenizer.decode(reply.token_ids[:-1])
    assert reply.usage.completion_tokens == length


def test_sampling_follows_the_publisher_unless_told_otherwise(copied: Path, phi: Session) -> None:
    greedy = phi.generate(QUESTION, max_tokens=12).token_ids
    assert phi.generate(QUESTION, max_tokens=12, temperature=0, seed=1).token_ids == greedy
    drawn = phi.generate(QUESTION, max_tokens=12, temperature=1.5, seed=1).token_ids
    assert drawn != greedy and drawn == phi.generate(QUESTION, max_tokens=12, temperature=1.5, seed=1).token_ids
    assert drawn != phi.generate(QUESTION, max_tokens=12, temperature=1.5, seed=2).token_ids
    # asking for top-k is asking to draw
    assert phi.generate(QUESTION, max_tokens=12, top_k=448, seed=1).token_ids != greedy
    _rewrite(copied, lambda manifest: manifest["sampling"].update(do_sample=True, temperature=1.5))
    with edgephi.load(copied, threads=2) as session:
        assert session.generate(QUESTION, max_tokens=12, seed=1).token_ids == drawn
        assert session.generate(QUESTION, max_tokens=12, temperature=0).token_ids == greedy


def test_errors_come_at_once_and_before_any_work(phi: Session) -> None:
    phi.generate(QUESTION, max_tokens=2)
    cached = phi.snapshot().snapshot.positions
    attempts: list[tuple[Callable[[], object], str]] = [
        (lambda: phi.stream([]), "the prompt is empty"),
        (lambda: phi.stream([1, 448]), r"prompt\[1\] is 448; .* token ids from 0 to 447"),
        (lambda: phi.stream([1, -1]), r"prompt\[1\] is -1"),
        (lambda: phi.stream([1, "two"]), r"prompt\[1\] is 'two'"),  # type: ignore[arg-type]
        (lambda: phi.stream([True, 1]), r"prompt\[0\] is True"),
        (lambda: phi.stream(QUESTION, max_tokens=0), "max_tokens is 0; allowed is a whole number from 1"),
        (lambda: phi.stream(QUESTION, max_tokens=1.5), r"max_tokens is 1\.5"),  # type: ignore[arg-type]
        (lambda: phi.stream(QUESTION, temperature=-1), "temperature is -1; allowed is 0"),
        (lambda: phi.stream(QUESTION, top_p=2), "top_p is 2; allowed is above 0, up to 1"),
        (lambda: phi.stream([{"role": "king", "content": "x"}]), "king"),
        (lambda: phi.stream([{"role": "user", "content": [{"type": "image", "image": "x.png"}]}]), "image"),
        (lambda: phi.encode([]), "the prompt is empty"),
    ]
    for call, complaint in attempts:
        with pytest.raises(RequestError, match=complaint) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert phi.snapshot().snapshot.positions == cached


def test_the_context_bounds_prompt_and_answer(folder: Path) -> None:
    with edgephi.load(folder, threads=2, context=40) as session:
        assert session.context == 40
        with pytest.raises(ContextOverflow, match="the prompt has 40 tokens, the context of 40 must hold it and at"):
            session.stream([1] * 40)
        with pytest.raises(ContextOverflow):
            session.logits([1] * 41)
        assert len(session.logits([1] * 40)) == 40
        for max_tokens in (None, 10, 1000):
            reply = session.generate([1] * 30, max_tokens=max_tokens)
            assert (reply.finish_reason, len(reply.token_ids)) == ("length", 10)
        assert session.generate([1] * 39).usage.completion_tokens == 1
    for context in (0, 20000, "all"):
        with pytest.raises(RequestError, match="this model takes 1 to 16384 tokens"):
            edgephi.load(folder, context=context)  # type: ignore[arg-type]  # what a caller may pass by mistake


def test_one_call_at_a_time(phi: Session) -> None:
    stream = phi.stream(QUESTION, max_tokens=10)
    next(stream)
    for call in (
        lambda: next(phi.stream(QUESTION)), lambda: phi.generate(QUESTION), lambda: phi.logits([1]), phi.clear,
        phi.snapshot,
    ):
        with pytest.raises(SessionBusy, match="still answering: take all pieces, close the stream or call cancel"):
            call()
    assert list(stream)[-1].finish_reason == "length"
    assert phi.generate(QUESTION, max_tokens=1).finish_reason == "length"


def test_a_stream_that_is_dropped_or_closed_frees_the_session(phi: Session) -> None:
    for _ in phi.stream(QUESTION, max_tokens=10):
        break
    gc.collect()
    phi.generate(QUESTION, max_tokens=1)
    phi.stream(QUESTION)  # never begun
    phi.generate(QUESTION, max_tokens=1)
    stream = phi.stream(QUESTION, max_tokens=10)
    next(stream)
    stream.close()
    phi.generate(QUESTION, max_tokens=1)


def test_cancel_ends_an_answer_and_keeps_what_was_said(phi: Session) -> None:
    phi.cancel()  # nothing to end
    pieces: list[Piece] = []
    under_way = threading.Event()

    def consume() -> None:
        for piece in phi.stream(QUESTION, max_tokens=8000):
            pieces.append(piece)
            under_way.set()

    worker = threading.Thread(target=consume)
    worker.start()
    assert under_way.wait(60)
    phi.cancel()
    worker.join(60)
    assert not worker.is_alive()
    assert pieces[-1].finish_reason == "cancelled" and pieces[-1].usage is not None
    made = [piece.token_id for piece in pieces if piece.token_id is not None]
    assert pieces[-1].usage.completion_tokens == len(made) < 8000
    assert phi.generate(QUESTION, max_tokens=3).token_ids[: len(made)] == tuple(made[:3])


def test_cancel_during_prefill_ends_before_the_first_token(phi: Session) -> None:
    ids = [int(token) for token in np.random.default_rng(1).integers(0, 384, 3000)]
    seen: list[int] = []

    def cancel_after_a_chunk(stage: str, done: int, total: int) -> None:
        seen.append(done)
        phi.cancel()

    reply = phi.generate(ids, progress=cancel_after_a_chunk)
    assert seen == [512] and (reply.finish_reason, reply.token_ids) == ("cancelled", ())
    assert reply.usage.time_to_first_token is None and reply.usage.completion_tokens == 0
    assert phi.generate(ids, max_tokens=1).usage.cached_tokens == 512
    with pytest.raises(RequestError, match="cancelled before all logits were computed"):
        phi.logits(ids, progress=cancel_after_a_chunk)


def test_progress_is_reported(phi: Session) -> None:
    seen: list[tuple[str, int, int]] = []
    phi.clear()
    phi.generate([1] * 1100, max_tokens=1, progress=lambda *report: seen.append(report))
    assert seen == [("prefill", 512, 1100), ("prefill", 1024, 1100), ("prefill", 1100, 1100)]


def test_a_closed_session_says_so(folder: Path) -> None:
    session = edgephi.load(folder, threads=2)
    stream = session.stream(QUESTION, max_tokens=100)
    next(stream)
    session.close()
    session.close()
    rest = list(stream)
    assert rest[-1].finish_reason == "cancelled"
    for call in (
        lambda: session.stream(QUESTION), lambda: session.generate(QUESTION), lambda: session.logits([1]),
        lambda: session.encode(QUESTION), session.clear, session.snapshot,
    ):
        with pytest.raises(RequestError, match="this session is closed: load the bundle again"):
            call()


def test_close_from_another_thread_ends_the_answer(folder: Path) -> None:
    session = edgephi.load(folder, threads=2)
    ends: list[str | None] = []
    under_way = threading.Event()

    def consume() -> None:
        for piece in session.stream(QUESTION, max_tokens=8000):
            under_way.set()
            ends.append(piece.finish_reason)

    worker = threading.Thread(target=consume)
    worker.start()
    assert under_way.wait(60)
    session.close()
    worker.join(60)
    assert not worker.is_alive() and ends[-1] == "cancelled"


def test_two_sessions_do_not_disturb_each_other(folder: Path, phi: Session) -> None:
    alone = [phi.generate(text, max_tokens=60, temperature=1.0, seed=9).token_ids for text in ("One.", "Two.")]
    found: dict[int, tuple[int, ...]] = {}
    with edgephi.load(folder, threads=1) as first, edgephi.load(folder, threads=1) as second:
        def answer(index: int, session: Session, text: str) -> None:
            found[index] = session.generate(text, max_tokens=60, temperature=1.0, seed=9).token_ids

        asked = ((first, "One."), (second, "Two."))
        workers = [threading.Thread(target=answer, args=(index, *pair)) for index, pair in enumerate(asked)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        streams = [session.stream(text, max_tokens=60, temperature=1.0, seed=9) for session, text in asked]
        interleaved: list[list[int]] = [[], []]
        for pair in zip(*streams, strict=True):
            for index, piece in enumerate(pair):
                interleaved[index] += [] if piece.token_id is None else [piece.token_id]
    assert [found[0], found[1]] == alone == [tuple(ids) for ids in interleaved]


def test_an_idle_session_costs_no_processor_time(phi: Session) -> None:
    phi.generate(QUESTION, max_tokens=20)
    before = time.process_time()
    time.sleep(0.5)
    # threads that spin would use most of it
    assert time.process_time() - before < 0.1


def test_loading_checks_the_files(folder: Path, tmp_path: Path, copied: Path) -> None:
    with pytest.raises(ManifestError, match=r"there is no edgephi\.json in it"):
        edgephi.load(tmp_path)
    graph = copied / "text.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    with pytest.raises(HashMismatch, match=r"text\.onnx: SHA-256 is"):
        edgephi.load(copied)
    graph.write_bytes(content[:-1])
    with pytest.raises(HashMismatch, match=r"text\.onnx has \d+ bytes, the manifest says \d+"):
        edgephi.load(copied)


def test_files_above_the_limit_are_checked_by_size_alone(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgephi.runtime import loading as module

    data = copied / "text.onnx.data"
    content = bytearray(data.read_bytes())
    content[0] ^= 1
    data.write_bytes(content)
    monkeypatch.setattr(module, "HASHED_BYTES", len(content))
    edgephi.load(copied, threads=1).close()
    monkeypatch.setattr(module, "HASHED_BYTES", len(content) + 1)
    with pytest.raises(HashMismatch, match=r"text\.onnx\.data"):
        edgephi.load(copied, threads=1)


def test_devices_and_threads(folder: Path, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgephi.runtime import providers

    with edgephi.load(folder, device="auto") as session:
        assert "only device" in session.device_reason and not session.left_to_cpu
        assert session.device == "cpu" and session.threads == providers.find("cpu").default_threads()
    with pytest.raises(ProviderUnavailable, match="device 'abacus' is not known; this version serves cpu, "):
        edgephi.load(folder, device="abacus")
    for threads in (0, -1, 1025, True, 1.5):
        with pytest.raises(RequestError, match=r"threads is .*; allowed is a whole number from 1 to 1024"):
            edgephi.load(folder, threads=threads)  # type: ignore[arg-type]  # what a caller may pass by mistake
    half = dataclasses.replace(providers.find("cpu"), name="half", activation_dtype="float16", runs=("float16",))
    known = providers.find
    monkeypatch.setattr(providers, "find", lambda name: half if name == "half" else known(name))
    with pytest.raises(ProviderUnavailable, match="'half' cannot run this bundle: it computes in float16, the bundle"):
        edgephi.load(folder, device="half")
