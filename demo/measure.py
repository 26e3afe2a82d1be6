"""How many held-out examples the reference model answers exactly, by teacher forcing.

Greedy decoding writes the right answer if and only if every token of it, <|end|> included, is the most likely one
after the tokens before it; one forward pass over prompt and answer shows that for the whole answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer

from .conversations import answer_ids, prompt_ids
from .tasks import TASKS, held_out
from .tasks.example import Example

ROWS = 32


def solved(model: Any, tokenizer: Tokenizer, examples: Sequence[Example]) -> list[bool]:
    """Whether each example is answered exactly; `model` is a transformers causal language model."""
    results: list[bool] = []
    for start in range(0, len(examples), ROWS):
        results += _solved_rows(model, tokenizer, examples[start : start + ROWS])
    return results


def accuracies(model: Any, tokenizer: Tokenizer, count: int, seed: int) -> dict[str, float]:
    """Share of `count` held-out examples of each task that are answered exactly."""
    return {task: sum(solved(model, tokenizer, held_out(task, count, seed))) / count for task in TASKS}


def _solved_rows(model: Any, tokenizer: Tokenizer, examples: Sequence[Example]) -> list[bool]:
    prompts = [prompt_ids(tokenizer, example) for example in examples]
    answers = [answer_ids(tokenizer, example) for example in examples]
    width = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
    ids = torch.zeros(len(examples), width, dtype=torch.int64)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
    with torch.inference_mode():
        # padding stands on the right, where causal attention never looks from the left
        best = model(input_ids=ids).logits.argmax(-1)
    return [
        best[row, len(prompt) - 1 : len(prompt) + len(answer) - 1].tolist() == answer
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
    ]
