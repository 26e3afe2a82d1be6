"""Raw completions of a real tiny bundle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

import edgephi
from edgephi.runtime.tokens import Segment, Tokenizer

from .conftest import Live

PROMPT = "The quick brown fox"
GREEDY: dict[str, Any] = {"model": "tiny", "temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def session(bundle: Path) -> Iterator[edgephi.Session]:
    with edgephi.load(bundle, threads=1, context=4096) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def tokenizer(bundle: Path) -> Tokenizer:
    return Tokenizer.open(bundle)


def test_text_and_ids_are_continued_as_they_are(
    client: openai.OpenAI, session: edgephi.Session, tokenizer: Tokenizer
) -> None:
    ids = tokenizer.encode_text(PROMPT)
    expected = session.generate(ids, temperature=0, max_tokens=12)
    for prompt in (PROMPT, ids, [PROMPT], [ids]):
        reply = client.completions.create(**GREEDY, prompt=prompt)
        assert reply.choices[0].text == expected.text
        assert reply.usage is not None and reply.usage.prompt_tokens == len(ids)


def test_control_tokens_of_a_raw_prompt_are_meant(client: openai.OpenAI, tokenizer: Tokenizer) -> None:
    raw = "<|user|>hello<|end|><|assistant|>"
    reply = client.completions.create(**GREEDY, prompt=raw)
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == len(tokenizer.encode_segments([Segment(raw, trusted=True)]))


def test_several_prompts_are_several_choices(client: openai.OpenAI) -> None:
    prompts = [PROMPT, "She sells sea shells", "def function"]
    singles = [client.completions.create(**GREEDY, prompt=prompt) for prompt in prompts]
    together = client.completions.create(**GREEDY, prompt=prompts)
    assert [choice.text for choice in together.choices] == [single.choices[0].text for single in singles]
    assert [choice.index for choice in together.choices] == [0, 1, 2]
    assert together.usage is not None
    assert together.usage.total_tokens == sum(single.usage.total_tokens for single in singles if single.usage)
    texts = ["", "", ""]
    for chunk in client.completions.create(**GREEDY, prompt=prompts, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in together.choices]


def test_echo_puts_the_prompt_first(client: openai.OpenAI) -> None:
    plain = client.completions.create(**GREEDY, prompt=PROMPT).choices[0].text
    assert client.completions.create(**GREEDY, prompt=PROMPT, echo=True).choices[0].text == PROMPT + plain
    chunks = client.completions.create(**GREEDY, prompt=PROMPT, echo=True, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == PROMPT + plain


def test_logprobs_have_offsets_into_the_text(client: openai.OpenAI) -> None:
    choice = client.completions.create(**GREEDY, prompt=PROMPT, logprobs=0).choices[0]
    assert choice.logprobs is not None
    tokens, offsets = choice.logprobs.tokens, choice.logprobs.text_offset
    assert tokens and offsets and choice.logprobs.token_logprobs
    assert len(tokens) == len(offsets) == len(choice.logprobs.token_logprobs)
    assert offsets[0] == 0 and offsets == sorted(offsets)
    assert all(value <= 0 for value in choice.logprobs.token_logprobs)


def test_usage_comes_last_where_asked_for(client: openai.OpenAI) -> None:
    chunks = list(
        client.completions.create(**GREEDY, prompt=PROMPT, stream=True, stream_options={"include_usage": True})
    )
    assert [chunk.usage is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    assert chunks[-1].choices == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": {"text": "x"}}, "prompt"),
        ({"prompt": [10**9]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": ["x"] * 65}, "prompt"),
        ({"suffix": "end"}, "suffix"),
        ({"logprobs": 21}, "logprobs"),
        ({"echo": True, "logprobs": 0}, "echo"),
        ({"best_of": 3}, "best_of"),
    ],
)
def test_what_cannot_be_honoured_is_an_error(live: Live, change: dict[str, Any], named: str) -> None:
    response = live.post("/v1/completions", {**GREEDY, "prompt": PROMPT, **change})
    assert response.status_code == 400
    assert named in response.json()["error"]["message"]
