"""Formulas over tensors of a graph against the same formulas in NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from edgephi.export.graph import GraphBuilder
from edgephi.export.layers.arithmetic import Term

A = np.array([[3, -1, 4], [1, -5, 9]], np.int64)
B = np.array([2, 7, 1], np.int64)
TRUTH = np.array([[True, False, False], [False, True, True]])

FORMULAS: dict[str, tuple[Callable[[Term, Term], Term], np.ndarray]] = {
    "sum": (lambda a, b: a + b + 1, A + B + 1),
    "difference": (lambda a, b: a - b - 2, A - B - 2),
    "product": (lambda a, b: a * b * 3, A * B * 3),
    "quotient": (lambda a, b: a // b, np.trunc(A / B).astype(np.int64)),
    "remainder": (lambda a, b: a % b, A % B),
    "less": (lambda a, b: a < b, A < B),
    "at most": (lambda a, b: a <= b, A <= B),
    "at least": (lambda a, b: a >= 1, A >= 1),
    "and": (lambda a, b: (a < b) & (a >= 0), (A < B) & (A >= 0)),
    "or": (lambda a, b: (a < b) | (a >= 4), (A < B) | (A >= 4)),
    "equal": (lambda a, b: a.equals(-1), A == -1),
    "where": (lambda a, b: (a < b).where(a, 0), np.where(A < B, A, 0)),
    "bounded": (lambda a, b: a.at_least(2), np.maximum(A, 2)),
    "taken": (lambda a, b: a.take(1, axis=1), A[:, 1]),
    "expanded": (lambda a, b: b.expand(0, 2) + a.expand(2), B[None, :, None] + A[:, :, None]),
    "reshaped": (lambda a, b: a.reshape(3, -1), A.reshape(3, -1)),
    "scalar": (lambda a, b: b.take(0, axis=0).reshape() + 1, np.array(3)),
    "every": (lambda a, b: a.every(2, (1,), 3), A[:, ::2]),
    "summed": (lambda a, b: a.sum(0), A.sum(0)),
    "largest": (lambda a, b: a.largest(), A.max()),
    "sums before": (lambda a, b: b.sum_before(), np.array([0, 2, 9])),
    "range": (lambda a, b: b.largest().range(), np.arange(7)),
    "number": (lambda a, b: a.number(), np.ones_like(A)),
    "positions": (lambda a, b: (b >= 2).positions(), np.array([0, 1])),
    "joined": (lambda a, b: a.joined(a + b, axis=1), np.concatenate([A, A + B], 1)),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_a_formula_computes_what_numpy_computes(name: str) -> None:
    formula, expected = FORMULAS[name]
    graph = GraphBuilder("formula")
    a, b = (graph.input(key, ir.DataType.INT64, value.shape) for key, value in (("a", A), ("b", B)))
    result = formula(Term(graph, a, "scope"), Term(graph, b, "scope"))
    dtype = ir.DataType.BOOL if expected.dtype == np.bool_ else ir.DataType.INT64
    graph.output(result.value, "result", dtype, expected.shape)
    session = ort.InferenceSession(ir.to_proto(graph.model()).SerializeToString(), providers=["CPUExecutionProvider"])
    (actual,) = session.run(None, {"a": A, "b": B})
    assert actual.dtype == expected.dtype and np.array_equal(actual, expected)
