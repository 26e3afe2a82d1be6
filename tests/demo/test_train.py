"""The training script end to end on a toy model: it learns, it writes a checkpoint in the published layout, and it
resumes exactly."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from edgephi.demo import architecture, batches, conversations, measure, tokenizer, train
from edgephi.demo.tasks import TASKS, held_out
from edgephi.demo.tasks.source import Source

TOY = train.Settings(
    steps=4,
    every=2,
    sample=1,
    autocast=False,
    shape=architecture.Shape(hidden=64, intermediate=64, layers=1, heads=1, kv_heads=1),
)


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Small batches and pools, one thread, and a tokenizer that is made once."""
    words = tokenizer.make(conversations.texts(train.SEED, 700))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers warns about spellings of its own configuration
        patch.setattr(batches, "BATCH_TOKENS", 512)
        patch.setattr(batches, "LONG_TOKENS", (100, 200))
        patch.setattr(batches, "POOL", 24)
        patch.setattr(tokenizer, "make", lambda texts: words)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight") / "checkpoint"
    train.train(folder, folder.with_suffix(".state"), TOY)
    return folder


def test_the_checkpoint_is_one_that_transformers_reads(straight: Path) -> None:
    from transformers import AutoModelForCausalLM

    model, report = AutoModelForCausalLM.from_pretrained(straight, output_loading_info=True)
    assert type(model).__name__ == "Phi3ForCausalLM"
    assert not any(report.values()), report
    assert model.lm_head.weight is model.model.embed_tokens.weight
    config = json.loads((straight / "config.json").read_bytes())
    assert config["rope_scaling"]["type"] == "longrope"
    assert len(config["rope_scaling"]["long_factor"]) == TOY.shape.frequencies == 24
    assert all(weight.dtype == torch.bfloat16 for weight in load_file(straight / "model.safetensors").values())


def test_an_interrupted_training_resumes_exactly(straight: Path, tmp_path: Path) -> None:
    folder, state = tmp_path / "checkpoint", tmp_path / "state"
    # the schedule depends on the number of steps, so the first half is cut off rather than shortened
    interrupted = train.Run(tokenizer.make([]), TOY)
    interrupted.advance()
    interrupted.look()
    torch.save(interrupted.state(), state)
    train.train(folder, state, TOY)
    resumed, expected = (load_file(path / "model.safetensors") for path in (folder, straight))
    assert resumed.keys() == expected.keys()
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)


def test_training_lowers_the_loss() -> None:
    run = train.Run(tokenizer.make([]), replace(TOY, steps=60, every=60))
    held = run.batches.pool()[:4]
    before = sum(run.loss(batch).item() for batch in held)
    run.advance()
    # the first thing to be learned is how often each token occurs: the loss falls far below that of equal guesses
    assert sum(run.loss(batch).item() for batch in held) < 0.8 * before


def test_targets_are_the_models_own_turns(straight: Path) -> None:
    words = tokenizer.make([])
    source = Source("targets", held_out=False)
    answered = 0
    for task in TASKS:
        turns = conversations.conversation(source, {task: 1.0}, examples=1)
        encoded = conversations.encode(words, turns, source)
        answer = [*words.encode(str(turns[-1]["content"])).ids, tokenizer.token_id(tokenizer.END)]
        # everything after the last <|assistant|> up to <|end|> is predicted, each token from the one before
        first = len(encoded.ids) - 1 - len(answer)
        assert list(encoded.ids[first:-1]) == answer
        assert set(range(first - 1, len(encoded.ids) - 2)) <= set(encoded.targets)
        answered += len(answer)
        assert max(encoded.targets) <= len(encoded.ids) - 2
    assert answered > len(TASKS)


def test_labels_are_the_following_tokens() -> None:
    run = train.Run(tokenizer.make([]), TOY)
    kinds = set()
    for _ in range(6):
        for batch in run.batches.pool():
            rows, columns = (batch.labels != batches.IGNORED).nonzero(as_tuple=True)
            assert torch.equal(batch.labels[rows, columns], batch.ids[rows, columns + 1])
            assert batch.positions.max() < architecture.CONTEXT_LENGTH
            kinds.add(
                (
                    bool(batch.positions.max() >= architecture.ORIGINAL_LENGTH),
                    batch.ids.shape[1] >= batches.LONG_TOKENS[0],
                )
            )
    assert {(False, False), (True, False)} <= kinds


def test_teacher_forcing_says_what_greedy_decoding_does(straight: Path) -> None:
    """A model that always says the same token solves exactly the examples whose answer is that token."""

    class Constant(torch.nn.Module):
        def __init__(self, tokens: list[int]) -> None:
            super().__init__()
            self.tokens = tokens

        def forward(self, input_ids: torch.Tensor) -> Any:
            logits = torch.zeros(*input_ids.shape, tokenizer.VOCABULARY_ROWS)
            for following, token in zip(self.tokens, self.tokens[1:], strict=False):
                logits[..., token] += (input_ids == following).float()
            return type("Output", (), {"logits": logits})

    words = tokenizer.make([])
    examples = held_out("sum", 40, 3)
    # what follows a token must be certain
    known = next(example.answer for example in examples if len({*example.answer}) == len(example.answer))
    marks = (tokenizer.token_id(token) for token in (tokenizer.ASSISTANT, tokenizer.END))
    model = Constant([next(marks), *words.encode(known).ids, next(marks)])
    assert measure.solved(model, words, examples) == [example.answer == known for example in examples]


def test_the_schedule_rises_and_falls() -> None:
    rates = [train.schedule(step / 1000) for step in range(1000)]
    assert 0 < rates[0] < rates[10] < rates[20] > rates[500] > rates[999] > 0
    assert 0.99 < max(rates) <= 1.0
