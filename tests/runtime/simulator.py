"""What tests of graphs for an NPU share: whether its simulator is here, and how far two results are apart."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

needs_simulator = pytest.mark.skipif(
    find_spec("onnxruntime_qnn") is None, reason="onnxruntime-qnn, which holds the NPU's simulator, is not installed"
)


def apart(found: np.ndarray, wanted: np.ndarray) -> float:
    """The distance of two results of one shape, as a share of the wanted one."""
    assert found.shape == wanted.shape
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
