"""Encoded or in-memory pictures → upright 8-bit RGB, by Pillow under limits.

Boundary: knows nothing of any model. Only the formats of `FORMATS` are tried, whatever a file calls itself; the
number of pixels is checked before the first one is decoded. Of an animation the first frame is taken. Embedded colour
profiles are ignored, as the models' own preprocessing ignores them; transparency is laid on white.
"""

from __future__ import annotations

import hashlib
import io
import threading
import warnings
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import MediaError
from .media import MediaSource, describe, open_source

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAXIMUM_PIXELS = 64_000_000
MAXIMUM_BYTES = 256 << 20

ImageSource = MediaSource | Image.Image | NDArray[np.generic]

_WHITE = (255, 255, 255)
_FILTERS = threading.Lock()
# First bytes (at their offset) of kinds that people try and that are not read.
_OTHER_KINDS = (
    (4, b"ftyphei", "HEIC"), (4, b"ftypmif1", "HEIC"), (4, b"ftypavi", "AVIF"), (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"), (0, b"%PDF", "PDF"), (0, b"<svg", "SVG"), (0, b"<?xml", "SVG or XML"),
    (0, b"\0\0\0\x0cjP", "JPEG 2000"), (0, b"\xff\x0a", "JPEG XL"),
)


def decode_image(source: ImageSource) -> Image.Image:
    """Decode a picture to mode RGB, turned upright by its EXIF orientation.

    Args:
        source: path, bytes, binary file, base64 `data:` URL, Pillow image, or an array (h, w), (h, w, 1), (h, w, 3)
            or (h, w, 4) of uint8 (0…255), uint16 (0…65535) or floats within 0…1.

    Raises:
        MediaError: unreadable, damaged, cut, of another format, empty, or more than `MAXIMUM_PIXELS`.
    """
    if isinstance(source, np.ndarray):
        return _rgb(_from_array(source), "image given as an array")
    if isinstance(source, Image.Image):
        return _decode(source, "image given as a Pillow image")
    what = describe(source, "image")
    with open_source(source, "image", limit=MAXIMUM_BYTES, file_limit=MAXIMUM_BYTES) as file:
        data = file.read(MAXIMUM_BYTES + 1)
    with _open(data, what) as image:
        return _decode(image, what)


def content_hash(image: Image.Image, *settings: int) -> str:
    """SHA-256 (hex) of `settings`, the size and the pixels: the same for equal pictures, whatever file they came in."""
    digest = hashlib.sha256(f"{image.mode} {image.size} {settings}\n".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def _open(data: bytes, what: str) -> Image.Image:
    try:
        # The library's own warning about large pictures would reach the user's terminal; the limit below is stricter.
        with _FILTERS, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise MediaError(f"{what} has more pixels than the {MAXIMUM_PIXELS} allowed; make it smaller first") from error
    except UnidentifiedImageError as error:
        raise MediaError(f"{what} is {_kind(data)}; convert it to one of {', '.join(FORMATS)}") from error
    except Exception as error:  # the decoders raise whatever their format suggests, from struct.error to KeyError
        raise _damaged(what, error) from error


def _kind(data: bytes) -> str:
    for offset, magic, name in _OTHER_KINDS:
        if data[offset:].startswith(magic):
            return f"a {name} file"
    return "damaged or of an unknown format"


def _decode(image: Image.Image, what: str) -> Image.Image:
    """Check the size, decode the first frame, turn it upright and convert it."""
    width, height = image.size
    if width < 1 or height < 1:
        raise MediaError(f"{what} is {width}×{height} pixels; it needs at least one")
    if width * height > MAXIMUM_PIXELS:
        raise MediaError(f"{what} is {width}×{height} pixels, {MAXIMUM_PIXELS} are allowed; make it smaller first")
    try:
        image.load()
        upright = ImageOps.exif_transpose(image)
    except Exception as error:  # see _open
        raise _damaged(what, error) from error
    return _rgb(upright, what)


def _damaged(what: str, error: Exception) -> MediaError:
    # Only the kind of the error: texts of decoders have carried memory addresses (CVE-2026-22778).
    return MediaError(f"{what} is damaged or cut ({type(error).__name__}); save it again or give another file")


def _rgb(image: Image.Image, what: str) -> Image.Image:
    """Mode RGB without metadata; transparency on white, 16-bit grey by its high byte as 16-bit colour is decoded."""
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint16, copy=False)
        return Image.fromarray((grey >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise MediaError(f"{what} has mode {image.mode}, which has no fixed range; convert it to 'L' or 'RGB' first")
    try:
        if image.has_transparency_data:
            coloured = image.convert("RGBA")
            flat = Image.new("RGB", image.size, _WHITE)
            flat.paste(coloured, mask=coloured.getchannel("A"))
            return flat
        converted = image.convert("RGB")
    except (ValueError, OSError, KeyError) as error:
        raise MediaError(f"{what} has mode {image.mode}, which is not read; convert it to 'RGB' first") from error
    converted.info.clear()
    return converted


def _from_array(array: NDArray[np.generic]) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise MediaError(f"image array has shape {array.shape}; (height, width) or (height, width, 1, 3 or 4) is read")
    if 0 in array.shape:
        raise MediaError(f"image array has shape {array.shape}; it needs at least one pixel")
    if array.shape[0] * array.shape[1] > MAXIMUM_PIXELS:
        raise MediaError(f"image array has shape {array.shape}, {MAXIMUM_PIXELS} pixels are allowed; make it smaller")
    return Image.fromarray(_eight_bits(array))


def _eight_bits(array: NDArray[np.generic]) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return cast(NDArray[np.uint8], np.ascontiguousarray(array))
    if array.dtype == np.uint16:
        return (cast(NDArray[np.uint16], array) >> 8).astype(np.uint8)
    if not np.issubdtype(array.dtype, np.floating):
        raise MediaError(f"image array has dtype {array.dtype}; uint8, uint16 or floats within 0…1 are read")
    values = array.astype(np.float32)
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise MediaError("image array of floats holds values outside 0…1; scale it, or give uint8 values of 0…255")
    levels: NDArray[np.uint8] = np.rint(values * np.float32(255)).astype(np.uint8)
    return levels
