"""Prompts with pictures and recordings through the public session, against transformers' whole model in float32.

Pixels and log-mel frames come from runtime/image.py and audio.py on both sides (their parity with transformers' own
processors is the business of the tests beside this one); placeholders, encoders, adapters, cache and decoding are each
side's own. Tolerance: 1e-4 of the largest logit, both sides being float32; what is seen is below 1e-5.
"""

from __future__ import annotations

import io
import wave
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import edgephi
from edgephi.runtime.audio import prepare_audio
from edgephi.runtime.image import batch_images, prepare_image

TOLERANCE = 1e-4
RATE = 16_000
Content = list[dict[str, Any]]


def picture(width: int, height: int, seed: int) -> Image.Image:
    blocks = np.random.default_rng(seed).integers(0, 256, (height // 32, width // 32, 3), np.uint8)
    return Image.fromarray(np.kron(blocks, np.ones((32, 32, 1), np.uint8)))


def sound(seconds: float, seed: int) -> np.ndarray:
    samples: np.ndarray = np.random.default_rng(seed).normal(0, 0.1, int(seconds * RATE)).astype(np.float32)
    return samples


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def image(which: Image.Image) -> dict[str, Any]:
    return {"type": "image", "image": which}


def audio(samples: np.ndarray) -> dict[str, Any]:
    return {"type": "audio", "audio": (samples, RATE)}


SQUARE, WIDE, TALL = picture(448, 448, 1), picture(896, 448, 2), picture(448, 1344, 3)
PROMPTS: dict[str, Content] = {
    "text": [text("what is it")],
    "one image": [image(SQUARE), text("what is it")],
    "three images": [image(SQUARE), text("and"), image(WIDE), image(TALL), text("compare")],
    "1 s": [audio(sound(1, 1)), text("write it down")],
    "12 s": [text("write it down"), audio(sound(12, 2))],
    "65 s": [audio(sound(65, 3)), text("write it down")],
    "image and audio": [image(WIDE), audio(sound(1.5, 4))],
}


@pytest.fixture(scope="module")
def phi(tiny_multimodal_bundle: Callable[..., Path]) -> Iterator[edgephi.Session]:
    with edgephi.load(tiny_multimodal_bundle("fp32"), threads=2) as session:
        yield session


@pytest.fixture(scope="module")
def expected(tiny_multimodal_reference: Callable[..., Any]) -> Callable[..., np.ndarray]:
    """(ids, contents of all turns) → logits (n, vocabulary) of transformers with the adapter of its input_mode."""
    import torch

    def run(ids: Sequence[int], contents: Sequence[Content]) -> np.ndarray:
        parts = [part for content in contents for part in content]
        pictures = [part["image"] for part in parts if part["type"] == "image"]
        sounds = [part["audio"] for part in parts if part["type"] == "audio"]
        media: dict[str, Any] = {}
        if pictures:
            batch = batch_images([prepare_image(each) for each in pictures])
            media |= {
                "image_pixel_values": torch.from_numpy(batch.pixel_values),
                "image_attention_mask": torch.from_numpy(batch.attention_mask),
                "image_sizes": torch.from_numpy(batch.image_sizes),
            }
        if sounds:
            features = prepare_audio(sounds[0])
            media |= {
                "audio_input_features": torch.from_numpy(features.features)[None],
                "audio_embed_sizes": torch.tensor([features.tokens]),
            }
        adapter = "vision" if pictures else "speech" if sounds else None
        with torch.no_grad():
            logits = tiny_multimodal_reference(adapter)(input_ids=torch.tensor([list(ids)]), **media).logits[0]
        result: np.ndarray = logits.numpy()
        return result

    return run


def relative(actual: np.ndarray, wanted: np.ndarray) -> float:
    assert actual.shape == wanted.shape
    return float(np.abs(actual - wanted).max() / np.abs(wanted).max())


def user(content: Content) -> dict[str, Any]:
    return {"role": "user", "content": content}


@pytest.mark.parametrize("name", PROMPTS)
def test_logits_are_those_of_transformers(
    name: str, phi: edgephi.Session, expected: Callable[..., np.ndarray]
) -> None:
    messages = [user(PROMPTS[name])]
    assert relative(phi.logits(messages), expected(phi.encode(messages), [PROMPTS[name]])) <= TOLERANCE


def test_media_of_every_turn_count(phi: edgephi.Session, expected: Callable[..., np.ndarray]) -> None:
    first, second, third = PROMPTS["one image"], [text("now this"), image(TALL)], PROMPTS["1 s"]
    messages = [
        user(first), {"role": "assistant", "content": "a square"}, user(second),
        {"role": "assistant", "content": "a tower"}, user(third),
    ]
    assert relative(phi.logits(messages), expected(phi.encode(messages), [first, second, third])) <= TOLERANCE


def greedy(expected: Callable[..., np.ndarray], ids: list[int], contents: list[Content], count: int) -> list[int]:
    made: list[int] = []
    for _ in range(count):
        made.append(int(expected([*ids, *made], contents)[-1].argmax()))
    return made


@pytest.mark.parametrize("name", ["one image", "1 s", "image and audio"])
def test_answers_keep_the_adapter_and_later_turns_reuse_the_cache(
    name: str, phi: edgephi.Session, expected: Callable[..., np.ndarray]
) -> None:
    content, count = PROMPTS[name], 4
    messages = [user(content)]
    reply = phi.chat(messages, max_tokens=count, temperature=0)
    assert list(reply.token_ids) == greedy(expected, phi.encode(messages), [content], count)
    again = [*messages, {"role": "assistant", "content": "so"}, user([text("go on")])]
    follow = phi.chat(again, max_tokens=count, temperature=0)
    assert list(follow.token_ids) == greedy(expected, phi.encode(again), [content], count)
    assert follow.usage.cached_tokens >= len(phi.encode(messages)) - 2


def test_the_first_picture_makes_the_history_be_read_again(
    tiny_multimodal_bundle: Callable[..., Path], expected: Callable[..., np.ndarray]
) -> None:
    with edgephi.load(tiny_multimodal_bundle("fp32"), threads=2) as phi:
        words = [text("tell me a story about a long winter")]
        phi.chat([user(words)], max_tokens=2, temperature=0)
        messages = [user(words), {"role": "assistant", "content": "once"}, user(PROMPTS["one image"])]
        reply = phi.chat(messages, max_tokens=3, temperature=0)
        wanted = greedy(expected, phi.encode(messages), [words, PROMPTS["one image"]], 3)
        assert list(reply.token_ids) == wanted
        later = [user(words)]
        text_only = phi.chat(later, max_tokens=3, temperature=0)
        assert list(text_only.token_ids) == greedy(expected, phi.encode(later), [words], 3)
        assert text_only.usage.cached_tokens == 0  # what was read with the adapter is not what is read without


def test_only_what_a_prompt_needs_is_loaded(tiny_multimodal_bundle: Callable[..., Path]) -> None:
    with edgephi.load(tiny_multimodal_bundle("fp32"), threads=2, prefix_cache=False) as phi:
        phi.chat([user(PROMPTS["text"])], max_tokens=1)
        assert phi.loaded == ("text", "embedding")
        phi.chat([user(PROMPTS["1 s"])], max_tokens=1)
        assert phi.loaded == ("text-media", "embedding", "speech")
        phi.chat([user(PROMPTS["one image"])], max_tokens=1)
        assert phi.loaded == ("text-media", "embedding", "vision", "speech")
        phi.release_encoders()
        assert phi.loaded == ("text-media", "embedding")


def test_a_second_question_about_a_picture_encodes_nothing(
    tiny_multimodal_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgephi.runtime import encoders

    runs: list[str] = []
    run = encoders.LazyGraph.run

    def counted(self: Any, feeds: Mapping[str, np.ndarray], output: str, interrupt: Any) -> np.ndarray:
        runs.append(output)
        return run(self, feeds, output, interrupt)

    monkeypatch.setattr(encoders.LazyGraph, "run", counted)
    with edgephi.load(tiny_multimodal_bundle("fp32"), threads=2, prefix_cache=False) as phi:
        for source in (WIDE, encoded(WIDE, "PNG")):
            phi.chat([user([image(source), text("what is it")])], max_tokens=1)  # type: ignore[arg-type]
        assert runs == ["image_features"]


def test_openai_forms_of_media_are_read(phi: edgephi.Session) -> None:
    import base64

    png, wav = (base64.b64encode(data).decode() for data in (encoded(SQUARE, "PNG"), recorded(sound(1, 1))))
    content: Content = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{png}"}},
        {"type": "input_audio", "input_audio": {"data": wav, "format": "wav"}},
    ]
    own: Content = [image(SQUARE), audio(sound(1, 1))]
    assert phi.encode([user(content)]) == phi.encode([user(own)])
    assert len(phi.encode([user(content)])) > 545


def encoded(picture: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


def recorded(samples: np.ndarray, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, rate, 0, "NONE", ""))
        writer.writeframes((samples * 32767).astype("<i2").tobytes())
    return file.getvalue()


def bomb() -> bytes:
    """A PNG of one white pixel whose header says 2³¹ - 1 pixels a side."""
    data = bytearray(encoded(Image.new("L", (1, 1)), "PNG"))
    data[16:24] = b"\x7f\xff\xff\xff" * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


HOSTILE: dict[str, Callable[[], dict[str, Any]]] = {
    "bomb": lambda: {"type": "image", "image": bomb()},
    "truncated JPEG": lambda: {"type": "image", "image": encoded(SQUARE, "JPEG")[:-2000]},
    "damaged GIF": lambda: {"type": "image", "image": b"GIF89a"},
    "another format": lambda: {"type": "image", "image": encoded(SQUARE, "TIFF")},
    "a line": lambda: image(Image.new("RGB", (1, 20_000))),
    "no pixels": lambda: {"type": "image", "image": np.zeros((0, 448, 3), np.uint8)},
    "recording for a picture": lambda: {"type": "image", "image": recorded(sound(1, 1))},
    "URL": lambda: {"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest/meta-data"}},
    "bad base64": lambda: {"type": "image_url", "image_url": {"url": "data:image/png;base64,####"}},
    "wrong media type": lambda: {"type": "image_url", "image_url": {"url": "data:text/html;base64,PGI+"}},
    "device": lambda: {"type": "audio", "audio": "/dev/zero"},
    "no samples": lambda: {"type": "audio", "audio": recorded(sound(0, 1))},
    "10 ms": lambda: {"type": "audio", "audio": recorded(sound(0.01, 1))},
    "NaN": lambda: audio(np.full(RATE, np.nan, np.float32)),
    "infinity": lambda: audio(np.full(RATE, np.inf, np.float32)),
    "absurd rate": lambda: {"type": "audio", "audio": recorded(sound(1, 1), 2**31 - 1)},
    "truncated WAV": lambda: {"type": "audio", "audio": recorded(sound(1, 1))[:-999]},
    "picture for a recording": lambda: {"type": "audio", "audio": encoded(SQUARE, "PNG")},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_media_that_cannot_be_read_are_named_and_the_chat_goes_on(name: str, phi: edgephi.Session) -> None:
    before = [user(PROMPTS["text"])]
    phi.chat(before, max_tokens=1, temperature=0)
    turn = user([text("what is it"), HOSTILE[name]()])
    with pytest.raises(edgephi.MediaError, match=r"messages\[1\]\.content\[1\]") as caught:
        phi.stream([*before, turn])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    again = phi.chat([*before, {"role": "assistant", "content": "so"}, user([text("go on")])], max_tokens=1)
    assert again.usage.completion_tokens == 1 and again.usage.cached_tokens > 0


def test_more_media_than_the_context_holds_are_refused_before_they_are_encoded(
    tiny_multimodal_bundle: Callable[..., Path]
) -> None:
    with edgephi.load(tiny_multimodal_bundle("fp32"), threads=1) as phi:
        with pytest.raises(edgephi.ContextOverflow, match=r"content\[31\].*context of 16384 tokens"):
            phi.stream([user([image(SQUARE)] * 40)])
        with pytest.raises(edgephi.RequestError, match="video"):
            phi.stream([user([{"type": "video", "video": "clip.mp4"}])])
        assert phi.loaded == ("text", "embedding")
        assert phi.chat([user(PROMPTS["text"])], max_tokens=1).usage.completion_tokens == 1


def test_typed_placeholders_stay_text_and_ids_of_media_are_refused(
    phi: edgephi.Session, media_tokens: tuple[int, int]
) -> None:
    ids = phi.encode([user([text("<|image_1|> <|endoftext10|> <|endoftext11|>")])])
    assert not set(ids) & set(media_tokens)
    with pytest.raises(edgephi.RequestError, match="content of messages"):
        phi.stream([1, media_tokens[0], 2])
