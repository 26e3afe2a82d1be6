"""A session over the tiny bundle, and copies of that bundle to change."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import edgephi
from edgephi import Session
from edgephi.runtime.manifest import MANIFEST_NAME
from edgephi.runtime.tokens import Tokenizer

QUESTION = "What does the sign say?"


@pytest.fixture(scope="module")
def folder(tiny_bundle: Callable[..., Path]) -> Path:
    return tiny_bundle("mini")


@pytest.fixture(scope="module")
def phi(folder: Path) -> Iterator[Session]:
    with edgephi.load(folder, threads=2) as session:
        yield session


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.open(folder)


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "bundle"))


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / MANIFEST_NAME
    manifest = json.loads(path.read_text(encoding="utf-8"))
    change(manifest)
    path.write_text(json.dumps(manifest), encoding="utf-8")
