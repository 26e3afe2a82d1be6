"""The graph builder: weights are declared once, branches and scans compute what they say, names are unique."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from edgephi.export.graph import STORED_SHAPE, GraphBuilder


def run(
    model: ir.Model, feeds: dict[str, np.ndarray], weights: dict[str, np.ndarray] | None = None
) -> list[np.ndarray]:
    for name, value in (weights or {}).items():
        model.graph.initializers[name].const_value = ir.tensor(value, name=name)
    options = ort.SessionOptions()
    options.log_severity_level = 3  # an input with a default is meant here
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    results: list[np.ndarray] = session.run(None, feeds)
    return results


def test_a_weight_is_declared_once_and_has_no_data() -> None:
    graph = GraphBuilder("g")
    weight = graph.weight("w", (2, 3))
    assert graph.weight("w", (2, 3)) is weight
    assert weight.const_value is None and weight.meta[STORED_SHAPE] == (2, 3)
    with pytest.raises(ValueError, match=r"w is declared as \(2, 3\) and again as \(3, 2\)"):
        graph.weight("w", (3, 2))


def test_a_constant_is_declared_once() -> None:
    graph = GraphBuilder("g")
    graph.constant("c", np.zeros(1))
    with pytest.raises(ValueError, match="c is declared twice"):
        graph.constant("c", np.ones(1))


def test_numbered_names_never_repeat() -> None:
    graph = GraphBuilder("g")
    names = [graph.numbered(stem) for stem in ("a", "b", "a", "a")]
    assert len(set(names)) == 4


def test_an_overridable_initializer_has_a_default_and_takes_another_value() -> None:
    graph = GraphBuilder("g")
    x = graph.input("x", ir.DataType.INT64, ("n",))
    shift = graph.overridable(graph.constant("shift", np.array([1], np.int64)), ("m",))
    graph.output(graph.apply("Add", (x, shift), "sum"), "y", ir.DataType.INT64, ("n",))
    model = graph.model()
    values = np.array([1, 2], np.int64)
    assert run(model, {"x": values})[0].tolist() == [2, 3]
    assert run(model, {"x": values, "shift": np.array([5], np.int64)})[0].tolist() == [6, 7]


@pytest.mark.parametrize("condition", [False, True])
def test_a_branch_reads_weights_and_values_of_the_outer_graph(condition: bool) -> None:
    graph = GraphBuilder("g")
    x = graph.input("x", ir.DataType.FLOAT, ("n", 2))
    flag = graph.input("flag", ir.DataType.BOOL, ())
    chosen = graph.choose(
        flag, "chosen", lambda: graph.apply("Mul", (x, graph.weight("w", (2,))), "scaled"),
        lambda: graph.choose(
            flag, "never", lambda: graph.apply("Neg", (x,), "negated"), lambda: graph.apply("Identity", (x,), "same"),
        ),
    )
    graph.output(chosen, "y", ir.DataType.FLOAT, ("n", 2))
    model = graph.model()
    assert "w" in model.graph.initializers
    values = np.array([[1.0, 2.0]], np.float32)
    (y,) = run(model, {"x": values, "flag": np.array(condition)}, {"w": np.array([3.0, 4.0], np.float32)})
    assert y.tolist() == ([[3.0, 8.0]] if condition else [[1.0, 2.0]])


@pytest.mark.parametrize("count", [1, 4])
def test_a_scan_stacks_what_its_body_gives(count: int) -> None:
    graph = GraphBuilder("g")
    table = graph.input("table", ir.DataType.FLOAT, ("n", 3))
    indices = graph.input("indices", ir.DataType.INT64, ("k",))

    def row(index: ir.Value) -> ir.Value:
        taken = graph.apply("Gather", (table, index), "row", axis=0)
        return graph.apply("Mul", (taken, graph.weight("w", (3,))), "scaled")

    graph.output(graph.scan(indices, "rows", row, (3,)), "y", ir.DataType.FLOAT, ("k", 3))
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    order = np.array([3, 0, 0, 2], np.int64)[:count]
    (y,) = run(graph.model(), {"table": values, "indices": order}, {"w": np.full(3, 2, np.float32)})
    assert np.array_equal(y, 2 * values[order])
