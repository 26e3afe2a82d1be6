"""Which checkpoints think: told by the published texts beside their weights."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import edgephi
from edgephi.export.pipeline import export
from edgephi.export.thoughts import CLOSE, MINI_REASONING, OPEN, read_thinking
from edgephi.runtime.errors import CheckpointError
from edgephi.runtime.manifest import Thinking, read_manifest

BESIDE = Path(edgephi.__file__).parent.parent / "shared" / "data"
DATA = Path(os.environ.get("EDGEPHI_SHARED_DATA", BESIDE))
TAGS = Thinking("<think>", "</think>", None)
# Model → its tokenizer_config, its template where that is a file of its own.
PUBLISHED = {
    "phi-4-mini": ("phi-4-mini/tokenizer_config.json", None),
    "phi-4": ("phi-4/ortx-tokenizer_config.json", None),
    "phi-4-multimodal": ("phi-4-multimodal/ortx-tokenizer_config.json", None),
    "phi-3-mini": ("phi-3-mini/tokenizer_config.json", None),
    "phi-4-mini-reasoning": (
        "phi-4-mini-reasoning/ortx-tokenizer_config.json", "phi-4-mini-reasoning/ortx-chat_template.jinja",
    ),
    "phi-4-reasoning": ("phi-4/ortx-tokenizer_config.json", "phi-4-reasoning/chat_template.jinja"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_checkpoints_that_reason_think_and_others_do_not(name: str, tmp_path: Path) -> None:
    config, template = PUBLISHED[name]
    if not (DATA / config).is_file():
        pytest.skip(f"no published settings under {DATA}; set EDGEPHI_SHARED_DATA")
    (tmp_path / "tokenizer.json").write_text("{}")  # of no family does its vocabulary tell
    shutil.copy(DATA / config, tmp_path / "tokenizer_config.json")
    if template is not None:
        shutil.copy(DATA / template, tmp_path / "chat_template.jinja")
    assert read_thinking(tmp_path) == (TAGS if "reasoning" in name else None)


@pytest.mark.parametrize(("template", "added", "thinks"), [
    ("", [], False),
    ("", [OPEN], False),
    ("", [OPEN, CLOSE], True),
    (f"Answer as {OPEN} a thought {CLOSE}", [], True),
    (MINI_REASONING, [], True),
])
def test_tokens_or_the_template_tell(template: str, added: list[str], thinks: bool, tmp_path: Path) -> None:
    for inside in ({"chat_template": template}, {"chat_template": [{"name": "default", "template": template}]}, {}):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(inside))
        (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": [{"content": text} for text in added]}))
        (tmp_path / "chat_template.jinja").write_text("" if inside else template)
        assert read_thinking(tmp_path) == (TAGS if thinks else None)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json"):
        read_thinking(tmp_path)


def test_an_exported_manifest_says_it(
    tiny_bundle: Callable[..., Path], tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    assert read_manifest(tiny_bundle("mini")).thinking is None
    copied = Path(shutil.copytree(tiny_checkpoint("window"), tmp_path / "checkpoint"))
    path = copied / "tokenizer_config.json"
    config = json.loads(path.read_bytes())
    config["chat_template"] = f"{MINI_REASONING}{config['chat_template']}"
    path.write_text(json.dumps(config))
    export(copied, tmp_path / "bundle", precision="fp32", threads=1)
    assert read_manifest(tmp_path / "bundle").thinking == TAGS
