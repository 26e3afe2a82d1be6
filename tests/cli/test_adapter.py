"""`edgephi adapter`, and the other verbs on a bundle that has some."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import edgephi
from edgephi.runtime.cli.settings import Settings

Program = Callable[..., Any]
SHORT = ("-n", "12", "-t", "1", "--temperature", "0")


def test_add_use_list_and_remove(
    bundle: Path, peft_adapter: Callable[[int], Path], program: Program, tmp_path: Path
) -> None:
    own = tmp_path / "bundle"
    shutil.copytree(bundle, own)
    assert "has no adapters" in program("adapter", "list", own).err
    done = program("adapter", "add", own, peft_adapter(3), "--name", "mine")
    assert done.code == 0 and done.err == ""
    assert done.out.split()[0] == "mine" and "rank 8, 2 linears" in done.out and "trained for org/mini" in done.out
    assert program("adapter", "list", own).out == done.out
    assert program("show", own).out.count("mine") == 1
    (listed,) = json.loads(program("adapter", "list", own, "--json").out)
    assert listed["name"] == "mine" and set(listed["ranks"].values()) == {8} and listed["source"] == "random-3"
    plain, tuned = program("run", own, "Hello", *SHORT), program("run", own, "Hello", *SHORT, "--adapter", "mine")
    with edgephi.load(own, threads=1) as session:
        said = session.generate("Hello", max_tokens=12, temperature=0, adapter="mine").text
    assert tuned.out.rstrip("\n") == said.rstrip("\n") != plain.out.rstrip("\n")
    failed = program("run", own, "Hello", *SHORT, "--adapter", "other")
    assert failed.code == 1 and "no adapter 'other'; its adapters: mine" in failed.err
    assert program("adapter", "remove", own, "mine").code == 0
    assert program("run", own, "Hello", *SHORT).out == plain.out
    failed = program("adapter", "remove", own, "mine")
    assert failed.code == 1 and failed.err.count("\n") == 1 and "its adapters: none" in failed.err


def test_a_conversation_can_change_its_adapter() -> None:
    settings = Settings().changed("adapter", "mine")
    assert settings.options()["adapter"] == "mine"
    assert settings.changed("adapter", "none").options()["adapter"] is None
