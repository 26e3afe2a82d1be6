"""`edgephi doctor`: every device is accepted or refused with a reason; the report fits into an issue."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgephi.runtime import providers

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
    lines = {line[:15].strip(): line[15:] for line in done.out.splitlines() if line[:15].strip()}
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


def test_run_says_which_device_it_took_and_why(bundle: Path, program: Program) -> None:
    done = program("run", bundle, "--device", "auto", "Hi", "-n", "1")
    assert done.code == 0 and "device cpu: the only device of this machine that serves this bundle" in done.err
    assert "device" not in program("run", bundle, "Hi", "-n", "1").err
    refused = program("run", bundle, "--device", "npu", "Hi")
    assert refused.code == 1 and refused.out == "" and "no npu of this machine serves this bundle" in refused.err
    assert refused.err.count("\n") == 1
