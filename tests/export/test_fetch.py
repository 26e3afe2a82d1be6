"""Fetching by hub id, from a hub that these tests run: only what is needed, resumed, and clear errors."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgephi import CheckpointError
from edgephi.export.fetch import resolve

COMMIT = "a" * 40


class Hub(http.server.ThreadingHTTPServer):
    """The two calls of the hub's interface that a download needs, over the files of one folder.

    `broken`: names of files whose transfer is cut half-way once; `seen`: method and path of every request.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.folder = folder
        self.broken: set[str] = set()
        self.seen: list[tuple[str, str]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fetched(self) -> set[str]:
        return {path.rsplit("/", 1)[1] for method, path in self.seen if method == "GET" and "/resolve/" in path}


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        self.server.seen.append((self.command, path))
        files = sorted(item for item in self.server.folder.iterdir() if item.is_file())
        if path in ("/api/models/own/model/revision/main", f"/api/models/own/model/revision/{COMMIT}"):
            siblings = [{"rfilename": item.name, "size": item.stat().st_size} for item in files]
            self._json({"id": "own/model", "sha": COMMIT, "siblings": siblings, "private": False, "tags": []})
        elif path.startswith("/api/models/own/model/tree/"):
            self._json([
                {"type": "file", "path": item.name, "size": item.stat().st_size, "oid": "b" * 40} for item in files
            ])
        elif path.startswith("/api/models/own/model/revision/"):
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif path.startswith("/api/models/own/gated/"):
            self._send(403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif path.startswith("/api/models/own/ill/"):
            self._send(500, b"{}", {})
        elif path.startswith(f"/own/model/resolve/{COMMIT}/"):
            self._file(self.server.folder / path.rsplit("/", 1)[1])
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _file(self, path: Path) -> None:
        content = path.read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        if self.command == "GET" and path.name in self.server.broken:
            self.server.broken.discard(path.name)
            self.send_response(200)
            for name, value in (headers | {"Content-Length": str(len(content))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._send(206 if start else 200, content[start:], headers)

    def _send(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture
def hub(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> Iterator[Hub]:
    folder = Path(shutil.copytree(tiny_checkpoint("mini"), tmp_path / "published"))
    for name in ("modeling_phi3.py", "pytorch_model.bin", "model.onnx", "notes.pdf"):
        (folder / name).write_text("not needed")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Tiny\n")
    server = Hub(folder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def fetch(source: str, home: Path, address: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the library reads its settings once, while it is imported."""
    script = "import sys; from edgephi.export.fetch import resolve; print(resolve(sys.argv[1]))"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    settings = {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"} | environment
    return subprocess.run(
        [sys.executable, "-c", script, source], capture_output=True, text=True, timeout=120, check=False,
        env=kept | settings,
    )


def said(ended: subprocess.CompletedProcess[str]) -> str:
    assert ended.returncode == 1, ended.stdout
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith("edgephi.runtime.errors.CheckpointError: ")
    return last


def test_only_what_an_export_reads_is_fetched_and_only_once(hub: Hub, tmp_path: Path) -> None:
    first = fetch("own/model", tmp_path / "home", hub.address)
    assert first.returncode == 0, first.stderr
    assert first.stderr == "", "no progress bars where stderr is no terminal"
    folder = Path(first.stdout.strip())
    needed = {path.name for path in hub.folder.iterdir()} - {
        "modeling_phi3.py", "pytorch_model.bin", "model.onnx", "notes.pdf",
    }
    assert {path.name for path in folder.iterdir()} == needed == hub.fetched()
    assert all((folder / name).read_bytes() == (hub.folder / name).read_bytes() for name in needed)
    assert all("/own/model" in path for _, path in hub.seen), "nothing but the model is asked for"
    hub.seen.clear()
    again = fetch("own/model", tmp_path / "home", hub.address)
    assert (again.stdout, hub.fetched()) == (first.stdout, set())


def test_a_revision_may_be_named(hub: Hub, tmp_path: Path) -> None:
    found = fetch(f"own/model@{COMMIT}", tmp_path / "home", hub.address)
    assert found.returncode == 0, found.stderr
    assert "no revision v9: check the spelling" in said(fetch("own/model@v9", tmp_path / "home", hub.address))


def test_a_transfer_that_broke_off_goes_on(hub: Hub, tmp_path: Path) -> None:
    """The library tries again by itself; finished files are not asked for twice."""
    hub.broken = {"tokenizer.json"}
    ended = fetch("own/model", tmp_path / "home", hub.address)
    if ended.returncode:
        assert "goes on where it stopped" in said(ended)
        ended = fetch("own/model", tmp_path / "home", hub.address)
    folder = Path(ended.stdout.strip())
    assert (folder / "tokenizer.json").read_bytes() == (hub.folder / "tokenizer.json").read_bytes()
    asked = [path for method, path in hub.seen if method == "GET" and path.endswith("/tokenizer.json")]
    whole = [path for method, path in hub.seen if method == "GET" and path.endswith("/config.json")]
    assert len(asked) == 2 and len(whole) == 1


def test_without_the_hub_the_cache_serves(hub: Hub, tmp_path: Path) -> None:
    online = fetch("own/model", tmp_path / "home", hub.address)
    for environment in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        assert fetch("own/model", tmp_path / "home", hub.address, **environment).stdout == online.stdout
    absent = said(fetch("own/other", tmp_path / "home", hub.address, HF_HUB_OFFLINE="1"))
    assert "own/other is not, or not completely, in the hub's cache" in absent and "go online once" in absent
    unreachable = said(fetch("own/other", tmp_path / "home", "http://127.0.0.1:9"))
    assert "the hub gives no answer" in unreachable and "local checkpoint folder" in unreachable


@pytest.mark.parametrize(("source", "expected"), [
    ("own/none", "the hub has no model own/none, or it is private: check the spelling"),
    ("own/gated", "own/gated is gated: accept its terms"),
    ("own/ill", "the hub gives no answer (Server error '500"),
])
def test_what_the_hub_refuses(hub: Hub, tmp_path: Path, source: str, expected: str) -> None:
    assert expected in said(fetch(source, tmp_path / "home", hub.address))


@pytest.mark.parametrize("source", [
    "nowhere", "./a/b/c", "a/b/c", "own/model@", "../x/y", "own/\x1b[31m", "", "https://x/y",
])
def test_what_is_neither_a_folder_nor_an_id(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="no folder here and no hub id") as caught:
        resolve(source)
    assert str(caught.value).isprintable()


def test_a_file_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is a file: give the folder"):
        resolve(str(tmp_path / "model.safetensors"))
