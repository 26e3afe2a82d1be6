"""Trains the demo checkpoint from nothing: `python -m edgephi.demo.train --output FOLDER`. Needs the extra `[train]`.

Fixed seeds; killed or interrupted, the same command goes on from the last saved step. The tasks that the model
answers worst are trained most. Matrices of the layers are trained with Muon (Jordan et al. 2024), everything else
with AdamW.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import AttentionInterface, Phi3Config, Phi3ForCausalLM

from . import architecture, conversations, measure, tokenizer
from .batches import IGNORED, Batch, Batches

SEED = 4
TOKENIZER_EXAMPLES = 1500
WARM_UP = 0.02  # share of the steps
MUON_RATE = 3e-3
ADAM_RATE = 3e-3
WEIGHT_DECAY = 0.05
GRADIENT_NORM = 1.0
ATTENTION = "causal_float32"

log = logging.getLogger("edgephi.demo.train")


@dataclass(frozen=True)
class Settings:
    """How long to train, how often to look, and whether matrix products are in bfloat16 (weights never are)."""

    steps: int
    every: int
    sample: int
    autocast: bool
    shape: architecture.Shape = architecture.DEMO


@click.command()
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder of the finished checkpoint.")
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    default=None,
    help="File to resume from; default: OUTPUT with the suffix .state.",
)
@click.option("--steps", default=20000, show_default=True, help="Optimizer steps in all.")
@click.option(
    "--every",
    default=400,
    show_default=True,
    help="Steps between two looks at the accuracy, when the state is saved too.",
)
@click.option("--sample", default=64, show_default=True, help="Held-out examples of each task at every look.")
@click.option("--threads", default=2, show_default=True)
@click.option(
    "--autocast/--no-autocast",
    default=True,
    show_default=True,
    help="Matrix products in bfloat16: twice as fast where the CPU has it.",
)
def main(output: Path, state: Path | None, steps: int, every: int, sample: int, threads: int, autocast: bool) -> None:
    """Train the demo checkpoint and write it to a folder in the published layout."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(threads)
    train(output, state or output.with_suffix(".state"), Settings(steps, every, sample, autocast))


def train(output: Path, state: Path, settings: Settings) -> dict[str, float]:
    """Train, write the checkpoint to `output` and return the last accuracies; goes on from `state` if it exists."""
    output.mkdir(parents=True, exist_ok=True)
    words = tokenizer.make(conversations.texts(SEED, TOKENIZER_EXAMPLES))
    tokenizer.write(words, output)
    run = Run(words, settings)
    if state.exists():
        run.restore(torch.load(state, weights_only=False))
        log.info("going on from step %d of %d", run.step, settings.steps)
    accuracies: dict[str, float] = {}
    while run.step < settings.steps:
        run.advance()
        accuracies = run.look()
        save(run.state(), state)
        write_checkpoint(run.model, settings.shape, output)
    return accuracies


class Run:
    """Model, optimizers and batches of one training, and where it stands."""

    def __init__(self, words: Tokenizer, settings: Settings) -> None:
        torch.manual_seed(SEED)
        self.step = 0
        AttentionInterface.register(ATTENTION, causal_attention)
        self.model: Any = Phi3ForCausalLM(Phi3Config(**model_settings(settings.shape)))
        self._words, self._settings = words, settings
        self.batches = Batches(words, SEED)
        self._waiting: list[Batch] = []
        layers = [weight for weight in self.model.model.layers.parameters() if weight.ndim == 2]
        others = [weight for weight in self.model.parameters() if all(weight is not layer for layer in layers)]
        self._optimizers: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Muon(layers, lr=MUON_RATE, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.0),
        )
        self._rates = (MUON_RATE, ADAM_RATE)

    def advance(self) -> None:
        """Train up to the next look."""
        started, losses, tokens = time.monotonic(), 0.0, 0
        self.model.train()
        first, last = self.step, min(self.step + self._settings.every, self._settings.steps)
        while self.step < last:
            if not self._waiting:
                self._waiting = self.batches.pool()
            batch = self._waiting.pop()
            losses += self._train(batch)
            tokens += batch.ids.numel()
            self.step += 1
        seconds = time.monotonic() - started
        log.info(
            "step %d loss %.4f, %.0f tokens/s, %.1f steps/s",
            self.step,
            losses / (last - first),
            tokens / seconds,
            (last - first) / seconds,
        )

    def look(self) -> dict[str, float]:
        """Measure the held-out accuracy of every task and train the weak ones more."""
        self.model.eval()
        found = measure.accuracies(self.model, self._words, self._settings.sample, seed=self.step)
        self.batches.focus(found)
        log.info(" ".join(f"{task} {100 * share:.0f}" for task, share in found.items()))
        return found

    def loss(self, batch: Batch) -> torch.Tensor:
        """Mean cross-entropy of the batch's targets, in nats."""
        chosen = batch.labels != IGNORED
        with torch.autocast("cpu", torch.bfloat16, enabled=self._settings.autocast):
            hidden = self.model.model(
                input_ids=batch.ids, position_ids=batch.positions, use_cache=False
            ).last_hidden_state
            # the head is computed where there is a target only
            logits = self.model.lm_head(hidden[chosen])
        return torch.nn.functional.cross_entropy(logits.float(), batch.labels[chosen])

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs to go on as if nothing had happened."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizers": [item.state_dict() for item in self._optimizers],
            "weights": self.batches.weights,
            "source": self.batches.source.state(),
            "waiting": self._waiting,
            "torch": torch.get_rng_state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.step, self._waiting, self.batches.weights = state["step"], state["waiting"], state["weights"]
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.batches.source.restore(state["source"])
        torch.set_rng_state(state["torch"])

    def _train(self, batch: Batch) -> float:
        for optimizer, rate in zip(self._optimizers, self._rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * schedule(self.step / self._settings.steps)
        loss = self.loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), GRADIENT_NORM)
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return loss.item()


def causal_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: None,
    *,
    scaling: float,
    **_unused: object,
) -> tuple[torch.Tensor, None]:
    """Causal attention in float32: on a CPU the fused kernel takes three times as long for short bfloat16 rows."""
    with torch.autocast("cpu", enabled=False):
        attended = torch.nn.functional.scaled_dot_product_attention(
            query.float(), key.float(), value.float(), is_causal=True, scale=scaling, enable_gqa=True
        )
    return attended.transpose(1, 2).contiguous(), None


def schedule(progress: float) -> float:
    """Factor of the learning rate: up in the first steps, then down to nothing in a straight line."""
    return min(progress / WARM_UP + 0.01, (1 - progress) / (1 - WARM_UP))


def model_settings(shape: architecture.Shape) -> dict[str, Any]:
    """config.json as transformers' configuration class takes it."""
    only_stored = ("architectures", "model_type", "torch_dtype")
    values = {key: value for key, value in architecture.config(shape).items() if key not in only_stored}
    return {**values, "attn_implementation": ATTENTION}


def write_checkpoint(model: Any, shape: architecture.Shape, folder: Path) -> None:
    """Write bfloat16 weights under the published names, and the configuration."""
    tensors = {name: weight.detach().to(torch.bfloat16).contiguous() for name, weight in model.named_parameters()}
    temporary = folder / "model.safetensors.part"
    save_file(tensors, temporary, metadata={"format": "pt"})
    os.replace(temporary, folder / "model.safetensors")
    for name, content in (
        ("config.json", architecture.config(shape)),
        ("generation_config.json", architecture.generation_config()),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def save(state: Mapping[str, Any], path: Path) -> None:
    """Write a training's state so that an interruption leaves the old one or the new one."""
    temporary = path.with_suffix(".part")
    torch.save(dict(state), temporary)
    os.replace(temporary, path)


if __name__ == "__main__":
    main()
