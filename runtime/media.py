"""Where the bytes of an image or a recording come from: a path, bytes, an open file or a `data:` URL, under a limit.

Boundary: knows nothing of what the bytes mean. Opens plain files only, for reading only; fetches nothing from a
network and writes nothing.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Literal, cast

from .errors import MediaError

Kind = Literal["image", "audio"]
MediaSource = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO

_DATA_URL = re.compile(r"data:([^,;]{0,128})((?:;[^,;]{0,128}){0,8}),", re.IGNORECASE)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]{1,31}://")


def describe(source: object, kind: Kind) -> str:
    """Name `source` in an error text: short, without memory addresses, without control characters."""
    if isinstance(source, os.PathLike):
        source = os.fspath(source)
    if isinstance(source, str):
        return f"{kind} of a data: URL" if source[:5].lower() == "data:" else f"{kind} {source[:120]!r}"
    if isinstance(source, bytes):
        return f"{kind} of {len(source)} bytes"
    return f"{kind} given as {type(source).__name__}"


@contextmanager
def open_source(source: MediaSource, kind: Kind, *, limit: int, file_limit: int) -> Iterator[BinaryIO]:
    """Give a seekable binary file at its start. What is opened here is closed here; a file of the caller stays open.

    Args:
        source: a path, encoded bytes, a binary file (read from its start if it can seek) or a base64 `data:` URL.
        kind: what it is expected to hold, for error texts and for the media type of a `data:` URL.
        limit: largest number of bytes that are held in memory: bytes, data: URLs and files that cannot seek.
        file_limit: largest size of a file that is read from where it lies.

    Raises:
        MediaError: the source is none of these, cannot be opened, is no plain file, or is larger than its limit.
    """
    if isinstance(source, os.PathLike):
        source = os.fspath(source)
    if isinstance(source, bytearray | memoryview):
        source = bytes(source)
    if isinstance(source, str):
        if source[:5].lower() == "data:":
            yield io.BytesIO(data_url_bytes(source, kind, limit))
            return
        with _open_path(source, kind, file_limit) as file:
            yield file
        return
    if isinstance(source, bytes):
        _check_size(len(source), kind, limit, source)
        yield io.BytesIO(source)
        return
    if not callable(getattr(source, "read", None)):
        raise MediaError(
            f"{kind} given as {type(source).__name__}; give a path, bytes, a file opened in binary mode or a data: URL")
    yield _from_file(source, kind, limit, file_limit)


def data_url_bytes(url: str, kind: Kind, limit: int) -> bytes:
    """Decode a base64 `data:` URL (RFC 2397).

    Its media type must be `kind/…` or unspecific; the content decides what it really is.
    """
    match = _DATA_URL.match(url)
    if match is None or ";base64" not in match[2].lower():
        raise MediaError(f"data: URL is not of the form data:{kind}/…;base64,…; encode the file with base64")
    media_type = match[1].strip().lower()
    if media_type not in ("", "application/octet-stream") and not media_type.startswith(kind + "/"):
        raise MediaError(f"data: URL says {media_type!r:.60} where {kind} is expected; give a data:{kind}/… URL")
    payload = url[match.end():]
    _check_size(len(payload) // 4 * 3, kind, limit, url)
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MediaError(
            f"the base64 text of a data: URL ({len(payload)} characters) is damaged; encode the file again") from error


def _open_path(path: str, kind: Kind, limit: int) -> BinaryIO:
    if _SCHEME.match(path):
        raise MediaError(
            f"{kind} {path[:120]!r} is a URL; nothing is fetched from a network: give a local path or a data: URL")
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # a pipe or a device could block or never end
            what = "a folder" if stat.S_ISDIR(status.st_mode) else "no plain file"
            raise MediaError(f"{kind} {path[:120]!r} is {what}; give a plain file")
        _check_size(status.st_size, kind, limit, path)
        return open(path, "rb")
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or "not a valid path"
        raise MediaError(
            f"{kind} {path[:120]!r} cannot be opened ({reason}); give the path of a readable file") from error


def _from_file(source: BinaryIO, kind: Kind, limit: int, file_limit: int) -> BinaryIO:
    """The caller's own file if it can seek, else its remaining bytes."""
    try:
        seekable = getattr(source, "seekable", None)
        if seekable is not None and seekable():
            size = source.seek(0, io.SEEK_END)
            source.seek(0)
            if not isinstance(source.read(0), bytes):
                raise MediaError(f"{kind} file is opened in text mode; open it with mode 'rb'")
            _check_size(size, kind, file_limit, source)
            return source
        data = cast(object, source.read(limit + 1))
    except (OSError, ValueError) as error:
        raise MediaError(
            f"{kind} file cannot be read ({type(error).__name__}); give an open file in binary mode") from error
    if not isinstance(data, bytes):
        raise MediaError(f"{kind} file gives {type(data).__name__}, not bytes; open it with mode 'rb'")
    _check_size(len(data), kind, limit, source)
    return io.BytesIO(data)


def _check_size(size: int, kind: Kind, limit: int, source: object) -> None:
    if size > limit:
        raise MediaError(
            f"{describe(source, kind)} has more than {limit >> 20} MiB, the largest allowed; give a smaller file")
    if size == 0:
        raise MediaError(f"{describe(source, kind)} is empty; give the bytes of an {kind} file")
