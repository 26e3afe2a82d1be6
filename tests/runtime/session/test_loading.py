"""From a folder to a session: files are checked, devices and threads are asked for by name and number."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import edgephi
from edgephi import HashMismatch, ManifestError, ProviderUnavailable, RequestError


def test_loading_checks_the_files(folder: Path, tmp_path: Path, copied: Path) -> None:
    with pytest.raises(ManifestError, match=r"there is no edgephi\.json in it"):
        edgephi.load(tmp_path)
    graph = copied / "text.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    with pytest.raises(HashMismatch, match=r"text\.onnx: SHA-256 is"):
        edgephi.load(copied)
    graph.write_bytes(content[:-1])
    with pytest.raises(HashMismatch, match=r"text\.onnx has \d+ bytes, the manifest says \d+"):
        edgephi.load(copied)


def test_files_above_the_limit_are_checked_by_size_alone(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgephi.runtime import loading as module

    data = copied / "text.onnx.data"
    content = bytearray(data.read_bytes())
    content[0] ^= 1
    data.write_bytes(content)
    monkeypatch.setattr(module, "HASHED_BYTES", len(content))
    edgephi.load(copied, threads=1).close()
    monkeypatch.setattr(module, "HASHED_BYTES", len(content) + 1)
    with pytest.raises(HashMismatch, match=r"text\.onnx\.data"):
        edgephi.load(copied, threads=1)


def test_devices_and_threads(folder: Path, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgephi.runtime import providers

    with edgephi.load(folder, device="auto") as session:
        assert "only device" in session.device_reason and not session.left_to_cpu
        assert session.device == "cpu" and session.threads == providers.find("cpu").default_threads()
    with pytest.raises(ProviderUnavailable, match="device 'abacus' is not known; this version serves cpu, "):
        edgephi.load(folder, device="abacus")
    for threads in (0, -1, 1025, True, 1.5):
        with pytest.raises(RequestError, match=r"threads is .*; allowed is a whole number from 1 to 1024"):
            edgephi.load(folder, threads=threads)  # type: ignore[arg-type]  # what a caller may pass by mistake
    half = dataclasses.replace(providers.find("cpu"), name="half", activation_dtype="float16", runs=("float16",))
    known = providers.find
    monkeypatch.setattr(providers, "find", lambda name: half if name == "half" else known(name))
    with pytest.raises(ProviderUnavailable, match="'half' cannot run this bundle: it computes in float16, the bundle"):
        edgephi.load(folder, device="half")
