"""The published tokenizers and templates of models that think, and their tags, spelled or single tokens."""

from __future__ import annotations

import json
import lzma
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import edgephi
from edgephi.runtime.chat import ChatTemplate
from edgephi.runtime.manifest import Thinking
from edgephi.runtime.tokens import Tokenizer

BESIDE = Path(edgephi.__file__).parent.parent / "shared" / "data"
DATA = Path(os.environ.get("EDGEPHI_SHARED_DATA", BESIDE))
OPEN, CLOSE, SKIP = "<think>", "</think>", "<|dummy_84|>"
# Model → its tokenizer, its template, spare tokens that its own tokenizer renames to the tags, what skips a thought.
PUBLISHED: dict[str, tuple[str, str, dict[str, str], str | None]] = {
    "phi-4-mini-reasoning": ("phi-4-mini", "phi-4-mini-reasoning/ortx-chat_template.jinja", {}, None),
    "phi-4-reasoning": (
        "phi-4", "phi-4-reasoning/chat_template.jinja",
        {"<|dummy_86|>": OPEN, "<|dummy_87|>": CLOSE}, None,
    ),
    "phi-4-reasoning-vision-15b": (
        "phi-4", "phi-4-reasoning-vision-15b/chat_template.jinja",
        {"<|dummy_86|>": OPEN, "<|dummy_87|>": CLOSE}, SKIP,
    ),
}


@dataclass(frozen=True)
class Published:
    tokenizer: Tokenizer
    template: ChatTemplate
    thinking: Thinking

    def ids(self, messages: Sequence[Any]) -> list[int]:
        return self.tokenizer.encode_segments(self.template.render(messages))

    def text(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, skip_special=False)


@pytest.fixture(scope="module", params=PUBLISHED)
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Published:
    name, template, renamed, skip = PUBLISHED[request.param]
    if not (DATA / name / "tokenizer.json.xz").is_file():
        pytest.skip(f"no published tokenizers under {DATA}; set EDGEPHI_SHARED_DATA")
    folder = tmp_path_factory.mktemp(request.param)
    spec = json.loads(lzma.decompress((DATA / name / "tokenizer.json.xz").read_bytes()))
    for token in spec["added_tokens"]:
        token["content"] = renamed.get(token["content"], token["content"])
    for old, new in renamed.items():
        if old in spec["model"]["vocab"]:
            spec["model"]["vocab"][new] = spec["model"]["vocab"].pop(old)
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    shutil.copy(DATA / template, folder / "chat_template.jinja")
    (folder / "tokenizer_config.json").write_text("{}")
    tokenizer = Tokenizer.open(folder)
    opened = ChatTemplate.open(folder, tokenizer.controls)
    assert opened is not None
    return Published(tokenizer, opened, Thinking(OPEN, CLOSE, skip))


def one_of(tokenizer: Tokenizer, text: str) -> list[int]:
    number = tokenizer.control_id(text)
    return tokenizer.encode_text(text) if number is None else [number]
