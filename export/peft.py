"""The folder of a low-rank adapter as the PEFT library saves it: adapter_config.json and adapter_model.safetensors.

Boundary: reads and checks the folder; what the linears of a model are is not known here. Formulas: Hu et al. 2021
(LoRA, arXiv 2106.09685): the product is scaled by alpha / rank; Kalajdzievski 2023 (rsLoRA, arXiv 2312.03732): by
alpha / √rank. A setting that would make more of the adapter than that is refused, also one that is not known yet.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..runtime.errors import ConfigMismatch, WeightMismatch
from ..runtime.manifest_types import printable
from .checkpoint import ADAPTER_NAME, Checkpoint, open_adapter
from .config import ConfigReader, read_config

CONFIG_NAME = "adapter_config.json"
ADVICE = "train a plain LoRA of linears, or merge it into the checkpoint and export that"
SHOWN = 4

# These say how it was trained, not what it computes.
_TRAINING = (
    "task_type", "auto_mapping", "peft_version", "revision", "inference_mode", "target_modules", "exclude_modules",
    "lora_dropout", "layers_to_transform", "layers_pattern", "megatron_core", "eva_config", "qalora_group_size",
    "ensure_weight_tying",
)
_READ = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "base_model_name_or_path")
# The first is what an absent one means. Other ways to begin change the weights of the base model before training does.
_ALLOWED: Mapping[str, tuple[object, ...]] = {
    "peft_type": ("LORA",), "bias": ("none",), "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
}
# `base_layer` is the frozen weight of the base model, which PEFT saves along where an adapter is beside the head.
_TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.(?P<part>lora_A|lora_B|base_layer)\.weight")


@dataclass(frozen=True)
class LowRank:
    """The adapter of one linear: A (rank, inputs) and B (outputs, rank); B·A counts `scale` times."""

    rank: int
    inputs: int
    outputs: int
    scale: float


class PeftAdapter:
    """An open adapter. `linears`: the path of a module in the model → its adapter."""

    def __init__(self, folder: Path, base: str, linears: dict[str, LowRank], tensors: Checkpoint) -> None:
        self.folder = folder
        self.base = base
        self.linears = linears
        self._tensors = tensors

    def factors(self, module: str) -> tuple[np.ndarray, np.ndarray]:
        """A (rank, inputs) and B (outputs, rank) times the scale, float32. Raises WeightMismatch."""
        linear = self.linears[module]
        down = self._tensors.read_rows(_tensor(module, "A"), 0, linear.rank)
        up = self._tensors.read_rows(_tensor(module, "B"), 0, linear.outputs)
        return down, up * np.float32(linear.scale)


@contextmanager
def open_peft(folder: Path) -> Iterator[PeftAdapter]:
    """Open the folder of an adapter and check it; no weight is read yet.

    Raises ConfigMismatch for settings that are not supported, WeightMismatch for tensors that do not fit them.
    """
    raw = read_config(folder / CONFIG_NAME)
    _require_plain(raw)
    base = raw.optional("base_model_name_or_path", str, "")
    if not (folder / ADAPTER_NAME).is_file():
        pickled = " (adapter_model.bin can run code and is never opened)" * (folder / "adapter_model.bin").is_file()
        raise WeightMismatch(f"{folder}: there is no {ADAPTER_NAME}{pickled}: save the adapter as safetensors")
    with open_adapter(folder) as tensors:
        yield PeftAdapter(folder, base, _linears(raw, tensors), tensors)


def _require_plain(raw: ConfigReader) -> None:
    """Refuse what is more than products of low rank beside linears."""
    for key, allowed in _ALLOWED.items():
        found = raw.optional_list(key) or (allowed[0],)
        if len(found) != 1 or found[0] not in allowed:
            raise ConfigMismatch(
                f"{raw.path}: {key} is {printable(found[0])}, supported is "
                f"{' or '.join(repr(value) for value in allowed)}: {ADVICE}"
            )
    raw.ignore(*_TRAINING, *_READ)
    for key in raw.unread():
        if any(raw.optional_list(key)):
            raise ConfigMismatch(
                f"{raw.path}: {printable(key)} is set to {printable(raw.optional_list(key)[0])}, which is more than "
                f"low-rank products beside linears: {ADVICE}"
            )


def _linears(raw: ConfigReader, tensors: Checkpoint) -> dict[str, LowRank]:
    modules: dict[str, set[str]] = {}
    for name in tensors.tensors:
        match = _TENSOR.fullmatch(name)
        if match is None:
            raise WeightMismatch(
                f"{tensors.folder}: tensor {name} is no factor A or B of a linear; embeddings, biases and whole "
                f"modules are not supported: {ADVICE}"
            )
        modules.setdefault(match["module"], set()).add(match["part"])
    if not modules:
        raise WeightMismatch(f"{tensors.folder / ADAPTER_NAME} holds no tensor: save the adapter again")
    return {module: _linear(raw, tensors, module, factors) for module, factors in sorted(modules.items())}


def _linear(raw: ConfigReader, tensors: Checkpoint, module: str, parts: set[str]) -> LowRank:
    if not {"lora_A", "lora_B"} <= parts:
        raise WeightMismatch(f"{tensors.folder}: {module} has {min(parts)} alone: save the adapter again")
    down, up = (tensors.tensors[_tensor(module, factor)].shape for factor in "AB")
    rank = _setting(raw, "rank_pattern", "r", module)
    if len(down) != 2 or len(up) != 2 or down[0] != rank or up[1] != rank or min(*down, *up) < 1:
        raise WeightMismatch(
            f"{tensors.folder}: A and B of {module} are {down} and {up}; {CONFIG_NAME} gives the rank {rank:g}, so "
            f"they must be ({rank:g}, inputs) and (outputs, {rank:g}): save the adapter again"
        )
    frozen = tensors.tensors.get(f"base_model.model.{module}.base_layer.weight")
    if frozen is not None and frozen.shape != (up[0], down[1]):
        raise WeightMismatch(f"{tensors.folder}: {frozen.name} is {frozen.shape}, not {(up[0], down[1])}: {ADVICE}")
    alpha = _setting(raw, "alpha_pattern", "lora_alpha", module)
    scale = alpha / (math.sqrt(rank) if raw.optional("use_rslora", bool, False) else rank)
    return LowRank(down[0], down[1], up[0], scale)


def _setting(raw: ConfigReader, patterns: str, default: str, module: str) -> float:
    """What holds for a module: of the patterns, which match a whole path or its end behind a dot, the first."""
    given: Mapping[str, object] = raw.optional(patterns, dict, {})
    for pattern, value in given.items():
        try:
            matches = re.fullmatch(rf"(.*\.)?({pattern})", module)
        except re.error as error:
            raise ConfigMismatch(
                f"{raw.path}: {patterns} holds {printable(pattern)}, which is no regular expression ({error}): mend it"
            ) from error
        if matches:
            if not isinstance(value, int | float):
                raise ConfigMismatch(f"{raw.path}: {patterns} gives {module} {printable(value)}, a number is needed")
            return value
    return raw.require(default, float)


def _tensor(module: str, factor: str) -> str:
    return f"base_model.model.{module}.lora_{factor}.weight"
