"""Which device serves: what is named and missing is an error with the next step, the fastest is measured once."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import onnxruntime as ort
import pytest

import edgephi
from edgephi import ProviderUnavailable
from edgephi.runtime import devices as found_devices
from edgephi.runtime import providers, selection
from edgephi.runtime.graphs import Graph
from edgephi.runtime.manifest import Manifest, read_manifest
from edgephi.runtime.providers.provider import Plugin, Provider

CPU = providers.find("cpu")
FAST = dataclasses.replace(CPU, name="fast", kind="gpu")
ABSENT = dataclasses.replace(
    CPU, name="absent", kind="npu", ort_name="NoSuchProvider", plugin=Plugin("no_such_package_of_any_kind", "no-such"),
    install="pip install no-such, on a machine that has one",
)


@pytest.fixture
def manifest(tiny_bundle: Callable[..., Path]) -> Manifest:
    return read_manifest(tiny_bundle("mini"))


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose records are the CPU, a faster device that is the CPU in truth, and one that is not there."""
    records = {record.name: record for record in (CPU, FAST, ABSENT)}
    monkeypatch.setattr(providers, "names", lambda: tuple(records))
    monkeypatch.setattr(providers, "find", records.__getitem__)


def _never(provider: Provider) -> float:
    raise AssertionError(f"{provider.name} was measured")


@pytest.mark.parametrize("name", [name for name in providers.names() if providers.find(name).plugin is not None])
def test_without_its_package_a_device_names_the_next_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    record = providers.find(name)
    assert record.plugin is not None
    monkeypatch.setitem(sys.modules, record.plugin.package, None)
    if record.ort_name in ort.get_available_providers():
        pytest.skip(f"{record.ort_name} is registered in this process")
    with pytest.raises(ProviderUnavailable, match=f"pip install {record.plugin.distribution}"):
        found_devices.hardware(record)


@pytest.mark.parametrize("name", [name for name in providers.names() if providers.find(name).plugin is None])
def test_a_provider_of_another_build_is_named_with_that_build(name: str) -> None:
    record = providers.find(name)
    if record.ort_name in ort.get_available_providers():
        assert found_devices.hardware(record)
        return
    with pytest.raises(ProviderUnavailable, match=f"needs {record.ort_name}, .* in the place of onnxruntime"):
        found_devices.hardware(record)


def test_a_library_that_is_missing_or_damaged_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = tmp_path / "libdamaged.so"
    damaged.write_bytes(b"no library")
    plugin = Plugin("edgephi_test_plugin", "some-plugin")
    record = dataclasses.replace(CPU, name="plugged", ort_name="PluggedProvider", plugin=plugin)
    for path, reason in ((tmp_path / "nothing.so", "there is no .*nothing.so"), (damaged, "libdamaged.so")):
        module = SimpleNamespace(get_library_path=lambda path=path: str(path))
        monkeypatch.setitem(sys.modules, plugin.package, module)
        with pytest.raises(ProviderUnavailable, match=f"of some-plugin does not load.*{reason}") as caught:
            found_devices.hardware(record)
        assert "\n" not in str(caught.value)


def test_a_named_device_is_taken_without_measuring(manifest: Manifest, devices: None) -> None:
    assert selection.choose("fast", manifest, _never) == selection.Choice(FAST, "asked for")
    assert selection.choose("gpu", manifest, _never).provider is FAST
    with pytest.raises(ProviderUnavailable, match="'absent' needs the package no-such, which is not installed: pip"):
        selection.choose("absent", manifest, _never)


def test_a_kind_that_is_not_there_says_why(manifest: Manifest) -> None:
    with pytest.raises(ProviderUnavailable, match=r"no npu of this machine .*openvino: .*; qnn: "):
        selection.choose("npu", manifest, _never)


def test_a_bundle_for_other_graphs_is_refused_with_the_export_that_helps(manifest: Manifest) -> None:
    wanted = "it needs graphs with .*full_rotary.*choose 'cpu' or export the checkpoint with --device qnn"
    with pytest.raises(ProviderUnavailable, match=wanted):
        selection.choose("qnn", manifest, _never)


def test_the_fastest_is_measured_once_for_a_machine_and_remembered(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, devices: None
) -> None:
    memory, measured = tmp_path / "cache" / "devices.json", list[str]()

    def measure(provider: Provider) -> float:
        measured.append(provider.name)
        return {"cpu": 2.0, "fast": 1.0}[provider.name]

    first = selection.choose("auto", manifest, measure, memory)
    assert first.provider is FAST and first.reason == "the fastest here (measured: fast 1.000 s, cpu 2.000 s)"
    again = selection.choose("auto", manifest, measure, memory)
    assert again.provider is FAST and "remembered" in again.reason and measured == ["cpu", "fast"]
    monkeypatch.setattr(selection.providers, "names", lambda: ("cpu", "fast"))
    monkeypatch.setattr(selection, "hardware", lambda provider: (f"another chip for {provider.name}",))
    assert "measured" in selection.choose("auto", manifest, measure, memory).reason
    memory.write_text("[damaged")
    assert "measured" in selection.choose("auto", manifest, measure, memory).reason


def test_a_device_that_fails_is_told_and_tried_again(manifest: Manifest, devices: None, tmp_path: Path) -> None:
    def measure(provider: Provider) -> float:
        if provider is FAST:
            raise ProviderUnavailable("its driver is too old")
        return 1.0

    for _ in range(2):
        choice = selection.choose("auto", manifest, measure, tmp_path / "devices.json")
        assert choice.provider is CPU and "fast: its driver is too old" in choice.reason and "measured" in choice.reason


def test_auto_times_real_sessions(
    tiny_bundle: Callable[..., Path], devices: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "cached", lambda name: tmp_path / name)
    with edgephi.load(tiny_bundle("mini"), device="auto") as session:
        assert session.device in ("cpu", "fast") and session.device_reason.startswith("the fastest here (measured: ")
        assert session.generate("Hi", max_tokens=2, temperature=0).usage.completion_tokens >= 1


def test_a_device_that_fails_when_a_session_begins_is_no_fault_of_the_bundle(tmp_path: Path) -> None:
    (tmp_path / "noise.onnx").write_bytes(b"noise")
    with pytest.raises(ProviderUnavailable, match=r"'fast' does not open .*noise\.onnx .*update its driver"):
        Graph(tmp_path / "noise.onnx", FAST, 1)
