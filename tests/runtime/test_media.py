"""Where bytes come from: paths, files and data: URLs, and every way in which they are refused."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import Any

import pytest

from edgephi.runtime.errors import MediaError
from edgephi.runtime.media import data_url_bytes, open_source

LIMIT = 1 << 20


def read(source: Any, limit: int = LIMIT, file_limit: int = LIMIT) -> bytes:
    with open_source(source, "image", limit=limit, file_limit=file_limit) as file:
        return file.read()


def refused(source: Any, limit: int = LIMIT, file_limit: int = LIMIT) -> str:
    with pytest.raises(MediaError) as caught:
        read(source, limit, file_limit)
    text = str(caught.value)
    assert "\n" not in text and "\x1b" not in text and len(text) < 400
    return text


def test_limits_hold_for_memory_and_for_files(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    assert read(path, limit=10, file_limit=100) == b"x" * 100
    assert "largest allowed" in refused(path, file_limit=99)
    assert read(b"x" * 100, limit=100) == b"x" * 100
    assert "largest allowed" in refused(b"x" * 101, limit=100)
    assert "largest allowed" in refused(io.BytesIO(b"x" * 101), file_limit=100)
    assert "largest allowed" in refused("data:;base64," + base64.b64encode(b"x" * 300).decode(), limit=100)
    read_end, write_end = os.pipe()
    os.write(write_end, b"x" * 101)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        assert "largest allowed" in refused(pipe, limit=100)


def test_a_file_that_can_seek_is_read_from_its_start() -> None:
    file = io.BytesIO(b"abcdef")
    file.seek(4)
    assert read(file) == b"abcdef"
    assert not file.closed


@pytest.mark.parametrize("url", ["http://x/y.png", "https://x", "file:///etc/passwd", "ftp://x", "s3://bucket/key"])
def test_nothing_is_fetched(url: str) -> None:
    assert "nothing is fetched" in refused(url)


def test_only_plain_files_are_opened(tmp_path: Path) -> None:
    assert "folder" in refused(tmp_path)
    assert "cannot be opened" in refused(tmp_path / "absent.png")
    os.mkfifo(tmp_path / "pipe")
    assert "no plain file" in refused(tmp_path / "pipe")
    assert "no plain file" in refused("/dev/zero")
    assert "cannot be opened" in refused("nul\0byte")
    assert "cannot be opened" in refused("x" * 100_000)
    assert "cannot be opened" in refused("\x1b[31mred\nname")
    (tmp_path / "empty").touch()
    assert "empty" in refused(tmp_path / "empty")


@pytest.mark.parametrize("source", [None, 5, 1.5, ["a"], {"image": "x"}, object(), io.StringIO("text")], ids=str)
def test_other_objects_are_refused(source: Any) -> None:
    assert "0x" not in refused(source)


def test_a_file_in_text_mode_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with (tmp_path / "file").open() as file:
        assert "mode 'rb'" in refused(file)
    closed = io.BytesIO(b"x")
    closed.close()
    assert "cannot be read" in refused(closed)


@pytest.mark.parametrize("url", [
    "data:", "data:,", "data:image/png", "data:image/png;base64", "data:image/png,abc",
    "data:image/png;charset=utf-8,abc", "data:image/png;base64,????", "data:image/png;base64,abc",
    "data:image/png;base64,YWJj\n", "data:image/png;base64,é",
    "data:text/html;base64,YWJj", "data:audio/wav;base64,YWJj", "data:image/png;base64,",
    "data:" + ";" * 100_000 + ",", "data:" + "a" * 100_000, "data:image/png" + ";x=y" * 50_000 + ";base64,YWJj",
], ids=lambda url: url[:30])
def test_malformed_data_urls_are_refused(url: str) -> None:
    refused(url)


@pytest.mark.parametrize("url", [
    "data:image/png;base64,YWJj", "DATA:IMAGE/PNG;BASE64,YWJj", "data:;base64,YWJj",
    "data:image/svg+xml;x=y;base64,YWJj", "data:application/octet-stream;base64,YWJj",
])
def test_data_urls_are_decoded(url: str) -> None:
    assert data_url_bytes(url, "image", LIMIT) == b"abc" == read(url)
