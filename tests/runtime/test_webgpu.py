"""WebGPU for real, on a Vulkan driver that computes on the CPU: SwiftShader, which Chromium brings along.

What is executed is float32; SwiftShader has no float16, so of the graphs for a GPU the placement is checked and the
refusal to run. Keys and values lie in the device's own memory, as they do on a GPU.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import edgephi
from edgephi import ProviderUnavailable
from edgephi.demo.tasks import held_out
from edgephi.export.pipeline import export
from edgephi.runtime.graphs import Graph, Interrupt
from edgephi.runtime.providers import find

ICD = "vk_swiftshader_icd.json"
FOLDERS = ("/usr/lib/chromium", "/usr/lib64/chromium-browser", "/opt/google/chrome")
# The lengths of a sequence are whole numbers, which ONNX Runtime computes on the CPU.
LENGTHS = {"Cast": 2, "Gather": 1, "ReduceSum": 1, "Shape": 1, "Sub": 1}
# float32 in another order of sums; 1.1e-6 was seen.
APART = 1e-5


def _driver() -> Path | None:
    return next((Path(folder) / ICD for folder in FOLDERS if (Path(folder) / ICD).is_file()), None)


def _loader() -> str | None:
    driver = _driver()
    beside = None if driver is None else driver.with_name("libvulkan.so.1")
    return ctypes.util.find_library("vulkan") or (str(beside) if beside is not None and beside.is_file() else None)


pytestmark = [
    pytest.mark.skipif(find_spec("onnxruntime_ep_webgpu") is None, reason="onnxruntime-ep-webgpu is not installed"),
    pytest.mark.skipif(_driver() is None, reason=f"no {ICD} of a Chromium on this machine"),
    pytest.mark.skipif(_loader() is None, reason="no Vulkan loader on this machine"),
]


@pytest.fixture(scope="module", autouse=True)
def vulkan() -> Iterator[None]:
    """The loader in this process, and SwiftShader as the only driver it finds."""
    ctypes.CDLL(str(_loader()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VK_DRIVER_FILES", str(_driver()))
        yield


@pytest.fixture(scope="module")
def single(tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float32 bundle for WebGPU: products that it has an operator for."""
    folder = tmp_path_factory.mktemp("webgpu") / "bundle"
    export(tiny_checkpoint("mini"), folder, precision="fp32", device="webgpu_software", threads=1)
    return folder


def _prompt(length: int, seed: int = 0) -> list[int]:
    numbers: list[int] = np.random.default_rng([length, seed]).integers(5, 380, length).tolist()
    return numbers


def _apart(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def test_the_decoder_runs_on_webgpu_and_says_what_the_cpu_says(
    single: Path, tiny_bundle: Callable[..., Path]
) -> None:
    """Prefill in steps, single tokens, several at once, rewinding, growth of the cache, snapshots."""
    plain = edgephi.load(tiny_bundle("mini"), prefix_cache=False, threads=1)
    device = edgephi.load(single, device="webgpu_software", prefix_cache=False)
    with plain, device:
        assert device.device == "webgpu_software" and device.left_to_cpu == LENGTHS
        first, second = plain._model.decoder, device._model.decoder
        ids, interrupt = _prompt(280), Interrupt()

        def same(step: Callable[[edgephi.runtime.decode.Decoder], np.ndarray]) -> None:
            wanted = step(first).copy()
            assert _apart(step(second), wanted) < APART

        same(lambda decoder: decoder.advance(ids[:40], interrupt)[0])
        same(lambda decoder: decoder.append(7, interrupt)[0])
        same(lambda decoder: decoder.append(8, interrupt)[0])
        same(lambda decoder: decoder.extend([9, 10, 11], interrupt)[0])
        kept = second.snapshot()
        same(lambda decoder: decoder.advance(ids, interrupt)[0])  # rewinds to 40 and grows beyond one block
        assert second.cache.capacity > 256
        second.restore(kept)
        first.advance([*ids[:40], 7, 8, 9, 10, 11], interrupt)
        same(lambda decoder: decoder.append(12, interrupt)[0])
        assert device.generate(ids[:40], max_tokens=8, temperature=0).token_ids == plain.generate(
            ids[:40], max_tokens=8, temperature=0).token_ids
        assert _apart(device.logits(ids[:35]), plain.logits(ids[:35])) < APART


def test_blocks_of_weights_answer_like_the_cpu(demo_bundle: Path, tmp_path: Path) -> None:
    """The demo's checkpoint knows its tasks, so its tokens are no draws between equals."""
    with as_file(files("edgephi.demo") / "checkpoint") as checkpoint:
        export(checkpoint, tmp_path / "blocks", device="webgpu_software", threads=1)
    device = edgephi.load(tmp_path / "blocks", device="webgpu_software", prefix_cache=False)
    with edgephi.load(demo_bundle, prefix_cache=False, threads=1) as plain, device:
        assert device.left_to_cpu == LENGTHS
        (example,) = held_out("sum", 1, seed=1)
        wanted = plain.chat(list(example.turns), max_tokens=8, temperature=0)
        assert device.chat(list(example.turns), max_tokens=8, temperature=0).token_ids == wanted.token_ids


@pytest.mark.parametrize("precision", ["int4", "fp16"])
def test_graphs_for_a_gpu_are_taken_whole_and_never_run_elsewhere(
    precision: str, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """SwiftShader has no float16: the provider takes every node, and the run is an error instead of one on the CPU."""
    export(tiny_checkpoint("mini"), tmp_path / "gpu", precision=precision, device="gpu", threads=1)
    graph = Graph(tmp_path / "gpu" / "text.onnx", find("webgpu_software"), 1)
    assert graph.left_to_cpu == LENGTHS
    feeds = {
        name: np.zeros([1 if isinstance(size, str) else size for size in tensor.shape], tensor.dtype)
        for name, tensor in graph.inputs.items()
    }
    with pytest.raises(ProviderUnavailable, match=r"'webgpu_software' does not run .*requires f16 but the device") as e:
        graph.run(feeds)
    assert "\n" not in str(e.value)
    with pytest.raises(ProviderUnavailable, match="it computes in float32, the bundle in float16: choose"):
        edgephi.load(tmp_path / "gpu", device="webgpu_software")


def test_a_bundle_with_products_that_webgpu_has_not_is_refused(tiny_bundle: Callable[..., Path]) -> None:
    with pytest.raises(ProviderUnavailable, match="does not take FusedMatMul on CPUExecutionProvider: export"):
        edgephi.load(tiny_bundle("mini"), device="webgpu_software")


def test_a_decoder_with_adapters_is_taken_whole_and_its_look_up_stays_on_the_cpu(
    tiny_multimodal_bundle: Callable[..., Path]
) -> None:
    """Vectors of tokens come from the host; what an encoder does to whole numbers is more than a GPU takes."""
    folder = tiny_multimodal_bundle("int4")
    assert Graph(folder / "text-media.onnx", find("webgpu_software"), 1).left_to_cpu == LENGTHS
    with pytest.raises(ProviderUnavailable, match=r"vision\.onnx: device 'webgpu_software' does not take "):
        Graph(folder / "vision.onnx", find("webgpu_software"), 1)
    with edgephi.load(folder, device="webgpu_software", prefix_cache=False) as session:
        assert session.device == "webgpu_software" and session.left_to_cpu == LENGTHS


WITHOUT = """
import sys
import edgephi
try:
    edgephi.load(sys.argv[1], device="webgpu_software")
except edgephi.ProviderUnavailable as error:
    print(error)
"""


def test_a_driver_that_is_missing_is_an_error_with_its_reason(single: Path) -> None:
    environment = {**os.environ, "VK_DRIVER_FILES": "/nowhere.json"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(single)], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.startswith("device 'webgpu_software' does not open ") and done.stdout.count("\n") == 1
    assert "Failed to get a WebGPU adapter" in done.stdout and "edgephi doctor" in done.stdout
