"""CHECKPOINT → GRAPHS → BUNDLE, the whole flow in reading order: one function a stage.

Memory stays bounded by a few row slices: no tensor is ever held whole. Everything written goes through one staging folder that becomes the
bundle in one rename; a killed export goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ..quantize import methods, plan, rewrite
from ..quantize.formats import BlockFormat, FloatFormat
from ..quantize.methods import Method
from ..quantize.report import TensorReport
from ..quantize.streaming import WeightJob, row_slices, store
from ..runtime.errors import WeightMismatch
from ..runtime.manifest import Graph, Manifest, Region, RotaryTable, Source, TensorRecord
from ..runtime.providers import find as find_provider
from ..runtime.providers.provider import Provider
from . import families, interop, layout
from .bundle import Staging
from .checkpoint import Checkpoint, open_checkpoint
from .config import read_config, read_generation
from .fetch import resolve
from .families import Family
from .layers.rope import Table
from .memory import peak_memory
from .weights import Binding, bind

TEXT = "text"
TEXT_LONG = "text-long"
ROTARY = ("rotary_cos", "rotary_sin")

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ExportReport:
    """What an export did: sizes in bytes, seconds, peak resident memory in bytes, and the error of every tensor."""

    bundle: Path
    checkpoint_bytes: int
    bundle_bytes: int
    files: Mapping[str, int]
    seconds: float
    peak_memory: int
    resumed: int
    tensors: tuple[TensorReport, ...]
    unread_config_keys: tuple[str, ...]


@dataclass(frozen=True)
class Options:
    """How a checkpoint is to be exported. `method` quantizes the linears that the precision puts into blocks."""

    precision: str = "int4"
    preset: str = "balanced"
    method: str = "grid_search"
    device: str = "cpu"


@dataclass(frozen=True)
class Blueprint:
    """Everything that is decided before the first byte is written."""

    family: Family
    config: Any
    graphs: dict[str, ir.Model]
    tables: tuple[Table, ...]
    formats: dict[str, FloatFormat | BlockFormat]
    parts: dict[str, dict[str, rewrite.Part]]
    layouts: dict[str, layout.Layout]
    binding: Binding
    unread: tuple[str, ...]


def export(
    source: str | Path, output: str | Path, *, precision: str = "int4", preset: str = "balanced", method: str = "grid_search",
    device: str = "cpu", threads: int | None = None, progress: Progress | None = None,
) -> ExportReport:
    """Turn a published checkpoint into a bundle folder.

    `source` is a local folder or a hub id; `progress(stage, done, total)` counts bytes of the checkpoint. Running the same call again after an
    interruption resumes. Raises CheckpointError for what is wrong with the checkpoint and ExportError for what is wrong with the export.
    """
    started = time.monotonic()
    options = Options(precision, preset, method, device)
    provider = find_provider(device)
    chosen = methods.find(method)
    with open_checkpoint(resolve(str(source))) as checkpoint:
        blueprint = design(checkpoint, options, provider)
        with Staging(Path(output), _staging_key(checkpoint, blueprint, options)) as staging:
            reports, resumed = _write_weights(staging, checkpoint, blueprint, chosen, threads or provider.default_threads(), progress)
            _write_graphs(staging, blueprint)
            interop.copy_tokenizer(checkpoint.folder, staging)
            manifest = _manifest(checkpoint, str(source), blueprint, options, reports)
            staging.add_file("genai_config.json", interop.genai_config(manifest))
            published = staging.publish(manifest)
        checkpoint_bytes = sum(info.nbytes for info in checkpoint.tensors.values())
    files = {name: record.size for name, record in published.files.items()}
    return ExportReport(
        Path(output), checkpoint_bytes, sum(files.values()), files, time.monotonic() - started, peak_memory(), resumed, tuple(reports),
        blueprint.unread,
    )


def design(checkpoint: Checkpoint, options: Options, provider: Provider) -> Blueprint:
    """Configuration → graphs → formats → byte layout. Reads headers only; raises before anything is written."""
    raw = read_config(checkpoint.config_path)
    family = families.for_architecture(raw.architecture())
    config = family.read(raw)
    graphs = family.build(config, provider)
    declared = {
        name: tuple(value.meta["stored_shape"])
        for model in graphs.values() for name, value in model.graph.initializers.items() if value.const_value is None
    }
    tables = family.rotary(config)
    shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
    binding = bind(family.rules(config), shapes, {name: shape for name, shape in declared.items() if name not in ROTARY})
    formats = plan.plan([plan.Weight(name, shape, _role(name, graphs)) for name, shape in declared.items()], options.precision, options.preset)
    parts = {
        part: point_at_table(rewrite.apply(model, formats, provider.accuracy_level), tables[0]) for part, model in graphs.items()
    }
    longer = [shown for table in tables[1:] for shown in point_at_table(_rotary_only(parts[TEXT]), table).values()]
    layouts = {part: layout.arrange([*shown.values(), *(longer if part == TEXT else ())]) for part, shown in parts.items()}
    return Blueprint(family, config, graphs, tables, formats, parts, layouts, binding, raw.unread())


def point_at_table(parts: Mapping[str, rewrite.Part], table: Table) -> dict[str, rewrite.Part]:
    """The same initializers with `rotary_cos` and `rotary_sin` showing the data of `table`."""
    return {
        name: replace(part, weight=f"{name}.{table.limit}", shape=table.cos.shape) if name in ROTARY else part for name, part in parts.items()
    }


def _rotary_only(parts: Mapping[str, rewrite.Part]) -> dict[str, rewrite.Part]:
    return {name: part for name, part in parts.items() if name in ROTARY}


def _role(name: str, graphs: Mapping[str, ir.Model]) -> plan.Role:
    """What a weight is for, read off the nodes that use it."""
    uses = [node for model in graphs.values() if name in model.graph.initializers for node, _ in model.graph.initializers[name].uses()]
    multiplied = [node for node in uses if node.op_type == rewrite.MATMUL]
    looked_up = [node for node in uses if node.op_type == rewrite.GATHER]
    if multiplied and looked_up:
        return "tied"
    if looked_up:
        return "embedding"
    if multiplied:
        return "head" if any(output.is_graph_output() for node in multiplied for output in node.outputs) else "linear"
    return "float"


def _write_weights(
    staging: Staging, checkpoint: Checkpoint, blueprint: Blueprint, method: Method, threads: int, progress: Progress | None
) -> tuple[list[TensorReport], int]:
    """Store every weight of every graph; returns the reports and how many of them an earlier, interrupted run had stored."""
    staging.require_space(sum(part.size for part in blueprint.layouts.values()))
    for copy, original in blueprint.binding.copies:
        _require_equal(checkpoint, copy, original)
    tables = {f"{name}.{table.limit}": getattr(table, name.removeprefix("rotary_")) for table in blueprint.tables for name in ROTARY}
    feeding = blueprint.family.norm_feeding(blueprint.config)
    total, done, resumed = sum(info.nbytes for info in checkpoint.tensors.values()), 0, 0
    reports: list[TensorReport] = []
    for part, arranged in blueprint.layouts.items():
        file = data_file(part)
        staging.create_data(file, arranged.size)
        for weight in dict.fromkeys(name for name, _ in arranged.slots):
            slots = arranged.of(weight)
            known = staging.finished(weight)
            if known is not None:
                reports.append(TensorReport.from_json(known))
                resumed += 1
            elif weight in tables:
                staging.write(file, slots["values"].offset, tables[weight].astype("<f4"))
                staging.record(weight, [(file, slot.offset, slot.nbytes) for slot in slots.values()], None)
                continue
            else:
                importance = _importance(checkpoint, blueprint, feeding.get(weight))
                job = _job(staging, checkpoint, blueprint, weight, file, slots)
                try:
                    reports.append(store(job, blueprint.formats[weight], method, importance, threads))
                except ValueError as error:
                    raise WeightMismatch(f"{checkpoint.folder}: {error}: choose another precision or mend the checkpoint") from error
                staging.record(weight, [(file, slot.offset, slot.nbytes) for slot in slots.values()], reports[-1].to_json())
            done += reports[-1].bytes_before
            if progress is not None:
                progress(f"{part}: {weight}", done, total)
    return reports, resumed


def _job(
    staging: Staging, checkpoint: Checkpoint, blueprint: Blueprint, weight: str, file: str, slots: Mapping[str, layout.Slot]
) -> WeightJob:
    tensor = checkpoint.tensors[blueprint.binding.tensors[weight]]

    def read(start: int, stop: int) -> np.ndarray:
        return checkpoint.read_rows(tensor.name, start, stop)

    def write(kind: str, offset: int, array: np.ndarray) -> None:
        staging.write(file, slots[kind].offset + offset, array)

    return WeightJob(weight, tensor.shape, tensor.nbytes, read, write)


def _importance(checkpoint: Checkpoint, blueprint: Blueprint, norm: str | None) -> np.ndarray | None:
    """E[x²] of every input column: γ² where a norm feeds the weight, since a normed row has unit mean square before γ."""
    if norm is None:
        return None
    gamma = checkpoint.read_rows(blueprint.binding.tensors[norm], 0, checkpoint.tensors[blueprint.binding.tensors[norm]].shape[0])
    return np.square(gamma)


def _require_equal(checkpoint: Checkpoint, copy: str, original: str) -> None:
    for start, stop in row_slices(checkpoint.tensors[original].shape):
        if not np.array_equal(checkpoint.read_rows(copy, start, stop), checkpoint.read_rows(original, start, stop)):
            raise WeightMismatch(
                f"{checkpoint.folder}: config.json ties {copy} to {original}, but their values differ from row {start} on; "
                "set tie_word_embeddings to false or remove the copy"
            )


def _write_graphs(staging: Staging, blueprint: Blueprint) -> None:
    """Write the graph files; for a model with several rotary tables also the text graph whose default is the longest."""
    for part, model in blueprint.graphs.items():
        layout.attach(model, blueprint.parts[part], blueprint.layouts[part], data_file(part))
        staging.add_file(f"{part}.onnx", ir.to_proto(model).SerializeToString())
    if len(blueprint.tables) > 1:
        shown = point_at_table(blueprint.parts[TEXT], blueprint.tables[-1])
        layout.attach(blueprint.graphs[TEXT], shown, blueprint.layouts[TEXT], data_file(TEXT))
        staging.add_file(f"{TEXT_LONG}.onnx", ir.to_proto(blueprint.graphs[TEXT]).SerializeToString())


def data_file(part: str) -> str:
    """Name of the external data of a graph."""
    return f"{part}.onnx.data"


def _manifest(
    checkpoint: Checkpoint, source: str, blueprint: Blueprint, options: Options, reports: list[TensorReport]
) -> Manifest:
    generation = read_generation(checkpoint.folder)
    graphs = {part: Graph(f"{part}.onnx", (data_file(part),)) for part in blueprint.graphs}
    if len(blueprint.tables) > 1:
        graphs[TEXT_LONG] = Graph(f"{TEXT_LONG}.onnx", (data_file(TEXT),))
    slots = blueprint.layouts[TEXT].slots
    rotary = tuple(
        RotaryTable(table.limit, *(Region(data_file(TEXT), slots[f"{name}.{table.limit}", "values"].offset, table.cos.shape) for name in ROTARY))
        for table in blueprint.tables
    )
    return Manifest(
        family=blueprint.family.NAME, capabilities=blueprint.family.CAPABILITIES, precision=dict.fromkeys(blueprint.graphs, options.precision),
        preset=options.preset, device=options.device, graphs=graphs, text=blueprint.family.text_model(blueprint.config, rotary),
        tokens=generation.tokens, sampling=generation.sampling, licence=interop.licence(checkpoint.folder),
        source=Source(Path(source).name if Path(source).exists() else source, blueprint.family.ARCHITECTURES[0],
                      hashlib.sha256(checkpoint.config_path.read_bytes()).hexdigest()),
        generator=f"edgephi {version('edgephi')}", files={}, unread_config_keys=blueprint.unread,
        report=tuple(
            TensorRecord(item.name, item.format, item.bytes_before, item.bytes_after, item.relative_error) for item in reports
        ),
    )


def _staging_key(checkpoint: Checkpoint, blueprint: Blueprint, options: Options) -> str:
    """Two exports with the same key write the same bytes, so that one may go on where the other stopped."""
    arranged = {part: [(*name, *asdict(slot).values()) for name, slot in item.slots.items()] for part, item in blueprint.layouts.items()}
    facts = [checkpoint.identity(), asdict(options), arranged, version("edgephi")]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
