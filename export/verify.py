"""Is a bundle the one that was exported, does it compute, and does every stage of it agree with its checkpoint?

Boundary: reads bundles and checkpoints, writes nothing. A stage is compared by itself: the reference gets the input
that the graph's own stage got, so an error does not travel and the first stage named is the one that differs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ..runtime.errors import BundleError, CheckpointError, NonFiniteLogits, RequestError
from ..runtime.graphs import Graph
from ..runtime.manifest import (
    CACHE_SCALES,
    MANIFEST_NAME,
    MODE_SPEECH,
    MODE_VISION_SPEECH,
    TUNED,
    Manifest,
    TensorRecord,
    read_manifest,
    verify_files,
)
from ..runtime.providers import find as find_provider
from ..runtime.providers.provider import Provider
from . import families
from . import signatures as names
from .assemble import read_weight
from .checkpoint import open_checkpoint
from .config import read_config
from .fetch import resolve
from .lowering.static_shapes import LENGTHS
from .reference import Decoder
from .weights import bind

TEXT, EMBEDDING = "text", "embedding"
TOKENS = 24
EMBEDDED = "model.embed_tokens.gather"
SCREENING, BEST = "screening", 8  # logits of a row that a screened head must have made exact: half of the fewest

# Relative error that rounding alone may cause in one stage. float32: another order of summation; float16 storage:
# 2^-11 a weight; blocks: activations are rounded to int8 in each block of a row, about 0.6 % a product.
NOISE = {"float32": 2e-4, "float16": 2e-3, "int8": 2.5e-2, "int4": 2.5e-2}
# The error of a product over that of its weights: 1 for uncorrelated rows, more where they cancel out.
AMPLIFICATION = 3.0
# What a format can lose at all; a reported error beyond it means that the export itself went wrong.
WORST_WEIGHT = {"float32": 0.0, "float16": 1e-3, "int8": 3e-2, "int4": 0.35}

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Stage:
    """Relative error of one stage against the reference, and what the precision explains."""

    name: str
    error: float
    allowed: float


@dataclass(frozen=True)
class Verification:
    """Files and bytes that match their hashes, graphs that ran, files that the manifest does not list, and stages."""

    files: int
    nbytes: int
    graphs: tuple[str, ...]
    unlisted: tuple[str, ...]
    layers: tuple[Stage, ...]


def verify(
    bundle: Path, *, checkpoint: str | None = None, threads: int | None = None, progress: Progress | None = None
) -> Verification:
    """Check a bundle folder: its hashes, that its graphs load and run and, with `checkpoint`, every stage of the text.

    Everything runs on the CPU, whatever device the bundle is for: what is checked is the bundle.

    Raises the error of the first thing that is wrong:

    HashMismatch or ManifestError for changed files, BundleError for a graph that does not load or a stage that differs
    from the checkpoint beyond its precision, NonFiniteLogits for one that computes NaN.
    """
    manifest = read_manifest(bundle)
    total = sum(record.size for record in manifest.files.values())
    done = 0

    def advance(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if progress is not None:
            progress("hashes", done, total)

    verify_files(bundle, manifest, advance)
    provider = replace(find_provider("cpu"), activation_dtype=find_provider(manifest.device).activation_dtype)
    count = threads or provider.default_threads()
    embedded = _embed(bundle, manifest, _ids(manifest), provider, count)
    for number, (name, graph) in enumerate(manifest.graphs.items()):
        if progress is not None:
            progress(f"graph {name}", number, len(manifest.graphs))
        _try(Graph(bundle / graph.file, provider, count), name, manifest, embedded)
    layers = () if checkpoint is None else tuple(_compare(bundle, manifest, checkpoint, provider, count, progress))
    unlisted = sorted({path.name for path in bundle.iterdir()} - manifest.files.keys() - {MANIFEST_NAME})
    return Verification(len(manifest.files), total, tuple(manifest.graphs), tuple(unlisted), layers)


def _try(graph: Graph, name: str, manifest: Manifest, embedded: np.ndarray | None) -> None:
    """Run a graph once, and once with each adapter that was added to it and its other projector.

    Raises NonFiniteLogits.
    """
    try:
        if LENGTHS in graph.inputs:
            feeds, outputs = _window(graph, manifest, embedded), [names.LOGITS]
        elif names.ATTENTION_MASK in graph.inputs:
            feeds, outputs = _feeds(graph, _ids(manifest), manifest, embedded), [names.LOGITS]
        elif names.PATCH_MASK in graph.inputs:
            feeds, outputs = _filled(graph), [names.IMAGE_FEATURES]
        elif names.STEP_MASK in graph.inputs:
            feeds, outputs = _filled(graph), [names.AUDIO_FEATURES, names.AUDIO_FEATURES_WITH_IMAGES]
        elif names.SPATIAL_SHAPES in graph.inputs:
            feeds, outputs = _strip(graph), [names.IMAGE_FEATURES]
        elif names.PIXEL_VALUES in graph.inputs:
            feeds, outputs = _corner(graph), [names.IMAGE_FEATURES]
        elif names.AUDIO_EMBEDS in graph.inputs:
            feeds, outputs = _moment(graph), [names.AUDIO_FEATURES]
        else:
            return  # the embedding, which has run
        changes = [{gate: np.array(True)} for gate in graph.optional if gate.startswith(TUNED)]
        if names.AUDIO_PROJECTION_MODE in graph.inputs:
            changes.append({names.AUDIO_PROJECTION_MODE: np.array([MODE_VISION_SPEECH])})
        for on in ({}, *changes):
            values = np.concatenate([each.ravel() for each in graph.run(feeds | on, outputs).values()])
            if not np.isfinite(values).all():
                found, added = values[~np.isfinite(values)][0], "".join(f" with {gate}" for gate in on)
                raise NonFiniteLogits(
                    f"{graph.path}: graph {name}{added} computes {found} for a small input: export the checkpoint again"
                )
    finally:
        graph.close()


def _ids(manifest: Manifest) -> np.ndarray:
    """A fixed sequence that touches rows of the whole embedding: int64 (n,)."""
    limit = min(TOKENS, manifest.text.rotary[0].limit)
    ids = np.random.default_rng(0).integers(0, manifest.text.vocab_size, limit, dtype=np.int64)
    placeholders = [token for token in (manifest.tokens.image, manifest.tokens.audio) if token is not None]
    return np.where(np.isin(ids, placeholders), 0, ids)


def _embed(
    bundle: Path, manifest: Manifest, ids: np.ndarray, provider: Provider, threads: int
) -> np.ndarray | None:
    """What the graph `embedding` makes of `ids`, float32 (n, hidden); None where the decoder reads ids itself."""
    if EMBEDDING not in manifest.graphs:
        return None
    graph = Graph(bundle / manifest.graphs[EMBEDDING].file, provider, threads)
    try:
        none = np.zeros((0, manifest.text.hidden_size), np.float32)
        feeds = {name: none for name in graph.inputs} | {names.INPUT_IDS: ids[None]}
        embedded: np.ndarray = graph.run(feeds, [names.INPUTS_EMBEDS])[names.INPUTS_EMBEDS][0]
        return embedded
    finally:
        graph.close()


def _feeds(
    graph: Graph, ids: np.ndarray, manifest: Manifest, embedded: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Inputs of a first step over `ids`, without a past."""
    text = manifest.text
    past = {
        name: np.zeros((1, text.kv_heads, 0, text.head_dim), tensor.dtype)
        for name, tensor in graph.inputs.items() if name.startswith("past_key_values.")
    }
    tokens = {names.INPUT_IDS: ids[None]}
    if embedded is not None and names.INPUTS_EMBEDS in graph.inputs:
        tokens = {names.INPUTS_EMBEDS: embedded[None].astype(graph.inputs[names.INPUTS_EMBEDS].dtype)}
    scales = {
        name: np.full([int(size) for size in tensor.shape], 0.1, tensor.dtype)
        for name, tensor in graph.inputs.items() if name == CACHE_SCALES
    }
    return {**tokens, names.ATTENTION_MASK: np.ones((1, len(ids)), np.int64), **past, **scales}


def _window(graph: Graph, manifest: Manifest, embedded: np.ndarray | None) -> dict[str, np.ndarray]:
    """Inputs of a first step of a graph of fixed shapes."""
    if embedded is None:
        raise BundleError(f"{graph.path}: no graph {EMBEDDING!r} goes with it: export the checkpoint again")
    feeds = {
        name: np.zeros([int(size) for size in tensor.shape], tensor.dtype) for name, tensor in graph.inputs.items()
    }
    vectors = feeds[names.INPUTS_EMBEDS]
    window: int = vectors.shape[1]
    count = min(window, len(embedded))
    vectors[0, :count] = embedded[:count]
    feeds[LENGTHS][:], feeds["logits_rows"][:] = window - 1, count - 1
    return feeds


def _corner(graph: Graph) -> dict[str, np.ndarray]:
    """One image of one crop, of which the first patches alone are valid: every weight is used, little is computed."""
    side, patches = (int(graph.inputs[name].shape[-1]) for name in (names.PIXEL_VALUES, names.IMAGE_ATTENTION_MASK))
    mask = np.zeros((1, 2, patches, patches), np.float32)
    mask[:, :, :2, :2] = 1
    pixels = np.random.default_rng(0).uniform(-1, 1, (1, 2, 3, side, side)).astype(np.float32)
    return {
        names.PIXEL_VALUES: pixels, names.IMAGE_ATTENTION_MASK: mask, names.IMAGE_SIZES: np.array([[side, side]]),
    }


def _filled(graph: Graph) -> dict[str, np.ndarray]:
    """A medium that fills an encoder of fixed shapes: every weight is used, nothing is padding."""
    random, feeds = np.random.default_rng(0), dict[str, np.ndarray]()
    for name, tensor in graph.inputs.items():
        shape = [int(size) for size in tensor.shape]
        whole = name.endswith("_mask") or tensor.dtype.kind != "f"
        feeds[name] = np.ones(shape, tensor.dtype) if whole else random.uniform(-1, 1, shape).astype(tensor.dtype)
    return feeds


def _strip(graph: Graph) -> dict[str, np.ndarray]:
    """One image of two rows and three columns of patches."""
    values = int(graph.inputs[names.PIXEL_VALUES].shape[-1])
    pixels = np.random.default_rng(0).uniform(-1, 1, (1, 6, values)).astype(np.float32)
    return {names.PIXEL_VALUES: pixels, names.SPATIAL_SHAPES: np.array([[2, 3]])}


def _moment(graph: Graph) -> dict[str, np.ndarray]:
    """One short recording."""
    bins = int(graph.inputs[names.AUDIO_EMBEDS].shape[-1])
    frames = np.random.default_rng(0).uniform(-1, 1, (1, TOKENS, bins)).astype(np.float32)
    return {
        names.AUDIO_EMBEDS: frames, names.AUDIO_ATTENTION_MASK: np.ones((1, TOKENS), bool),
        names.AUDIO_SIZES: np.array([1]), names.AUDIO_PROJECTION_MODE: np.array([MODE_SPEECH]),
    }


def _compare(
    bundle: Path, manifest: Manifest, source: str, provider: Provider, threads: int, progress: Progress | None
) -> Iterator[Stage]:
    """Every stage of the text decoder in order. Raises BundleError at the first that differs."""
    if find_provider(manifest.device).window is not None:
        raise RequestError(
            f"{bundle} has graphs of fixed shapes, whose layers are not compared with a checkpoint: verify it without "
            "--checkpoint, or an export of the same checkpoint for the CPU with it"
        )
    allowed = _allowances(bundle, manifest)
    with open_checkpoint(resolve(source)) as checkpoint:
        raw = read_config(checkpoint.config_path)
        family = families.for_architecture(raw.architecture())
        config = family.read(raw)
        checkpoint.include(family.adapter_folders(config))
        if (family.NAME, family.text_model(config, manifest.text.rotary)) != (manifest.family, manifest.text):
            raise CheckpointError(
                f"{source} has another shape than {bundle}: give the checkpoint that the bundle was exported from"
            )
        shapes = families.weight_shapes(family.build(config, provider))
        binding = bind(
            family.rules(config), {name: info.shape for name, info in checkpoint.tensors.items()},
            {name: shape for name, shape in shapes.items() if name not in families.ROTARY},
        )

        def read(weight: str, start: int, stop: int) -> np.ndarray:
            return read_weight(checkpoint, binding.weights[weight], shapes[weight], start, stop)

        decoder = Decoder(family.decoder(config), family.rotary(config)[0], read)
        ids = _ids(manifest)
        values = _probe(bundle, manifest, ids, provider, threads)
        total = len(allowed)
        for number, (name, computed, reference) in enumerate(_stages(decoder, ids, values, SCREENING in allowed)):
            stage = Stage(name, _relative(computed, reference), allowed[name])
            if not stage.error <= stage.allowed:
                raise BundleError(
                    f"{bundle}: {name} differs from the checkpoint by {stage.error:.2%}, its precision explains "
                    f"{stage.allowed:.2%}: export the checkpoint again; if it stays, please report it"
                )
            if progress is not None:
                progress(name, number + 1, total)
            yield stage


def _probe(
    bundle: Path, manifest: Manifest, ids: np.ndarray, provider: Provider, threads: int
) -> Mapping[str, np.ndarray]:
    """What flows between the stages of the text graph for `ids`: float32 (n, width) by name of the value."""
    path = bundle / manifest.graphs[TEXT].file
    model = ir.load(path)
    embedded = _embed(bundle, manifest, ids, provider, threads)
    wanted = {*_probed(manifest.text.layers), *([EMBEDDED] if embedded is None else [])}
    for node in model.graph:
        for value in node.outputs:
            if value.name in wanted and value not in model.graph.outputs:
                value.type = ir.TensorType(ir.DataType[provider.activation_dtype.replace("float32", "float").upper()])
                model.graph.outputs.append(value)
    graph = Graph(path, provider, threads, model=ir.to_proto(model).SerializeToString())
    try:
        feeds = _feeds(graph, ids, manifest, embedded) | {"logits_rows": np.arange(len(ids), dtype=np.int64)}
        values = graph.run(feeds, [*sorted(wanted), names.LOGITS])
    finally:
        graph.close()
    found = {name: value[0].astype(np.float32) for name, value in values.items()}
    return found if embedded is None else found | {EMBEDDED: embedded}


def _probed(layers: int) -> list[str]:
    """Names of the residual stream before each half of each layer and of what that half adds to it."""
    names: list[str] = []
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        names += [f"{prefix}.self_attn.o_proj.matmul", f"{prefix}.post_attention_layernorm.3"]
        names += [f"{prefix}.mlp.down_proj.matmul", _after(layer, layers)]
    return names


def _after(layer: int, layers: int) -> str:
    """Name of the residual stream behind a layer."""
    return f"model.layers.{layer + 1}.input_layernorm.3" if layer + 1 < layers else "model.norm.3"


def _stages(
    decoder: Decoder, ids: np.ndarray, values: Mapping[str, np.ndarray], screened: bool
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, what the graph computed, and what the reference makes of the same input; in order.

    Of a screened head the largest logits are exact, the others those of its coarse form.
    """
    layers = decoder.shape.layers
    yield "embedding", values[EMBEDDED], decoder.embed(ids)
    stream = values[EMBEDDED]
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        yield f"layer {layer} attention", values[f"{prefix}.self_attn.o_proj.matmul"], decoder.attend(stream, layer)
        stream = values[f"{prefix}.post_attention_layernorm.3"]
        added = decoder.feed_forward(stream, layer)
        yield f"layer {layer} feed-forward", values[f"{prefix}.mlp.down_proj.matmul"], added
        stream = values[_after(layer, layers)]
    logits, expected = values["logits"], decoder.logits(stream)
    if not screened:
        yield "head", logits, expected
        return
    best = np.argpartition(expected, -BEST, axis=-1)[:, -BEST:]
    yield "head", np.take_along_axis(logits, best, axis=-1), np.take_along_axis(expected, best, axis=-1)
    yield SCREENING, logits, expected


def _allowances(bundle: Path, manifest: Manifest) -> dict[str, float]:
    """Stage → the relative error that the formats of its weights explain."""
    records = {record.name: record for record in manifest.report}
    head = "lm_head.weight" if "lm_head.weight" in records else "model.embed_tokens.weight"
    weights: dict[str, tuple[str, ...]] = {"embedding": ("model.embed_tokens.weight",), "head": (head,)}
    for layer in range(manifest.text.layers):
        attention, mlp = f"model.layers.{layer}.self_attn", f"model.layers.{layer}.mlp"
        weights[f"layer {layer} attention"] = (f"{attention}.qkv_proj.weight", f"{attention}.o_proj.weight")
        weights[f"layer {layer} feed-forward"] = (f"{mlp}.gate_up_proj.weight", f"{mlp}.down_proj.weight")
    allowed = {
        stage: max(NOISE[_kind(records[name])] for name in names)
        + AMPLIFICATION * math.hypot(*(_plausible(bundle, records[name]) for name in names))
        for stage, names in weights.items()
    }
    screened = "+" in records[head].format
    return allowed | ({SCREENING: NOISE["int4"] + WORST_WEIGHT["int4"]} if screened else {})


def _plausible(bundle: Path, record: TensorRecord) -> float:
    """The reported error of a weight, which must be one that its format can cause."""
    worst = WORST_WEIGHT[_kind(record)]
    if not record.relative_error <= worst:
        raise BundleError(
            f"{bundle}: {record.name} lost {record.relative_error:.2%} when it was stored as {record.format}, which "
            f"explains {worst:.2%} at most: export the checkpoint again with another precision"
        )
    return record.relative_error


def _kind(record: TensorRecord) -> str:
    """float32, float16, int8 or int4."""
    return record.format if record.format.startswith("float") else f"int{record.format.partition('-')[0][-1]}"


def _relative(computed: np.ndarray, reference: np.ndarray) -> float:
    """Frobenius norm of the difference over that of the reference; infinite where a value is not finite."""
    norm = float(np.linalg.norm(reference))
    error = float(np.linalg.norm(computed - reference))
    return error / norm if norm and math.isfinite(error) else (0.0 if error == 0 else math.inf)
