"""onnxruntime-genai loads a multimodal bundle as it is and computes what the graphs compute by themselves.

It preprocesses by itself, with the settings in the bundle; what it feeds to the graphs is fed to them by hand too.
"""

from __future__ import annotations

import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image

import edgephi

og = pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")

DATA = Path(os.environ.get("EDGEPHI_SHARED_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
IMAGE, AUDIO = "media/ortx-exceltable.png", "media/1272-128104-0004-8k.wav"
FILES = (IMAGE, AUDIO, *(f"phi-4-multimodal/{name}" for name in (
    "tokenizer.json.xz", "ortx-tokenizer_config.json", "generation_config.json", "ortx-vision_processor.json",
    "ortx-audio_feature_extraction.json",
)))
VOCABULARY, PLACEHOLDERS = 200064, (200010, 200011)  # genai knows no other placeholders
# genai's run and ours are the same kernels over the same weights.
TOLERANCE = 1e-4
QUESTION, TOKENS = "What is this?", 8

pytestmark = pytest.mark.skipif(
    not all((DATA / name).is_file() for name in FILES), reason=f"tokenizer and media are not in {DATA}",
)


@pytest.fixture(scope="module")
def bundle(write_multimodal: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with the published tokenizer and its ids."""
    from edgephi.export.pipeline import export

    folder = tmp_path_factory.mktemp("genai") / "checkpoint"
    folder.mkdir()
    write_multimodal(folder, VOCABULARY, PLACEHOLDERS)
    published = DATA / "phi-4-multimodal"
    (folder / "tokenizer.json").write_bytes(lzma.decompress((published / "tokenizer.json.xz").read_bytes()))
    (folder / "tokenizer_config.json").write_bytes((published / "ortx-tokenizer_config.json").read_bytes())
    (folder / "generation_config.json").write_bytes((published / "generation_config.json").read_bytes())
    output = folder.parent / "bundle"
    export(folder, output, precision="int8", method="round_to_nearest", threads=2)
    return output


def run(bundle: Path, graph: str, feeds: dict[str, np.ndarray], output: str) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 3  # an input with a default is meant here
    session = ort.InferenceSession(bundle / f"{graph}.onnx", options, providers=["CPUExecutionProvider"])
    for entry in session.get_inputs():
        if entry.name.startswith("past_key_values."):
            feeds[entry.name] = np.zeros((1, entry.shape[1], 0, entry.shape[3]), np.float32)
    (result,) = session.run([output], feeds)
    found: np.ndarray = result
    return found


def by_hand(bundle: Path, decoder: str, given: Any, image: bool, audio: bool) -> np.ndarray:
    """Logits of the last position, from the inputs that genai's processor made."""

    def array(name: str) -> np.ndarray:
        found: np.ndarray = given[name].as_numpy()
        return found

    ids = array("input_ids").astype(np.int64)
    none = np.zeros((0, 192), np.float32)  # the width of the tiny decoder
    feeds: dict[str, np.ndarray] = {"input_ids": ids, "image_features": none, "audio_features": none}
    if image:
        pixels = {name: array(name) for name in ("pixel_values", "image_attention_mask", "image_sizes")}
        feeds["image_features"] = run(bundle, "vision", pixels, "image_features")
    if audio:
        names = ("audio_embeds", "audio_attention_mask", "audio_sizes", "audio_projection_mode")
        feeds["audio_features"] = run(bundle, "speech", {name: array(name) for name in names}, "audio_features")
    embeds = run(bundle, "embedding", feeds, "inputs_embeds")
    feeds = {"inputs_embeds": embeds, "attention_mask": np.ones(ids.shape, np.int64)}
    logits: np.ndarray = run(bundle, decoder, feeds, "logits")[0, -1]
    return logits


PROMPTS = pytest.mark.parametrize(("image", "audio", "decoder"), [
    (True, False, None), (False, True, "text-speech"), (True, True, None), (False, False, "model"),
], ids=["image", "audio", "both", "text"])


class Genai:
    """One prompt in onnxruntime-genai, with the decoder that fits it: None for the one of the bundle's settings."""

    def __init__(self, bundle: Path, image: Path | None, audio: bool, decoder: str | None) -> None:
        config = og.Config(str(bundle))
        overlay: dict[str, Any] = {"search": {"max_length": 1200, "do_sample": False}}
        if decoder is not None:
            overlay["model"] = {"decoder": {"filename": f"{decoder}.onnx"}}
        config.overlay(json.dumps(overlay))
        model = og.Model(config)
        media = {
            "images": og.Images.open(str(image)) if image is not None else None,
            "audios": og.Audios.open(str(DATA / AUDIO)) if audio else None,
        }
        shown = ("" if image is None else "<|image_1|>") + ("<|audio_1|>" if audio else "")
        prompt = f"<|user|>{shown}{QUESTION}<|end|><|assistant|>"
        self.given: Any = model.create_multimodal_processor()(prompt, **media)
        self.generator: Any = og.Generator(model, og.GeneratorParams(model))
        self.generator.set_inputs(self.given)

    def tokens(self, count: int) -> list[int]:
        """The next tokens."""
        found = []
        for _ in range(count):
            self.generator.generate_next_token()
            found.append(int(self.generator.get_next_tokens()[0]))
        return found


@PROMPTS
def test_genai_computes_what_the_graphs_compute(bundle: Path, image: bool, audio: bool, decoder: str | None) -> None:
    genai = Genai(bundle, DATA / IMAGE if image else None, audio, decoder)
    actual = np.asarray(genai.generator.get_logits()).reshape(-1)
    expected = by_hand(bundle, decoder or "text-vision", genai.given, image, audio)
    assert np.abs(actual - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.fixture(scope="module")
def square(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of one crop: genai scales the view of the whole with another filter than the model was trained with
    (and than transformers), so only where nothing is scaled do both runtimes see the same pixels.
    """
    path = tmp_path_factory.mktemp("picture") / "square.png"
    small = np.random.default_rng(7).integers(0, 256, (56, 56, 3), np.uint8)
    Image.fromarray(small).resize((448, 448), Image.Resampling.BICUBIC).save(path)
    return path


@PROMPTS
def test_greedy_tokens_are_those_of_this_runtime(
    bundle: Path, square: Path, image: bool, audio: bool, decoder: str | None
) -> None:
    """Each from the files on: decoding, preprocessing, template and tokenizer are each side's own."""
    content: list[dict[str, Any]] = [{"type": "text", "text": QUESTION}]
    if audio:
        content.insert(0, {"type": "audio", "audio": DATA / AUDIO})
    if image:
        content.insert(0, {"type": "image", "image": square})
    messages = [{"role": "user", "content": content}]
    genai = Genai(bundle, square if image else None, audio, decoder)
    with edgephi.load(bundle, threads=2) as phi:
        assert phi.encode(messages) == genai.given["input_ids"].as_numpy()[0].tolist()
        reply = phi.chat(messages, max_tokens=TOKENS, temperature=0)
    assert genai.tokens(TOKENS) == list(reply.token_ids)
    if content[1:]:
        without = Genai(bundle, square if image else None, audio, "model")
        assert without.tokens(TOKENS) != list(reply.token_ids), "the adapter is at work on both sides"


def test_processor_settings_are_the_published_ones(bundle: Path) -> None:
    """But for the names of the steps, which nothing refers to."""
    published = {
        "vision_processor.json": "ortx-vision_processor.json",
        "speech_processor.json": "ortx-audio_feature_extraction.json",
    }
    for name, source in published.items():
        ours = json.loads((bundle / name).read_text())
        theirs = json.loads((DATA / "phi-4-multimodal" / source).read_text())
        for settings in (ours, theirs):
            settings.get("processor", {}).pop("name", None)
        assert ours == theirs
