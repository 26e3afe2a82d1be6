"""One call at a time, ended early or from another thread; nothing of one call or session reaches another."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import numpy as np
import pytest

import edgephi
from edgephi import Piece, RequestError, Session, SessionBusy

from .conftest import QUESTION


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
