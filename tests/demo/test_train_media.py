"""The second training on a toy model: it learns, resumes exactly, and its checkpoint means the same to transformers,
to the export and to the training itself.

Pictures need fonts and recordings espeak-ng; where these are absent, what needs them is skipped.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

import edgephi
from edgephi.demo import architecture, corpus, media_batches, train, train_media
from edgephi.demo.media_batches import Asked, BatchEncoder
from edgephi.demo.media_losses import losses
from edgephi.demo.media_model import MediaModel
from edgephi.demo.tasks import images, speech, spoken
from edgephi.demo.tasks.images import drawing
from edgephi.export.pipeline import export
from edgephi.runtime.audio import prepare_audio
from edgephi.runtime.image import Crop, batch_images, prepare_image

SHAPE = architecture.Shape(hidden=64, intermediate=64, layers=2, heads=1, kv_heads=1)
MEDIA = architecture.MediaShape(
    vision_hidden=16, vision_intermediate=16, vision_layers=2, vision_heads=2,
    speech_hidden=16, speech_intermediate=16, speech_blocks=1, speech_heads=2, channels=8, rank=4,
)  # fmt: skip
TOY = train_media.Settings(steps=4, every=2, sample=1, clips=2, shape=SHAPE, media=MEDIA)
CROP = Crop(MEDIA.side, MEDIA.patch)


def _tools_are_there() -> bool:
    try:
        for name in (*drawing.TRAINING_FONTS, *drawing.HELD_OUT_FONTS):
            drawing.font(name, 20)
    except drawing.FontMissing:
        return False
    return shutil.which("espeak-ng") is not None


needs_tools = pytest.mark.skipif(not _tools_are_there(), reason="the fonts of the pictures or espeak-ng are missing")


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Few examples at a time, one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers warns about spellings of its own configuration
        patch.setattr(media_batches, "POOL", 6)
        patch.setattr(media_batches, "ROWS", 3)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy of the text stage, untrained, with the shipped tokenizer."""
    from transformers import Phi3Config, Phi3ForCausalLM

    folder = tmp_path_factory.mktemp("base")
    with as_file(files("edgephi.demo") / "checkpoint") as shipped:
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
            shutil.copyfile(shipped / name, folder / name)
    torch.manual_seed(0)
    settings = train.model_settings(SHAPE) | {"attn_implementation": "eager"}
    train.write_checkpoint(Phi3ForCausalLM(Phi3Config(**settings)), SHAPE, folder)
    return folder


@pytest.fixture(scope="module")
def words(base: Path) -> Tokenizer:
    return Tokenizer.from_file(str(base / "tokenizer.json"))


@pytest.fixture(scope="module")
def model(base: Path) -> MediaModel:
    """Every weight that the second training could have changed is random, adapters too."""
    made = train_media.build(base, TOY)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in made.adapted().values():
            for side in layer.up.values():
                side.weight.copy_(torch.randn(side.weight.shape, generator=generator) * 0.3)
        for name, weight in made.named_parameters():
            if "embed_tokens_extend" in name:  # what bfloat16 can hold, so that writing changes nothing
                weight.copy_(weight.bfloat16())
            if ".up." in name or ".down." in name:
                weight.copy_(weight.bfloat16())
    return made


@pytest.fixture(scope="module")
def checkpoint(model: MediaModel, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from edgephi.demo import media_checkpoint

    folder = tmp_path_factory.mktemp("media") / "checkpoint"
    media_checkpoint.write(model, base, folder, SHAPE, MEDIA)
    return folder


@pytest.fixture(scope="module")
def session(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[edgephi.Session]:
    bundle = tmp_path_factory.mktemp("bundle") / "bundle"
    export(checkpoint, bundle, precision="fp32", threads=1)
    with edgephi.load(bundle, threads=1) as opened:
        yield opened


def picture(width: int, height: int) -> np.ndarray:
    blocks = np.random.default_rng(width).integers(0, 256, (height // 14, width // 14, 3), dtype=np.uint8)
    pixels: np.ndarray = np.kron(blocks, np.ones((14, 14, 1), np.uint8))
    return pixels


def sound() -> tuple[np.ndarray, int]:
    return np.random.default_rng(0).normal(0, 0.1, 12_000).astype(np.float32), 16_000


CONTENTS: dict[str, list[dict[str, Any]]] = {
    "one crop": [{"type": "image", "image": picture(112, 112)}, {"type": "text", "text": "What does it say?"}],
    "two crops, half padding": [{"type": "image", "image": picture(224, 56)}, {"type": "text", "text": "What is it?"}],
    "recording": [{"type": "audio", "audio": sound()}, {"type": "text", "text": "Write it down."}],
    "both": [{"type": "image", "image": picture(112, 112)}, {"type": "audio", "audio": sound()}],
    "text": [{"type": "text", "text": "What is 12 + 30?"}],
}


def asked(content: list[dict[str, Any]]) -> Asked:
    """The content as training has it; stored recordings are rounded, this one is not."""
    from PIL import Image

    parts = {part["type"]: part for part in content}
    question = parts.get("text", {}).get("text", "")
    shown = Image.fromarray(parts["image"]["image"]) if "image" in parts else None
    clip = None
    if "audio" in parts:
        levels = (prepare_audio(parts["audio"]["audio"]).features / 0.125).astype(np.float32)
        clip = corpus.Clip("t", question, "x", ("one",), levels)  # type: ignore[arg-type]
    return Asked("t", question, "x", shown, (), clip)


@pytest.mark.parametrize("name", CONTENTS)
def test_training_and_runtime_compute_the_same(
    name: str, model: MediaModel, session: edgephi.Session, words: Tokenizer
) -> None:
    """Placeholders, crops of 112 pixels, encoders, projectors and adapters: logits of the prompt in float32."""
    from edgephi.demo.media_losses import encode

    content = CONTENTS[name]
    batch = BatchEncoder(words, CROP).encode([asked(content)])
    mode = "vision" if batch.pixels is not None else "speech" if batch.frames is not None else None
    model.activate(mode)
    for layer in model.adapted().values():
        layer.linear.float()
    with torch.inference_mode():
        rows, steps, _ = encode(model, batch, str(mode), hinted=False)
        logits = model.model.lm_head(model.hidden(batch, rows, steps))[0].numpy()
    messages = [{"role": "user", "content": content}]
    ids = session.encode(messages)
    assert batch.ids[0, : len(ids)].tolist() == ids
    found = session.logits(messages)
    # both in float32; the order of summation differs
    assert np.abs(found - logits[: len(ids)]).max() <= 1e-4 * np.abs(found).max()


def test_only_rows_that_nothing_tells_apart_are_changed() -> None:
    from edgephi.demo.media_model import tell_apart

    table = torch.randn(9, 64, generator=torch.Generator().manual_seed(3)).bfloat16().float()
    table[5:] = table[5] * torch.tensor([[1.0], [1.001], [0.999], [1.0]])
    before = table.clone()
    tell_apart(table)
    assert torch.equal(table[:5], before[:5])
    directions = torch.nn.functional.normalize(table[5:], dim=-1)
    assert (directions @ directions.T).fill_diagonal_(0).max() < 0.99
    assert torch.equal(table, table.bfloat16().float())  # as the checkpoint will hold them
    again = before.clone()
    tell_apart(again)
    assert torch.equal(again, table)


def test_a_cell_tells_of_its_four_patches_in_their_places(model: MediaModel) -> None:
    side, hidden = MEDIA.side // MEDIA.patch, MEDIA.vision_hidden
    features = torch.randn(2, 3, side * side, hidden, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        told, pooled = model.told(features), model.pooled(features)
    labels = told.shape[-1]
    for image, crop, row, column in ((0, 0, 0, 0), (1, 2, 3, 6), (0, 1, side - 1, 2)):
        patches = features[image, crop].reshape(side, side, hidden)
        block = patches[row // 2 * 2 : row // 2 * 2 + 2, column // 2 * 2 : column // 2 * 2 + 2]
        cell = block.reshape(-1, hidden).mean(0)
        assert torch.allclose(pooled[image, crop, row // 2, column // 2], cell, atol=1e-6)
        which = row % 2 * 2 + column % 2
        rows = slice(which * labels, (which + 1) * labels)
        expected = model.cells.weight[rows] @ cell + model.cells.bias[rows]
        assert torch.allclose(told[image, crop, row * side + column], expected, atol=1e-5)


def test_transformers_reads_the_checkpoint(checkpoint: Path, session: edgephi.Session) -> None:
    from transformers import AutoModelForCausalLM

    reference, report = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, output_loading_info=True, attn_implementation="eager"
    )
    assert type(reference).__name__ == "Phi4MultimodalForCausalLM"
    assert not any(report.values()), report
    factors = load_file(checkpoint / "vision-lora" / "adapter_model.safetensors")
    with torch.no_grad():
        for name, part in reference.model.layers.named_modules():
            if isinstance(part, torch.nn.Linear):
                stem = f"base_model.model.model.layers.{name}.lora_"
                down, up = (factors[f"{stem}{factor}.weight"].float() for factor in "AB")
                part.weight += architecture.SCALE * up @ down
        messages = [{"role": "user", "content": CONTENTS["two crops, half padding"]}]
        batch = batch_images([prepare_image(CONTENTS["two crops, half padding"][0]["image"], crop=CROP)])
        logits = reference(
            input_ids=torch.tensor([session.encode(messages)]),
            image_pixel_values=torch.from_numpy(batch.pixel_values),
            image_attention_mask=torch.from_numpy(batch.attention_mask),
            image_sizes=torch.from_numpy(batch.image_sizes),
        ).logits[0].numpy()  # fmt: skip
    found = session.logits(messages)
    assert np.abs(found - logits).max() <= 1e-4 * np.abs(found).max()


def test_padding_of_a_batch_changes_no_recording(model: MediaModel) -> None:
    frames = torch.randn(2, 90, 80, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([90, 50])
    with torch.inference_mode():
        together, inside = model.speech(frames, lengths)
        alone, _ = model.speech(frames[1:, :50], lengths[1:])
    assert inside.sum(1).tolist() == [12, 7]
    torch.testing.assert_close(together[1, :7], alone[0], rtol=1e-4, atol=1e-5)


def test_the_text_stays_as_it_was(checkpoint: Path, base: Path) -> None:
    before, after = (load_file(folder / "model.safetensors") for folder in (base, checkpoint))
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


@needs_tools
def test_an_interrupted_stage_resumes_exactly(base: Path, tmp_path: Path) -> None:
    train_media.train(base, tmp_path / "straight", "vision", TOY)
    half = train_media.Run(base, tmp_path / "half", "vision", TOY)
    half.advance()
    half.look()
    train.save(half.state(), train_media.state_path(tmp_path / "half", "vision"))
    train_media.train(base, tmp_path / "half", "vision", TOY)
    straight, resumed = (
        torch.load(train_media.state_path(tmp_path / name, "vision"), weights_only=False)["weights"]
        for name in ("straight", "half")
    )
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


@needs_tools
def test_all_stages_make_a_checkpoint_and_each_trains_its_own_part(base: Path, tmp_path: Path) -> None:
    output = tmp_path / "made"
    for stage in train_media.STAGES:
        accuracies = train_media.train(base, output, stage, TOY)
        assert accuracies.keys() == set(train_media.STAGES[stage].tasks)
    train_media.finish(base, output, TOY)
    begun = train_media.build(base, TOY).model.state_dict()
    written = load_file(output / "model.safetensors")
    changed = {
        name for name, weight in written.items()
        if name in begun and not torch.equal(weight, begun[name].to(torch.bfloat16))
    }  # fmt: skip
    parts = ("img_processor.encoder.layers.0", "img_projection_up", "encoder.encoders.0", "global_mean")
    for part in (*parts, "proj_for_speech", "proj_for_vision_speech"):
        assert any(part in name for name in changed), part
    assert not any("model.layers" in name or "embed_tokens.weight" in name for name in changed)
    for adapter in architecture.ADAPTERS:
        factors = load_file(output / f"{adapter}-lora" / "adapter_model.safetensors")
        assert any(bool(factor.any()) for name, factor in factors.items() if "lora_B" in name)


@needs_tools
def test_training_lowers_both_losses(base: Path, tmp_path: Path) -> None:
    run = train_media.Run(base, tmp_path / "run", "vision", replace(TOY, steps=60, every=60))
    held = run.batches.pool()[:2]

    def total() -> torch.Tensor:
        with torch.no_grad():
            found = [torch.stack(losses(run.model, batch, "vision", alone=False, hinted=True)) for batch in held]
        return torch.stack(found).sum(0)

    before = total()
    run.advance()
    answers, hints = (total() / before).tolist()
    # all that can lower the first is an adapter on a decoder of random weights
    assert answers < 0.99 and hints < 0.8


@needs_tools
def test_every_label_and_word_is_known() -> None:
    from edgephi.demo.tasks import media
    from edgephi.demo.tasks.source import Source

    source = Source("labels", held_out=False)
    for task, make in images.TASKS.items():
        for _ in range(40):
            example = make(source)
            assert {mark.label for mark in example.marks} <= set(images.LABELS), task
    for task in (*speech.TASKS, spoken.NAME):
        for _ in range(2):
            assert set(media.TASKS[task](source).said) <= set(speech.WORDS), task
