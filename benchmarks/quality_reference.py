"""The reference of `quality`: transformers with a checkpoint's own weights, computed in float32, and what it answers.

Boundary: knows checkpoints and examples; compares nothing. Pixels and mel frames are those of the runtime, whose
agreement with transformers' processors is tested on its own; where placeholders stand is the session's word.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from edgephi.demo.conversations import answer_ids, prompt_ids
from edgephi.demo.tasks.example import Example
from edgephi.runtime.audio import batch_audio, prepare_audio
from edgephi.runtime.image import Crop, batch_images, prepare_image
from edgephi.runtime.session import Session

_STEM = "base_model.model.model.layers."
_FACTORS = "adapter_model.safetensors"
LONGEST = 200  # tokens of an answer


class Reference:
    """Bfloat16 weights, float32 arithmetic; the adapter that a prompt's media ask for is merged into the weights."""

    def __init__(self, checkpoint: Path) -> None:
        import torch

        self._torch = torch
        self._checkpoint = checkpoint
        self._config: dict[str, Any] = json.loads((checkpoint / "config.json").read_bytes())
        self.words = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
        self.model: Any = self._load(None)
        self._models: dict[str | None, Any] = {None: self.model}

    @property
    def takes_media(self) -> bool:
        """Whether the checkpoint has encoders of pictures and recordings."""
        return "vision_config" in self._config

    def logits(self, ids: Sequence[int], example: Example | None = None) -> np.ndarray:
        """float32 (tokens, vocabulary); `example` has the media whose places `ids` hold."""
        adapter, media = (None, {}) if example is None else self._media(example)
        if adapter not in self._models:
            self._models[adapter] = self._load(adapter)
        with self._torch.inference_mode():
            output = self._models[adapter](input_ids=self._torch.tensor([list(ids)]), **media)
        logits: np.ndarray = output.logits[0].numpy()
        return logits

    def answer(self, ids: Sequence[int], example: Example) -> list[int]:
        """Ids of the greedy answer to the prompt `ids`, as long as a right one at most: no longer one can be right."""
        made: list[int] = []
        while len(made) < len(answer_ids(self.words, example)):
            made.append(int(self.logits([*ids, *made], example)[-1].argmax()))
        return made

    def _media(self, example: Example) -> tuple[str | None, dict[str, Any]]:
        """The adapter for an example, and transformers' inputs."""
        content: Any = example.turns[-1]["content"]
        parts = [] if isinstance(content, str) else content
        tensors, adapter = {}, None
        for part in parts:
            if part["type"] == "audio":
                sound = batch_audio([prepare_audio(part["audio"])])
                tensors["audio_input_features"] = self._torch.from_numpy(sound.features)
                tensors["audio_embed_sizes"] = self._torch.from_numpy(sound.sizes)
                adapter = adapter or "speech"
            elif part["type"] == "image":
                vision = self._config["vision_config"]
                crop = Crop(vision["crop_size"], vision["patch_size"])
                batch = batch_images([prepare_image(part["image"], crop=crop)])
                tensors["image_pixel_values"] = self._torch.from_numpy(batch.pixel_values)
                tensors["image_attention_mask"] = self._torch.from_numpy(batch.attention_mask)
                tensors["image_sizes"] = self._torch.from_numpy(batch.image_sizes)
                adapter = "vision"
        return adapter, tensors

    def _load(self, adapter: str | None) -> Any:
        from safetensors.torch import load_file
        from transformers import AutoModelForCausalLM

        # eager: with "sdpa" transformers' image encoder is causal where no patch is masked; SigLIP's never is
        model: Any = AutoModelForCausalLM.from_pretrained(
            self._checkpoint, dtype=self._torch.float32, attn_implementation="eager"
        )
        if adapter is not None:
            folder = self._checkpoint / f"{adapter}-lora"
            settings = json.loads((folder / "adapter_config.json").read_bytes())
            scale = settings["lora_alpha"] / settings["r"]
            factors = load_file(folder / _FACTORS)
            with self._torch.no_grad():
                for name, part in model.model.layers.named_modules():
                    if isinstance(part, self._torch.nn.Linear):
                        down, up = (factors[f"{_STEM}{name}.lora_{factor}.weight"].float() for factor in "AB")
                        part.weight += scale * up @ down
        return model.eval()


def asked_ids(session: Session, words: Tokenizer, example: Example) -> list[int]:
    """Ids of the prompt; where it has media, `session` says how many placeholders stand for each."""
    return session.encode(list(example.turns)) if has_media(example) else prompt_ids(words, example)


def has_media(example: Example) -> bool:
    """Whether a picture or a recording is part of the question."""
    return not isinstance(example.turns[-1]["content"], str)


def without_adapters(checkpoint: Path, copy: Path) -> Path:
    """A copy of the checkpoint whose adapters add nothing: what its encoders alone are worth."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(checkpoint, copy)
    for factors in copy.glob(f"*-lora/{_FACTORS}"):
        empty = {name: tensor * (".lora_A." in name) for name, tensor in load_file(factors).items()}
        save_file(empty, factors, metadata={"format": "pt"})
    return copy


def word_error_rate(pairs: Sequence[tuple[str, str]]) -> float:
    """Word substitutions, insertions and deletions for each word of the truth; `pairs` are (truth, what was written).

    The edits are the fewest that make one of the other (Levenshtein 1966).
    """
    return sum(_edits(truth.split(), found.split()) for truth, found in pairs) / sum(
        len(truth.split()) for truth, _ in pairs
    )


def _edits(truth: Sequence[str], found: Sequence[str]) -> int:
    before = list(range(len(found) + 1))
    for row, word in enumerate(truth, start=1):
        now = [row]
        for column, other in enumerate(found, start=1):
            now.append(min(before[column] + 1, now[-1] + 1, before[column - 1] + (word != other)))
        before = now
    return before[-1]


def ranges(takes_media: bool) -> Mapping[str, str]:
    """Every task that is measured, and what it covers."""
    from edgephi.demo import tasks

    if not takes_media:
        return tasks.RANGES
    from edgephi.demo.tasks import media

    return {**tasks.RANGES, **media.RANGES}


def draw(takes_media: bool, count: int, seed: int) -> dict[str, list[Example]]:
    """`count` held-out examples of every task."""
    from edgephi.demo import tasks

    drawn = {task: tasks.held_out(task, count, seed) for task in tasks.TASKS}
    if takes_media:
        from edgephi.demo.tasks import media

        drawn |= {task: media.held_out(task, count, seed) for task in media.TASKS}
    return drawn
