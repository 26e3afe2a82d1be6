"""Windows ML without Windows: a catalog made up after Microsoft's documentation, and what is asked of ONNX Runtime."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime as ort
import pytest

from edgephi import ProviderUnavailable
from edgephi.runtime import devices, providers, windows_ml
from edgephi.runtime.selection import judge

RTX, MIGRAPHX, QNN = "NvTensorRtRtxExecutionProvider", "MIGraphXExecutionProvider", "QNNExecutionProvider"
Catalog = Callable[..., list[str]]


class Entry:
    """An entry of the catalog: name, ready_state, library_path, ensure_ready()."""

    def __init__(self, name: str, state: str, library: Path, asked: list[str]) -> None:
        self.name, self.ready_state, self.library_path = name, SimpleNamespace(name=state), str(library)
        self._asked = asked

    def ensure_ready(self) -> None:
        assert self.ready_state.name != "NotPresent", "this would download"
        self._asked.append(self.name)


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Catalog]:
    """catalog((name, state), ...) → the names that were made ready, as they are asked for."""

    def offer(*entries: tuple[str, str]) -> list[str]:
        asked: list[str] = []
        made = []
        for name, state in entries:
            library = tmp_path / f"{name}.dll"
            library.write_bytes(b"")
            made.append(Entry(name, state, library, asked))
        module = SimpleNamespace(EpCatalog=lambda: SimpleNamespace(find_all_providers=lambda: made))
        monkeypatch.setitem(sys.modules, windows_ml.PACKAGE, module)
        windows_ml._catalog.cache_clear()
        return asked

    yield offer
    windows_ml._catalog.cache_clear()


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is registered with ONNX Runtime, which then lists a GPU and an NPU for it."""
    registered: list[tuple[str, str]] = []

    def listed() -> list[Any]:
        return [
            SimpleNamespace(ep_name=name.replace("RtRtx", "RTRTX"), ep_vendor="maker", device=SimpleNamespace(
                type=SimpleNamespace(name=kind), vendor="maker", metadata={"Description": "chip"}))
            for name, _ in registered for kind in ("GPU", "NPU")
        ]

    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(ort, "register_execution_provider_library", lambda *pair: registered.append(pair))
    monkeypatch.setattr(ort, "get_ep_devices", listed)
    return registered


@pytest.mark.parametrize(("delivered", "state"), [(RTX, "Ready"), (RTX, "NotReady"), (MIGRAPHX, "Ready")])
def test_a_gpu_is_served_by_what_windows_delivers(
    delivered: str, state: str, catalog: Catalog, engine: list[tuple[str, str]]
) -> None:
    asked = catalog(("CPUExecutionProvider", "Ready"), (delivered, state))
    record = providers.find("windowsml")
    assert devices.hardware(record) == ("maker GPU chip",)
    assert asked == [delivered]
    ((name, library),) = engine
    assert name == delivered and library.endswith(f"{delivered}.dll")
    assert record.is_called(devices.devices(record)[0].ep_name)
    assert {item.device.type.name for item in devices.devices(record)} == {"GPU"}


def test_what_windows_would_download_is_left_to_the_user(catalog: Catalog, engine: list[tuple[str, str]]) -> None:
    asked = catalog((RTX, "NotPresent"))
    verdict = judge(providers.find("windowsml"), None)
    assert f"offers {RTX} and has not downloaded it: call ensure_ready()" in str(verdict.reason)
    assert asked == [] and engine == []


def test_a_machine_without_a_fitting_provider_names_those_it_has(
    catalog: Catalog, engine: list[tuple[str, str]]
) -> None:
    catalog((QNN, "Ready"))
    with pytest.raises(ProviderUnavailable, match=f"has none of NvTensorRTRTX.*, MIGraphX.* but {QNN}: update Windows"):
        devices.hardware(providers.find("windowsml"))
    assert engine == []


def test_other_devices_come_out_of_the_catalog_where_their_package_is_missing(
    catalog: Catalog, engine: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = providers.find("qnn")
    assert record.plugin is not None
    monkeypatch.setitem(sys.modules, record.plugin.package, None)
    catalog((QNN, "Ready"))
    assert devices.hardware(record) == ("maker NPU chip",)
    assert [name for name, _ in engine] == [QNN]


def test_without_the_package_the_next_step_is_said(
    engine: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, windows_ml.PACKAGE, None)
    windows_ml._catalog.cache_clear()
    with pytest.raises(ProviderUnavailable, match=r"'windowsml' needs the package windowsml, .* pip install "):
        devices.hardware(providers.find("windowsml"))


@pytest.mark.parametrize("error", [OSError("no such DLL"), RuntimeError("0x80040154"), AttributeError("WinDLL")])
def test_a_catalog_that_does_not_open_says_why(
    error: Exception, engine: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setitem(sys.modules, windows_ml.PACKAGE, SimpleNamespace(EpCatalog=fail))
    windows_ml._catalog.cache_clear()
    with pytest.raises(ProviderUnavailable, match=f"does not open .{error}.: it needs Windows 11 24H2") as caught:
        devices.hardware(providers.find("windowsml"))
    assert "\n" not in str(caught.value)


def test_a_provider_that_is_not_made_ready_says_why(
    catalog: Catalog, engine: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(entry: Entry) -> None:
        raise OSError("the package is damaged")

    monkeypatch.setattr(Entry, "ensure_ready", fail)
    catalog((RTX, "NotReady"))
    with pytest.raises(ProviderUnavailable, match=f"does not make {RTX} ready .the package is damaged.: update"):
        devices.hardware(providers.find("windowsml"))
    assert engine == []
