"""Teaches the text checkpoint to see and to hear: `python -m edgephi.demo.train_media BASE --output FOLDER`.

Needs the extra `[train]`, espeak-ng and fonts (see tasks/speech/voices.py and tasks/images/drawing.py). The text
weights stay as they are, but for embedding rows that no text used. Three stages, each with a state of its own to
resume from: "vision" trains the image encoder, its projector and the adapter of pictures; "speech" the speech encoder,
its projector and the adapter of recordings; "both" the second projector of the speech encoder, and once more
all that the first did. The first two need nothing of each other and may run at the same time, one thread each.

Encoders begin alone, with what training knows of their inputs: what each patch shows (cross-entropy), and the words of
a recording in their order (connectionist temporal classification, Graves et al. 2006).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from tokenizers import Tokenizer

from ..runtime.image import Crop
from . import architecture, corpus, media_checkpoint
from .media_batches import MediaBatch, MediaBatches
from .media_losses import losses, normalize
from .media_measure import HeldOut, held_out_batches, recognized, solved
from .media_model import MediaModel, trainable
from .tasks import images, speech, spoken
from .tasks.images import page
from .train import save, schedule

SEED = 5
GRADIENT_NORM = 1.0
CLIPS = 4000  # recordings of each task
_IMAGE, _AUDIO = "embed_tokens_extend.image_embed.", "embed_tokens_extend.audio_embed."
_PICTURE_PARTS = (
    f"{_IMAGE}img_processor.embeddings", f"{_IMAGE}img_processor.encoder", f"{_IMAGE}img_projection",
    f"{_IMAGE}global_img", f"{_IMAGE}sub_img", ".down.vision.", ".up.vision.",
)  # fmt: skip

log = logging.getLogger("edgephi.demo.train_media")


@dataclass(frozen=True)
class Stage:
    """What a stage trains and on which tasks; `alone` is the share of its steps that encoders are trained alone.

    Learning rates are those of Muon, for the matrices of encoders, and of AdamW, for everything else.
    """

    adapter: str
    tasks: tuple[str, ...]
    parts: tuple[str, ...]
    alone: float
    muon: float
    adam: float
    needs: tuple[str, ...] = ()


STAGES = {
    "vision": Stage(
        "vision", tuple(images.TASKS),
        (*_PICTURE_PARTS, "marks.", "cells."),
        alone=0.58, muon=3e-3, adam=2e-3,
    ),
    "speech": Stage(
        "speech", tuple(speech.TASKS),
        (f"{_AUDIO}encoder.", "_proj_for_speech", ".down.speech.", ".up.speech.", "words."),
        alone=0.5, muon=3e-3, adam=2e-3,
    ),
    "both": Stage(
        "vision", (*images.TASKS, spoken.NAME), (*_PICTURE_PARTS, "_proj_for_vision_speech"),
        alone=0.0, muon=1.2e-3, adam=1e-3, needs=("vision", "speech"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """How long to train a stage, how often to look at how many examples of a task, how many recordings to make."""

    steps: int
    every: int
    sample: int
    clips: int = CLIPS
    shape: architecture.Shape = architecture.DEMO
    media: architecture.MediaShape = architecture.MEDIA


STEPS = {"vision": 15500, "speech": 7000, "both": 8000}


@click.command()
@click.argument("base", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder of the finished checkpoint.")
@click.option(
    "--stage", "stages", multiple=True, type=click.Choice(tuple(STAGES)),
    help="Train this stage only; may be repeated. Default: all, and then the checkpoint is written.",
)
@click.option("--steps", type=int, help="Optimizer steps of each stage; default: " + str(STEPS))
@click.option("--every", default=500, show_default=True, help="Steps between two looks, when the state is saved too.")
@click.option("--sample", default=64, show_default=True, help="Held-out examples of each task at every look.")
@click.option("--threads", default=2, show_default=True)
def main(
    base: Path, output: Path, stages: tuple[str, ...], steps: int | None, every: int, sample: int, threads: int
) -> None:
    """Train encoders and adapters around the text checkpoint in BASE."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(threads)
    for stage in stages or STAGES:
        train(base, output, stage, Settings(steps or STEPS[stage], every, sample))
    if not stages or "both" in stages:
        finish(base, output, Settings(0, every, sample))


def train(base: Path, output: Path, stage: str, settings: Settings) -> dict[str, float]:
    """Train one stage, or go on where it was left, and return the last accuracies; `output`.STAGE.state keeps it."""
    output.parent.mkdir(parents=True, exist_ok=True)
    run = Run(base, output, stage, settings)
    state = state_path(output, stage)
    if state.exists():
        run.restore(torch.load(state, weights_only=False))
        log.info("%s goes on from step %d of %d", stage, run.step, settings.steps)
    accuracies: dict[str, float] = {}
    while run.step < settings.steps:
        run.advance()
        accuracies = run.look()
        save(run.state(), state)
    return accuracies


def finish(base: Path, output: Path, settings: Settings) -> None:
    """Write the checkpoint in the published layout from the states of all stages."""
    model = build(base, settings)
    for stage in STAGES:
        model.load_state_dict(torch.load(state_path(output, stage), weights_only=False)["weights"], strict=False)
    media_checkpoint.write(model, base, output, settings.shape, settings.media)
    log.info("the checkpoint is in %s", output)


def state_path(output: Path, stage: str) -> Path:
    """Where a stage keeps its state."""
    return output.with_suffix(f".{stage}.state")


def build(base: Path, settings: Settings) -> MediaModel:
    """The model before the first stage."""
    torch.manual_seed(SEED)
    return MediaModel(base, settings.shape, settings.media, len(images.LABELS), len(speech.WORDS))


class Run:
    """Model, optimizers and batches of one stage, and where it stands."""

    def __init__(self, base: Path, output: Path, stage: str, settings: Settings) -> None:
        self.step = 0
        self._stage, self._settings = STAGES[stage], settings
        self.model = build(base, settings)
        for needed in self._stage.needs:
            before = torch.load(state_path(output, needed), weights_only=False)
            self.model.load_state_dict(before["weights"], strict=False)
        self.model.activate(self._stage.adapter)
        self._trained = trainable(self.model, self._stage.parts)
        self._optimizers = self._make_optimizers()
        words = Tokenizer.from_file(str(base / "tokenizer.json"))
        crop = Crop(settings.media.side, settings.media.patch)
        clips = {}
        if stage != "vision":
            clips = corpus.load(output.with_suffix(".recordings.npz"), settings.clips, log.info)
        if stage == "speech":
            normalize(self.model, clips)
        self.batches = MediaBatches(words, crop, clips, self._stage.tasks, SEED)
        self._begin_with_parts()
        self._held_out: HeldOut = held_out_batches(words, crop, self._stage.tasks, settings.sample)
        self._waiting: list[MediaBatch] = []

    @property
    def alone(self) -> bool:
        """Whether the encoder is trained without the decoder."""
        return self.step < self._stage.alone * self._settings.steps

    def advance(self) -> None:
        """Train up to the next look."""
        started, losses = time.monotonic(), torch.zeros(2)
        first, last = self.step, min(self.step + self._settings.every, self._settings.steps)
        while self.step < last:
            if not self._waiting:
                self._waiting = self.batches.pool()
            losses += self._train(self._waiting.pop())
            self.step += 1
        answers, hints = (losses / (last - first)).tolist()
        speed = (last - first) / (time.monotonic() - started)
        log.info("step %d answers %.4f hints %.4f, %.2f steps/s", self.step, answers, hints, speed)

    def look(self) -> dict[str, float]:
        """Measure held-out accuracies (of encoders alone: what they recognize) and train the weak tasks more."""
        measure, what = (recognized, "recognized") if self.alone else (solved, "solved")
        found = measure(self.model, self._held_out)
        self.batches.focus(found)
        self._begin_with_parts()
        log.info("%s %s", what, " ".join(f"{task} {100 * share:.0f}" for task, share in found.items()))
        return found

    def losses(self, batch: MediaBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-entropy of an answer, and the encoders' own loss; in nats."""
        return losses(self.model, batch, self._stage.adapter, alone=self.alone, hinted=self._stage.alone > 0)

    def _begin_with_parts(self) -> None:
        """Half of what an encoder sees or hears alone are pages of letters or single words: sentences do not say where
        their words are, and a picture to read has few letters.
        """
        if self.alone:
            self.batches.add(corpus.WORD if self._stage.adapter == "speech" else page.NAME)

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs to go on as if nothing had happened."""
        weights = self.model.state_dict()
        buffers = {name for name in weights if "global_mean" in name or "global_invstd" in name}
        return {
            "step": self.step,
            "weights": {name: weights[name] for name in (*buffers, *(name for name, _ in self._trained))},
            "optimizers": [item.state_dict() for item in self._optimizers],
            "focus": self.batches.weights,
            "source": self.batches.source.state(),
            "waiting": self._waiting,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.step, self._waiting, self.batches.weights = state["step"], state["waiting"], state["focus"]
        self.model.load_state_dict(state["weights"], strict=False)
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.batches.source.restore(state["source"])

    def _make_optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        """Muon for matrices of encoders and projectors, AdamW for the adapters and everything that is no matrix."""
        tables = ("embedding.", "bias_values")
        matrices: list[torch.nn.Parameter] = []
        others: list[torch.nn.Parameter] = []
        for name, weight in self._trained:
            matrix = weight.ndim == 2 and "embed_tokens_extend" in name and not any(table in name for table in tables)
            (matrices if matrix else others).append(weight)
        stage = self._stage
        return (
            torch.optim.Muon(matrices, lr=stage.muon, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=stage.adam, betas=(0.9, 0.98), weight_decay=0.0),
        )

    def _train(self, batch: MediaBatch) -> torch.Tensor:
        for optimizer, rate in zip(self._optimizers, (self._stage.muon, self._stage.adam), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * schedule(self.step / self._settings.steps)
        answers, hints = self.losses(batch)
        (answers + hints).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_([weight for _, weight in self._trained], GRADIENT_NORM)
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return torch.stack([answers.detach(), hints.detach()]).float()


if __name__ == "__main__":
    main()
