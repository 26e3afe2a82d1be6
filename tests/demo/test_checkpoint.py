"""The shipped checkpoint: small, complete, what its card says, and able to do its tasks at INT4 through the runtime."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from tokenizers import Tokenizer

import edgephi
from edgephi.demo import architecture, conversations
from edgephi.demo.tasks import RANGES, TASKS, held_out, media, spoken
from edgephi.demo.tasks.images import drawing
from edgephi.demo.tasks.speech import voices
from edgephi.export.pipeline import export

LARGEST = 12_000_000  # bytes of the whole folder
QUESTIONS = 20
ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "quality.json"


def _measured(name: str) -> dict[str, Any]:
    """What benchmarks/results/quality.json says of one column."""
    rows: list[dict[str, Any]] = json.loads(RESULTS.read_bytes())["qualities"]
    return next(row for row in rows if row["name"] == name)


def _least_right(accuracy: float) -> float:
    """Fewer right answers to QUESTIONS than measured happen in about one draw of a thousand (three deviations).

    Both draws scatter, the measured one of `examples` too; adding one right and one wrong answer to it keeps a perfect
    score from counting as certainty (Laplace's rule of succession).
    """
    examples = json.loads(RESULTS.read_bytes())["examples"]
    likely = (accuracy * examples + 1) / (examples + 2)
    deviation = math.sqrt(likely * (1 - likely) * (1 / QUESTIONS + 1 / examples))
    return QUESTIONS * (likely - 3 * deviation) - 0.5


@pytest.fixture(scope="module")
def folder() -> Path:
    with as_file(files("edgephi.demo") / "checkpoint") as path:
        return path


@pytest.fixture(scope="module")
def session(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[edgephi.Session]:
    bundle = tmp_path_factory.mktemp("demo") / "bundle"
    export(folder, bundle, threads=1)
    with edgephi.load(bundle, threads=1) as session:
        yield session


@pytest.fixture(scope="module")
def words(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def test_it_is_small_and_complete(folder: Path) -> None:
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    adapters = {
        f"{name}-lora/{file}"
        for name in architecture.ADAPTERS
        for file in ("adapter_config.json", "adapter_model.safetensors")
    }
    assert sizes.keys() == adapters | {
        "LICENSE", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
        "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert sum(sizes.values()) <= LARGEST


def test_weights_are_finite_bfloat16_under_the_published_names(folder: Path) -> None:
    shape = architecture.DEMO
    layer = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj", "input_layernorm",
             "post_attention_layernorm")  # fmt: skip
    names = {f"model.layers.{number}.{part}.weight" for number in range(shape.layers) for part in layer}
    names |= {"model.embed_tokens.weight", "model.norm.weight"}
    for path in folder.rglob("*.safetensors"):
        with safe_open(path, "pt") as stored:
            if path.name == "model.safetensors":
                others = set(stored.keys()) - names
                assert names < set(stored.keys())
                assert {name.split(".")[2] for name in others} == {"image_embed", "audio_embed"}
            for name in stored.keys():
                tensor = stored.get_tensor(name)
                assert str(tensor.dtype) == "torch.bfloat16"
                assert bool(tensor.isfinite().all())


def test_its_configuration_is_the_one_the_script_writes(folder: Path) -> None:
    config = architecture.media_config(architecture.DEMO, architecture.MEDIA)
    assert json.loads((folder / "config.json").read_bytes()) == config
    assert json.loads((folder / "generation_config.json").read_bytes()) == architecture.generation_config()
    for name in architecture.ADAPTERS:
        settings = json.loads((folder / f"{name}-lora" / "adapter_config.json").read_bytes())
        assert settings == architecture.adapter_config(architecture.MEDIA)


@pytest.mark.parametrize("task", (*TASKS, *media.TASKS))
def test_it_does_its_tasks_at_int4(task: str, session: edgephi.Session, words: Tokenizer) -> None:
    """Real decoding of questions that it was not trained on; the end of the answer is part of it."""
    try:
        questions = held_out(task, QUESTIONS, seed=77) if task in TASKS else media.held_out(task, QUESTIONS, seed=77)
    except (drawing.FontMissing, voices.SpeakerMissing) as error:
        pytest.skip(str(error))
    wrong = []
    for example in questions:
        reply = session.generate(list(example.turns), temperature=0, max_tokens=200)
        if list(reply.token_ids) != conversations.answer_ids(words, example):
            wrong.append((example.turns[-1]["content"], reply.text, example.answer))
    assert QUESTIONS - len(wrong) >= _least_right(_measured("int4 balanced")["accuracy"][task]), wrong


def test_what_it_says_inside_a_thought_is_one(session: edgephi.Session, words: Tokenizer) -> None:
    """It was not trained to think; a prompt that ends inside a thought makes one of its answer all the same."""
    question = held_out("count", 1, seed=77)[0].turns[-1]["content"]
    opened = [*session.encode(question), *words.encode("<think>").ids]
    closing = words.encode("</think>").ids
    free = session.generate(opened, temperature=0, max_tokens=60, draft=False)
    assert free.text == "" and free.thinking and free.usage.thinking_tokens >= free.usage.completion_tokens - 1
    budget = min(8, free.usage.thinking_tokens - 1)
    closed = [*opened, *free.token_ids[:budget], *closing]
    behind = session.generate(closed, temperature=0, max_tokens=20, draft=False)
    most = budget + len(closing) + len(behind.token_ids)
    for draft in (True, False):
        session.clear()
        reply = session.generate(opened, temperature=0, max_tokens=most, think_budget=budget, draft=draft)
        assert reply.token_ids == (*free.token_ids[:budget], *closing, *behind.token_ids)
        assert (reply.text, reply.usage.thinking_tokens) == (behind.text, budget)
        assert free.thinking.startswith(reply.thinking)


def test_the_int4_bundle_answers_as_the_reference_does(
    folder: Path, session: edgephi.Session, words: Tokenizer
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers warns about spellings of configurations
        from edgephi.benchmarks.quality import divergence
        from edgephi.benchmarks.quality_reference import Reference

        reference = Reference(folder)
    apart, _, _ = divergence(reference, session, [example for task in TASKS for example in held_out(task, 3, seed=80)])
    known = _measured("int4 balanced")["divergence"]
    # the mean of 36 conversations scatters about four times as much as that of the hundreds behind the measurement
    assert apart.mean < known["mean"] + 5 * apart.standard_error
    assert apart.agreement > known["agreement"] - 0.03


# What the demo promises of each kind of task, in shares of exactly right answers.
PROMISED = (
    dict.fromkeys(TASKS, 0.95) | dict.fromkeys(("read", "shapes", "chart", "button"), 0.90) | {spoken.NAME: 0.85}
)
WORD_ERRORS = 0.10
LOSS = 0.02  # of INT4 text with INT8 encoders and adapters


@pytest.mark.parametrize("task", (*TASKS, *media.TASKS))
def test_it_masters_every_task_and_int4_costs_little(task: str) -> None:
    names = ("fp32", "int4 balanced")
    exact, quantized = (_measured(name)["accuracy"][task] for name in names)
    assert exact >= PROMISED.get(task, 0.0) and quantized >= exact - LOSS


def test_it_writes_down_most_words_it_hears() -> None:
    for name in ("fp32", "int4 balanced"):
        assert _measured(name)["word_errors"] <= WORD_ERRORS


@pytest.mark.parametrize("task", media.TASKS)
def test_without_its_adapters_it_neither_sees_nor_hears(task: str) -> None:
    assert _measured("fp32 without adapters")["accuracy"][task] <= _measured("fp32")["accuracy"][task] / 2


def test_the_card_quotes_the_measurements() -> None:
    """Accuracies in demo/README.md are those of benchmarks/results/quality.json."""
    card = (ROOT / "demo" / "README.md").read_text(encoding="utf-8")
    columns = [_measured(name) for name in ("bf16 (transformers)", "int4 balanced")]
    for task, covered in (RANGES | media.RANGES).items():
        cells = " | ".join(f"{column['accuracy'][task]:.1%}" for column in columns)
        assert f"| {task} | {covered} | {cells} |" in card
    assert re.search(r"^license: mit$", card, re.MULTILINE)
