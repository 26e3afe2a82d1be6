"""Whether a checkpoint was trained to think, read from the texts beside its weights: config.json does not tell.

Boundary: reads tokenizer and chat template of a checkpoint whose files were checked; knows no weight.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..runtime.errors import CheckpointError
from ..runtime.manifest import Thinking, parse_object

OPEN, CLOSE = "<think>", "</think>"
# What Phi-4-mini-reasoning's template says before all else; beside its weights nothing else differs from the instruct
# model's files, and it spells its tags with ordinary tokens.
MINI_REASONING = "Your name is Phi, an AI math expert developed by Microsoft."


def read_thinking(folder: Path) -> Thinking | None:
    """The tags of a checkpoint that has tokens for them, or whose template speaks of them; else None.

    Raises CheckpointError for damaged files.
    """
    template = folder / "chat_template.jinja"
    said = template.read_text(encoding="utf-8") if template.is_file() else ""
    said += json.dumps(_read(folder / "tokenizer_config.json").get("chat_template"), ensure_ascii=False)
    added = _read(folder / "tokenizer.json").get("added_tokens") or ()
    tokens = {str(token.get("content")) for token in added if isinstance(token, dict)}
    if OPEN in said or MINI_REASONING in said or {OPEN, CLOSE} <= tokens:
        return Thinking(OPEN, CLOSE, skip=None)
    return None


def _read(path: Path) -> dict[str, Any]:
    return parse_object(path.read_bytes(), str(path), CheckpointError, "fetch the checkpoint again")
