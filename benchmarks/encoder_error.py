"""What quantizing the encoders costs: the features of real pictures and recordings, INT8 against float32.

Boundary: exports a checkpoint with its encoders in each precision and runs these alone. A checkpoint whose decoder has
one layer takes little time and disk and has the encoders of the whole one: see checkpoints.py.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from edgephi.runtime import providers
from edgephi.runtime.audio import prepare_audio
from edgephi.runtime.encoders import ImageEncoder, LazyGraph, SpeechEncoder
from edgephi.runtime.errors import RequestError
from edgephi.runtime.graphs import Interrupt
from edgephi.runtime.image import Crop, prepare_image
from edgephi.runtime.manifest import MODE_SPEECH, MODE_VISION_SPEECH, read_manifest

from . import machine

RESULTS_NAME = "encoder_error.json"
TABLE_NAME = "encoder_error.md"
PICTURES, RECORDINGS = (".jpg", ".jpeg", ".png", ".webp"), (".wav", ".flac", ".mp3", ".ogg")
REFERENCE, PRECISIONS = "fp32", ("fp16", "int8", "int4")

Progress = Callable[[str, int, int], None]
Features = dict[tuple[str, str], np.ndarray]  # by encoder and medium


@dataclass(frozen=True)
class EncoderError:
    """One medium through one encoder.

    `relative` is the norm of the difference over the norm of the float features, `worst_row` the largest such ratio of
    a single token.
    """

    encoder: str
    medium: str
    precision: str
    tokens: int
    relative: float
    worst_row: float


@dataclass(frozen=True)
class Measured:
    """Errors of every encoder on every medium, and the bytes of the encoders' weights in each precision."""

    checkpoint: str
    errors: tuple[EncoderError, ...]
    nbytes: Mapping[str, int]
    date: str
    machine: Mapping[str, str | int]
    versions: Mapping[str, str]


def measure(
    checkpoint: Path, media: Sequence[Path], precisions: Sequence[str], threads: int | None, progress: Progress
) -> Measured:
    """Encode `media` with encoders of each of `precisions` and of float32.

    Raises RequestError for a file that is no medium, and what an export raises.
    """
    _check(media)
    steps = [REFERENCE, *precisions]
    features: dict[str, Features] = {}
    nbytes = {}
    with tempfile.TemporaryDirectory(dir=checkpoint.parent) as folder:  # there is the room for files of that size
        for number, precision in enumerate(steps):
            progress(precision, number, len(steps))
            bundle = Path(folder, precision)
            _export(checkpoint, bundle, precision, threads)
            nbytes[precision] = sum((bundle / f"{graph}.onnx.data").stat().st_size for graph in ("vision", "speech"))
            features[precision] = _encode(bundle, media, threads)
            shutil.rmtree(bundle)
    exact = features.pop(REFERENCE)
    errors = [
        compare(*key, precision, exact[key], found[key]) for key in exact for precision, found in features.items()
    ]
    return Measured(
        checkpoint.resolve().name, tuple(errors), nbytes, datetime.now(UTC).date().isoformat(), machine.describe(),
        machine.versions(),
    )


def compare(encoder: str, medium: str, precision: str, exact: np.ndarray, found: np.ndarray) -> EncoderError:
    """Features (tokens, hidden) of the same medium, in float32 and in another precision."""
    apart = np.linalg.norm((found - exact).astype(np.float64), axis=1)
    size = np.linalg.norm(exact.astype(np.float64), axis=1)
    relative, worst = np.linalg.norm(apart) / np.linalg.norm(size), (apart / size).max()
    return EncoderError(encoder, medium, precision, len(exact), float(relative), float(worst))


def write(measured: Measured, results: Path) -> None:
    """Write encoder_error.json and encoder_error.md into the folder `results`."""
    results.mkdir(parents=True, exist_ok=True)
    (results / RESULTS_NAME).write_text(json.dumps(asdict(measured), indent=2) + "\n", encoding="utf-8")
    (results / TABLE_NAME).write_text(table(measured), encoding="utf-8")


def table(measured: Measured) -> str:
    """The errors as Markdown."""
    sizes = ", ".join(f"{precision} {nbytes / 1e9:.2f} GB" for precision, nbytes in measured.nbytes.items())
    lines = [
        "# What quantizing the encoders costs\n",
        f"Features of the encoders of {measured.checkpoint} against float32. Their weights: {sizes}.\n",
        "| encoder | medium | tokens | precision | relative error | worst token |", "|---|---|---:|---|---:|---:|",
    ]
    lines += [
        f"| {error.encoder} | {error.medium} | {error.tokens} | {error.precision} | {error.relative:.2%} "
        f"| {error.worst_row:.2%} |"
        for error in measured.errors
    ]
    lines.append(
        "\nRelative error: norm of the difference over the norm of the features. Random weights have neither the"
        " outliers nor the redundancy of trained ones: with them the figures tell how exact the arithmetic is, not what"
        f" a task loses. ONNX Runtime {measured.versions.get('onnxruntime')}, {measured.date}.\n"
    )
    return "\n".join(lines)


def _check(media: Sequence[Path]) -> None:
    unknown = [path.name for path in media if path.suffix.lower() not in (*PICTURES, *RECORDINGS)]
    if unknown:
        raise RequestError(
            f"{', '.join(unknown)} is neither a picture nor a recording by its name; known are"
            f" {', '.join((*PICTURES, *RECORDINGS))}"
        )


def _export(checkpoint: Path, bundle: Path, precision: str, threads: int | None) -> None:
    from edgephi.export.pipeline import export

    export(checkpoint, bundle, encoder_precision=precision, threads=threads)


def _encode(bundle: Path, media: Sequence[Path], threads: int | None) -> Features:
    """Features of every medium; one encoder at a time is in memory."""
    manifest = read_manifest(bundle)
    provider = providers.find(manifest.device)
    interrupt = Interrupt()
    graphs = {
        name: LazyGraph(bundle / manifest.graphs[name].file, provider, threads or provider.default_threads())
        for name in ("vision", "speech")
    }
    assert manifest.pictures is not None
    crops, crop = manifest.pictures.maximum, Crop(manifest.pictures.side, manifest.pictures.patch)
    found: Features = {}
    pictures = [path for path in media if path.suffix.lower() in PICTURES]
    for path in pictures:
        picture = prepare_image(path, max_crops=crops, crop=crop)
        found["vision", path.name] = ImageEncoder(graphs["vision"]).encode(picture, interrupt)
    graphs["vision"].release()
    for path in media:
        if path in pictures:
            continue
        recording, encoder = prepare_audio(path), SpeechEncoder(graphs["speech"])
        found["speech", path.name] = encoder.encode(recording, MODE_SPEECH, interrupt)
        found["speech, with pictures", path.name] = encoder.encode(recording, MODE_VISION_SPEECH, interrupt)
    graphs["speech"].release()
    return found
