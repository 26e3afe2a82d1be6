"""An installation for inference stays small: budgets of bytes, which do not depend on the machine's speed."""

from __future__ import annotations

from pathlib import Path

from edgephi.benchmarks import installed_size

# onnxruntime (76 MB) and numpy (57 MB) alone take 133 MB; the rest is tokenizers and its hub client, Pillow and
# libsndfile, and what draws on a terminal.
BASE_MEGABYTES = 240
OWN_MEGABYTES = 15  # 12 of which are the demo's checkpoint
TRAINING_AND_EXPORT = {"torch", "transformers", "onnx", "onnx-ir", "ml-dtypes", "safetensors", "starlette", "uvicorn"}


def test_the_base_install_is_small(tmp_path: Path) -> None:
    packages = {package.name.lower(): package for package in installed_size.packages()}
    assert {"edgephi", "numpy", "onnxruntime", "tokenizers", "jinja2", "click", "rich"} <= set(packages)
    assert not TRAINING_AND_EXPORT & set(packages)
    assert sum(package.nbytes for package in packages.values()) <= BASE_MEGABYTES * 1e6
    assert 1e6 < packages["edgephi"].nbytes <= OWN_MEGABYTES * 1e6
    assert packages["onnxruntime"].nbytes > 2e7  # sizes are those of the files, not of their list


def test_a_start_loads_little(tmp_path: Path) -> None:
    """Modules, not seconds: help needs no numerics, a session a few hundred modules."""
    measured = {start.name: start for start in installed_size.starts()}
    assert measured["import edgephi"].modules < measured["edgephi --help"].modules < 250
    assert measured["all that a session needs"].modules < 600
    installed_size.write(installed_size.packages(), list(measured.values()), tmp_path)
    assert "| onnxruntime |" in (tmp_path / installed_size.TABLE_NAME).read_text(encoding="utf-8")
