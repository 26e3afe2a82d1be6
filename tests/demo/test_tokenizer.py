"""The shipped tokenizer and chat format against transformers, the published format and themselves."""

from __future__ import annotations

import json
import os
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from edgephi.demo import conversations
from edgephi.demo import tokenizer as demo_tokenizer
from edgephi.demo.tasks import TASKS, draw
from edgephi.demo.tasks.source import SYLLABLES, Source
from edgephi.runtime import chat, tokens

SHARED = Path(os.environ.get("EDGEPHI_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))

# names and flags as in the published tokenizer_config.json
STRIPPING = {
    "<|assistant|>",
    "<|end|>",
    "<|user|>",
    "<|system|>",
    "<|tool|>",
    "<|/tool|>",
    "<|tool_call|>",
    "<|/tool_call|>",
    "<|tool_response|>",
    "<|tag|>",
}
VISIBLE = {"<|tool|>", "<|/tool|>", "<|tool_call|>", "<|/tool_call|>", "<|tool_response|>"}


@pytest.fixture(scope="module")
def folder() -> Path:
    with as_file(files("edgephi.demo") / "checkpoint") as path:
        return path


@pytest.fixture(scope="module")
def words(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def published(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=60))
def test_text_survives(words: Tokenizer, text: str) -> None:
    ids = words.encode(text, add_special_tokens=False).ids
    if not any(token in text for token in demo_tokenizer.ADDED):
        assert words.decode(ids, skip_special_tokens=False) == text


def test_every_digit_is_a_token(words: Tokenizer) -> None:
    assert words.encode("What is 4711 + 09?").tokens[-7:] == ["1", "1", "Ġ+", "Ġ", "0", "9", "?"]


def test_coined_words_split_alike_everywhere(words: Tokenizer) -> None:
    for syllables in (SYLLABLES[3:5], SYLLABLES[40:43]):
        word = "".join(syllables)
        assert words.encode(word).tokens == list(syllables)
        assert words.encode(f"Say {word}").tokens[1:] == [f"Ġ{syllables[0]}", *syllables[1:]]


def test_control_tokens_have_the_published_names_and_flags(words: Tokenizer) -> None:
    added = json.loads(words.to_str())["added_tokens"]
    assert {token["content"] for token in added} >= STRIPPING | {"<|endoftext|>", "<|endofprompt|>"}
    for token in added:
        assert token["rstrip"] == (token["content"] in STRIPPING)
        assert token["special"] == (token["content"] not in VISIBLE)
        assert token["id"] == demo_tokenizer.token_id(token["content"])
    assert max(token["id"] for token in added) == words.get_vocab_size() - 1 < demo_tokenizer.VOCABULARY_ROWS - 1


@pytest.mark.parametrize("task", TASKS)
def test_training_runtime_and_transformers_read_the_same_ids(
    task: str, folder: Path, words: Tokenizer, published: Any
) -> None:
    template, runtime = chat.ChatTemplate.open(folder), tokens.Tokenizer.open(folder)
    assert template is not None
    source = Source(f"ids {task}", held_out=True)
    for _ in range(20):
        example = draw(task, source)
        trained = conversations.prompt_ids(words, example)
        turns = [dict(turn) for turn in example.turns]
        assert runtime.encode_segments(template.render(turns)) == trained
        assert published.apply_chat_template(turns, add_generation_prompt=True, return_dict=False) == trained


def test_plain_chats_read_as_in_the_published_format(published: Any) -> None:
    """Where Phi-4-mini's own template says what to do, ours writes the same text."""
    path = SHARED / "phi-4-mini" / "tokenizer_config.json"
    if not path.is_file():
        pytest.skip(f"no published template at {path}; set EDGEPHI_SHARED_DATA")
    template = json.loads(path.read_bytes())["chat_template"]
    turns = [
        {"role": "system", "content": "Be brief.", "tools": '[{"name": "clock"}]'},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "2 + 2?"},
    ]
    for count, prompt in ((2, True), (3, False), (4, True)):
        for first in (0, 1):
            ours, theirs = (
                published.apply_chat_template(
                    turns[first:count], add_generation_prompt=prompt, tokenize=False, chat_template=chosen
                )
                for chosen in (None, template)
            )
            assert ours == theirs


def test_openai_tools_and_calls_are_written_as_the_model_learned_them(published: Any) -> None:
    call = {"type": "function", "function": {"name": "clock", "arguments": {"city": "Köln"}}}
    turns = [
        {"role": "user", "content": "What time is it?"},
        {"role": "assistant", "content": None, "tool_calls": [call, call]},
        {"role": "tool", "content": "12:30"},
    ]
    tool = {"type": "function", "function": {"name": "clock", "parameters": {}}}
    text = published.apply_chat_template(turns, tools=[tool], add_generation_prompt=True, tokenize=False)
    written = '{"name": "clock", "arguments": {"city": "Köln"}}'
    assert text == (
        f"<|system|><|tool|>{json.dumps([tool])}<|/tool|><|end|><|user|>What time is it?<|end|>"
        f"<|assistant|><|tool_call|>[{written}, {written}]<|/tool_call|><|end|>"
        "<|tool_response|>12:30<|end|><|assistant|>"
    )


def test_equal_texts_make_equal_tokenizers() -> None:
    texts = conversations.texts(1, 60)
    counts = {text: 20 for text in texts}
    merges = demo_tokenizer.learn(counts, demo_tokenizer.fixed_merges(), 450)
    assert merges == demo_tokenizer.learn(dict(reversed(counts.items())), demo_tokenizer.fixed_merges(), 450)
    assert len(merges) == 450 == len(set(merges))
