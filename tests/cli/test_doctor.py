"""`edgephi doctor`: every device is accepted or refused with a reason; the report fits into an issue."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgephi.runtime import diagnosis, drivers, providers, selection

Program = Callable[..., Any]


def test_every_device_is_accepted_or_refused_with_a_reason(program: Program) -> None:
    report = json.loads(program("doctor", "--json").out)
    devices = {device["name"]: device for device in report["devices"]}
    assert sorted(devices) == list(providers.names())
    for device in devices.values():
        assert device["accepted"] == (device["reason"] is None) == bool(device["found"])
    assert devices["cpu"]["accepted"]
    assert report["telemetry"].startswith("off (ORT_DISABLE_TELEMETRY=1")
    assert {"edgephi", "onnxruntime", "numpy"} <= report["versions"].keys()


def test_the_report_names_what_serves_a_bundle(bundle: Path, program: Program) -> None:
    done = program("doctor", bundle)
    assert done.code == 0 and done.err == ""
    lines = {line[:17].strip(): line[17:] for line in done.out.splitlines() if line[:17].strip()}
    assert {"machine", "system", "versions", "drivers", "telemetry", "large pages", "free memory"} <= lines.keys()
    assert lines["cpu"].startswith("yes: ") and "made for cpu" in lines["bundle"] and "served by cpu" in lines["bundle"]
    refused = [line.strip() for line in done.out.splitlines() if line.strip().startswith("not ")]
    assert any(line.startswith("not qnn: ") for line in refused)
    assert str(Path.home()) not in done.out


def test_the_report_names_the_parts_that_can_have_a_device_of_their_own(
    tiny_multimodal_bundle: Callable[..., Path], program: Program
) -> None:
    found = json.loads(program("doctor", tiny_multimodal_bundle(), "--json").out)["bundles"][0]
    assert found["encoders"] == ["vision", "speech"] and "cpu" in found["serves"]
    assert "vision by what --vision-device names" in program("doctor", tiny_multimodal_bundle()).out


def test_a_report_for_an_issue_holds_the_facts_and_no_folder(bundle: Path, tmp_path: Path, program: Program) -> None:
    done = program("doctor", bundle, "--report", tmp_path / "report.md")
    assert done.code == 0 and done.out == "" and done.err == f"written: {tmp_path / 'report.md'}\n"
    text = (tmp_path / "report.md").read_text()
    for fact in ("## What happened", "machine ", "onnxruntime ", "telemetry ", "cpu ", "not qnn: ", "free memory "):
        assert fact in text
    assert str(Path.home()) not in text and str(bundle.parent) not in text


@pytest.mark.parametrize("root", [False, True])
def test_a_report_hides_the_folders_that_a_library_names(
    root: bool, tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, judge = Path("/") if root else tmp_path / "ada", selection.judge

    def failing(*asked: Any) -> selection.Verdict:
        reason = f"{home / 'lib.so'} does not load, nor does {Path(sys.prefix, 'lib', 'other.so')}"
        return dataclasses.replace(judge(*asked), found=(), reason=reason)

    monkeypatch.setattr(diagnosis, "judge", failing)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(home))
    assert program("doctor", "--report", tmp_path / "report.md").code == 0
    text = (tmp_path / "report.md").read_text()
    shown = str(home / "lib.so") if root else str(Path("~", "lib.so"))
    assert f"no: {shown} does not load, nor does {Path('<python>', 'lib', 'other.so')}" in text


def test_drivers_are_those_that_the_kernel_has_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for device, driver in (("drm/card0", "amdgpu"), ("drm/renderD128", "amdgpu"), ("accel/accel0", "intel_vpu")):
        (tmp_path / "bus" / driver).mkdir(parents=True, exist_ok=True)
        folder = tmp_path / "class" / device / "device"
        folder.mkdir(parents=True)
        (folder / "driver").symlink_to(tmp_path / "bus" / driver)
    (tmp_path / "class" / "drm" / "version").write_text("drm 1.1.0")
    (tmp_path / "module" / "intel_vpu").mkdir(parents=True)
    (tmp_path / "module" / "intel_vpu" / "version").write_text("1.2.3\n")
    monkeypatch.setattr(drivers, "KERNEL", tmp_path)
    assert drivers.found() == ("amdgpu (card0, renderD128)", "intel_vpu 1.2.3 (accel0)")
    monkeypatch.setattr(drivers, "KERNEL", tmp_path / "nothing")
    assert drivers.found() == ()


def test_run_says_which_device_it_took_and_why(bundle: Path, program: Program) -> None:
    done = program("run", bundle, "--device", "auto", "Hi", "-n", "1")
    assert done.code == 0 and "device cpu: the only device of this machine that serves this bundle" in done.err
    assert "device" not in program("run", bundle, "Hi", "-n", "1").err
    refused = program("run", bundle, "--device", "npu", "Hi")
    assert refused.code == 1 and refused.out == "" and "no npu of this machine serves this bundle" in refused.err
    assert refused.err.count("\n") == 1
