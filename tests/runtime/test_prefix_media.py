"""The prefix cache with pictures and recordings: never encoded twice, never read with another adapter's keys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import edgephi
from edgephi import PrefixCache, Reply, Session

LONG = "Tell me what the sign says, and then why she sells sea shells by the sea shore, word by word, in one line. " * 3


def _picture(seed: int) -> Image.Image:
    blocks = np.random.default_rng(seed).integers(0, 256, (14, 14, 3), np.uint8)
    return Image.fromarray(np.kron(blocks, np.ones((32, 32, 1), np.uint8)))


def _ask(*media: Any, text: str = "what is it") -> list[dict[str, Any]]:
    kinds = [{"type": "image", "image": each} if isinstance(each, Image.Image) else {"type": "audio", "audio": each}
             for each in media]
    return [{"role": "user", "content": [*kinds, {"type": "text", "text": text}]}]


def _chat(session: Session, messages: list[dict[str, Any]]) -> Reply:
    return session.chat(messages, max_tokens=6, temperature=0)


def test_a_later_process_encodes_no_medium_again(tiny_multimodal_bundle: Callable[..., Path], tmp_path: Path) -> None:
    bundle = tiny_multimodal_bundle("fp32")
    sound = np.random.default_rng(2).normal(0, 0.1, 24_000).astype(np.float32), 16_000
    shown, heard = _ask(_picture(1)), _ask(sound, text="write it down")
    with edgephi.load(bundle, threads=2, prefix_cache=PrefixCache(folder=tmp_path)) as phi:
        wanted = [_chat(phi, shown).token_ids, _chat(phi, heard).token_ids]
    with edgephi.load(bundle, threads=2, prefix_cache=PrefixCache(folder=tmp_path)) as phi:
        first = _chat(phi, shown)
        second = _chat(phi, heard)
        assert [first.token_ids, second.token_ids] == wanted
        assert first.usage.cached_tokens > 0.85 * first.usage.prompt_tokens
        assert phi.loaded == ("text-media", "embedding")
        other = _chat(phi, _ask(_picture(3)))
        assert other.usage.cached_tokens < 64 and "vision" in phi.loaded


def test_adapters_are_never_mixed_and_text_survives_the_first_picture(
    tiny_multimodal_bundle: Callable[..., Path]
) -> None:
    bundle, text = tiny_multimodal_bundle("fp32"), [{"role": "user", "content": LONG}]
    turns = [text, [*text, {"role": "assistant", "content": "so"}, *_ask(_picture(4))], text, _ask(_picture(4))]
    with edgephi.load(bundle, threads=2, prefix_cache=False) as plain:
        wanted = []
        for turn in turns:
            plain.clear()
            wanted.append(_chat(plain, turn).token_ids)
    # the decoder of the first turn is closed for the second: only somebody else's use makes its text worth a copy
    cache = PrefixCache()
    with edgephi.load(bundle, threads=2, prefix_cache=cache) as phi:
        with edgephi.load(bundle, threads=2, prefix_cache=cache):
            found = [_chat(phi, turn) for turn in turns]
    assert [reply.token_ids for reply in found] == wanted
    assert found[1].usage.cached_tokens == 0  # what was read without the adapter
    assert found[2].usage.cached_tokens >= 64 and found[2].usage.recomputed_tokens < 64
