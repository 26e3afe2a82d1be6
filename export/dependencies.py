"""Says which packages an export needs, before one of them is missed deep inside."""

from __future__ import annotations

import importlib.util

from ..runtime.errors import MissingDependency

PACKAGES = ("onnx_ir", "ml_dtypes", "filelock")


def require_export() -> None:
    """Raises MissingDependency where a package of the extra `export` is not installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependency(f"export needs {', '.join(missing)}: run `pip install 'edgephi[export]'`")
