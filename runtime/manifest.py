"""The contract of a bundle folder: dataclasses ↔ edgephi.json, and the check that every file is the exported one.

Boundary: standard library only. Knows names, sizes and hashes of files, never what is inside them. Nothing in a
manifest can name a path outside its folder, run code or set a session option; unknown keys are refused so that a
manifest never means more than it says.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from .errors import EdgePhiError, HashMismatch, ManifestError
from .manifest_types import EXPORT_AGAIN, build_dataclass, printable

MANIFEST_NAME = "edgephi.json"
SCHEMA_VERSION = 1
MAXIMUM_BYTES = 8 << 20
MAXIMUM_DEPTH = 64
PICTURE_KINDS = ("crops", "patches")
INT8_CACHE, CACHE_SCALES = "-int8-cache", "cache_scales"  # ends the name of a decoder; its input
# What the whole prompt holds, which picks the projector of the speech graph: values of its audio_projection_mode.
MODE_SPEECH, MODE_VISION_SPEECH = 2, 3
TUNED = "tuned."  # begins the names of what belongs to an adapter that was added to a bundle
LARGEST_PICTURE = 1 << 14  # of either kind: attention over more patches is beyond any memory

FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and SHA-256 of one file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Region:
    """A float32 array stored inside a file of the bundle: `offset` in bytes, `shape` in elements."""

    file: str
    offset: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class RotaryTable:
    """Cosines and sines (positions, rotary_dim / 2) that hold for sequences of at most `limit` tokens."""

    limit: int
    cos: Region
    sin: Region


@dataclass(frozen=True)
class TextModel:
    """Shape of the text decoder.

    `rotary` is ordered by limit; the first table whose limit covers a whole sequence is the right one.
    """

    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    sliding_window: int | None
    rotary: tuple[RotaryTable, ...]


@dataclass(frozen=True)
class Graph:
    """One ONNX graph and the data files that it reads."""

    file: str
    data: tuple[str, ...]


@dataclass(frozen=True)
class Tokens:
    """Ids with a fixed meaning; any of `eos` ends an answer, rows of media stand in for `image` and `audio`."""

    bos: int | None
    eos: tuple[int, ...]
    pad: int | None
    image: int | None = None
    audio: int | None = None

    @property
    def placeholders(self) -> dict[str, int]:
        """Kind of media, "image" or "audio" → the id in whose place its rows stand, for those that a bundle takes."""
        given = (("image", self.image), ("audio", self.audio))
        return {kind: number for kind, number in given if number is not None}


@dataclass(frozen=True)
class RecommendedSampling:
    """What the publisher recommends (generation_config.json); None where nothing is said."""

    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None


@dataclass(frozen=True)
class Pictures:
    """How a picture is cut, `minimum` to `maximum` pieces: a view of the whole and "crops" of `side` pixels in patches
    of `patch`; or "patches" of 16 pixels in its own aspect ratio. The text behind it begins with `after`.
    """

    kind: str
    minimum: int
    maximum: int
    after: str = ""
    side: int = 448
    patch: int = 14


@dataclass(frozen=True)
class Thinking:
    """The tags that a model writes around a thought, and the token `skip` that begins an answer without one."""

    open: str
    close: str
    skip: str | None


@dataclass(frozen=True)
class Source:
    """Where the bundle comes from: `name` as given to export, the architecture, and SHA-256 of its config.json."""

    name: str
    architecture: str
    config_sha256: str


@dataclass(frozen=True)
class TensorRecord:
    """One line of the export report: bytes in the checkpoint and in the bundle, relative error of what was stored."""

    name: str
    format: str
    bytes_before: int
    bytes_after: int
    relative_error: float


@dataclass(frozen=True)
class Adapter:
    """A fine-tuned adapter that was added to a bundle: rank by weight, A and B of each in `file` in name order.

    `source`: the folder that it was read from, and the model for which it says it was trained, "" where it does not.
    """

    file: str
    ranks: dict[str, int]
    source: str
    base: str


@dataclass(frozen=True)
class Compiled:
    """Graphs that the compiler of `device` made ahead of time for one `generation` of it, beside the ONNX form.

    `compiler`: its version. `compatibility`: what its provider says about which devices take them.
    `shared_weights`: whether the graphs have one set of weights in one file, else each its own.
    """

    device: str
    generation: str
    compiler: str
    compatibility: str
    shared_weights: bool
    graphs: dict[str, Graph]


@dataclass(frozen=True)
class Manifest:
    """Everything that is known about a bundle without opening another file of it."""

    family: str
    capabilities: tuple[str, ...]
    precision: dict[str, str]
    preset: str
    device: str
    graphs: dict[str, Graph]
    text: TextModel
    tokens: Tokens
    sampling: RecommendedSampling
    licence: str
    source: Source
    generator: str
    files: dict[str, FileRecord]
    report: tuple[TensorRecord, ...] = ()
    unread_config_keys: tuple[str, ...] = ()
    pictures: Pictures | None = None
    thinking: Thinking | None = None
    adapters: dict[str, Adapter] = field(default_factory=dict)
    compiled: tuple[Compiled, ...] = ()
    schema: int = field(default=SCHEMA_VERSION)


def serialize(manifest: Manifest) -> bytes:
    """The contents of `edgephi.json`; the same manifest always gives the same bytes."""
    return (json.dumps(dataclasses.asdict(manifest), indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def write_manifest(folder: Path, manifest: Manifest) -> Path:
    """Write `edgephi.json` into `folder`."""
    path = folder / MANIFEST_NAME
    path.write_bytes(serialize(manifest))
    return path


def read_manifest(folder: Path) -> Manifest:
    """Read and check `edgephi.json`. Raises ManifestError; reads no other file."""
    path = folder / MANIFEST_NAME
    if not path.is_file():
        hint = (
            "it holds config.json, so it looks like a checkpoint: run `edgephi export` on it first"
            if (folder / "config.json").is_file() else "give the folder that `edgephi export` wrote"
        )
        raise ManifestError(f"{folder} is no bundle: there is no {MANIFEST_NAME} in it; {hint}")
    raw = _load_json(path)
    version = raw.get("schema")
    if version != SCHEMA_VERSION:
        raise ManifestError(
            f"{path}: schema is {version!r}, this edgephi reads {SCHEMA_VERSION}; "
            "export the checkpoint again or install the edgephi that wrote it"
        )
    manifest = build_dataclass(Manifest, raw, str(path))
    _check_names(manifest, path)
    _check_pictures(manifest, path)
    return manifest


def verify_files(
    folder: Path, manifest: Manifest, progress: Callable[[int], None] | None = None, *, below: int | None = None
) -> None:
    """Hash every file of the bundle, or those of less than `below` bytes. Raises HashMismatch naming the file.

    `progress` receives the number of bytes read since its last call.
    """
    check_sizes(folder, manifest)
    for name, record in manifest.files.items():
        if below is not None and record.size >= below:
            continue
        digest = hashlib.sha256()
        with (folder / name).open("rb") as file:
            while chunk := file.read(_READ_BYTES):
                digest.update(chunk)
                if progress is not None:
                    progress(len(chunk))
        if digest.hexdigest() != record.sha256:
            raise HashMismatch(
                f"{folder / name}: SHA-256 is {digest.hexdigest()[:16]}…, the manifest says {record.sha256[:16]}…; "
                f"the file was changed or damaged: {EXPORT_AGAIN}"
            )


def check_sizes(folder: Path, manifest: Manifest) -> None:
    """The cheap half of `verify_files`: every file is there, is a plain file and has the recorded size."""
    for name, record in manifest.files.items():
        path = folder / name
        try:
            status = path.lstat()
        except OSError as error:
            raise HashMismatch(f"{path} is missing ({error.strerror}): {EXPORT_AGAIN}") from error
        if not stat.S_ISREG(status.st_mode):
            raise HashMismatch(
                f"{path} is not a plain file; a bundle holds plain files only: {EXPORT_AGAIN}"
            )
        if status.st_size != record.size:
            raise HashMismatch(
                f"{path} has {status.st_size} bytes, the manifest says {record.size}; "
                f"the file was cut or replaced: {EXPORT_AGAIN}"
            )


def parse_object(data: bytes, where: str, error: type[EdgePhiError], advice: str) -> dict[str, Any]:
    """Parse one JSON object strictly: UTF-8, no duplicate keys, no NaN or infinity, limited depth.

    Raises `error` saying what is wrong at `where`, followed by `advice`.
    """

    def refuse(found: str) -> NoReturn:
        raise error(f"{where}: {found}: {advice}")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in pairs:
            if key in result:
                refuse(f"the key {printable(key)} is given twice")
            result[key] = value
        return result

    def finite(literal: str) -> float:
        number = float(literal)
        if not math.isfinite(number):
            refuse(f"the number {literal[:40]} does not fit a float64")
        return number

    try:
        raw = json.loads(
            data.decode("utf-8"), object_pairs_hook=unique, parse_float=finite,
            parse_constant=lambda literal: refuse(f"{literal} is no number that JSON allows"),
        )
    except (ValueError, RecursionError) as problem:
        raise error(f"{where} is not valid JSON ({problem}): {advice}") from problem
    if not isinstance(raw, dict):
        refuse(f"a JSON object is needed, found {type(raw).__name__}")
    if _deeper_than(raw, MAXIMUM_DEPTH):
        refuse(f"the JSON is nested deeper than {MAXIMUM_DEPTH} levels")
    return raw


def _deeper_than(value: object, depth: int) -> bool:
    level: list[object] = [value]
    for _ in range(depth):
        level = [
            item for container in level if isinstance(container, dict | list)
            for item in (container.values() if isinstance(container, dict) else container)
        ]
    return bool(level)


def _load_json(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    if size > MAXIMUM_BYTES:
        raise ManifestError(
            f"{path} has {size} bytes, at most {MAXIMUM_BYTES} are allowed: it is no manifest of edgephi"
        )
    return parse_object(path.read_bytes(), str(path), ManifestError, EXPORT_AGAIN)


def _check_names(manifest: Manifest, path: Path) -> None:
    for name, record in manifest.files.items():
        if not FILE_NAME.fullmatch(name) or ".." in name:
            raise ManifestError(
                f"{path}: file name {printable(name)} is not allowed; a bundle names files of its own folder only "
                f"(letters, digits, '_', '-', '.'): {EXPORT_AGAIN}"
            )
        if record.size < 0 or not _SHA256.fullmatch(record.sha256):
            raise ManifestError(f"{path}: size or SHA-256 of {name!r} is malformed: {EXPORT_AGAIN}")
    for name in manifest.adapters:
        if not FILE_NAME.fullmatch(name):
            raise ManifestError(f"{path}: an adapter cannot be called {printable(name)}: {EXPORT_AGAIN}")
    regions = [region for table in manifest.text.rotary for region in (table.cos, table.sin)]
    graphs = [*manifest.graphs.values(), *(graph for form in manifest.compiled for graph in form.graphs.values())]
    named = {graph.file for graph in graphs} | {region.file for region in regions}
    named |= {adapter.file for adapter in manifest.adapters.values()}
    named |= {file for graph in graphs for file in graph.data}
    missing = sorted(printable(name) for name in named - manifest.files.keys())
    if missing:
        raise ManifestError(f"{path}: {', '.join(missing)} used but not listed under 'files': {EXPORT_AGAIN}")
    for region in regions:
        end = region.offset + 4 * math.prod(region.shape)
        if region.offset < 0 or min(region.shape, default=0) < 0 or end > manifest.files[region.file].size:
            raise ManifestError(
                f"{path}: a rotary table ends at byte {end} of {region.file!r}, "
                f"which has {manifest.files[region.file].size}: {EXPORT_AGAIN}"
            )


def _check_pictures(manifest: Manifest, path: Path) -> None:
    pictures, tokens, graphs = manifest.pictures, manifest.tokens, manifest.graphs
    parts = (("vision", pictures, tokens.image), ("speech", tokens.audio, tokens.audio))
    for name, *needed in parts:
        if any((part is None) != (name not in graphs) for part in needed):
            raise ManifestError(f"{path}: the graph {name!r} or what belongs to it is missing: {EXPORT_AGAIN}")
    cut = pictures or Pictures("crops", 1, 1)
    whole = 1 <= cut.patch < cut.side <= 2048 and cut.side % (2 * cut.patch) == 0
    if not (whole and cut.kind in PICTURE_KINDS and 1 <= cut.minimum <= cut.maximum <= LARGEST_PICTURE):
        raise ManifestError(
            f"{path}: a picture is {cut.minimum} to {cut.maximum} {printable(cut.kind)} of {cut.side} pixels by "
            f"{cut.patch}; 1 to {LARGEST_PICTURE} {' or '.join(PICTURE_KINDS)} of even numbers can be: {EXPORT_AGAIN}"
        )
