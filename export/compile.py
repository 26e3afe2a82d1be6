"""Compiled forms of a bundle: graphs of fixed shapes, made ahead of time for one generation of a device each.

Boundary: knows bundles, files and what the provider reports; the compiler itself is the provider's. The ONNX form stays
beside the compiled ones, for other generations, other drivers and other devices.

The decoder's graphs are compiled as one group: they share one set of weights in one file. Each encoder is compiled by
itself, as it is loaded. A graph that the compiler does not keep whole is refused. Guarantee, also after `kill -9`: new
files have new names and the manifest is replaced last, so the bundle is the old one or the new one. What was left over
goes when something is compiled again.
"""

from __future__ import annotations

import glob
import hashlib
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from ..runtime.devices import compiler_version, devices
from ..runtime.errors import BundleError, ExportError, ProviderUnavailable
from ..runtime.graphs import Graph
from ..runtime.manifest import MANIFEST_NAME, Compiled, FileRecord, Manifest, serialize
from ..runtime.manifest import Graph as StoredGraph
from ..runtime.providers import find as find_provider
from ..runtime.providers import generations
from ..runtime.providers.provider import Generation, Provider
from .bundle import HEADROOM, changing, file_record
from .durable import sync_file, sync_folder, write_file
from .lowering import is_decoder

ENCODERS = ("vision", "speech")
ENDING = "ending.onnx"
CONTEXT = "EPContext"  # the operator that stands for a compiled graph
COMPATIBILITY = "ep_compatibility_info."  # begins the key of the metadata that says where it runs

# text.x-elite-0123abcd.onnx, and the weights that ONNX Runtime writes beside it
_OURS = re.compile(r"(?:text[a-z-]*|vision|speech)\.[a-z0-9-]+-[0-9a-f]{8}(\.onnx|_[a-z]+\.bin)")

Progress = Callable[[str, int, int], None]


def require_compiler(provider: Provider, names: Sequence[str]) -> tuple[Generation, ...]:
    """The generations of these names, once it is sure that their compiler is here. Raises ProviderUnavailable."""
    found = generations(provider, names)
    if found:
        devices(provider.compiler(found[0]))  # one compiler serves all of them
    return found


def compile_bundle(
    bundle: Path, names: Sequence[str], *, share_weights: bool = True, progress: Progress | None = None
) -> Manifest:
    """Add compiled forms for the generations `names` of the device that a bundle is for; returns the new manifest.

    What is there for a generation already is replaced, unless it would be the same. `share_weights`: False for a file
    of weights for each graph, which takes their size as often. `progress(stage, done, total)` counts bytes of
    weights that went to the compiler.

    Raises BundleError, ProviderUnavailable where the compiler is missing or does not take a graph, ExportError.
    """
    with changing(bundle) as manifest:
        provider, groups = find_provider(manifest.device), _groups(bundle, manifest)
        wanted = require_compiler(provider, names)
        forms, files = {form.generation: form for form in manifest.compiled}, dict(manifest.files)
        sizes = {name: _size(graph, files) for group in groups for name, graph in group.items()}
        done, total = 0, len(wanted) * sum(sizes.values())

        def report(name: str, generation: Generation) -> None:
            nonlocal done
            if progress is not None:
                progress(f"{name} for {generation.name}", done, total)
            done += sizes[name]

        for generation in wanted:
            orders = [
                Order(bundle, group, _sources(group, files), provider, generation, share_weights and len(group) > 1)
                for group in groups
            ]
            known = forms.get(generation.name)
            wished = {name: order.file(name) for order in orders for name in order.graphs}
            if known is not None and {name: graph.file for name, graph in known.graphs.items()} == wished:
                done += sum(sizes.values())
                continue
            made = [_compile(order, files, report) for order in orders]
            joined = {name: graph for form in made for name, graph in form.graphs.items()}
            forms[generation.name] = replace(made[0], graphs=joined)
        return _publish(bundle, replace(manifest, compiled=tuple(forms[name] for name in sorted(forms))), files)


def weight_bytes(form: Compiled, files: Mapping[str, FileRecord]) -> int:
    """Bytes of the weights of a compiled form in a bundle of these files; what graphs share counts once."""
    return sum(files[file].size for file in {file for graph in form.graphs.values() for file in graph.data})


@dataclass(frozen=True)
class Order:
    """One compiled form to be made of the `graphs` of a bundle, by name; `sources` are hashes of all their files."""

    bundle: Path
    graphs: Mapping[str, StoredGraph]
    sources: tuple[str, ...]
    provider: Provider
    generation: Generation
    share_weights: bool

    def file(self, name: str) -> str:
        """The file of a compiled graph: of the same name only where it is the same work."""
        facts = repr((self.sources, self.generation, self.share_weights, compiler_version(self.provider)))
        return f"{name}.{self.generation.name}-{hashlib.sha256(facts.encode()).hexdigest()[:8]}.onnx"

    def entries(self, target: Path, *, last: bool) -> tuple[tuple[str, str], ...]:
        """What tells ONNX Runtime to write the compiled form of a session's graph to `target`."""
        shared = [("ep.share_ep_contexts", "1"), *([("ep.stop_share_ep_contexts", "1")] if last else [])]
        return (
            ("ep.context_enable", "1"), ("ep.context_file_path", str(target)), ("ep.context_embed_mode", "0"),
            *(shared if self.share_weights else []),
        )


def _groups(bundle: Path, manifest: Manifest) -> list[dict[str, StoredGraph]]:
    """The graphs of fixed shapes that compute on the device: the decoders, which may share their weights, and each
    encoder by itself. Raises BundleError where there are none.
    """
    if find_provider(manifest.device).window is None:
        raise BundleError(
            f"{bundle} is for device {manifest.device!r}, whose graphs have no fixed shapes and are not compiled ahead "
            "of time: export the checkpoint with --device npu"
        )
    graphs = manifest.graphs
    decoders = {name: graph for name, graph in graphs.items() if is_decoder(name)}
    return [decoders, *({name: graphs[name]} for name in ENCODERS if name in graphs)]


def _sources(group: Mapping[str, StoredGraph], files: Mapping[str, FileRecord]) -> tuple[str, ...]:
    """Hashes of all that a group is made of."""
    return tuple(sorted(files[file].sha256 for file in _files(group)))


def _files(graphs: Mapping[str, StoredGraph]) -> set[str]:
    return {file for graph in graphs.values() for file in (graph.file, *graph.data)}


def _size(graph: StoredGraph, files: Mapping[str, FileRecord]) -> int:
    return sum(files[file].size for file in graph.data)


def _compile(order: Order, files: dict[str, FileRecord], report: Callable[[str, Generation], None]) -> Compiled:
    """Make one form, move its files into the bundle and add them to `files`."""
    bundle = order.bundle
    _require_room(order)
    work = Path(tempfile.mkdtemp(prefix=_work(bundle), dir=bundle.parent))
    try:
        for index, (name, stored) in enumerate(order.graphs.items()):
            report(name, order.generation)
            _write(order, bundle / stored.file, work / order.file(name), last=index == len(order.graphs) - 1)
        form = _read(order, work)
        for path in sorted(work.iterdir()):
            files[path.name] = file_record(path)
            sync_file(path)
            path.replace(bundle / path.name)
        return form
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write(order: Order, path: Path, target: Path, *, last: bool) -> None:
    """Compile the graph at `path` to `target`. Raises ProviderUnavailable for what does not go to the device wholly."""
    compiler = order.provider.compiler(order.generation).configured(*order.entries(target, last=last))
    try:
        graph = Graph(path, compiler, compiler.default_threads())
        graph.close()
        if graph.left_to_cpu:
            raise ProviderUnavailable(
                f"{path}: the compiler for {order.generation.name} leaves {', '.join(graph.left_to_cpu)} to the CPU; "
                "please report it"
            )
    except BaseException:
        if order.share_weights and path.name != ENDING:
            _end_group(order, target.parent)
        raise


def _end_group(order: Order, work: Path) -> None:
    """Let the compiler forget graphs that wait for others to share their weights: it would abort when the process ends.

    A group ends with a graph that says so; here one of a single addition.
    """
    x = ir.val("x", ir.DataType.FLOAT, (1, 8))
    node = ir.node("Add", [x, x])
    total = node.outputs[0]
    total.name, total.type, total.shape = "total", ir.TensorType(ir.DataType.FLOAT), ir.Shape((1, 8))
    graph = ir.Graph([x], [total], nodes=[node], opset_imports={"": 21}, name="ending")
    ir.save(ir.Model(graph, ir_version=10), work / ENDING)
    _write(order, work / ENDING, work / f"compiled-{ENDING}", last=True)


def _read(order: Order, work: Path) -> Compiled:
    """What was compiled. Raises ExportError for a graph that did not become one piece."""
    stored, said = dict[str, StoredGraph](), set[tuple[str, str]]()
    for name in order.graphs:
        model = ir.load(work / order.file(name))
        kinds = Counter(node.op_type for node in model.graph)
        if kinds != {CONTEXT: 1}:
            raise ExportError(
                f"{order.bundle}: the compiler for {order.generation.name} made {dict(kinds)} of the graph {name!r}, "
                f"one {CONTEXT} alone is expected: it does not keep the graph whole; please report it"
            )
        (node,) = model.graph
        compatibility = model.metadata_props[f"{COMPATIBILITY}{order.provider.ort_name}"]
        said.add((node.attributes["ep_sdk_version"].as_string().removeprefix("v"), compatibility))
        stored[name] = StoredGraph(order.file(name), (node.attributes["ep_cache_context"].as_string(),))
    ((compiler, compatibility),) = said  # one compiler, one target
    return Compiled(
        order.provider.name, order.generation.name, compiler, compatibility, order.share_weights, stored
    )


def _require_room(order: Order) -> None:
    """Raises ExportError where the disk has no room for the weights once more, or once for each graph."""
    weights = max(sum((order.bundle / file).stat().st_size for file in graph.data) for graph in order.graphs.values())
    needed = weights * (1 if order.share_weights else len(order.graphs)) + HEADROOM
    free = shutil.disk_usage(order.bundle).free
    if free < needed:
        raise ExportError(
            f"{order.bundle} has {free / 1e6:,.0f} MB free, what is compiled for {order.generation.name} needs "
            f"{needed / 1e6:,.0f} MB: free some space"
        )


def _publish(bundle: Path, manifest: Manifest, files: Mapping[str, FileRecord]) -> Manifest:
    """Write the manifest with those of `files` that it names, then remove the others that compiling wrote."""
    made = set[str]().union(*(_files(form.graphs) for form in manifest.compiled))
    gone = {name for name in files if _OURS.fullmatch(name)} - made
    kept = {name: record for name, record in sorted(files.items()) if name not in gone}
    changed = replace(manifest, files=kept)
    sync_folder(bundle)
    write_file(bundle / MANIFEST_NAME, serialize(changed))
    for path in bundle.iterdir():
        if _OURS.fullmatch(path.name) and path.name not in made:
            path.unlink()
    for path in bundle.parent.glob(f"{glob.escape(_work(bundle))}*"):  # of a run that was killed
        shutil.rmtree(path, ignore_errors=True)
    return changed


def _work(bundle: Path) -> str:
    return f".{bundle.name}.compiled-"
