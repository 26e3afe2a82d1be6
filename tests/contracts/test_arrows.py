"""Which file may import which: the arrows of the design, read from the source text of the installed package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgephi

ROOT = Path(edgephi.__file__).parent
STAGES = ("export", "quantize", "runtime", "demo", "benchmarks")

# Importing file (longest prefix wins) → prefixes that it may import from outside its own stage.
ACROSS = {
    "export": ("runtime.manifest", "runtime.providers", "runtime.errors"),
    "export.pipeline": ("runtime.manifest", "runtime.providers", "runtime.errors", "runtime.memory", "quantize"),
    "export.verify": ("runtime.manifest", "runtime.providers", "runtime.errors", "runtime.graphs"),
    "export.compile": (
        "runtime.manifest", "runtime.providers", "runtime.errors", "runtime.graphs", "runtime.devices",
    ),
    "export.fit": (
        "runtime.manifest", "runtime.providers", "runtime.errors", "runtime.fit", "runtime.memory", "runtime.probe",
    ),
    "quantize": (),
    "quantize.calibrate": ("runtime.graphs",),
    "runtime": (),
    "demo": ("export.pipeline", "export.verify", "export.dependencies", "runtime"),
    "benchmarks": ("runtime", "demo"),
    "benchmarks.quality": ("runtime", "demo", "export.pipeline"),
    "benchmarks.encoder_error": ("runtime", "export.pipeline"),
}
# Inside a stage: importing file → prefixes of the same stage that it may import.
INSIDE = {
    "export.graph": (),
    "export.weights": (),
    "export.layout": (),
    "export.checkpoint": (),
    "export.layers": ("export.graph", "export.layers", "export.config", "export.signatures"),
    "export.families": (
        "export.graph", "export.layers", "export.config", "export.weights", "export.signatures", "export.families",
    ),
    "quantize.formats": (),
    "quantize.methods": ("quantize.formats", "quantize.methods"),
    "runtime.errors": (),
    "runtime.manifest": ("runtime.errors", "runtime.manifest"),
    "runtime.providers": ("runtime.errors", "runtime.providers"),
    "runtime.sampling": ("runtime.errors",),
    "runtime.tokens": ("runtime.errors",),
    "runtime.stops": ("runtime.errors",),
    "runtime.sandbox": (),
    "runtime.messages": ("runtime.errors",),
    "runtime.chat": ("runtime.errors", "runtime.messages", "runtime.sandbox", "runtime.tokens"),
    "runtime.media": ("runtime.errors",),
    "runtime.image": ("runtime.errors", "runtime.media", "runtime.image"),
    "runtime.audio": ("runtime.errors", "runtime.media", "runtime.audio"),
    "runtime.array_files": ("runtime.errors",),
    "runtime.array_store": ("runtime.array_files",),
    "runtime.draft": (),
    "runtime.engine": (),
    "runtime.devices": ("runtime.engine", "runtime.errors", "runtime.providers", "runtime.windows_ml"),
    "runtime.windows_ml": ("runtime.errors",),
    "runtime.graphs": (
        "runtime.devices", "runtime.engine", "runtime.errors", "runtime.manifest", "runtime.providers",
    ),
}
NEVER_IN_DECODE = ("runtime.tokens", "runtime.chat", "runtime.stops", "runtime.session", "runtime.cli")


def _modules() -> Iterator[tuple[str, Path]]:
    for stage in STAGES:
        for path in sorted((ROOT / stage).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(_modules())


def imports_of(module: str, path: Path) -> set[str]:
    """Every module of edgephi that the file imports, at any depth of its code, without the leading `edgephi.`."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name.removeprefix("edgephi.") for name in node.names if name.name.startswith("edgephi.")}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                origin = [*package[: len(package) - node.level + 1], *(node.module.split(".") if node.module else ())]
            elif node.module and node.module.split(".")[0] == "edgephi":
                origin = node.module.split(".")[1:]
            else:
                continue
            names = [".".join([*origin, name.name]) for name in node.names]
            found |= {name if name in MODULES else ".".join(origin) for name in names}
    return found - {module, ""}


def _rule(table: dict[str, tuple[str, ...]], module: str) -> tuple[str, ...] | None:
    matching = [prefix for prefix in table if _within(module, prefix)]
    return table[max(matching, key=len)] if matching else None


def _within(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".") or (module.startswith(prefix + "_") and "." in prefix)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_follow_the_arrows(module: str) -> None:
    stage = module.split(".")[0]
    across = _rule(ACROSS, module) or ()
    inside = _rule(INSIDE, module)
    for target in imports_of(module, MODULES[module]):
        if target.split(".")[0] != stage:
            assert any(_within(target, prefix) for prefix in across), f"{module} imports {target}; allowed: {across}"
        elif inside is not None:
            assert any(_within(target, prefix) for prefix in inside), f"{module} imports {target}; allowed: {inside}"


def test_the_decode_loop_never_sees_text() -> None:
    seen, waiting = set[str](), ["runtime.generation"]
    while waiting:
        module = waiting.pop()
        if module not in seen and module in MODULES:
            seen.add(module)
            waiting += imports_of(module, MODULES[module])
    assert not [module for module in seen if any(_within(module, prefix) for prefix in NEVER_IN_DECODE)], sorted(seen)


def test_families_never_import_one_another() -> None:
    families = {module for module in MODULES if module.startswith("export.families.")}
    assert families
    for family in families:
        assert not imports_of(family, MODULES[family]) & (families - {family})


def test_only_one_file_imports_onnx_runtime() -> None:
    importing = {
        module for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Import) and any(name.name.split(".")[0] == "onnxruntime" for name in node.names))
        or (isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == "onnxruntime")
    }
    assert {module for module in importing if module.startswith("runtime")} <= {"runtime.engine"}


def test_a_forbidden_import_would_be_seen(tmp_path: Path) -> None:
    """The reader of imports sees each way of writing one."""
    source = tmp_path / "probe.py"
    source.write_text(
        "from ..quantize import plan\nfrom .. import export\nimport edgephi.demo.cli\n"
        "from edgephi.export import pipeline\n"
    )
    assert imports_of("runtime.probe", source) == {"quantize.plan", "export", "demo.cli", "export.pipeline"}
