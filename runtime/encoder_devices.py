"""Which device computes each encoder of a bundle: the one that was named, or that of the decoder.

Boundary: decides and says why; selection.py knows what a device can run, encoders.py opens graphs, at the first medium.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from . import providers
from .audio import MEL_BINS, AudioInputs
from .encoders import ImageEncoder, LazyGraph, Picture, SpeechEncoder
from .errors import ProviderUnavailable, RequestError
from .graphs import Interrupt
from .image import Crop, prepare_image
from .image_naflex import prepare_naflex_image
from .manifest import MODE_SPEECH, Manifest, Pictures
from .providers.provider import Provider
from .selection import Choice, choose

MEDIA = {"vision": "pictures", "speech": "recordings"}
_AS_DECODER = "the decoder's device"
_TRIAL_SIDE, _TRIAL_FRAMES = 256, 100  # a picture and a recording that devices are compared by


def choose_encoders(
    folder: Path, manifest: Manifest, decoder: Choice, asked: Mapping[str, str | None]
) -> dict[str, Choice]:
    """A device for each encoder of the bundle. `asked`: "vision" or "speech" → what `edgephi.load` takes as a device.

    Where nothing is asked for, it is the decoder's, and the CPU where that one turns out not to take the encoder, which
    is known when the first medium comes. Raises RequestError for an encoder that the bundle has not, and
    ProviderUnavailable where a device that is named cannot serve.
    """
    chosen: dict[str, Choice] = {}
    for part, media in MEDIA.items():
        device = asked.get(part)
        if part in manifest.graphs:
            chosen[part] = _follow(decoder) if device is None else _choose(folder, manifest, part, device)
        elif device is not None:
            raise RequestError(
                f"{part} is to be computed by {device!r}, but the bundle takes no {media}: leave out --{part}-device"
            )
    return chosen


def _follow(decoder: Choice) -> Choice:
    cpu = providers.find("cpu")
    return Choice(decoder.provider, _AS_DECODER, None if decoder.provider == cpu else cpu)


def _choose(folder: Path, manifest: Manifest, part: str, device: str) -> Choice:
    try:
        return choose(device, manifest, lambda provider: _seconds(folder, manifest, part, provider), part=part)
    except ProviderUnavailable as error:
        raise ProviderUnavailable(f"{MEDIA[part]}: {error}") from error


def _seconds(folder: Path, manifest: Manifest, part: str, provider: Provider) -> float:
    """How long a device takes for a small medium, once it is warm."""
    graph = LazyGraph(folder / manifest.graphs[part].file, provider, provider.default_threads())
    fixed = providers.find(manifest.device).fixed_shapes

    def encode() -> None:
        if manifest.pictures is not None and part == "vision":
            ImageEncoder(graph, fixed=fixed).encode(_picture(manifest.pictures), Interrupt())
        else:
            silence = AudioInputs(np.zeros((_TRIAL_FRAMES, MEL_BINS), np.float32), 0, 0, "")
            SpeechEncoder(graph, fixed=fixed).encode(silence, MODE_SPEECH, Interrupt())

    try:
        encode()
        started = time.perf_counter()
        encode()
        return time.perf_counter() - started
    finally:
        graph.release()


def _picture(limits: Pictures) -> Picture:
    white = Image.new("RGB", (_TRIAL_SIDE, _TRIAL_SIDE), "white")
    if limits.kind == "patches":
        return prepare_naflex_image(white, min_patches=limits.minimum, max_patches=limits.maximum)
    return prepare_image(white, max_crops=1, crop=Crop(limits.side, limits.patch))
