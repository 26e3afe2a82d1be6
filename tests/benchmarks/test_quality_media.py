"""`quality` on a toy checkpoint that takes pictures and recordings: every task is asked, adapters can be left out.

Needs the fonts of the generated pictures and espeak-ng.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path

import pytest

from edgephi.benchmarks import quality
from edgephi.benchmarks.quality_reference import without_adapters
from edgephi.demo import architecture
from edgephi.demo.tasks import TASKS, images, media
from edgephi.demo.tasks.images import drawing

SHAPE = architecture.Shape(hidden=64, intermediate=64, layers=1, heads=1, kv_heads=1)
MEDIA = architecture.MediaShape(
    vision_hidden=16, vision_intermediate=16, vision_layers=2, vision_heads=2,
    speech_hidden=16, speech_intermediate=16, speech_blocks=1, speech_heads=2, channels=8, rank=4,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def tools() -> None:
    try:
        for name in (*drawing.TRAINING_FONTS, *drawing.HELD_OUT_FONTS):
            drawing.font(name, 20)
    except drawing.FontMissing as error:
        pytest.skip(str(error))
    if shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng is missing")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Random weights, adapters too, with the shipped tokenizer."""
    import torch
    from transformers import Phi3Config, Phi3ForCausalLM

    from edgephi.demo import media_checkpoint, train, train_media

    base, folder = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("media") / "checkpoint"
    with as_file(files("edgephi.demo") / "checkpoint") as shipped, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers warns about spellings of its own configuration
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
            shutil.copyfile(shipped / name, base / name)
        torch.manual_seed(0)
        settings = train.model_settings(SHAPE) | {"attn_implementation": "eager"}
        train.write_checkpoint(Phi3ForCausalLM(Phi3Config(**settings)), SHAPE, base)
        model = train_media.build(base, train_media.Settings(1, 1, 1, shape=SHAPE, media=MEDIA))
        with torch.no_grad():
            for layer in model.adapted().values():
                for side in layer.up.values():
                    side.weight.normal_(std=0.3)
        media_checkpoint.write(model, base, folder, SHAPE, MEDIA)
        yield folder


def test_every_task_is_asked_and_the_bundle_computes_what_transformers_does(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "LONGEST", 12)  # a toy never ends its answers
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        measured = quality.measure(["fp32"], 1, 1, 1, lambda name, number, total: None, checkpoint)
    reference, exact, alone = measured.qualities
    assert list(exact.accuracy) == list(reference.accuracy) == [*TASKS, *media.TASKS]
    assert list(alone.accuracy) == list(media.TASKS)
    assert exact.divergence is not None
    # float32 in two orders of summation: logits agree to about 1e-5, and KL is quadratic in the difference
    assert exact.divergence.maximum < 1e-6
    assert exact.perplexity == pytest.approx(reference.perplexity, rel=1e-4)
    assert exact.word_errors is not None and alone.word_errors is not None
    lines = quality.table(measured).splitlines()
    assert any(line.startswith(f"| read: {images.RANGES['read']} | ") and line.endswith(" |") for line in lines)


def test_a_checkpoint_without_adapters_has_all_else(checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    copy = without_adapters(checkpoint, tmp_path / "copy")
    for name in ("vision-lora", "speech-lora"):
        before, after = (load_file(folder / name / "adapter_model.safetensors") for folder in (checkpoint, copy))
        assert before.keys() == after.keys()
        assert any(bool(tensor.any()) for name, tensor in before.items() if ".lora_B." in name)
        assert not any(bool(tensor.any()) for name, tensor in after.items() if ".lora_B." in name)
    assert (copy / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()
