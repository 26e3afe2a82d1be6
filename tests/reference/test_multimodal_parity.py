"""The exported graphs of a tiny Phi-4-multimodal, run by hand, against transformers' whole model in float32.

The reference has the adapter of the prompt's mode merged into its weights: alpha / rank · B A, by definition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from edgephi.runtime.manifest import MODE_SPEECH, MODE_VISION_SPEECH, read_manifest

TOLERANCE = 1e-4  # of the largest logit, both sides float32; what is seen is below 1e-5
WRONG_ADAPTER = 0.5  # what another adapter, or none, must change at least; what is seen is above 1
# Norm of the difference over the norm of the logits. Two layers of random weights; what is seen is up to 0.05 and 0.31.
QUANTIZED = {"int8": 0.1, "int4": 0.4}
SECOND = 98  # frames of one second


@dataclass
class Bundle:
    """Sessions over the graphs of a bundle, opened when they are first used."""

    folder: Path
    open: dict[str, ort.InferenceSession] = field(default_factory=dict)

    @cached_property
    def text(self) -> Any:
        return read_manifest(self.folder).text

    def run(self, graph: str, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if graph not in self.open:
            options = ort.SessionOptions()
            options.intra_op_num_threads = 1
            options.log_severity_level = 3  # an input with a default is meant here
            path = self.folder / f"{graph}.onnx"
            self.open[graph] = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in self.open[graph].get_outputs()]
        return dict(zip(names, self.open[graph].run(names, dict(feeds)), strict=True))

    def embed(self, prompt: Prompt) -> np.ndarray:
        """float32 (1, tokens, hidden)."""
        hidden = self.text.hidden_size
        image = audio = np.zeros((0, hidden), np.float32)
        if prompt.images:
            pixels, mask, sizes = batch(prompt.images)
            feeds = {"pixel_values": pixels, "image_attention_mask": mask, "image_sizes": sizes}
            image = self.run("vision", feeds)["image_features"]
        if prompt.frames is not None:
            mode = MODE_VISION_SPEECH if prompt.images else MODE_SPEECH
            feeds = {
                "audio_embeds": prompt.frames[None], "audio_attention_mask": np.ones((1, len(prompt.frames)), bool),
                "audio_sizes": np.array([audio_tokens(prompt.frames)]), "audio_projection_mode": np.array([mode]),
            }
            audio = self.run("speech", feeds)["audio_features"]
        feeds = {"input_ids": prompt.ids[None], "image_features": image, "audio_features": audio}
        return self.run("embedding", feeds)["inputs_embeds"]

    def logits(self, graph: str, embeds: np.ndarray, gates: Mapping[str, bool], *, steps: int = 0) -> np.ndarray:
        """Logits of every position (tokens, vocabulary); the last `steps` of them one by one, from the cache."""
        layers, heads, size = self.text.layers, self.text.kv_heads, self.text.head_dim
        kinds = [f"{layer}.{kind}" for layer in range(layers) for kind in ("key", "value")]
        past = {f"past_key_values.{kind}": np.zeros((1, heads, 0, size), np.float32) for kind in kinds}
        switches = {name: np.array(value) for name, value in gates.items()}
        end = embeds.shape[1]
        rows: list[np.ndarray] = []
        bounds = [0, *range(end - steps, end + 1)] if steps else [0, end]
        for start, stop in pairwise(bounds):
            feeds = {
                "inputs_embeds": embeds[:, start:stop], "attention_mask": np.ones((1, stop), np.int64),
                "logits_rows": np.arange(stop - start), **past, **switches,
            }
            outputs = self.run(graph, feeds)
            rows.append(outputs["logits"][0])
            past = {f"past_key_values.{kind}": outputs[f"present.{kind}"] for kind in kinds}
        return np.concatenate(rows)


@dataclass(frozen=True)
class Picture:
    """Crops (1 + rows · columns, 3, 448, 448), masks of patches, height and width in pixels, tokens in the prompt."""

    pixels: np.ndarray
    mask: np.ndarray
    size: tuple[int, int]
    tokens: int


@dataclass(frozen=True)
class Prompt:
    """Token ids (n,) with placeholders, and the media that they stand for."""

    ids: np.ndarray
    images: tuple[Picture, ...] = ()
    frames: np.ndarray | None = None

    @property
    def adapter(self) -> str | None:
        """Images decide; recordings alone take the adapter of speech."""
        return "vision" if self.images else None if self.frames is None else "speech"

    def expected(self, model: Any) -> np.ndarray:
        """Logits (tokens, vocabulary) of transformers' model."""
        import torch

        media: dict[str, Any] = {}
        if self.images:
            pixels, mask, sizes = (torch.from_numpy(array) for array in batch(self.images))
            media |= {"image_pixel_values": pixels, "image_attention_mask": mask, "image_sizes": sizes}
        if self.frames is not None:
            sizes = torch.tensor([audio_tokens(self.frames)])
            media |= {"audio_input_features": torch.from_numpy(self.frames)[None], "audio_embed_sizes": sizes}
        with torch.no_grad():
            logits: np.ndarray = model(input_ids=torch.from_numpy(self.ids)[None], **media).logits[0].numpy()
        return logits


def batch(images: tuple[Picture, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Padded to the largest number of crops: zero crops, masks of ones."""
    crops = max(len(image.pixels) for image in images)
    pixels = [np.pad(image.pixels, ((0, crops - len(image.pixels)), *[(0, 0)] * 3)) for image in images]
    masks = [np.pad(image.mask, ((0, crops - len(image.mask)), *[(0, 0)] * 2), constant_values=1) for image in images]
    return np.stack(pixels), np.stack(masks), np.array([image.size for image in images], np.int64)


def picture(height: int, width: int, seed: int) -> Picture:
    """An image of `height` × `width` valid patches of 14 pixels."""
    rows, columns = -(-height // 32), -(-width // 32)
    mask = np.zeros((rows * 32, columns * 32), np.float32)
    mask[:height, :width] = 1
    masks = mask.reshape(rows, 32, columns, 32).transpose(0, 2, 1, 3).reshape(-1, 32, 32)
    pixels = np.random.default_rng(seed).uniform(-1, 1, (1 + rows * columns, 3, 448, 448)).astype(np.float32)
    tokens = -(-height // 2) * (-(-width // 2) + 1) + 1 + 16 * 17
    masks = np.concatenate([np.ones((1, 32, 32), np.float32), masks])
    return Picture(pixels, masks, (rows * 448, columns * 448), tokens)


def sound(frames: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-3, 3, (frames, 80)).astype(np.float32)


def audio_tokens(frames: np.ndarray) -> int:
    return -(-len(frames) // 8)


def text(length: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 380, length)


def placed(*runs: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Text, then for each (token, count) a run of placeholders and text again: int64 (n,)."""
    parts = [text(3, seed)]
    for index, (token, count) in enumerate(runs):
        parts += [np.full(count, token), text(4, seed + index + 1)]
    return np.concatenate(parts)


@pytest.fixture(scope="module")
def prompts(media_tokens: tuple[int, int]) -> dict[str, Prompt]:
    image, audio = media_tokens
    one, *_ = three = tuple(picture(*size, seed=seed) for seed, size in enumerate([(32, 23), (32, 32), (17, 64)]))
    clips = {name: sound(frames, 5) for name, frames in (("1 s", SECOND), ("12 s", 1198), ("65 s", 6498))}
    found = {
        "text": Prompt(text(40, 1)),
        "one image": Prompt(placed((image, one.tokens)), (one,)),
        "three images": Prompt(placed(*((image, each.tokens) for each in three)), three),
        "image and audio": Prompt(
            placed((image, one.tokens), (audio, audio_tokens(clips["1 s"]))), (one,), clips["1 s"],
        ),
        "audio and image": Prompt(
            placed((audio, audio_tokens(clips["1 s"])), (image, one.tokens)), (one,), clips["1 s"],
        ),
    }
    return found | {name: Prompt(placed((audio, audio_tokens(clip))), (), clip) for name, clip in clips.items()}


@pytest.fixture(scope="module")
def bundle(tiny_multimodal_bundle: Callable[..., Path]) -> Bundle:
    return Bundle(tiny_multimodal_bundle(precision="fp32"))


def relative(actual: np.ndarray, expected: np.ndarray) -> float:
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


NAMES = ("text", "one image", "three images", "1 s", "12 s", "65 s", "image and audio", "audio and image")


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_transformers(
    bundle: Bundle, prompts: Mapping[str, Prompt], tiny_multimodal_reference: Callable[..., Any], name: str
) -> None:
    prompt = prompts[name]
    require_parity(bundle, prompt, tiny_multimodal_reference(prompt.adapter), prompt.adapter)


@pytest.mark.parametrize("name", ["one image", "12 s", "image and audio"])
def test_the_comparison_fails_where_the_adapter_is_left_out(
    bundle: Bundle, prompts: Mapping[str, Prompt], tiny_multimodal_reference: Callable[..., Any], name: str
) -> None:
    prompt = prompts[name]
    with pytest.raises(AssertionError):
        require_parity(bundle, prompt, tiny_multimodal_reference(prompt.adapter), None)


@pytest.fixture(scope="module", params=[("mini", 11), ("mini-untied", 4), ("mini-untied", 5)], ids=str)
def another(
    request: pytest.FixtureRequest, write_multimodal: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Bundle, Path]:
    """A bundle and its checkpoint of another shape or seed."""
    from edgephi.export.pipeline import export

    shape, seed = request.param
    checkpoint = tmp_path_factory.mktemp("another") / "checkpoint"
    checkpoint.mkdir()
    write_multimodal(checkpoint, shape=shape, seed=seed)
    folder = checkpoint.with_name("bundle")
    export(checkpoint, folder, precision="fp32", threads=1)
    return Bundle(folder), checkpoint


def test_other_shapes_and_seeds_give_the_logits_of_transformers(
    another: tuple[Bundle, Path], prompts: Mapping[str, Prompt], multimodal_reference: Callable[..., Any]
) -> None:
    bundle, checkpoint = another
    for adapter, names in ((None, ["text"]), ("vision", ["one image", "image and audio"]), ("speech", ["12 s"])):
        model = multimodal_reference(checkpoint, adapter)
        for name in names:
            require_parity(bundle, prompts[name], model, adapter)


def require_parity(bundle: Bundle, prompt: Prompt, model: Any, adapter: str | None) -> None:
    """Logits of the whole prompt with the gate of `adapter` on, the last three positions from the cache."""
    gates = {f"{name}_lora": name == adapter for name in ("vision", "speech")}
    actual = bundle.logits("text-media", bundle.embed(prompt), gates, steps=3)
    assert relative(actual, prompt.expected(model)) <= TOLERANCE


@pytest.mark.parametrize("name", ["text", "one image", "1 s", "image and audio"])
def test_every_other_setting_of_the_gates_gives_other_logits(
    bundle: Bundle, prompts: Mapping[str, Prompt], name: str
) -> None:
    """Leaving an adapter out, adding one or taking the wrong one cannot hide within the tolerance."""
    embeds = bundle.embed(prompts[name])
    none, vision, speech, both = (
        bundle.logits("text-media", embeds, {"vision_lora": vision, "speech_lora": speech})
        for speech in (False, True) for vision in (False, True)
    )
    assert min(relative(vision, none), relative(speech, none), relative(vision, speech)) >= WRONG_ADAPTER
    assert np.array_equal(both, vision), "images decide where both gates are on"


@pytest.mark.parametrize("name", ["text", "three images", "12 s"])
@pytest.mark.parametrize("precision", QUANTIZED)
def test_quantized_logits_are_near_those_of_transformers(
    tiny_multimodal_bundle: Callable[..., Path], prompts: Mapping[str, Prompt],
    tiny_multimodal_reference: Callable[..., Any], precision: str, name: str,
) -> None:
    quantized, prompt = Bundle(tiny_multimodal_bundle(precision=precision)), prompts[name]
    gates = {f"{adapter}_lora": adapter == prompt.adapter for adapter in ("vision", "speech")}
    actual = quantized.logits("text-media", quantized.embed(prompt), gates)
    expected = prompt.expected(tiny_multimodal_reference(prompt.adapter))
    assert np.linalg.norm(actual - expected) <= QUANTIZED[precision] * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("graph", "gates"),
    [("text", None), ("text-media", None), ("text-vision", "vision"), ("text-speech", "speech")],
)
def test_each_graph_has_the_adapter_of_its_name_by_default(
    bundle: Bundle, prompts: Mapping[str, Prompt], graph: str, gates: str | None
) -> None:
    embeds = bundle.embed(prompts["1 s"])
    chosen = {f"{adapter}_lora": adapter == gates for adapter in ("vision", "speech")}
    expected = bundle.logits("text-media", embeds, chosen)
    assert relative(bundle.logits(graph, embeds, {}), expected) <= 1e-6


def test_adapters_matter_to_transformers_as_much(
    prompts: Mapping[str, Prompt], tiny_multimodal_reference: Callable[..., Any]
) -> None:
    for name, adapter in (("one image", "vision"), ("1 s", "speech")):
        prompt = prompts[name]
        without = prompt.expected(tiny_multimodal_reference(None))
        assert relative(prompt.expected(tiny_multimodal_reference(adapter)), without) >= WRONG_ADAPTER


def test_features_are_refused_unless_there_is_a_placeholder_for_each(
    bundle: Bundle, prompts: Mapping[str, Prompt], media_tokens: tuple[int, int]
) -> None:
    features = np.zeros((2, bundle.text.hidden_size), np.float32)
    for count in (1, 3):
        ids = placed((media_tokens[0], count))[None]
        with pytest.raises(Exception, match=r"ScatterND|updates|shape"):
            bundle.run("embedding", {"input_ids": ids, "image_features": features, "audio_features": features[:0]})


def test_the_embedding_graph_takes_a_batch(bundle: Bundle, media_tokens: tuple[int, int]) -> None:
    image, audio = media_tokens
    ids = np.array([[1, image, 2], [audio, 3, image]])
    hidden = bundle.text.hidden_size
    features = np.arange(3 * hidden, dtype=np.float32).reshape(3, hidden)
    feeds = {"input_ids": ids, "image_features": features[:2], "audio_features": features[2:]}
    embeds = bundle.run("embedding", feeds)["inputs_embeds"]
    assert np.array_equal(embeds[[0, 1, 1], [1, 2, 0]], features)
