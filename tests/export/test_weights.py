"""Rules from tensor names to weights, and the rows that come out: against numpy on the whole arrays."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from edgephi import WeightMismatch
from edgephi.export.assemble import read_weight, source_bytes
from edgephi.export.checkpoint import SINGLE_NAME, Checkpoint, open_checkpoint
from edgephi.export.weights import Drop, Join, Piece, Rename, Rule, Split, Strip, Tie, bind

Arrays = dict[str, np.ndarray]


@pytest.fixture
def stored(tmp_path: Path) -> Callable[[Arrays], Checkpoint]:
    def make(arrays: Arrays) -> Checkpoint:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, tmp_path / SINGLE_NAME)
        (tmp_path / "config.json").write_text("{}")
        return open_checkpoint(tmp_path)

    return make


def filled(checkpoint: Checkpoint, rules: list[Rule], wanted: dict[str, tuple[int, ...]]) -> Arrays:
    """Every weight whole, and checked to be the same when it is read in uneven slices."""
    with checkpoint:
        shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
        binding = bind(rules, shapes, wanted)
        result = {}
        for name, shape in wanted.items():
            pieces = binding.weights[name]
            whole = read_weight(checkpoint, pieces, shape, 0, shape[0])
            cuts = sorted({0, shape[0] // 3, shape[0] // 2, shape[0]})
            parts = [read_weight(checkpoint, pieces, shape, a, b) for a, b in pairwise(cuts)]
            np.testing.assert_array_equal(np.concatenate(parts), whole)
            assert whole.dtype == np.float32 and whole.shape == shape
            result[name] = whole
    return result


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_tensors_are_renamed_scaled_and_reshaped(stored: Callable[[Arrays], Checkpoint]) -> None:
    arrays = {
        "a.0.w": numbers(4, 6), "a.1.w": numbers(4, 6, seed=1), "conv": numbers(5, 3, 2, 2), "gn": numbers(1, 1, 8),
    }
    rules: list[Rule] = [
        Rename("a.{layer}.w", "layers.{layer}.weight", 2, scale=2.0), Rename("conv", "patches", reshape=True),
        Rename("gn", "separator", reshape=True),
    ]
    wanted = {"layers.0.weight": (4, 6), "layers.1.weight": (4, 6), "patches": (5, 12), "separator": (8,)}
    found = filled(stored(arrays), rules, wanted)
    for layer in range(2):
        np.testing.assert_array_equal(found[f"layers.{layer}.weight"], 2 * arrays[f"a.{layer}.w"])
    np.testing.assert_array_equal(found["patches"], arrays["conv"].reshape(5, 12))
    np.testing.assert_array_equal(found["separator"], arrays["gn"].reshape(8))


def test_rows_are_joined_split_and_padded(stored: Callable[[Arrays], Checkpoint]) -> None:
    arrays = {
        "q": numbers(4, 6), "k": numbers(2, 6, seed=1), "v": numbers(2, 6, seed=2), "glu": numbers(10, 3),
        "fc1": numbers(5, 6), "bias": numbers(5), "fc2": numbers(6, 5),
    }
    rules: list[Rule] = [
        Join(("q", "k", "v"), "qkv"), Split("glu", ("value", "gate")), Rename("fc1", "up", pad=True),
        Rename("bias", "up.bias", pad=True), Rename("fc2", "down", pad=True),
    ]
    wanted = {"qkv": (8, 6), "value": (6, 3), "gate": (4, 3), "up": (8, 6), "up.bias": (8,), "down": (6, 8)}
    found = filled(stored(arrays), rules, wanted)
    np.testing.assert_array_equal(found["qkv"], np.concatenate([arrays["q"], arrays["k"], arrays["v"]]))
    np.testing.assert_array_equal(found["value"], arrays["glu"][:6])
    np.testing.assert_array_equal(found["gate"], arrays["glu"][6:])
    np.testing.assert_array_equal(found["up"], np.pad(arrays["fc1"], ((0, 3), (0, 0))))
    np.testing.assert_array_equal(found["up.bias"], np.pad(arrays["bias"], (0, 3)))
    np.testing.assert_array_equal(found["down"], np.pad(arrays["fc2"], ((0, 0), (0, 3))))


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.integers(1, 7), min_size=1, max_size=4), width=st.integers(1, 5), data=st.data())
def test_any_range_of_joined_rows(
    tmp_path_factory: pytest.TempPathFactory, rows: list[int], width: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "joined"
    folder.mkdir(exist_ok=True)
    arrays = {f"part{index}": numbers(count, width, seed=index) for index, count in enumerate(rows)}
    save_file(arrays, folder / SINGLE_NAME)
    (folder / "config.json").write_text("{}")
    whole = np.concatenate(list(arrays.values()))
    start = data.draw(st.integers(0, len(whole) - 1))
    stop = data.draw(st.integers(start + 1, len(whole)))
    with open_checkpoint(folder) as checkpoint:
        shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
        pieces = bind([Join(tuple(arrays), "all")], shapes, {"all": whole.shape}).weights["all"]
        np.testing.assert_array_equal(read_weight(checkpoint, pieces, whole.shape, start, stop), whole[start:stop])
        assert source_bytes(checkpoint, pieces) == whole.nbytes


def test_what_is_dropped_stripped_or_tied() -> None:
    tensors = {"x.wrapped.a": (2,), "pool.0": (9,), "pool.1": (9,), "head": (4, 2), "table": (4, 2)}
    rules: list[Rule] = [
        Strip("wrapped."), Rename("x.a", "a"), Drop("pool.{layer}", "the pooling head is never computed", 2),
        Drop("absent", "may be there"), Rename("table", "table"), Tie("head", "table"), Tie("other", "table"),
    ]
    binding = bind(rules, tensors, {"a": (2,), "table": (4, 2)})
    assert binding.weights["a"] == (Piece("x.wrapped.a", 0, 2, 1),)
    assert binding.copies == (("head", "table"),)


@pytest.mark.parametrize(("rules", "tensors", "weights", "found"), [
    ([Rename("a", "a")], {}, {"a": (1,)}, "1 missing from the checkpoint: a"),
    ([], {"a": (1,)}, {}, "1 left over in the checkpoint: a"),
    ([], {}, {"a": (1,)}, "1 declared by the graphs but not filled by any tensor: a"),
    ([Rename("a", "a")], {"a": (1,)}, {}, "1 filled by a tensor but not declared by any graph: a"),
    ([Rename("a", "b"), Rename("a", "c")], {"a": (1,)}, {"b": (1,), "c": (1,)}, "1 used more than once: a"),
    ([Rename("a", "c"), Rename("b", "c")], {"a": (1,), "b": (1,)}, {"c": (1,)}, "1 used more than once: c"),
    ([Rename("a", "a")], {"a": (2, 3)}, {"a": (3, 2)}, "a is [2, 3], config.json asks for [3, 2]"),
    ([Rename("a", "a", reshape=True)], {"a": (2, 3)}, {"a": (7,)}, "a is [2, 3], config.json asks for [7]"),
    ([Rename("a", "a", pad=True)], {"a": (2, 3)}, {"a": (1, 9)}, "a is [2, 3], config.json asks for [1, 9]"),
    ([Join(("a", "b"), "c")], {"a": (1, 2), "b": (1, 3)}, {"c": (2, 2)}, "config.json asks for [2, 2] together"),
    ([Join(("a", "b"), "c")], {"a": (1, 2), "b": (1, 2)}, {"c": (3, 2)}, "config.json asks for [3, 2] together"),
    ([Split("a", ("b", "c"))], {"a": (5, 2)}, {"b": (2, 2), "c": (2, 2)}, "a is [5, 2], config.json asks for"),
    ([Strip("w."), Rename("a", "a")], {"a": (1,), "w.a": (1,)}, {"a": (1,)}, "twice"),
])
def test_a_disagreement_is_named(
    rules: list[Rule], tensors: dict[str, tuple[int, ...]], weights: dict[str, tuple[int, ...]], found: str
) -> None:
    with pytest.raises(WeightMismatch) as caught:
        bind(rules, tensors, weights)
    assert found in str(caught.value) and str(caught.value).isprintable()
