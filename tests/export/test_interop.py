"""Files that come along: what is required, what is copied, what the licence is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from edgephi import CheckpointError
from edgephi.export import interop
from edgephi.export.pipeline import export
from edgephi.runtime.manifest import read_manifest

COPIED = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


@pytest.fixture
def folder(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint("mini"), tmp_path / "checkpoint"))


def test_tokenizer_files_are_copied_byte_for_byte(
    tiny_checkpoint: Callable[..., Path], tiny_bundle: Callable[..., Path]
) -> None:
    for name in COPIED:
        assert (tiny_bundle("mini") / name).read_bytes() == (tiny_checkpoint("mini") / name).read_bytes()


def test_a_template_of_its_own_and_the_licence_come_along(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    (folder / "LICENSE").write_text("\nMIT License\n\nCopyright (c) someone\n")
    for name in ("modeling_phi3.py", "pytorch_model.bin", "training_args.json"):
        (folder / name).write_text("{}")
    target = folder.parent / "bundle"
    export(folder, target, precision="int8", threads=1)
    assert (target / "LICENSE").read_text().endswith("someone\n") and (target / "chat_template.jinja").is_file()
    assert read_manifest(target).licence == "mit"
    assert {path.name for path in target.iterdir()} == {
        *COPIED, "LICENSE", "chat_template.jinja", "config.json", "edgephi.json", "genai_config.json", "model.onnx",
        "model-long.onnx", "text-int8-cache.onnx", "text.onnx", "text.onnx.data",
    }


@pytest.mark.parametrize(("name", "text", "expected"), [
    ("README.md", "---\nlicense: mit\nlanguage: en\n---\nlicense: other\n", "mit"),
    ("README.md", "---\nlanguage: en\nlicense: 'apache-2.0'\n---\n", "apache-2.0"),
    ("README.md", "---\nlanguage: en\n---\nlicense: other\n", "unknown"),
    ("README.md", "# no front matter\n", "unknown"),
    ("LICENSE.txt", "\n  MIT License \n", "mit"),
    ("LICENSE", "Research licence, version 2\nmore", "Research licence, version 2"),
    ("LICENSE", "", "unknown"),
    ("OTHER", "x", "unknown"),
])
def test_the_licence_is_what_the_checkpoint_says(tmp_path: Path, name: str, text: str, expected: str) -> None:
    (tmp_path / name).write_text(text)
    assert interop.licence(tmp_path) == expected


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_what_is_required_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} missing, and a bundle without it cannot read text"):
        interop.require_tokenizer(folder, 448)


@pytest.mark.parametrize(("name", "text", "found"), [
    ("tokenizer.json", "{", "not valid JSON"), ("tokenizer.json", "{}", "no vocabulary"),
    ("tokenizer.json", '{"model": [], "added_tokens": {}}', "no vocabulary"),
    ("tokenizer.json", '{"model": {"vocab": {"a": 448}}}', "token ids up to 448"),
    ("tokenizer_config.json", "[]", "object"), ("special_tokens_map.json", '{"a": 1, "a": 2}', "twice"),
])
def test_damaged_tokenizer_files_are_refused(folder: Path, name: str, text: str, found: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(CheckpointError, match=found):
        interop.require_tokenizer(folder, 448)


def test_the_end_of_a_turn_is_found_by_its_text(folder: Path) -> None:
    added = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    (end,) = [token["id"] for token in added if token["content"] == "<|end|>"]
    assert interop.turn_ends(folder) == (end,)
    (folder / "generation_config.json").unlink()
    export(folder, folder.parent / "bundle", precision="int8", threads=1)
    assert end in read_manifest(folder.parent / "bundle").tokens.eos
