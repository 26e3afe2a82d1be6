"""Fine-tuned adapters of a bundle: added and removed without exporting the checkpoint again.

Boundary: knows bundles and graphs; what an adapter's folder holds says peft.py. The graph that the export wrote stays
as it is, for other programs too; beside it lies one with all adapters, over the same weights and a small data file for
each adapter. It is made anew from the exported graph whenever an adapter comes or goes.

Guarantee, also after `kill -9`: new files have new names and the manifest is replaced last, so the bundle is the old
one or the new one. What was left over goes when the next adapter does.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ..runtime.errors import BundleError, RequestError, WeightMismatch
from ..runtime.manifest import MANIFEST_NAME, TUNED, Adapter, Graph, Manifest, serialize
from ..runtime.providers import find as find_provider
from . import layout
from .bundle import changing, file_record
from .checkpoint import ADAPTER_NAME
from .durable import DataFile, write_file
from .graph import GraphBuilder
from .layers.lora import Adapter as SidePath
from .layers.lora import AddedAdapters, Product
from .peft import PeftAdapter, open_peft

DECODERS = ("text", "text-media")  # the graphs of edgephi's own that adapters go into
PRODUCT = ".matmul"  # ends the names of the nodes that multiply with a weight
BEHIND = ("_or_not", ".refined")  # and of those behind: a published adapter, the best logits of a screened head
HEAD, EMBEDDING = "lm_head", "model.embed_tokens"  # the head of a tied checkpoint is its embedding
SHOWN = 4

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}")
_OURS = ("adapter-*.onnx.data", "*-adapters-*.onnx", "*-adapters-*.onnx.tmp", f"{MANIFEST_NAME}.tmp")


@dataclass(frozen=True)
class Factor:
    """A or B of a linear, as layout.py places it."""

    weight: str
    shape: tuple[int, ...]
    kind: str = "values"
    dtype: ir.DataType = ir.DataType.FLOAT


@dataclass(frozen=True)
class Linear:
    """A product of a graph: the node that multiplies, and the one whose output is used."""

    multiplied: ir.Node
    last: ir.Node
    outputs: int
    inputs: int


def add_adapter(bundle: Path, folder: Path, name: str) -> Manifest:
    """Add the PEFT adapter in `folder` to a bundle as `name`; returns the new manifest.

    Raises BundleError, ConfigMismatch and WeightMismatch for what is wrong with either folder, RequestError for a name
    that is not free, ExportError for the disk.
    """
    with _writing(bundle) as manifest, open_peft(folder) as peft:
        if not _NAME.fullmatch(name):
            raise RequestError(f"an adapter cannot be called {name!r:.80}: use 1 to 64 letters, digits, '_', '.', '-'")
        if name in manifest.adapters:
            raise RequestError(f"{bundle} has an adapter {name!r} already: remove it first, or choose another name")
        linears = _linears(ir.load(bundle / f"{DECODERS[0]}.onnx"))
        weights = {_weight(module, linears): module for module in peft.linears}
        _require_fitting(peft, weights, linears, bundle)
        ranks = {weight: peft.linears[module].rank for weight, module in weights.items()}
        digest = hashlib.sha256(repr([(weight, peft.linears[module]) for weight, module in weights.items()]).encode())
        digest.update(file_record(folder / ADAPTER_NAME).sha256.encode())
        adapter = Adapter(f"adapter-{digest.hexdigest()[:16]}.onnx.data", ranks, folder.resolve().name, peft.base)
        if adapter.file not in manifest.files:  # the same may be there under another name
            _write_factors(bundle, adapter, peft, weights, linears)
        return _publish(bundle, manifest, {**manifest.adapters, name: adapter})


def remove_adapter(bundle: Path, name: str) -> Manifest:
    """Take an adapter out of a bundle; returns the new manifest. Raises BundleError, RequestError, ExportError."""
    with _writing(bundle) as manifest:
        if name not in manifest.adapters:
            known = ", ".join(manifest.adapters) or "none"
            raise RequestError(f"{bundle} has no adapter {name!r:.80}; its adapters: {known}")
        return _publish(bundle, manifest, {key: item for key, item in manifest.adapters.items() if key != name})


@contextmanager
def _writing(bundle: Path) -> Iterator[Manifest]:
    """The manifest of a bundle that takes adapters and that nobody else writes to meanwhile."""
    with changing(bundle) as manifest:
        made_for = find_provider(manifest.device)
        if made_for.activation_dtype != "float32" or made_for.window is not None:
            raise BundleError(f"{bundle} is for device {manifest.device!r}; adapters need one that is for 'cpu'")
        yield manifest


def _weight(module: str, linears: Mapping[str, Linear]) -> str:
    """The weight of a linear, as the manifest names it."""
    tied = module == HEAD and HEAD not in linears and EMBEDDING in linears
    return f"{EMBEDDING if tied else module}.weight"


def _require_fitting(
    peft: PeftAdapter, weights: Mapping[str, str], linears: Mapping[str, Linear], bundle: Path
) -> None:
    """Every linear of the adapter is one of the decoder, and of its shape. Raises WeightMismatch."""
    found = {weight: linears.get(weight.removesuffix(".weight")) for weight in weights}
    unknown = [weights[weight] for weight, linear in found.items() if linear is None]
    if unknown:
        kinds = sorted({name.rpartition(".")[2] for name in linears if name != EMBEDDING} | {HEAD})
        raise WeightMismatch(
            f"{peft.folder}: {', '.join(unknown[:SHOWN])}{' and more' * (len(unknown) > SHOWN)}: no such linear in the "
            f"decoder of {bundle}, which has {', '.join(kinds)}: train one for the checkpoint of this bundle"
        )
    for weight, linear in found.items():
        low = peft.linears[weights[weight]]
        if linear is not None and (low.outputs, low.inputs) != (linear.outputs, linear.inputs):
            raise WeightMismatch(
                f"{peft.folder}: {weights[weight]} is for {low.inputs} → {low.outputs}, {bundle} has {linear.inputs} → "
                f"{linear.outputs}: take an adapter that was trained for the checkpoint of this bundle"
            )


def _linears(model: ir.Model) -> dict[str, Linear]:
    """The products with weights, by the names of the weights, in the order in which they are computed."""
    multiplied, last = {}, {}
    for node in model.graph:
        prefix, _, end = str(node.name).rpartition(".")
        if f".{end}" == PRODUCT:
            multiplied[prefix] = last[prefix] = node
        elif f".{end}".endswith(BEHIND):
            last[prefix] = node
    return {prefix: Linear(node, last[prefix], *_shape(node)) for prefix, node in multiplied.items()}


def _shape(node: ir.Node) -> tuple[int, int]:
    """(outputs, inputs) of a product, quantized or not."""
    if "N" in node.attributes:
        return node.attributes["N"].as_int(), node.attributes["K"].as_int()
    weight = node.inputs[1]
    cast = None if weight is None else weight.producer()
    stored = weight if cast is None else cast.inputs[0]
    assert stored is not None and stored.shape is not None
    outputs, inputs = stored.shape.numpy()
    return outputs, inputs


def _arranged(adapter: Adapter, linears: Mapping[str, Linear]) -> layout.Layout:
    """Where A and B of every linear lie in the adapter's file; a part of the format of a bundle."""
    factors = []
    for weight, rank in sorted(adapter.ranks.items()):
        linear = linears[weight.removesuffix(".weight")]
        factors += [Factor(f"{weight}.A", (rank, linear.inputs)), Factor(f"{weight}.B", (linear.outputs, rank))]
    return layout.arrange((adapter.file, factor) for factor in factors)


def _write_factors(
    bundle: Path, adapter: Adapter, peft: PeftAdapter, weights: Mapping[str, str], linears: Mapping[str, Linear]
) -> None:
    arranged = _arranged(adapter, linears)
    (bundle / adapter.file).unlink(missing_ok=True)  # of an attempt that was killed
    file = DataFile(bundle / adapter.file, arranged.sizes[adapter.file])
    try:
        for weight, module in weights.items():
            for factor, values in zip("AB", peft.factors(module), strict=True):
                data = np.ascontiguousarray(values, "<f4").reshape(-1).view(np.uint8).data
                file.write(arranged.slots[f"{weight}.{factor}", "values"].offset, data)
        file.sync()
    except BaseException:
        file.close()
        (bundle / adapter.file).unlink(missing_ok=True)
        raise
    file.close()


def _publish(bundle: Path, manifest: Manifest, adapters: Mapping[str, Adapter]) -> Manifest:
    """Write the graphs with `adapters`, then the manifest, then remove what it does not name."""
    before = {adapter.file for adapter in manifest.adapters.values()}
    adapters = dict(sorted(adapters.items()))  # as they are read back
    graphs, made = dict(manifest.graphs), {adapter.file for adapter in adapters.values()}
    for part in DECODERS:
        if part not in graphs:
            continue
        base = tuple(file for file in graphs[part].data if file not in before)
        name = f"{part}.onnx"
        if adapters:
            contents = _with_adapters(bundle / name, adapters)
            name = f"{part}-adapters-{hashlib.sha256(contents).hexdigest()[:16]}.onnx"
            write_file(bundle / name, contents)
            made.add(name)
        graphs[part] = Graph(name, (*base, *sorted({adapter.file for adapter in adapters.values()})))
    gone = before | {manifest.graphs[part].file for part in DECODERS if part in graphs and manifest.adapters}
    kept = {name: record for name, record in manifest.files.items() if name not in gone}
    files = kept | {name: manifest.files.get(name) or file_record(bundle / name) for name in made}
    changed = replace(manifest, graphs=graphs, adapters=adapters, files=dict(sorted(files.items())))
    write_file(bundle / MANIFEST_NAME, serialize(changed))
    for path in {found for pattern in _OURS for found in bundle.glob(pattern)}:
        if path.name not in changed.files:
            path.unlink(missing_ok=True)
    return changed


def _with_adapters(path: Path, adapters: Mapping[str, Adapter]) -> bytes:
    """The graph at `path` with every adapter beside the linears that it has factors for."""
    model = ir.load(path)
    linears = _linears(model)
    graph = GraphBuilder("adapters")
    added = AddedAdapters(graph, [f"{TUNED}{name}" for name in adapters])
    for prefix, linear in linears.items():
        paths = [
            SidePath(f"{TUNED}{name}", adapter.ranks[f"{prefix}.weight"])
            for name, adapter in adapters.items() if f"{prefix}.weight" in adapter.ranks
        ]
        if paths:
            _insert(model, graph, added, prefix, linear, paths)
    for name, adapter in adapters.items():
        _attach(model, f"{TUNED}{name}", adapter, _arranged(adapter, linears))
    contents: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return contents


def _insert(
    model: ir.Model, graph: GraphBuilder, added: AddedAdapters, prefix: str, linear: Linear, paths: Iterable[SidePath]
) -> None:
    result, x = linear.last.outputs[0], linear.multiplied.inputs[0]
    assert x is not None
    readers = list(result.uses())
    better = added.beside(Product(prefix, x, result, linear.outputs, linear.inputs), list(paths))
    for node, index in readers:
        node.replace_input_with(index, better)
    for index, output in enumerate(model.graph.outputs):
        if output is result:  # the logits
            better.type, better.shape = result.type, result.shape
            better.name, result.name = result.name, f"{prefix}.as_multiplied"
            model.graph.outputs[index] = better
    graph.graft(model, linear.last)


def _attach(model: ir.Model, name: str, adapter: Adapter, arranged: layout.Layout) -> None:
    """Point the factors of an adapter at its data."""
    parts = {}
    for weight, rank in adapter.ranks.items():
        for factor, initializer in zip("AB", SidePath(name, rank).factors(weight), strict=True):
            value = model.graph.initializers[initializer]
            assert value.shape is not None
            parts[initializer] = Factor(f"{weight}.{factor}", tuple(value.shape.numpy()))
    layout.attach(model, parts, arranged)
