"""Every kind of picture that is read, and every damaged or hostile one: the right pixels, or one clear MediaError."""

from __future__ import annotations

import base64
import io
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgephi.runtime.errors import MediaError, RequestError
from edgephi.runtime.image_decode import FORMATS, MAXIMUM_PIXELS, content_hash, decode_image

Pixels = NDArray[np.uint8]


def gradient(width: int = 40, height: int = 24) -> Pixels:
    """A picture without symmetry whose neighbours differ little, so that lossy formats keep it."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], axis=-1).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, interlace: int = 0, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    data = chunk(b"IDAT", zlib.compress(rows, 9))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + data + chunk(b"IEND", b"")


def pixels(source: Any) -> Pixels:
    image = decode_image(source)
    assert image.mode == "RGB"
    return np.asarray(image)


def refused(source: Any) -> str:
    """The text of the error, which names no memory address and is one line."""
    with pytest.raises(MediaError) as caught:
        decode_image(source)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 400
    assert not re.search(r"0x[0-9a-f]{6,}", text)
    return text


SAMPLES: dict[str, bytes] = {
    "PNG": encoded(Image.fromarray(gradient()), "PNG"),
    "JPEG": encoded(Image.fromarray(gradient()), "JPEG", quality=95),
    "WEBP": encoded(Image.fromarray(gradient()), "WEBP", lossless=True),
    "GIF": encoded(Image.fromarray(gradient()), "GIF"),
    "BMP": encoded(Image.fromarray(gradient()), "BMP"),
}


def test_every_allowed_format_has_a_sample() -> None:
    assert set(SAMPLES) == set(FORMATS)
    assert issubclass(MediaError, RequestError)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP"])
def test_lossless_formats_give_the_pixels_back(kind: str) -> None:
    assert np.array_equal(pixels(SAMPLES[kind]), gradient())


@pytest.mark.parametrize("data", [
    SAMPLES["JPEG"], SAMPLES["GIF"],
    encoded(Image.fromarray(gradient()), "JPEG", quality=95, progressive=True),
    encoded(Image.fromarray(gradient()).convert("CMYK"), "JPEG", quality=95),
    encoded(Image.fromarray(gradient()), "WEBP", quality=95),
], ids=["jpeg", "gif", "progressive", "cmyk", "webp"])
def test_lossy_formats_come_close(data: bytes) -> None:
    # GIF's 256 colours are the coarsest of these; a swapped channel or an inverted CMYK is off by more than 100.
    assert np.abs(pixels(data).astype(int) - gradient()).mean() < 12


def test_every_way_of_giving_a_picture_gives_the_same(tmp_path: Path) -> None:
    data = SAMPLES["PNG"]
    path = tmp_path / "without a suffix"
    path.write_bytes(data)
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    mislabelled = url.replace("image/png", "image/jpeg;name=x")
    with path.open("rb") as file:
        file.seek(5)
        sources: list[Any] = [
            str(path), path, data, bytearray(data), memoryview(data), io.BytesIO(data), file, url, mislabelled,
            Image.open(path), gradient(), gradient().astype(np.uint16) << 8, gradient().astype(np.float32) / 255,
        ]
        hashes = {content_hash(decode_image(source)) for source in sources}
        assert not file.closed
        sources[9].close()
    assert len(hashes) == 1
    assert sorted(item.name for item in tmp_path.iterdir()) == [path.name]


def test_a_pipe_is_read_to_its_end() -> None:
    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.inner = io.BytesIO(SAMPLES["PNG"])

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            return self.inner.read(size)

    assert np.array_equal(pixels(Pipe()), gradient())


def test_the_hash_sees_size_pixels_and_settings() -> None:
    image = decode_image(gradient())
    turned = decode_image(gradient(24, 40))
    changed = gradient()
    changed[3, 5, 1] ^= 1
    hashes = {content_hash(image), content_hash(turned), content_hash(decode_image(changed)), content_hash(image, 4)}
    assert len(hashes) == 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_orientation_is_undone(kind: str, orientation: int) -> None:
    # What a viewer must do for each value of tag 0x0112 (Exif 2.32, table 6), undone here to make the stored picture.
    undo: dict[int, Callable[[Pixels], Pixels]] = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1), 7: lambda a: np.rot90(a, 2).transpose(1, 0, 2), 8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation](gradient())))
    options: dict[str, Any] = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    if kind == "WEBP":
        options["lossless"] = True
    decoded = pixels(encoded(stored, kind, exif=exif, **options))
    assert decoded.shape == gradient().shape
    assert np.abs(decoded.astype(int) - gradient()).max() <= (3 if kind == "JPEG" else 0)


def test_transparency_is_laid_on_white() -> None:
    colours = gradient()
    alpha = np.zeros(colours.shape[:2], np.uint8)
    alpha[:, 20:] = 255
    expected = np.where(alpha[..., np.newaxis] == 255, colours, 255)
    rgba = np.dstack([colours, alpha])
    assert np.array_equal(pixels(rgba), expected)
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True})):
        assert np.array_equal(pixels(encoded(Image.fromarray(rgba), kind, **options)), expected)


def test_half_transparency_mixes_with_white() -> None:
    rgba = np.full((4, 4, 4), (100, 0, 200, 128), np.uint8)
    exact = np.array([100, 0, 200]) * 128 / 255 + 255 * 127 / 255
    assert np.abs(pixels(rgba) - exact).max() <= 1


def test_grey_palette_and_key_colours() -> None:
    grey = gradient()[..., 0]
    repeated = np.repeat(grey[..., np.newaxis], 3, axis=2)
    assert np.array_equal(pixels(encoded(Image.fromarray(grey), "PNG")), repeated)
    la = Image.merge("LA", [Image.fromarray(grey), Image.new("L", (40, 24), 0)])
    assert (pixels(encoded(la, "PNG")) == 255).all()
    one_bit = pixels(encoded(Image.fromarray(grey > 128), "PNG"))
    assert np.array_equal(one_bit[..., 0], np.where(grey > 128, 255, 0))
    palette = Image.fromarray((grey > 100).astype(np.uint8), "L").convert("P")
    palette.putpalette([10, 20, 30, 200, 100, 50])
    opaque = pixels(encoded(palette, "PNG"))
    assert set(map(tuple, opaque.reshape(-1, 3).tolist())) == {(10, 20, 30), (200, 100, 50)}
    keyed = pixels(encoded(palette, "PNG", transparency=0))
    assert set(map(tuple, keyed.reshape(-1, 3).tolist())) == {(255, 255, 255), (200, 100, 50)}
    key_colour = png(2, 1, 8, 2, b"\0" + bytes([1, 2, 3, 9, 8, 7]), extra=chunk(b"tRNS", bytes([0, 1, 0, 2, 0, 3])))
    assert pixels(key_colour).tolist() == [[[255, 255, 255], [9, 8, 7]]]


def test_sixteen_bits_keep_the_high_byte() -> None:
    grey = png(3, 1, 16, 0, b"\0" + bytes([0, 255, 0x80, 0, 0xFF, 0xFF]))
    assert pixels(grey)[0, :, 0].tolist() == [0, 0x80, 0xFF]
    colour = png(1, 1, 16, 2, b"\0" + bytes([0x12, 0x34, 0x56, 0x78, 0x9A, 0xBC]))
    assert pixels(colour).tolist() == [[[0x12, 0x56, 0x9A]]]


def test_interlaced_png() -> None:
    # Adam7 on one pixel has one pass of one row.
    assert pixels(png(1, 1, 8, 2, b"\0" + bytes([7, 8, 9]), interlace=1)).tolist() == [[[7, 8, 9]]]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50, **options)
    assert (pixels(data) == (255, 0, 0)).all()


def test_a_colour_profile_changes_nothing() -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(pixels(encoded(Image.fromarray(gradient()), "PNG", icc_profile=profile)), gradient())


def test_one_pixel() -> None:
    assert pixels(encoded(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG")).tolist() == [[[1, 2, 3]]]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_cut_file_is_an_error_or_complete(kind: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    whole = pixels(data)
    for share in [0.001, 0.01, *np.linspace(0.05, 0.95, 40), 0.99]:
        assert "damaged" in refused(data[: max(1, int(len(data) * share))])
    for missing in (1, 2, 3, 8):  # the last bytes may be a trailer that no pixel depends on
        try:
            assert np.array_equal(pixels(data[:-missing]), whole)
        except MediaError as error:
            assert "damaged" in str(error)


@pytest.mark.parametrize("kind", FORMATS)
def test_mutants_are_decoded_or_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(FORMATS.index(kind))
    data = np.frombuffer(SAMPLES[kind], np.uint8)
    refusals = 0
    for _ in range(200):
        mutant = data.copy()
        places = random.integers(0, len(data), random.integers(1, 6))
        mutant[places] = random.integers(0, 256, len(places))
        try:
            decoded = decode_image(mutant.tobytes())
        except MediaError:
            refusals += 1
        else:
            assert decoded.mode == "RGB" and decoded.width * decoded.height <= MAXIMUM_PIXELS
    assert refusals
    assert not list(tmp_path.iterdir())


def bombs() -> dict[str, bytes]:
    """Small files that promise many pixels."""
    rows = b"".join(b"\0" + bytes(2500) for _ in range(20_000))
    jpeg = bytearray(SAMPLES["JPEG"])
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    bmp = bytearray(SAMPLES["BMP"])
    bmp[18:26] = struct.pack("<ii", 2**31 - 1, 2**31 - 1)
    gif = bytearray(SAMPLES["GIF"])
    gif[6:10] = b"\xff\xff\xff\xff"
    return {
        "png": png(20_000, 20_000, 1, 0, rows), "png header": png(2**31 - 1, 2**31 - 1, 8, 2, b""),
        "png just over": png(8001, 8000, 1, 0, b""), "jpeg": bytes(jpeg), "bmp": bytes(bmp), "gif": bytes(gif),
    }


def test_bombs_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    """In a process of its own: its largest memory grows by less than a tenth of the smallest of these pictures."""
    for name, data in bombs().items():
        text = refused(data)
        assert "pixels" in text or "damaged" in text, name
        (tmp_path / name).write_bytes(data)
    code = (
        "import pathlib, resource, sys\n"
        "from edgephi.runtime.errors import MediaError\n"
        "from edgephi.runtime.image_decode import decode_image\n"
        "from PIL import Image; Image.init()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in pathlib.Path(sys.argv[1]).iterdir():\n"
        "    try: decode_image(path)\n"
        "    except MediaError: pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20_000  # KiB
    assert not done.stderr


@pytest.mark.parametrize(("data", "name"), [
    (b"\0\0\0\x18ftypheic" + bytes(64), "HEIC"), (b"\0\0\0\x18ftypavif" + bytes(64), "AVIF"),
    (b"II*\0" + bytes(64), "TIFF"), (b"%PDF-1.7\n", "PDF"), (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n", "unknown"),
    (b"SIMPLE  =                    T" + b" " * 2850, "unknown"), (b"hello", "unknown"),
    (b"\0" * 100, "unknown"),
])
def test_other_formats_are_named_and_never_tried(data: bytes, name: str) -> None:
    text = refused(data)
    assert name in text and "PNG, JPEG, WEBP, GIF, BMP" in text


def test_zero_sizes() -> None:
    assert "at least one" in refused(np.zeros((0, 4, 3), np.uint8)) and refused(png(0, 0, 8, 2, b""))
    assert "empty" in refused(b"")
    assert "empty" in refused(io.BytesIO())


@pytest.mark.parametrize("array", [
    np.zeros(4, np.uint8), np.zeros((3, 20, 20), np.uint8), np.zeros((4, 4, 2), np.uint8),
    np.zeros((1, 4, 4, 3), np.uint8), np.zeros((4, 4), np.int64), np.zeros((4, 4), np.complex64),
    np.full((4, 4), 2.0), np.full((4, 4), -0.1), np.full((4, 4), np.nan), np.zeros((4, 4), object),
], ids=str)
def test_arrays_of_another_kind_are_refused(array: NDArray[Any]) -> None:
    assert "image array" in refused(array)


@pytest.mark.parametrize("mode", ["I", "F", "La"])
def test_pillow_modes_that_cannot_be_read_are_refused(mode: str) -> None:
    assert "convert" in refused(Image.new(mode, (3, 3)))


@pytest.mark.parametrize("mode", "1 L LA P PA RGB RGBA RGBa RGBX CMYK YCbCr HSV I;16".split())
def test_every_other_pillow_mode_is_read(mode: str) -> None:
    assert pixels(Image.new(mode, (3, 2))).shape == (2, 3, 3)


def test_a_polyglot_is_what_its_first_bytes_say() -> None:
    assert np.array_equal(pixels(SAMPLES["PNG"] + b"<script>" + SAMPLES["GIF"]), gradient())
