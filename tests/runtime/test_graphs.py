"""ONNX Runtime sessions: what it would do silently is refused, what runs can be ended, what is bound stays in place."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from edgephi import BundleError, ProviderUnavailable, RequestError
from edgephi.export.graph import GraphBuilder
from edgephi.runtime import graphs
from edgephi.runtime.graphs import Graph, Interrupt, Interrupted
from edgephi.runtime.providers import find, names

CPU = find("cpu")


@pytest.fixture
def doubling(tmp_path: Path) -> Path:
    """y = x + x + bias; `bias` has a default."""
    builder = GraphBuilder("doubling")
    x = builder.input("x", ir.DataType.FLOAT, ("n",))
    bias = builder.overridable(builder.constant("bias", np.array([1.0], np.float32)), ("m",))
    (double,) = builder.node("Add", (x, x), "double")
    (y,) = builder.node("Add", (double, bias), "sum")
    builder.output(y, "y", ir.DataType.FLOAT, ("n",))
    path = tmp_path / "doubling.onnx"
    ir.save(builder.model(), path)
    return path


def test_inputs_options_and_outputs_are_told_apart(doubling: Path) -> None:
    graph = Graph(doubling, CPU, 1)
    assert {name: (str(t.dtype), t.shape) for name, t in graph.inputs.items()} == {"x": ("float32", ("n",))}
    assert list(graph.optional) == ["bias"] and list(graph.outputs) == ["y"]
    assert graph.run({"x": np.array([1, 2], np.float32)})["y"].tolist() == [3, 5]
    assert graph.run({"x": np.zeros(1, np.float32), "bias": np.array([7], np.float32)}, ["y"])["y"].tolist() == [7]


def test_bound_arrays_are_read_and_written_where_they_are(doubling: Path) -> None:
    graph = Graph(doubling, CPU, 1)
    binding = graph.bind()
    x, y, interrupt = np.zeros(3, np.float32), np.zeros(3, np.float32), Interrupt()
    binding.bind_input("x", x)
    binding.bind_output("y", y)
    for value in (1.0, 5.0):
        x[:] = value
        binding.run(interrupt)
        assert (y == 2 * value + 1).all()
    bias = np.array([10], np.float32)
    bias.flags.writeable = False  # a table that is mapped from a file
    binding.bind_input("bias", bias)
    binding.run(interrupt)
    assert (y == 20).all()


def test_a_closed_graph_says_so(doubling: Path) -> None:
    graph = Graph(doubling, CPU, 1)
    binding = graph.bind()
    graph.close()
    graph.close()
    for call in (lambda: graph.run({"x": np.zeros(1, np.float32)}), lambda: binding.run(Interrupt()), graph.bind):
        with pytest.raises(RequestError, match="was closed: load the bundle again"):
            call()


def test_an_interrupt_that_came_before_the_run_ends_it(doubling: Path) -> None:
    graph, interrupt = Graph(doubling, CPU, 1), Interrupt()
    interrupt.request()
    assert interrupt.requested
    with pytest.raises(Interrupted):
        graph.run({"x": np.zeros(1, np.float32)}, interrupt=interrupt)
    with pytest.raises(Interrupted):
        graph.bind().run(interrupt)
    # nothing of it remains for the next one
    assert graph.run({"x": np.zeros(1, np.float32)}, interrupt=Interrupt())["y"].tolist() == [1]


ENDLESS = """
import sys, threading
import numpy as np
import onnx_ir as ir
from pathlib import Path
from edgephi.runtime.graphs import Graph, Interrupt, Interrupted
from edgephi.runtime.providers import find

def value(name, dtype, shape):
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))

go_on, step = value("go_on", ir.DataType.BOOL, ()), value("step", ir.DataType.INT64, ())
x = value("x", ir.DataType.FLOAT, (1,))
same = ir.node("Identity", [go_on], outputs=[value("same", ir.DataType.BOOL, ())])
more = ir.node("Add", [x, x], outputs=[value("more", ir.DataType.FLOAT, (1,))])
body = ir.Graph([step, go_on, x], [same.outputs[0], more.outputs[0]], nodes=[same, more], name="body")
start = value("start", ir.DataType.FLOAT, (1,))
always = value("always", ir.DataType.BOOL, ())
times = value("times", ir.DataType.INT64, ())
end = value("end", ir.DataType.FLOAT, (1,))
loop = ir.node("Loop", [times, always, start], {"body": ir.AttrGraph("body", body)}, outputs=[end])
graph = ir.Graph([times, always, start], loop.outputs, nodes=[loop], name="endless", opset_imports={"": 21})
path = Path(sys.argv[1])
ir.save(ir.Model(graph, ir_version=10), path)
loaded, interrupt = Graph(path, find("cpu"), 1), Interrupt()
feeds = {"times": np.array(2**62), "always": np.array(True), "start": np.ones(1, np.float32)}

def attempt(run):
    interrupt = Interrupt()
    threading.Timer(0.3, interrupt.request).start()
    try:
        run(interrupt)
    except Interrupted:
        print("ended")

def bound(interrupt):
    binding = loaded.bind()
    for name, array in feeds.items():
        binding.bind_input(name, array)
    binding.bind_output("end", np.empty(1, np.float32))
    binding.run(interrupt)

attempt(bound)
attempt(lambda interrupt: loaded.run(feeds, interrupt=interrupt))
"""


def test_another_thread_runs_meanwhile_and_can_end_a_run(tmp_path: Path) -> None:
    """A loop of 2^62 rounds ends only if the run lets go of the interpreter and obeys a request of another thread."""
    done = subprocess.run(
        [sys.executable, "-c", ENDLESS, str(tmp_path / "endless.onnx")], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["ended", "ended"], done.stderr


def test_a_damaged_graph_is_named(tmp_path: Path, doubling: Path) -> None:
    for content, name in ((b"no graph", "noise.onnx"), (doubling.read_bytes()[:40], "cut.onnx"), (b"", "empty.onnx")):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(BundleError, match=name) as caught:
            Graph(path, CPU, 1)
        assert "edgephi verify" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(BundleError, match=r"nothing\.onnx"):
        Graph(tmp_path / "nothing.onnx", CPU, 1)


def test_inputs_that_do_not_fit_are_an_error_of_one_line(doubling: Path) -> None:
    graph = Graph(doubling, CPU, 1)
    with pytest.raises(BundleError, match="does not run") as caught:
        graph.run({"x": np.zeros(3, np.float32), "bias": np.zeros(2, np.float32)})
    assert "\n" not in str(caught.value)


def test_a_device_that_is_not_there_is_refused(doubling: Path) -> None:
    npu = dataclasses.replace(CPU, name="npu", ort_name="AbsentExecutionProvider")
    with pytest.raises(ProviderUnavailable, match=r"'npu' needs AbsentExecutionProvider, this ONNX Runtime .* offers"):
        Graph(doubling, npu, 1)


@pytest.mark.parametrize("name", names())
def test_what_a_record_says_reaches_onnx_runtime(name: str) -> None:
    record = find(name)
    options = graphs._options(record, 1)
    assert options.enable_mem_pattern == record.memory_pattern
    assert options.execution_mode == ort.ExecutionMode.ORT_SEQUENTIAL  # DirectML takes no other
    for key, value in record.session_config:
        assert options.get_session_config_entry(key) == value
    for key, value in record.options:
        assert key and value and (not value.endswith(".json") or Path(value).is_file())
    assert find("directml").memory_pattern is False


def test_a_node_on_another_device_is_refused() -> None:
    """ONNX Runtime here has one device, so the report of another placement is made up."""

    def part(device: str, *operators: str) -> SimpleNamespace:
        return SimpleNamespace(ep_name=device, get_nodes=lambda: [SimpleNamespace(op_type=name) for name in operators])

    placed = [part("NpuExecutionProvider", "MatMul"), part("CPUExecutionProvider", "Gather", "Add", "Gather")]
    session = cast(Any, SimpleNamespace(get_provider_graph_assignment_info=lambda: placed))
    npu = dataclasses.replace(CPU, name="npu", ort_name="NpuExecutionProvider")
    wanted = "'npu' does not take Add on CPUExecutionProvider, Gather on CPUExecutionProvider"
    with pytest.raises(ProviderUnavailable, match=wanted):
        graphs._check_placement(session, npu, Path("text.onnx"))
    known = dataclasses.replace(npu, leaves_to_cpu=("Gather",))
    with pytest.raises(ProviderUnavailable, match="does not take Add on CPUExecutionProvider: export"):
        graphs._check_placement(session, known, Path("text.onnx"))
    known = dataclasses.replace(npu, leaves_to_cpu=("Gather", "Add"))
    assert graphs._check_placement(session, known, Path("text.onnx")) == {"Add": 1, "Gather": 2}
    session.get_provider_graph_assignment_info = lambda: placed[:1]
    assert graphs._check_placement(session, npu, Path("text.onnx")) == {}


def test_the_real_placement_is_recorded(doubling: Path) -> None:
    session = graphs._open(doubling, CPU, 1, None)
    assert {part.ep_name for part in session.get_provider_graph_assignment_info()} == {"CPUExecutionProvider"}


def test_an_import_of_onnxruntime_that_came_first_is_reported() -> None:
    code = "import os; os.environ.pop('ORT_DISABLE_TELEMETRY', None)\nimport onnxruntime\nimport edgephi.runtime.graphs"
    done = subprocess.run([sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, check=True)
    assert "onnxruntime was imported before edgephi and may have sent telemetry" in done.stderr
    quiet = "import os; os.environ['ORT_DISABLE_TELEMETRY'] = '1'\nimport onnxruntime\nimport edgephi.runtime.graphs"
    done = subprocess.run([sys.executable, "-W", "error", "-c", quiet], capture_output=True, text=True, check=True)
    assert done.stderr == ""
