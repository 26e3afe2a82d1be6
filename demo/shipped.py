"""Questions with a picture or a recording that ship with the package: one of each kind, made once.

`python -m edgephi.demo.shipped FOLDER` makes them again from held-out material: that needs fonts and espeak-ng (see
tasks/images/drawing.py and tasks/speech/voices.py); asking them needs neither.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import click

from .tasks.example import Example

INDEX = "examples.json"
SEED = 11
_NEEDED = {"image": "image", "audio": "audio"}  # kind of a content part → what a bundle must be able to take


def examples(folder: Path, capabilities: Collection[str]) -> list[Example]:
    """The questions in `folder` that a bundle with these capabilities can be asked; media are given as paths."""
    found = []
    for entry in json.loads((folder / INDEX).read_bytes()):
        parts = [
            part | {kind: str(folder / part[kind]) for kind in _NEEDED if kind in part} for part in entry["content"]
        ]
        if all(_NEEDED[part["type"]] in capabilities for part in parts if part["type"] in _NEEDED):
            turns = ({"role": "user", "content": parts},)
            said = tuple(entry["said"].split())
            found.append(Example(entry["task"], turns, entry["answer"], entry["answer"], said=said))
    return found


def media(example: Example, kind: str) -> list[Path]:
    """Files of the pictures ("image") or recordings ("audio") of a shipped question."""
    content: Any = example.turns[-1]["content"]
    return [] if isinstance(content, str) else [Path(part[kind]) for part in content if part["type"] == kind]


def in_words(example: Example) -> str:
    """The question of the last turn for a reader, with what a picture is named and what a recording says."""
    content: Any = example.turns[-1]["content"]
    if isinstance(content, str):
        return content
    shown = {"image": "[picture {name}]", "audio": "[recording {name}: “{said}”]"}
    return " ".join(
        part["text"] if part["type"] == "text"
        else shown[part["type"]].format(name=Path(part[part["type"]]).name, said=" ".join(example.said))
        for part in content
    )  # fmt: skip


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
def main(folder: Path) -> None:
    """Make one held-out question of each task with pictures or recordings in FOLDER."""
    from .tasks import media

    folder.mkdir(parents=True, exist_ok=True)
    entries = [_write(example, folder) for task in media.TASKS for example in media.held_out(task, 1, SEED)]
    (folder / INDEX).write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


def _write(example: Example, folder: Path) -> dict[str, object]:
    """Write the media of one example beside the index; returns its entry."""
    import soundfile

    content: Any = example.turns[-1]["content"]
    parts = []
    for part in content:
        kind = part["type"]
        name = f"{example.task}.{'png' if kind == 'image' else 'flac'}"
        if kind == "image":
            part["image"].save(folder / name, optimize=True)
        elif kind == "audio":
            samples, rate = part["audio"]
            soundfile.write(folder / name, samples, rate, subtype="PCM_16")
        parts.append({"type": kind, kind: part["text"] if kind == "text" else name})
    return {"task": example.task, "content": parts, "answer": example.answer, "said": " ".join(example.said)}


if __name__ == "__main__":
    main()
