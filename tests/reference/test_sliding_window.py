"""The sliding window counts as transformers counts: a window of n sees n positions, the own one included."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgephi import load

IDS = [(7919 * index) % 380 for index in range(40)]


def reference(model: Any) -> np.ndarray:
    import torch

    with torch.no_grad():
        return np.asarray(model(torch.tensor([IDS]), use_cache=False).logits[0])


@pytest.mark.parametrize("window", [1, 7, 8, 39, 40])
def test_logits_equal_those_of_transformers(
    tiny_bundle: Callable[..., Path], tiny_reference: Callable[..., Any], window: int
) -> None:
    with load(tiny_bundle("window", sliding_window=window), threads=1) as session:
        ours = session.logits(IDS)
    # float32 on both sides, sums in another order: logits of about unit size agree to a few millionths
    np.testing.assert_allclose(ours, reference(tiny_reference("window", sliding_window=window)), atol=2e-5, rtol=1e-4)


def test_one_position_more_or_less_would_show(
    tiny_reference: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_reference("window", sliding_window=8)
    eight = reference(model)
    monkeypatch.setattr(model.config, "sliding_window", 7)
    seven = reference(model)
    np.testing.assert_allclose(seven[:7], eight[:7], atol=2e-5, rtol=1e-4)
    assert np.abs(seven[7] - eight[7]).max() > 1e-2
