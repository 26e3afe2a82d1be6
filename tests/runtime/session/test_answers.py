"""What a call of the public class takes and gives: prompts, options, streams, replies, ends and errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import edgephi
from edgephi import ContextOverflow, RequestError, Session
from edgephi.runtime.tokens import Tokenizer

from .conftest import QUESTION, rewrite


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
    rewrite(copied, lambda manifest: manifest["tokens"].update(eos=[plain.token_ids[3], 5]))
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
    rewrite(copied, lambda manifest: manifest["sampling"].update(do_sample=True, temperature=1.5))
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


def test_progress_is_reported(phi: Session) -> None:
    seen: list[tuple[str, int, int]] = []
    phi.clear()
    phi.generate([1] * 1100, max_tokens=1, progress=lambda *report: seen.append(report))
    assert seen == [("prefill", 512, 1100), ("prefill", 1024, 1100), ("prefill", 1100, 1100)]
