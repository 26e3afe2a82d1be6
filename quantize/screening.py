"""A head in two stages: logits of all rows from a coarse form, those of the largest ones again from the exact form.

Boundary: nodes of a graph behind a product; formats are chosen in plan.py. A token that could be said is among the
largest few hundred of 200,000 coarse logits, and its logit is then that of the exact head; every other token has one
that is a few per cent off, so sampling, log-probabilities, masks and grammars work as ever. A step streams the coarse
form, half or a third of the exact one, and some hundred rows: at Phi-4-mini's size 12.5 ms instead of 18.5 on one
thread.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from .formats import ScreenedFormat

REFINED = "refined"  # ends the name of the last node


def refine(coarse: ir.Node, looked_up: Callable[[ir.Value, str], ir.Node], fmt: ScreenedFormat) -> None:
    """Put nodes behind `coarse`, a product (..., k) → (..., n), that make its largest logits exact.

    `looked_up(rows, name)` is a node that reads rows of the exact form as floats.
    """
    graph, x, logits = coarse.graph, coarse.inputs[0], coarse.outputs[0]
    assert graph is not None and x is not None
    stem, readers = str(coarse.name).rpartition(".")[0], list(logits.uses())

    def constant(name: str, number: int) -> ir.Value:
        tensor = ir.tensor(np.array([number], np.int64), name=f"{stem}.{name}")
        value = ir.Value(name=tensor.name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape([1]))
        graph.initializers.add(value)
        return value

    def then(op_type: str, inputs: list[ir.Value], name: str, **attributes: int) -> ir.Value:
        output = ir.Value(name=f"{stem}.{name}")
        nodes.append(ir.node(op_type, inputs, attributes, outputs=[output], name=output.name))
        return output

    largest = ir.node(
        "TopK", [logits, constant("candidates", fmt.candidates)], {"axis": -1, "sorted": 0}, name=f"{stem}.largest",
        outputs=[ir.Value(name=f"{stem}.largest"), ir.Value(name=f"{stem}.candidate_rows")],
    )
    rows = largest.outputs[1]
    nodes = [largest, looked_up(rows, f"{stem}.candidate_weights")]
    last = constant("last_axis", -1)
    column = then("Unsqueeze", [x, last], "column")
    exact = then("Squeeze", [then("MatMul", [nodes[1].outputs[0], column], "dots"), last], "exact")
    refined = then("ScatterElements", [logits, rows, exact], REFINED, axis=-1)
    for reader, index in readers:
        reader.replace_input_with(index, refined)
    refined.type, refined.shape = logits.type, logits.shape
    for index, output in enumerate(graph.outputs):
        if output is logits:
            refined.name, logits.name = logits.name, f"{stem}.coarse"
            graph.outputs[index] = refined
    graph.insert_after(coarse, nodes)
