"""Sizes and names that keep code and tests readable: files ≤ 400 lines, functions ≤ 60, no drawer for leftovers."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import edgephi

ROOT = Path(edgephi.__file__).parent
STAGES = ("export", "quantize", "runtime", "demo", "benchmarks")
FILES = sorted([*ROOT.glob("*.py"), *(path for stage in STAGES for path in (ROOT / stage).rglob("*.py"))])
# Beside the package, or away from it where it is installed.
TESTS = Path(__file__).parents[1]
FILE_LINES, FUNCTION_LINES = 400, 60
DRAWERS = {"utils", "util", "common", "helpers", "helper", "base", "manager", "misc"}


def _shown(path: Path) -> str:
    return str(path.relative_to(TESTS.parent if path.is_relative_to(TESTS) else ROOT))


@pytest.mark.parametrize("path", [*FILES, *sorted(TESTS.rglob("*.py"))], ids=_shown)
def test_a_file_holds_one_idea(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert text.count("\n") <= FILE_LINES
    assert path.stem not in DRAWERS
    assert ast.get_docstring(tree), "the module docstring says purpose and boundary"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < FUNCTION_LINES, f"{node.name} is too long"


@pytest.mark.parametrize("path", [path for path in FILES if "benchmarks" not in path.parts], ids=_shown)
def test_no_code_asks_a_provider_for_its_name(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Compare) and isinstance(node.left, ast.Attribute) and node.left.attr == "name":
            value = node.left.value
            asked = isinstance(value, ast.Name) and value.id == "provider"
            assert not asked, f"line {node.lineno} asks for a device by name"
