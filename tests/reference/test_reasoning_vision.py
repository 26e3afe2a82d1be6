"""A tiny Phi-4-reasoning-vision: its graphs and the public session against transformers' own parts, in float32.

transformers has no class for the whole model, so the oracle is assembled here as the published code does it:
Siglip2VisionModel's last hidden state but one, padding dropped, two linear layers with a gelu between, one row for each
patch in the place of the image, Phi3ForCausalLM. Patches come from runtime/image_naflex.py on both sides; their parity
with transformers' processor is tested beside this file.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import edgephi
from edgephi.runtime.graphs import Interrupt
from edgephi.runtime.image_naflex import NaflexInputs, prepare_naflex_image
from edgephi.runtime.manifest import read_manifest
from edgephi.runtime.thinking import opening
from edgephi.runtime.tokens import Segment, Tokenizer

TOLERANCE = 1e-4  # of the largest value, both sides float32; what is seen is below 2e-6
QUANTIZED = 0.3  # norm of the error of INT4 logits over theirs; two layers of random weights; what is seen is 0.13
PADDING = 24  # patches behind those of the image in the reference, which masks them
ADDED = ("<|dummy_0|>", "<|im_start|>", "<|im_sep|>", "<|im_end|>", "<|dummy_84|>", "<think>", "</think>")
FIRST = 396  # behind the control tokens of the tokenizer that is extended
IMAGE, START, SEPARATOR, END, SKIP, THINK, _ = range(FIRST, FIRST + len(ADDED))
SYSTEM = "You are Phi, a multimodal model."
# The published template but for the length of its system message; its line breaks are its own.
TEMPLATE = """<|im_start|>system<|im_sep|>You are Phi, a multimodal model.<|im_end|>
{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|im_start|>user<|im_sep|>' + message['content'] + '<|im_end|>' }}
{% elif message['role'] == 'assistant' %}
<|im_start|>assistant<|im_sep|>
{% generation %}
{{ message['content'] + '<|im_end|>' }}
{% endgeneration %}
{% endif %}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant<|im_sep|>' }}
{% endif %}"""
VISION: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 72, "num_hidden_layers": 3, "num_attention_heads": 2,
    "model_type": "siglip2_vision_model",
}
SETTINGS: dict[str, Any] = {
    "architectures": ["Phi4ForCausalLMV"], "model_type": "phi4-siglip", "vision_config": VISION, "mm_hidden_size": 32,
    "mm_projector_type": "mlp2x_gelu", "mm_vision_tower": "google/siglip2-so400m-patch16-naflex", "use_mm_proj": True,
    "use_s2": False, "min_num_patches": 256, "max_num_patches": 3600, "image_aspect_ratio": "square",
    "tokenizer_model_max_length": 8192, "image_token_id": IMAGE,
}


@dataclass(frozen=True)
class Oracle:
    """transformers' parts of the model."""

    tower: Any
    projector: Any
    language: Any

    def features(self, image: NaflexInputs) -> np.ndarray:
        """float32 (tokens, hidden)."""
        import torch

        pixels = np.pad(image.patches, ((0, PADDING), (0, 0)))[None]
        mask = np.pad(np.ones((1, image.tokens), np.int32), ((0, 0), (0, PADDING)))
        with torch.no_grad():
            states = self.tower(
                pixel_values=torch.from_numpy(pixels), pixel_attention_mask=torch.from_numpy(mask),
                spatial_shapes=torch.tensor([image.spatial_shape]), output_hidden_states=True,
            ).hidden_states
            features: np.ndarray = self.projector(states[-2][0, : image.tokens]).numpy()
        return features

    def logits(self, ids: Sequence[int], images: Sequence[NaflexInputs]) -> np.ndarray:
        """float32 (tokens, vocabulary) for `ids` with one placeholder for each patch."""
        import torch

        tokens = torch.tensor([ids])
        with torch.no_grad():
            embeds = self.language.model.embed_tokens(tokens)
            if images:
                rows = np.concatenate([self.features(image) for image in images])
                embeds[tokens == IMAGE] = torch.from_numpy(rows)
            logits: np.ndarray = self.language(inputs_embeds=embeds).logits[0].numpy()
        return logits


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Phi-4 with an encoder, under the published names, and a tokenizer with this model's control tokens."""
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("checkpoint") / "reasoning-vision"
    shutil.copytree(tiny_checkpoint("phi4"), folder)
    config = json.loads((folder / "config.json").read_text()) | SETTINGS
    (folder / "config.json").write_text(json.dumps(config))
    tower, projector = _encoder(config["hidden_size"])
    prefix = "model.vision_tower.vision_tower.vision_model."
    tensors = {f"{prefix}{name}": tensor for name, tensor in tower.state_dict().items()}
    tensors |= {f"model.mm_projector.{name}": tensor for name, tensor in projector.state_dict().items()}
    shard = "model-vision.safetensors"
    save_file({name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}, folder / shard)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] |= dict.fromkeys(tensors, shard)
    path.write_text(json.dumps(index))
    _extend_tokenizer(folder)
    return folder


def _extend_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    spec = json.loads(path.read_text())
    flags = {"single_word": False, "lstrip": True, "rstrip": True, "normalized": False, "special": True}
    spec["added_tokens"] += [{"id": FIRST + place, "content": text, **flags} for place, text in enumerate(ADDED)]
    path.write_text(json.dumps(spec))
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    del settings["chat_template"]
    path.write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(TEMPLATE)


def _encoder(hidden: int) -> tuple[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from transformers import Siglip2VisionConfig, Siglip2VisionModel

        tower: Any = Siglip2VisionModel(Siglip2VisionConfig(**VISION))
        tower.set_attn_implementation("eager")
        width = VISION["hidden_size"]
        projector = torch.nn.Sequential(
            torch.nn.Linear(width, hidden), torch.nn.GELU(), torch.nn.Linear(hidden, hidden)
        )
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for part in (tower, projector):
                for name, tensor in part.named_parameters():
                    noise = torch.randn(tensor.shape, generator=generator)
                    gain = "norm" in name and name.endswith("weight")
                    spread = 0.2 if tensor.ndim == 1 else 0.5 if "position" in name else tensor[0].numel() ** -0.5
                    # as stored: both sides must see the same weights
                    tensor.copy_((gain + spread * noise).bfloat16())
    return tower.eval(), projector.eval()


@pytest.fixture(scope="module")
def oracle(checkpoint: Path, tiny_reference: Callable[..., Any]) -> Oracle:
    language = tiny_reference("phi4")
    return Oracle(*_encoder(language.config.hidden_size), language)


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "reasoning-vision"
    from edgephi.export.pipeline import export

    export(checkpoint, folder, precision="fp32", threads=2)
    return folder


@pytest.fixture(scope="module")
def phi(bundle: Path) -> Iterator[edgephi.Session]:
    with edgephi.load(bundle, threads=2) as session:
        yield session


def picture(width: int, height: int, seed: int) -> Image.Image:
    blocks = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return Image.fromarray(np.kron(blocks, np.ones((8, 8, 1), np.uint8))[:height, :width])


SIZES = {
    "square": (320, 320), "very wide": (1600, 64), "very tall": (48, 1400), "tiny": (9, 7), "one row": (4096, 12),
    "one column": (12, 4096), "more than 3600 patches": (1200, 1000),
}


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    assert found.shape == wanted.shape
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("name", SIZES)
def test_one_row_of_features_for_each_patch(name: str, bundle: Path, oracle: Oracle) -> None:
    import onnxruntime as ort

    image = prepare_naflex_image(picture(*SIZES[name], 1))
    session = ort.InferenceSession(bundle / "vision.onnx", providers=["CPUExecutionProvider"])
    feeds = {"pixel_values": image.patches[None], "spatial_shapes": np.array([image.spatial_shape])}
    (found,) = session.run(["image_features"], feeds)
    assert len(found) == image.tokens == np.prod(image.spatial_shape)
    assert relative(found, oracle.features(image)) <= TOLERANCE


def user(*parts: str | Image.Image) -> dict[str, Any]:
    return {"role": "user", "content": [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part} for part in parts
    ]}


SMALL, WIDE = picture(256, 256, 2), picture(700, 180, 3)
PROMPTS: dict[str, list[dict[str, Any]]] = {
    "text": [user("what is it")],
    "one image": [user(SMALL, "what is it")],
    "two images": [user(SMALL, WIDE, "compare")],
    "images in two turns": [user("see", SMALL), {"role": "assistant", "content": "so"}, user(WIDE, "and this")],
}


def images_of(messages: Sequence[dict[str, Any]]) -> list[NaflexInputs]:
    contents = [message["content"] for message in messages]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return [prepare_naflex_image(part["image"]) for part in parts if part["type"] == "image"]


@pytest.mark.parametrize("name", PROMPTS)
def test_logits_of_whole_prompts(name: str, phi: edgephi.Session, oracle: Oracle) -> None:
    messages = PROMPTS[name]
    ids, images = phi.encode(messages), images_of(messages)
    assert ids.count(IMAGE) == sum(image.tokens for image in images)
    assert relative(phi.logits(messages), oracle.logits(ids, images)) <= TOLERANCE


def test_answers_to_pictures_and_the_cache(phi: edgephi.Session, oracle: Oracle) -> None:
    messages = PROMPTS["two images"]
    images, count = images_of(messages), 4
    reply = phi.chat(messages, max_tokens=count, temperature=0)
    wanted = phi.encode(messages)
    for _ in range(count):
        logits = oracle.logits(wanted, images)[-1]
        logits[IMAGE] = -np.inf  # a row of a picture is never said
        wanted.append(int(logits.argmax()))
    assert list(reply.token_ids) == wanted[-count:]
    again = phi.chat([*messages, {"role": "assistant", "content": "so"}, user("go on")], max_tokens=1, temperature=0)
    assert again.usage.cached_tokens >= len(phi.encode(messages)) - 2


def test_the_text_around_a_picture_is_that_of_the_published_code(phi: edgephi.Session, bundle: Path) -> None:
    """It cuts the text at `<image>`, behind which its prompts have a line break, and encodes the pieces one by one."""
    tokenizer = Tokenizer.open(bundle)
    tokens = prepare_naflex_image(SMALL).tokens
    start = tokenizer.encode_segments([Segment(
        f"<|im_start|>system<|im_sep|>{SYSTEM}<|im_end|><|im_start|>user<|im_sep|>look: ", trusted=True
    )])
    end = tokenizer.encode_segments([Segment("\nwhat is it<|im_end|><|im_start|>assistant<|im_sep|>", trusted=True)])
    assert phi.encode([user("look: ", SMALL, "what is it")]) == [*start, *[IMAGE] * tokens, *end]
    assert phi.encode([user("look: ", SMALL, "\nwhat is it")]) == [*start, *[IMAGE] * tokens, *end]


def test_typed_placeholders_stay_text_and_their_ids_are_refused(phi: edgephi.Session) -> None:
    ids = phi.encode([user("<image> <|dummy_0|> <|dummy_84|><think>")])
    assert not {IMAGE, SKIP, THINK} & set(ids)
    with pytest.raises(edgephi.RequestError, match="content of messages"):
        phi.stream([1, IMAGE, 2])
    with pytest.raises(edgephi.RequestError, match="audio"):
        phi.stream([{"role": "user", "content": [{"type": "audio", "audio": "talk.wav"}]}])


@pytest.mark.parametrize(("think", "behind"), [(True, [THINK]), (False, [SKIP]), (None, [])])
def test_the_three_modes_begin_the_answer_with_the_tokens_of_training(
    think: bool | None, behind: list[int], bundle: Path, phi: edgephi.Session
) -> None:
    modes = read_manifest(bundle).thinking
    assert modes is not None and (modes.open, modes.close) == ("<think>", "</think>")
    prompt = phi.encode(PROMPTS["text"])
    assert prompt[-1] == SEPARATOR  # and its line break, which the token swallows
    assert opening(Tokenizer.open(bundle), prompt, think, modes) == behind
    usage = phi.generate(PROMPTS["text"], think=think, max_tokens=1).usage
    assert usage.prompt_tokens == len(prompt) + len(behind)


def test_the_encoder_is_loaded_for_a_picture_and_history_is_kept(bundle: Path) -> None:
    with edgephi.load(bundle, threads=2, prefix_cache=False) as phi:
        phi.chat([user("tell me a story")], max_tokens=1)
        assert list(phi.loaded) == ["text", "embedding"]
        history = [user("tell me a story"), {"role": "assistant", "content": "once"}]
        reply = phi.chat([*history, user(SMALL, "go on")], max_tokens=1)
        assert list(phi.loaded) == ["text", "embedding", "vision"]
        # no adapter: what came before the picture holds
        assert reply.usage.cached_tokens >= len(phi.encode([user("tell me a story")])) - 2
        phi.release_encoders()
        assert list(phi.loaded) == ["text", "embedding"]


def test_the_bundle_verifies_and_its_decoder_for_other_runtimes_reads_ids(
    bundle: Path, checkpoint: Path, phi: edgephi.Session
) -> None:
    import onnxruntime as ort

    from edgephi.export.verify import verify

    result = verify(bundle, checkpoint=str(checkpoint))
    assert set(result.graphs) == {"text", "embedding", "vision", "model"} and not result.unlisted
    assert all(stage.error <= stage.allowed for stage in result.layers)
    text = read_manifest(bundle).text
    ids = phi.encode(PROMPTS["text"])
    empty = np.zeros((1, text.kv_heads, 0, text.head_dim), np.float32)
    past = {f"past_key_values.{layer}.{kind}": empty for layer in range(text.layers) for kind in ("key", "value")}
    session = ort.InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])
    feeds = {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64), **past}
    (logits,) = session.run(["logits"], feeds)
    assert np.allclose(logits[0, -1], phi.logits(ids)[-1], atol=1e-4)


def test_a_bundle_of_fixed_shapes_gives_the_same_rows_and_answers(
    checkpoint: Path, phi: edgephi.Session, oracle: Oracle, tmp_path: Path
) -> None:
    """One padded picture a run; on the CPU, where float32 differs in the order of summation alone."""
    from edgephi.export.pipeline import export
    from edgephi.export.verify import verify

    export(checkpoint, tmp_path / "npu", precision="fp32", device="npu", context=1024, threads=1)
    assert set(read_manifest(tmp_path / "npu").graphs) == {"text", "text-step", "embedding", "vision"}
    verify(tmp_path / "npu", threads=1)
    with edgephi.load(tmp_path / "npu", prefix_cache=False, threads=1) as fixed:
        encoder = fixed._model._encoders.image
        assert encoder is not None
        for name in ("very wide", "tiny", "more than 3600 patches"):
            image = prepare_naflex_image(picture(*SIZES[name], 1))
            assert relative(encoder.encode(image, Interrupt()), oracle.features(image)) <= TOLERANCE
        messages = PROMPTS["one image"]
        wanted = phi.chat(messages, max_tokens=4, temperature=0).token_ids
        assert fixed.chat(messages, max_tokens=4, temperature=0).token_ids == wanted


def test_onnxruntime_genai_reads_the_decoder_from_ids_on(bundle: Path, phi: edgephi.Session) -> None:
    """It does not know these pictures; of text it makes our tokens."""
    pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed: pip install 'edgephi[test]'")
    import os
    import subprocess
    import sys

    script, steps = Path(__file__).parents[1] / "interop" / "greedy_genai.py", 8
    ids = phi.encode(PROMPTS["text"])
    job = {"bundle": str(bundle), "ids": ids, "steps": steps, "overlay": {}}
    ended = subprocess.run(
        [sys.executable, str(script)], input=json.dumps([job]), capture_output=True, text=True, timeout=300,
        check=False, env=os.environ | {"ORT_DISABLE_TELEMETRY": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    (answer,) = json.loads(ended.stdout)
    ours = list(phi.generate(ids, max_tokens=steps, temperature=0).token_ids)
    assert answer["tokens"][: len(ours)] == ours


def test_int4_loses_little_and_keeps_what_pixels_meet_first(
    checkpoint: Path, oracle: Oracle, tmp_path: Path
) -> None:
    from edgephi.export.pipeline import export

    export(checkpoint, tmp_path / "int4", precision="int4", threads=2)
    formats = {record.name: record.format for record in read_manifest(tmp_path / "int4").report}
    assert formats["vision.patch_embedding.weight"] == "float32"
    assert formats["vision.layers.0.mlp.fc1.weight"].startswith("int8")
    messages = PROMPTS["two images"]
    with edgephi.load(tmp_path / "int4", threads=2) as phi:
        found = phi.logits(messages)
        wanted = oracle.logits(phi.encode(messages), images_of(messages))
    assert np.linalg.norm(found - wanted) <= QUANTIZED * np.linalg.norm(wanted)
