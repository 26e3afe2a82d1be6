"""ONNX Runtime sessions and I/O binding.

Boundary: knows graphs, tensors and devices; nothing of tokens or caches. What ONNX Runtime would do silently is refused
here: falling back to another device and placing a node elsewhere.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .devices import devices
from .engine import ENGINE_ERRORS, FATAL, first_line, ort, silent_stdout
from .errors import BundleError, ProviderUnavailable, RequestError
from .providers.provider import Provider

_DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(int8)": np.dtype(np.int8),
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(bool)": np.dtype(np.bool_),
}


class Interrupted(Exception):
    """A run was ended by its `Interrupt`. Control flow of this package: callers of a session never see it."""


class Interrupt:
    """Ends the run in progress, and every later one that uses it; `request` may be called from any thread."""

    def __init__(self) -> None:
        self._requested = threading.Event()
        self._options = ort.RunOptions()

    def request(self) -> None:
        """Ask for the end; a run stops before its next node."""
        self._requested.set()
        self._options.terminate = True

    @property
    def requested(self) -> bool:
        """Whether the end was asked for."""
        return self._requested.is_set()

    def check(self) -> None:
        """Raises Interrupted once the end was asked for."""
        if self._requested.is_set():
            raise Interrupted


@dataclass(frozen=True)
class Tensor:
    """Dtype and shape of an input or output; a dimension that a caller may choose is shown by its name."""

    dtype: np.dtype[Any]
    shape: tuple[int | str, ...]


class Graph:
    """One loaded graph. `inputs` must be given, `optional` have a default, `outputs` come back.

    `left_to_cpu`: operators that the device is known to leave to the CPU and has left, with how many of each.
    """

    def __init__(self, path: Path, provider: Provider, threads: int, *, model: bytes | None = None) -> None:
        """Load the graph at `path` with the data files beside it; `model` takes the place of the file's contents.

        Raises BundleError for a graph that ONNX Runtime refuses, ProviderUnavailable for a device that cannot run all
        of it.
        """
        self.path = path
        self._provider = provider
        self._running = threading.Lock()
        self._session: ort.InferenceSession | None = _open(path, provider, threads, model)
        self.left_to_cpu = _check_placement(self._session, provider, path)
        self.inputs = _tensors(self._session.get_inputs())
        self.optional = _tensors(self._session.get_overridable_initializers())
        self.outputs = _tensors(self._session.get_outputs())

    def run(
        self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None, interrupt: Interrupt | None = None
    ) -> dict[str, np.ndarray]:
        """One run with arrays in and arrays out; all outputs where none are named. Raises Interrupted, BundleError."""
        names = list(self.outputs) if outputs is None else list(outputs)
        with self._running:
            session = self._opened()
            options = None if interrupt is None else interrupt._options
            try:
                return dict(zip(names, session.run(names, dict(feeds), options), strict=True))
            except ENGINE_ERRORS as error:
                raise self._failure(error, interrupt) from error

    def bind(self) -> Binding:
        """A binding of this graph: buffers stay where they are from one run to the next."""
        return Binding(self, self._opened().io_binding(), copies=self._provider.memory is not None)

    def place(self, array: np.ndarray) -> Placed:
        """Let the graph keep `array` where it computes."""
        return Placed(array, self._provider.memory)

    def close(self) -> None:
        """Give the memory back; waits for a run in progress. Closing twice is fine."""
        with self._running:
            self._session = None

    def _opened(self) -> ort.InferenceSession:
        if self._session is None:
            raise RequestError(f"{self.path.parent} was closed: load the bundle again")
        return self._session

    def _run_bound(self, binding: Any, interrupt: Interrupt) -> None:
        with self._running:
            interrupt.check()
            session = self._opened()
            try:
                session.run_with_iobinding(binding, interrupt._options)
            except ENGINE_ERRORS as error:
                raise self._failure(error, interrupt) from error

    def _failure(self, error: Exception, interrupt: Interrupt | None) -> Exception:
        if interrupt is not None and interrupt.requested:
            return Interrupted()
        reason = first_line(error)
        if "allocate memory" in reason or "bad_alloc" in reason:
            return RequestError(
                f"the system gave no memory for this step ({reason}): shorten the prompt or free memory"
            )
        if self._provider.kind != "cpu":
            return ProviderUnavailable(
                f"device {self._provider.name!r} does not run {self.path} ({reason}): choose another device, or run "
                "`edgephi doctor`"
            )
        return BundleError(
            f"{self.path}: the graph does not run ({reason}); run `edgephi verify` or export the checkpoint again"
        )


class Placed:
    """An array where a graph computes: the array itself on the host, a copy of it on a device with its own memory."""

    def __init__(self, array: np.ndarray, memory: str | None) -> None:
        self._host = array if memory is None else None
        self._value = ort.OrtValue.ortvalue_from_numpy(array, memory or "cpu", 0)

    def read(self) -> np.ndarray:
        """What it holds now: its memory on the host, a copy from a device."""
        read: np.ndarray = self._value.numpy() if self._host is None else self._host
        return read

    def write(self, array: np.ndarray) -> None:
        """Hold what `read` gave and the caller has changed."""
        if array is not self._host:
            self._value.update_inplace(array)


class Binding:
    """Inputs and outputs of a graph bound to numpy arrays: write into an array, run, read an array.

    An array stays alive as long as it is bound. Arrays are C-contiguous and of the dtype that the graph states. On the
    host nothing is copied; a device with its own memory gets a copy of every writable input before each run.
    """

    def __init__(self, graph: Graph, binding: Any, *, copies: bool) -> None:
        self._graph = graph
        self._binding = binding
        self._arrays: dict[str, np.ndarray | Placed] = {}
        self._copies = copies
        self._copied: dict[str, np.ndarray] = {}

    def bind_input(self, name: str, array: np.ndarray) -> None:
        """Read input `name` from `array` from now on."""
        self._binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        self._arrays[name] = array
        # ONNX Runtime copies to a device when it binds, and would not see what is written later
        self._copied.pop(name, None)
        if self._copies and array.flags.writeable:
            self._copied[name] = array

    def bind_output(self, name: str, array: np.ndarray) -> None:
        """Write output `name` into `array` from now on; its shape must be what the run produces."""
        self._binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(array))
        self._arrays[name] = array

    def bind_in_place(self, source: str, target: str, placed: Placed) -> None:
        """Let input `source` and output `target` be the same memory: the graph appends to it."""
        self._binding.bind_ortvalue_input(source, placed._value)
        self._binding.bind_ortvalue_output(target, placed._value)
        self._arrays[source] = placed

    def release(self) -> None:
        """Let go of all arrays; the binding is of no use afterwards."""
        self._arrays.clear()
        self._copied.clear()
        self._binding = None

    def run(self, interrupt: Interrupt) -> None:
        """Run once; other Python threads go on meanwhile.

        Raises Interrupted, BundleError, ProviderUnavailable, and RequestError when closed or without memory.
        """
        for name, array in self._copied.items():
            self._binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        self._graph._run_bound(self._binding, interrupt)


def write_prepacked(path: Path, provider: Provider, target: Path, data: str) -> None:
    """Write the graph at `path` to `target` as this machine optimizes it, its weights packed in the file `data` beside.

    Such a file is of use to this processor and this ONNX Runtime only. Raises BundleError.
    """
    options = _options(provider, provider.default_threads())
    options.optimized_model_filepath = str(target)
    for key, value in (
        ("session.save_external_prepacked_constant_initializers", "1"),
        ("session.optimized_model_external_initializers_file_name", data),
        ("session.optimized_model_external_initializers_min_size_in_bytes", "1024"),
    ):
        options.add_session_config_entry(key, value)
    _session(path, options, provider, None)


def _open(path: Path, provider: Provider, threads: int, model: bytes | None) -> ort.InferenceSession:
    options = _options(provider, threads)
    # packing the weights for the kernels is most of the time of a load
    options.add_session_config_entry("session.prepack.enable_parallel", "1")
    if model is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    return _session(path, options, provider, model)


def _options(provider: Provider, threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = provider.memory_pattern
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = FATAL
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    for key, value in provider.session_config:
        options.add_session_config_entry(key, value)
    return options


def _session(
    path: Path, options: ort.SessionOptions, provider: Provider, model: bytes | None
) -> ort.InferenceSession:
    found = devices(provider)
    settings = dict(provider.options)
    try:
        if provider.plugin is None:
            chosen = [(provider.ort_name, settings)]
            return ort.InferenceSession(model or str(path), options, providers=chosen, enable_fallback=0)
        options.add_provider_for_devices(found[:1], settings)  # plugins take one device of a kind
        with silent_stdout() if provider.prints else nullcontext():
            return ort.InferenceSession(model or str(path), options, enable_fallback=0)
    except ENGINE_ERRORS as error:
        reason = first_line(error)
        if provider.kind != "cpu":
            raise ProviderUnavailable(
                f"device {provider.name!r} does not open {path} ({reason}): update its driver, choose another device, "
                "or run `edgephi doctor`"
            ) from error
        raise BundleError(
            f"{path}: ONNX Runtime {ort.__version__} does not load the graph ({reason}); "
            "run `edgephi verify` or export the checkpoint again"
        ) from error


def _check_placement(session: ort.InferenceSession, provider: Provider, path: Path) -> dict[str, int]:
    """Every node must have gone to the device that was asked for, but for what it is known to leave to the CPU."""
    elsewhere = Counter(
        (node.op_type, part.ep_name) for part in session.get_provider_graph_assignment_info()
        if not provider.is_called(part.ep_name) for node in part.get_nodes()
    )
    refused = sorted(f"{kind} on {where}" for kind, where in elsewhere if kind not in provider.leaves_to_cpu)
    if refused:
        raise ProviderUnavailable(
            f"{path}: device {provider.name!r} does not take {', '.join(refused[:6])}:"
            " export the checkpoint for this device"
        )
    return {kind: count for (kind, _), count in sorted(elsewhere.items())}


def _tensors(values: Sequence[Any]) -> dict[str, Tensor]:
    # an unnamed free dimension comes as None
    return {
        value.name: Tensor(_DTYPES[value.type], tuple("?" if size is None else size for size in value.shape))
        for value in values
    }
