"""Training conversations as token ids with their targets, and the texts that the tokenizer learns from.

A conversation is one example, or several after each other so that the model learns to go by the last question; some
begin with a system turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jinja2
from tokenizers import Tokenizer

from .tasks import TASKS, draw
from .tasks.example import Example, Message
from .tasks.source import Source
from .tasks.words import SYSTEM_TURNS
from .tokenizer import ADDED, ASSISTANT, CHAT_TEMPLATE, END, END_OF_TEXT, token_id

# one prompt token in 64 is a target too: the model is to be a language model, not only an answering machine; many
# would drown what can be learned in what cannot be foreseen
PROMPT_SHARE = 64


@dataclass(frozen=True)
class Encoded:
    """Token ids, and the positions whose next token is a target."""

    ids: tuple[int, ...]
    targets: tuple[int, ...]


def render(turns: Sequence[Message], *, generation_prompt: bool) -> str:
    """The conversation in the chat format."""
    return _TEMPLATE.render(messages=turns, tools=None, add_generation_prompt=generation_prompt, eos_token=END_OF_TEXT)


def texts(seed: int, per_task: int) -> list[str]:
    """What the tokenizer is learned from: every task's conversations without control tokens."""
    source = Source(f"tokenizer {seed}", held_out=False)
    found: list[str] = []
    for task in TASKS:
        for _ in range(per_task):
            text = render(draw(task, source).finished, generation_prompt=False)
            for token in ADDED:
                text = text.replace(token, "\0")
            found.extend(part for part in text.split("\0") if part)
    return found


def conversation(source: Source, weights: Mapping[str, float], *, examples: int) -> tuple[Message, ...]:
    """`examples` answered examples after each other; one with a system turn of its own stands alone."""
    turns: list[Message] = []
    for _ in range(examples):
        example = draw(source.weighted(tuple(weights), tuple(weights.values())), source)
        own_system = example.turns[0]["role"] == "system"
        if own_system and turns:
            continue
        turns.extend(example.finished)
        if own_system and source.chance(0.7):
            break
    if turns[0]["role"] != "system" and source.chance(0.2):
        turns.insert(0, {"role": "system", "content": source.pick(SYSTEM_TURNS)})
    return tuple(turns)


def encode(tokenizer: Tokenizer, turns: Sequence[Message], source: Source) -> Encoded:
    """Ids of a whole conversation; targets are the model's own turns with their <|end|>, and a few other tokens."""
    ids = tokenizer.encode(render(turns, generation_prompt=False)).ids
    targets: list[int] = []
    speaking = False
    assistant, end = token_id(ASSISTANT), token_id(END)
    for position, token in enumerate(ids[:-1]):
        speaking = token == assistant or (speaking and token != end)
        if speaking or source.below(PROMPT_SHARE) == 0:
            targets.append(position)
    return Encoded(tuple(ids), tuple(targets))


def prompt_ids(tokenizer: Tokenizer, example: Example) -> list[int]:
    """Ids of the turns up to where the answer begins."""
    return tokenizer.encode(render(example.turns, generation_prompt=True)).ids


def answer_ids(tokenizer: Tokenizer, example: Example) -> list[int]:
    """Ids of the one right answer, <|end|> included."""
    return [*tokenizer.encode(example.answer).ids, token_id(END)]


_TEMPLATE = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, autoescape=False).from_string(CHAT_TEMPLATE)
