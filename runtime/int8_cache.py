"""Scales of an INT8 cache of keys and values: what they are measured on, how, and where they are kept.

Boundary: runs prompts through a decoder over such a cache and reads what it holds; which graph that is says model.py.
The scales are those of one bundle, measured when it is first loaded so (a few seconds) and kept in the user's cache
folder. The prompt that they are measured on is one step, and in a step of many rows attention sees the new keys and
values as they are, so what the cache holds afterwards is rounded but right, whatever the scales were: they start coarse
and are refined.

A key is turned by its position: both numbers of a pair get the largest length that the pair had, which holds at every
position. Values beyond what was measured are cut off at 1 + MARGIN of it.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from .decode import Decoder
from .errors import BundleError, RequestError
from .graphs import Interrupt
from .manifest import INT8_CACHE, Manifest, TextModel
from .user_files import cached, write_whole

LONGEST = 512  # tokens of the prompt: one step
COARSEST = 8.0  # the first scale: keys and values up to 1,016
ROUNDS = 3
MARGIN = 0.1
_LARGEST, _SMALLEST_SCALE = 127, 1e-6

CALIBRATION_TEXT = """\
Thank you for the parcel, it came on Tuesday at 9:40. Could you send the invoice (no. 2024-0817, 1,250.75 €) again?
The river rises in the hills north of the town, crosses three counties and meets the sea behind a long bar of shingle.
Question: If a train covers 150 km in 2 hours, how fast is it? Answer: 150 / 2 = 75, so 75 km/h.
def area(radius: float) -> float:
    if radius < 0:
        raise ValueError(f"a radius of {radius} is negative")
    return 3.14159 * radius ** 2
{"name": "Ada", "born": 1815, "fields": ["mathematics", "computing"], "alive": false, "notes": null}
Die Katze schläft auf dem Sofa, während es draußen regnet. El mercado abre a las ocho y cierra a mediodía.
Le musée est fermé le lundi. 今日は天気がいいので、公園まで歩きました。 Завтра будет холодно, возьми шарф.
1. Boil the water. 2. Add salt and pasta. 3. Stir, wait nine minutes, taste, drain. Serve with oil, garlic and parsley!
She laughed: "You said seven o'clock, and it's nearly half past eight!" He looked at his shoes and said nothing.
| item | price | stock |
| lamp | 39.90 | 12 | and then <b>bold</b>, https://example.org/a?b=c#d, x ∈ {1, 2, 3}, E = m·c².
"""


def is_taken(manifest: Manifest, name: str) -> bool:
    """Whether the bundle has the decoder `name` over an INT8 cache."""
    return f"{name}{INT8_CACHE}" in manifest.graphs


def require(manifest: Manifest, name: str) -> None:
    """Raises RequestError for a bundle that takes no INT8 cache, saying why."""
    if not is_taken(manifest, name):
        kinds = "takes more than text" if manifest.capabilities != ("text",) else "was exported without it"
        raise RequestError(
            f"an INT8 cache is for bundles that take text alone, made for the CPU by this version or a later one; this "
            f"one {kinds} (device {manifest.device!r}): leave out kv, or export the checkpoint again"
        )


def scales_shape(text: TextModel) -> tuple[int, int, int, int, int]:
    """Of the scales, float32: key and value of each layer in turn."""
    return 2 * text.layers, 1, text.kv_heads, 1, text.head_dim


def key(manifest: Manifest, name: str) -> str:
    """What the scales of a decoder depend on, hashed."""
    graph = manifest.graphs[f"{name}{INT8_CACHE}"]
    facts = [manifest.files[file].sha256 for file in (graph.file, *graph.data) if file in manifest.files]
    return hashlib.sha256(repr((facts, CALIBRATION_TEXT, ROUNDS, COARSEST, MARGIN, LONGEST)).encode()).hexdigest()[:32]


def find(manifest: Manifest, name: str, scales: np.ndarray, fill: Callable[[], None]) -> None:
    """Fill `scales`: from the file that is kept, else by calling `fill`, which measures them.

    A damaged file and a folder that cannot be written are warnings.
    """
    path = cached("int8-cache") / f"{key(manifest, name)}.npy"
    if not _read(path, scales):
        fill()
        _write(path, scales)


def measure(decoder: Decoder, text: TextModel, ids: Sequence[int], scales: np.ndarray) -> None:
    """Fill `scales`, which the graph of `decoder` reads in every run, with those of this model.

    `ids` are cut to one step. Raises BundleError where the model makes nothing that can be scaled.
    """
    prompt = list(ids[: min(LONGEST, decoder.context)])
    rotated = text.rotary[0].cos.shape[-1]
    scales[:] = COARSEST
    for _ in range(ROUNDS):
        decoder.clear()
        decoder.advance(prompt, Interrupt())
        arrays = decoder.snapshot().arrays
        for index, codes in enumerate(arrays):
            # a code stands for half a step more or less
            values = (np.abs(codes[0].astype(np.float32)) + 0.5) * scales[index, 0]
            reach = (_envelope(values, rotated) if index % 2 == 0 else values).max(axis=-2)
            scales[index, 0, :, 0] = np.maximum(reach * (1 + MARGIN) / _LARGEST, _SMALLEST_SCALE)
    decoder.clear()
    if not np.isfinite(scales).all():
        raise BundleError("the model makes keys or values that no scale can hold: load it without an INT8 cache")


def _envelope(keys: np.ndarray, rotated: int) -> np.ndarray:
    """Keys (heads, n, head_dim), each number of a rotated pair replaced by the length of the pair."""
    first, second = keys[..., :rotated], keys[..., rotated : 2 * rotated]
    length = np.hypot(first, second)
    return np.concatenate([length, length, keys[..., 2 * rotated :]], axis=-1)


def _read(path: Path, scales: np.ndarray) -> bool:
    try:
        found = np.load(path, allow_pickle=False)
        if found.shape != scales.shape or found.dtype != scales.dtype or not (np.isfinite(found) & (found > 0)).all():
            raise ValueError(f"{found.dtype} of shape {list(found.shape)}")
    except FileNotFoundError:
        return False
    except (OSError, ValueError, EOFError) as error:
        warnings.warn(f"{path} is damaged or cannot be read ({error}): scales are measured again", stacklevel=3)
        return False
    scales[:] = found
    return True


def _write(path: Path, scales: np.ndarray) -> None:
    content = io.BytesIO()
    np.save(content, scales)
    try:
        write_whole(path, content.getvalue())
    except OSError as error:
        warnings.warn(f"{path} cannot be written ({error.strerror}): scales are measured at each load", stacklevel=3)
