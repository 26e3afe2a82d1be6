"""Where the time of a step goes, node by node, against what the machine allows.

Boundary: runs the text graph of a bundle as a session does (cache bound in place, logits of the last row) under ONNX
Runtime's own profiler, and reads its trace. Results are tables; what follows from them is for people to say.

A product streams its packed weights once a run: bits + 64 / block size bits a weight, for MatMulNBits packs a float32
scale and a float32 block sum beside each block. Attention streams the keys and values of the past.
"""

from __future__ import annotations

import json
import re
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from edgephi.runtime.errors import RequestError
from edgephi.runtime.manifest import Manifest, read_manifest
from edgephi.runtime.providers.cpu import PROVIDER

from . import machine
from .limits import Limits, Probe
from .loop_overhead import Overhead

_LAYER = re.compile(r"layers\.\d+")
_SUFFIX = "_kernel_time"
_RUNS = 9
_SIZES = {"float": 4, "float16": 2, "int8": 1}  # bytes of a key or value
_OPERATIONS = 2  # a multiplication and an addition


@dataclass(frozen=True)
class Case:
    """A run of `rows` new positions behind `past` old ones."""

    rows: int
    past: int

    @classmethod
    def parse(cls, text: str) -> Case:
        """`1@512` is one new position behind 512 old ones. Raises RequestError."""
        rows, _, past = text.partition("@")
        if not (rows.isdecimal() and past.isdecimal() and int(rows)):
            raise RequestError(f"a case is ROWS@PAST, such as 1@512 or 512@0; found {text!r}")
        return cls(int(rows), int(past))

    @property
    def name(self) -> str:
        """For the tables."""
        return f"decode at {self.past}" if self.rows == 1 else f"prefill of {self.rows} at {self.past}"


@dataclass(frozen=True)
class Group:
    """Nodes that do the same in every layer, in one run. `streamed` bytes from memory, `operations` of products."""

    name: str
    kind: str
    nodes: int
    seconds: float
    streamed: int
    operations: int


@dataclass(frozen=True)
class Profile:
    """The fastest of some runs of a case: `seconds` of all of it, and `median` over the runs."""

    case: Case
    limits: Limits
    seconds: float
    median: float
    groups: tuple[Group, ...]


def measure(bundle: Path, cases: Sequence[Case], threads: int) -> list[Profile]:
    """Profile the text graph of a bundle. Raises BundleError for a folder that is none."""
    manifest = read_manifest(bundle)
    graph = bundle / manifest.graphs["text"].file
    weights = _weights(graph)
    with tempfile.TemporaryDirectory() as folder, Probe(threads) as probe:
        session = _session(graph, threads, Path(folder))
        binding = _bind(session, manifest, max(case.rows + case.past for case in cases))
        limits, spans = [], []
        for case in cases:
            limits.append(probe.measure())
            spans.append(_runs(session, binding, case))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    runs = iter(_cut(events))
    profiles = []
    for case, limit, seconds in zip(cases, limits, spans, strict=True):
        nodes = [next(runs) for _ in seconds]
        best = min(range(len(seconds)), key=seconds.__getitem__)
        groups = _groups(nodes[best], weights, case, manifest)
        profiles.append(Profile(case, limit, seconds[best], statistics.median(seconds), groups))
    return profiles


def _session(graph: Path, threads: int, folder: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "trace")
    for key, value in PROVIDER.session_config:
        options.add_session_config_entry(key, value)
    return ort.InferenceSession(str(graph), options, providers=[PROVIDER.ort_name], enable_fallback=0)


def _bind(session: ort.InferenceSession, manifest: Manifest, capacity: int) -> Any:
    """Keys and values of random numbers, bound as past and present at once; logits of one row."""
    binding = session.io_binding()
    text, generator = manifest.text, np.random.default_rng(0)
    for layer in range(text.layers):
        for kind in ("key", "value"):
            array = generator.standard_normal((1, text.kv_heads, capacity, text.head_dim), np.float32)
            value = ort.OrtValue.ortvalue_from_numpy(array)
            binding.bind_ortvalue_input(f"past_key_values.{layer}.{kind}", value)
            binding.bind_ortvalue_output(f"present.{layer}.{kind}", value)
    logits = ort.OrtValue.ortvalue_from_numpy(np.empty((1, 1, text.vocab_size), np.float32))
    binding.bind_ortvalue_output("logits", logits)
    return binding


def _runs(session: ort.InferenceSession, binding: Any, case: Case) -> list[float]:
    """Seconds of some runs of a case; the first one of the session, which allocates, is among them."""
    ids = np.full((1, case.rows), 1000, np.int64)
    mask = np.ones((1, case.past + case.rows), np.int64)
    binding.bind_ortvalue_input("input_ids", ort.OrtValue.ortvalue_from_numpy(ids))
    binding.bind_ortvalue_input("attention_mask", ort.OrtValue.ortvalue_from_numpy(mask))
    seconds = []
    for _ in range(_RUNS if case.rows == 1 else 2):
        started = time.perf_counter()
        session.run_with_iobinding(binding)
        seconds.append(time.perf_counter() - started)
    return seconds


def _cut(events: Sequence[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """The nodes of each run, in the order of the runs."""
    spans = sorted((event["ts"], event["ts"] + event["dur"]) for event in events if event["name"] == "model_run")
    nodes = [event for event in events if event["name"].endswith(_SUFFIX)]
    for begin, end in spans:
        yield [node for node in nodes if begin <= node["ts"] < end]


def _weights(graph: Path) -> dict[str, tuple[int, int, int]]:
    """Node → (inputs × outputs, bits, block size) of every block-quantized product."""
    import onnx_ir as ir

    return {
        node.name or "": (
            node.attributes["K"].as_int() * node.attributes["N"].as_int(), node.attributes["bits"].as_int(),
            node.attributes["block_size"].as_int(),
        )
        for node in ir.load(graph).graph if node.op_type == "MatMulNBits"
    }


def _groups(
    nodes: Sequence[Mapping[str, Any]], weights: Mapping[str, tuple[int, int, int]], case: Case, manifest: Manifest
) -> tuple[Group, ...]:
    found: dict[str, Group] = {}
    for node in nodes:
        name = node["name"].removesuffix(_SUFFIX)
        kind = node["args"]["op_name"]
        streamed, operations = _work(name, kind, node, weights, case, manifest)
        key = _LAYER.sub("layers.*", name)
        before = found.get(key, Group(key, kind, 0, 0.0, 0, 0))
        found[key] = Group(
            key, kind, before.nodes + 1, before.seconds + node["dur"] / 1e6, before.streamed + streamed,
            before.operations + operations,
        )
    return tuple(sorted(found.values(), key=lambda group: -group.seconds))


def _work(
    name: str, kind: str, node: Mapping[str, Any], weights: Mapping[str, tuple[int, int, int]], case: Case,
    manifest: Manifest,
) -> tuple[int, int]:
    """Bytes that a node streams and operations of its products."""
    if kind == "GroupQueryAttention":
        text = manifest.text
        (dtype,) = node["args"]["input_type_shape"][1]  # inputs that are left out are not listed
        total = case.past + case.rows
        seen = case.past + case.rows / 2  # a row sees those before it
        streamed = 2 * text.kv_heads * total * text.head_dim * _SIZES[dtype]
        return streamed, round(2 * _OPERATIONS * case.rows * seen * text.heads * text.head_dim)
    if name not in weights:
        return 0, 0
    elements, bits, block = weights[name]
    (shape,) = node["args"]["output_type_shape"][0].values()
    return round(elements * (bits + 64 / block) / 8), _OPERATIONS * elements * int(np.prod(shape[:-1]))


def write(
    bundle: str, threads: int, profiles: Sequence[Profile], overhead: Overhead, results: Path, stem: str
) -> None:
    """Write STEM.json and STEM.md to the folder `results`."""
    results.mkdir(parents=True, exist_ok=True)
    record = {
        "bundle": bundle, "threads": threads, "date": datetime.now(UTC).date().isoformat(),
        "machine": machine.describe(), "versions": machine.versions(), "profiles": [asdict(item) for item in profiles],
        "overhead": asdict(overhead),
    }
    (results / f"{stem}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (results / f"{stem}.md").write_text(table(bundle, threads, profiles, overhead), encoding="utf-8")


def table(bundle: str, threads: int, profiles: Sequence[Profile], overhead: Overhead) -> str:
    """Markdown, one table for each case, and the loop around the runs."""
    described = machine.describe()
    lines = [
        f"# Where the time of a step goes: {bundle}\n",
        f"{described['processor']}, {threads} threads. The fastest of some runs under ONNX Runtime's profiler. Bytes "
        "and operations follow from shapes and formats; limits were measured just before each case, and the memory of "
        "a shared machine changes its speed within minutes.\n",
        f"The session's loop: {overhead.outside * 1e3:.2f} ms of {overhead.token * 1e3:.1f} ms a token "
        f"({overhead.outside / overhead.token:.1%}) pass outside the run of the graph, behind {overhead.prompt} "
        "tokens.",
    ]
    for profile in profiles:
        limits, nodes = profile.limits, sum(group.seconds for group in profile.groups)
        lines += [
            f"\n## {profile.case.name}\n",
            f"{profile.seconds * 1e3:.1f} ms (median {profile.median * 1e3:.1f}), between nodes "
            f"{(profile.seconds - nodes) * 1e3:.2f} ms. Limits: {limits.read_bytes / 1e9:.0f} GB/s, "
            f"{limits.int8_operations / 1e12:.2f} int8 TOPS.\n",
            "| nodes | kind | count | ms | share | GB/s | of limit | TOPS | of limit |",
            "|---|---|---|---|---|---|---|---|---|",
            *(_row(group, profile) for group in profile.groups if group.seconds >= 5e-4 * profile.seconds),
        ]
    return "\n".join(lines) + "\n"


def _row(group: Group, profile: Profile) -> str:
    rate, speed = group.streamed / group.seconds, group.operations / group.seconds
    limits = profile.limits
    reading = f"{rate / 1e9:.1f} | {rate / limits.read_bytes:.0%}" if group.streamed else " | "
    reckoning = f"{speed / 1e12:.2f}" if group.operations else ""
    share = f"{speed / limits.int8_operations:.0%}" if group.operations and limits.int8_operations else ""
    return (
        f"| {group.name} | {group.kind} | {group.nodes} | {group.seconds * 1e3:.2f} "
        f"| {group.seconds / profile.seconds:.1%} | {reading} | {reckoning} | {share} |"
    )
