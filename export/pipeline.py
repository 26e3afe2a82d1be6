"""CHECKPOINT → GRAPHS → BUNDLE, the whole flow in reading order: one function a stage.

Memory stays bounded by a few row slices: no tensor is ever held whole. Everything written goes through one staging
folder that becomes the bundle in one rename; a killed export goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ..quantize import methods, plan, rewrite
from ..quantize.formats import BlockFormat, FloatFormat, Format
from ..quantize.methods import Method
from ..quantize.report import ErrorSums, TensorReport
from ..quantize.streaming import WeightJob, row_slices, store
from ..runtime.errors import ExportError, WeightMismatch
from ..runtime.manifest import FileRecord, Graph, Manifest, Region, RotaryTable, Source, TensorRecord
from ..runtime.memory import peak_memory
from ..runtime.providers import for_export
from ..runtime.providers.provider import Provider
from . import families, int8_cache, interop, layout, lowering
from .assemble import read_weight, source_bytes
from .bundle import Staging
from .checkpoint import Checkpoint, open_checkpoint
from .config import Generation, read_config, read_generation
from .families import ROTARY, Family
from .fetch import resolve
from .layers.rope import Table
from .thoughts import read_thinking
from .weights import Binding, bind

TEXT = "text"

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
    """How a checkpoint is to be exported. `method` quantizes what the precision puts into blocks.

    Without a precision of their own, encoders and adapters have that of the decoder, INT8 at the least. `context`, the
    longest conversation in tokens, is for devices whose graphs have fixed shapes.
    """

    precision: str = "int4"
    preset: str = "balanced"
    method: str = "grid_search"
    device: str = "cpu"
    encoder_precision: str | None = None
    adapter_precision: str | None = None
    context: int | None = None


@dataclass(frozen=True)
class Blueprint:
    """Everything that is decided before the first byte is written."""

    family: Family
    config: Any
    method: Method
    graphs: Mapping[str, ir.Model]
    tables: tuple[Table, ...]
    shapes: Mapping[str, tuple[int, ...]]
    formats: Mapping[str, Format]
    parts: Mapping[str, Mapping[str, rewrite.Part]]
    layout: layout.Layout
    binding: Binding
    generation: Generation
    unread: tuple[str, ...]


def export(
    source: str | Path, output: str | Path, *, precision: str = "int4", preset: str = "balanced",
    method: str = "grid_search", device: str = "cpu", encoder_precision: str | None = None,
    adapter_precision: str | None = None, threads: int | None = None, progress: Progress | None = None,
    context: int | None = None, soc: Sequence[str] = (),
) -> ExportReport:
    """Turn a published checkpoint into a bundle folder.

    `source` is a local folder or a hub id; `progress(stage, done, total)` counts bytes of the checkpoint. `soc`: for an
    NPU, the generations that its graphs are compiled for ahead of time, see compile.py; the bundle is whole before, so
    a failure there costs the compiled graphs only. Running the same call again after an interruption resumes.

    Raises CheckpointError for what is wrong with the checkpoint, ExportError for what is wrong with the export,
    ProviderUnavailable for a device that is not known, and for a compiler that is missing or leaves something out.
    """
    started = time.monotonic()
    provider = for_export(device)
    options = Options(precision, preset, method, provider.name, encoder_precision, adapter_precision, context)
    if soc:
        from . import compile as compiling  # brings ONNX Runtime along, which an export needs for nothing else

        compiling.require_compiler(provider, soc)
    with open_checkpoint(resolve(str(source))) as checkpoint:
        blueprint = design(checkpoint, options, provider)
        with Staging(Path(output), _staging_key(checkpoint, blueprint, options)) as staging:
            _require_equal_copies(checkpoint, blueprint)
            reports, resumed = _write_weights(
                staging, checkpoint, blueprint, threads or provider.default_threads(), progress
            )
            graphs = _write_graphs(staging, blueprint)
            interop.copy_tokenizer(checkpoint.folder, staging)
            manifest = _manifest(checkpoint, str(source), blueprint, options, graphs, reports)
            for name, contents in interop.other_runtimes(manifest).items():
                staging.add_file(name, contents)
            published = staging.publish(manifest)
        if soc:
            published = compiling.compile_bundle(Path(output), soc, progress=progress)
        checkpoint_bytes = sum(info.nbytes for info in checkpoint.tensors.values())
    files = {name: record.size for name, record in published.files.items()}
    return ExportReport(
        Path(output), checkpoint_bytes, sum(files.values()), files, time.monotonic() - started, peak_memory(), resumed,
        tuple(reports), blueprint.unread,
    )


def foresee(folder: Path, options: Options) -> Manifest:
    """The manifest that an export of a checkpoint folder would write, without hashes and errors; writes nothing.

    Raises what `export` raises.
    """
    with open_checkpoint(folder) as checkpoint:
        provider = for_export(options.device)
        options = replace(options, device=provider.name)
        blueprint = design(checkpoint, options, provider)
        reports = [
            ErrorSums().report(
                weight, blueprint.formats[weight], blueprint.shapes[weight], source_bytes(checkpoint, pieces)
            )
            for weight, pieces in blueprint.binding.weights.items()
        ]
        names = [name for part in blueprint.graphs for name in (part, *int8_cache.variants(part, blueprint.graphs))]
        graphs = {name: Graph(f"{name}.onnx", ()) for name in names}
        manifest = _manifest(checkpoint, str(folder), blueprint, options, graphs, reports)
    tokenizer = folder / "tokenizer.json"
    return replace(manifest, files={tokenizer.name: FileRecord(tokenizer.stat().st_size, "")})


def design(checkpoint: Checkpoint, options: Options, provider: Provider) -> Blueprint:
    """Configuration → graphs → formats → byte layout. Reads headers only; raises before anything is written."""
    raw = read_config(checkpoint.config_path)
    family = families.for_architecture(raw.architecture())
    config = family.read(raw)
    checkpoint.include(family.adapter_folders(config))
    drawn = family.build(config, provider)
    draft = lowering.lower(provider, family.decoder(config), drawn, family.rotary(config), options.context)
    graphs, tables, stored = draft.graphs, draft.tables, lowering.stored(family.PARTS)
    shapes = families.weight_shapes(graphs)
    binding = lowering.reordered(bind(
        family.rules(config), {name: info.shape for name, info in checkpoint.tensors.items()},
        {name: shape for name, shape in shapes.items() if name not in ROTARY},
    ), draft.rows)
    try:
        method = methods.find(options.method)
        weights = [plan.Weight(name, shape, _role(name, graphs, stored)) for name, shape in shapes.items()]
        formats = plan.plan(
            weights, options.precision, options.preset, encoder_precision=options.encoder_precision,
            adapter_precision=options.adapter_precision, largest_block=provider.largest_block,
            screens=provider.screens_head,
        )
    except ValueError as error:
        raise ExportError(str(error)) from error
    if not provider.padded_blocks:
        formats = _in_whole_blocks(formats, shapes)
    parts = {
        part: _point_at_table(
            rewrite.apply(
                model, formats, provider.accuracy_level, _activations(provider, stored[part]), provider.fused_products
            ), tables[0]
        )
        for part, model in graphs.items()
    }
    shown = [
        (families.data_file(stored[part].data), each) for part, stored_parts in parts.items()
        for each in [*stored_parts.values(), *_longer_tables(stored_parts, tables)]
    ]
    vocabulary = family.text_model(config, ()).vocab_size
    interop.require_tokenizer(checkpoint.folder, vocabulary)
    generation = read_generation(checkpoint.folder, vocabulary, interop.turn_ends(checkpoint.folder))
    return Blueprint(
        family, config, method, graphs, tables, shapes, formats, parts, layout.arrange(shown), binding, generation,
        raw.unread(),
    )


def _point_at_table(parts: Mapping[str, rewrite.Part], table: Table) -> dict[str, rewrite.Part]:
    """The same initializers with `rotary_cos` and `rotary_sin` showing the data of `table`."""
    return {
        name: replace(part, weight=f"{name}.{table.limit}", shape=table.cos.shape) if name in ROTARY else part
        for name, part in parts.items()
    }


def _longer_tables(parts: Mapping[str, rewrite.Part], tables: Sequence[Table]) -> list[rewrite.Part]:
    rotary = {name: part for name, part in parts.items() if name in ROTARY}
    return [part for table in tables[1:] for part in _point_at_table(rotary, table).values()]


def _activations(provider: Provider, stored: families.PartPlan) -> ir.DataType:
    """Encoders and what prepares vectors compute in float32 everywhere, decoders in what the device likes."""
    halves = provider.activation_dtype == "float16" and stored.products != "encoder" and stored.data != "embedding"
    return ir.DataType.FLOAT16 if halves else ir.DataType.FLOAT


def _role(name: str, graphs: Mapping[str, ir.Model], stored: Mapping[str, families.PartPlan]) -> plan.Role:
    """What a weight is for, read off the nodes that use it and the part that declares it first."""
    declaring = [part for part, model in graphs.items() if name in model.graph.initializers]
    uses = [node for part in declaring for node, _ in graphs[part].graph.initializers[name].uses()]
    multiplied = [node for node in uses if node.op_type == rewrite.MATMUL]
    looked_up = any(node.op_type == rewrite.GATHER for node in uses)
    if multiplied and looked_up:
        return "tied"
    if looked_up and stored[declaring[0]].products != "encoder":  # which looks up positions: they stay float
        return "embedding"
    if any(output.is_graph_output() for node in multiplied for output in node.outputs):
        return "head"
    return stored[declaring[0]].products if multiplied else "float"


def _in_whole_blocks(formats: Mapping[str, Format], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Format]:
    """The same formats, but float32 for what ends in the middle of a block, which not every device computes."""
    return {
        name: FloatFormat("float32") if isinstance(fmt, BlockFormat) and shapes[name][1] % fmt.block_size else fmt
        for name, fmt in formats.items()
    }


def _write_weights(
    staging: Staging, checkpoint: Checkpoint, blueprint: Blueprint, threads: int, progress: Progress | None
) -> tuple[list[TensorReport], int]:
    """Store every weight of every graph; returns the reports and how many an earlier, interrupted run had stored."""
    arranged = blueprint.layout
    staging.require_space(sum(arranged.sizes.values()))
    for file, size in arranged.sizes.items():
        staging.create_data(file, size)
    tables = {
        f"{name}.{table.limit}": getattr(table, name.removeprefix("rotary_"))
        for table in blueprint.tables for name in ROTARY
    }
    total = sum(source_bytes(checkpoint, pieces) for pieces in blueprint.binding.weights.values())
    done, resumed, reports = 0, 0, list[TensorReport]()
    for weight in arranged.weights():
        slots = arranged.of(weight)
        if weight in tables:
            staging.write(slots["values"].file, slots["values"].offset, tables[weight].astype("<f4"))
            continue
        known = staging.finished(weight)
        if known is not None:
            reports.append(TensorReport.from_json(known))
            resumed += 1
        else:
            reports.append(_write_weight(staging, checkpoint, blueprint, weight, threads))
            ranges = [(slot.file, slot.offset, slot.nbytes) for slot in slots.values()]
            staging.record(weight, ranges, reports[-1].to_json())
        done += reports[-1].bytes_before
        if progress is not None:
            progress(weight, done, total)
    return reports, resumed


def _write_weight(
    staging: Staging, checkpoint: Checkpoint, blueprint: Blueprint, weight: str, threads: int
) -> TensorReport:
    pieces, shape, slots = blueprint.binding.weights[weight], blueprint.shapes[weight], blueprint.layout.of(weight)

    def read(start: int, stop: int) -> np.ndarray:
        return read_weight(checkpoint, pieces, shape, start, stop)

    def write(kind: str, offset: int, array: np.ndarray) -> None:
        staging.write(slots[kind].file, slots[kind].offset + offset, array)

    job = WeightJob(weight, shape, source_bytes(checkpoint, pieces), read, write)
    try:
        importance = _importance(checkpoint, blueprint, weight)
        return store(job, blueprint.formats[weight], blueprint.method, importance, threads)
    except ValueError as error:
        raise WeightMismatch(
            f"{checkpoint.folder}: {error}: choose another precision or mend the checkpoint"
        ) from error


def _importance(checkpoint: Checkpoint, blueprint: Blueprint, weight: str) -> np.ndarray | None:
    """Mean square of every input column where a norm feeds the weight: the square of its gain, as rows are normed."""
    norm = blueprint.family.norm_feeding(blueprint.config).get(weight)
    if norm is None:
        return None
    shape = blueprint.shapes[norm]
    gain = read_weight(checkpoint, blueprint.binding.weights[norm], shape, 0, shape[0])
    squares: np.ndarray = gain * gain
    return squares


def _require_equal_copies(checkpoint: Checkpoint, blueprint: Blueprint) -> None:
    """A tensor that config.json ties to another and that is there all the same must hold the same values."""
    for copy, original in blueprint.binding.copies:
        shapes = [checkpoint.tensors[name].shape for name in (copy, original)]
        for start, stop in row_slices(shapes[1]):
            if shapes[0] == shapes[1] and np.array_equal(
                checkpoint.read_rows(copy, start, stop), checkpoint.read_rows(original, start, stop)
            ):
                continue
            raise WeightMismatch(
                f"{checkpoint.folder}: config.json ties {copy} to {original}, but they differ in shape or from row "
                f"{start} on: set tie_word_embeddings to false or remove the copy"
            )


def _write_graphs(staging: Staging, blueprint: Blueprint) -> dict[str, Graph]:
    """Write the graph files: those that edgephi reads, then the decoders once more in the form of other runtimes."""
    written: dict[str, Graph] = {}

    def write(name: str, model: ir.Model, parts: Mapping[str, rewrite.Part]) -> None:
        files = layout.attach(model, parts, blueprint.layout)
        staging.add_file(f"{name}.onnx", ir.to_proto(model).SerializeToString(deterministic=True))
        written[name] = Graph(f"{name}.onnx", files)

    for part, model in blueprint.graphs.items():
        parts, foreign = blueprint.parts[part], interop.foreign(part, blueprint.graphs)
        if foreign != part:
            write(part, model, parts)
        for name, variant in int8_cache.variants(part, blueprint.graphs).items():
            write(name, variant, parts)
        if foreign is not None:
            interop.prune(model)
            write(foreign, model, parts)
            if len(blueprint.tables) > 1:
                write(f"{foreign}{interop.LONG}", model, _point_at_table(parts, blueprint.tables[-1]))
    return written


def _manifest(
    checkpoint: Checkpoint, source: str, blueprint: Blueprint, options: Options, graphs: Mapping[str, Graph],
    reports: Sequence[TensorReport],
) -> Manifest:
    def region(name: str, table: Table) -> Region:
        slot = blueprint.layout.slots[f"{name}.{table.limit}", "values"]
        return Region(slot.file, slot.offset, table.cos.shape)

    family, generation = blueprint.family, blueprint.generation
    image, audio = family.media_tokens(blueprint.config)
    rotary = tuple(RotaryTable(table.limit, *(region(name, table) for name in ROTARY)) for table in blueprint.tables)
    return Manifest(
        family=family.NAME, capabilities=family.CAPABILITIES, precision=_precisions(family, options, graphs),
        preset=options.preset, device=options.device, graphs=dict(graphs),
        text=replace(family.text_model(blueprint.config, rotary), context_length=blueprint.tables[-1].limit),
        tokens=replace(generation.tokens, image=image, audio=audio), sampling=generation.sampling,
        pictures=family.pictures(blueprint.config),
        thinking=family.thinking(blueprint.config) or read_thinking(checkpoint.folder),
        licence=interop.licence(checkpoint.folder),
        source=Source(
            Path(source).resolve().name if Path(source).exists() else source,
            read_config(checkpoint.config_path).architecture(),
            hashlib.sha256(checkpoint.config_path.read_bytes()).hexdigest(),
        ),
        generator=f"edgephi {version('edgephi')}", files={}, unread_config_keys=blueprint.unread,
        report=tuple(
            TensorRecord(item.name, item.format, item.bytes_before, item.bytes_after, item.relative_error)
            for item in reports
        ),
    )


def _precisions(family: Family, options: Options, graphs: Iterable[str]) -> dict[str, str]:
    """Of each written graph; a decoder with adapters has that of the decoder."""
    encoders = {part for part, stored in family.PARTS.items() if stored.products == "encoder"}
    encoder = plan.beside(options.precision, options.encoder_precision)
    return {name: encoder if name in encoders else options.precision for name in graphs}


def _staging_key(checkpoint: Checkpoint, blueprint: Blueprint, options: Options) -> str:
    """Two exports with the same key write the same bytes, so that one may go on where the other stopped."""
    arranged = [(*name, *asdict(slot).values()) for name, slot in blueprint.layout.slots.items()]
    facts = [checkpoint.identity(), asdict(options), arranged, version("edgephi"), np.__version__]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
