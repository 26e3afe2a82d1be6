"""`edgephi show`: the facts of a bundle, without loading a graph."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgephi.runtime.manifest import read_manifest

Program = Callable[..., Any]


def test_the_summary_names_what_matters(bundle: Path, program: Program) -> None:
    done = program("show", bundle)
    assert done.code == 0 and done.err == ""
    for fact in (
        "Phi3ForCausalLM",
        "family phi3",
        "text fp32",
        "16,384 tokens",
        "up to 4,096 then 16,384",
        "448 tokens",
    ):
        assert fact in done.out


def test_json_is_the_manifest_and_more(bundle: Path, program: Program) -> None:
    shown = json.loads(program("show", bundle, "--json").out)
    manifest = read_manifest(bundle)
    assert shown["family"] == manifest.family and shown["text"]["layers"] == manifest.text.layers
    assert shown["bytes"] == sum(record.size for record in manifest.files.values())
    assert "add_generation_prompt" in shown["chat_template"]


def test_template_licence_and_files_alone(bundle: Path, program: Program) -> None:
    assert program("show", bundle, "--template").out.startswith("{% for message in messages %}")
    assert program("show", bundle, "--licence").out == program("show", bundle, "--license").out != ""
    listed = program("show", bundle, "--files").out.splitlines()
    assert [line.split()[-1] for line in listed] == list(read_manifest(bundle).files)


def test_a_checkpoint_is_told_from_a_bundle(tiny_checkpoint: Callable[..., Path], program: Program) -> None:
    done = program("show", tiny_checkpoint("mini"))
    assert done.code == 1 and "run `edgephi export` on it first" in done.err
