"""Memory foreseen from a manifest: values counted exactly, ONNX Runtime's packed copies as a process really holds them.

The oracle is the kernel's count of anonymous pages in a fresh process that loads weights of 80 MB and more.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import pytest

from edgephi.runtime.cache import CacheShape, KeyValueCache
from edgephi.runtime.decode import CHUNK
from edgephi.runtime.footprint import activations, elements, footprint, resident
from edgephi.runtime.graphs import Placed
from edgephi.runtime.manifest import TensorRecord, read_manifest

ANONYMOUS = """
from pathlib import Path

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))
"""
LOADED = f"""{ANONYMOUS}
import json, sys
from edgephi.runtime import providers
from edgephi.runtime.graphs import Graph
from edgephi.runtime.manifest import TextModel
from edgephi.runtime.probe_graph import ProbeShape, Stored, build

folder, stored = Path(sys.argv[1]), Stored(*json.loads(sys.argv[2]))
model, largest = build(ProbeShape(TextModel(**json.loads(sys.argv[3])), 8192, stored, stored, 4), "zeros")
(folder / "text.onnx").write_bytes(model)
with (folder / "zeros").open("wb") as file:
    file.truncate(largest)
before = anonymous()
graph = Graph(folder / "text.onnx", providers.find("cpu"), 1)
print(anonymous() - before)
"""
# One layer, and a step of a prompt behind SEEN positions.
STEPPED = f"""{ANONYMOUS}
import json, sys
import numpy as np
import onnx_ir as ir
from edgephi.export.int8_cache import with_int8_cache
from edgephi.runtime import providers
from edgephi.runtime.cache import Regime
from edgephi.runtime.decode import CHUNK, Decoder
from edgephi.runtime.graphs import Graph, Interrupt
from edgephi.runtime.inputs import TokenInputs
from edgephi.runtime.int8_cache import scales_shape
from edgephi.runtime.manifest import Region, RotaryTable, TextModel
from edgephi.runtime.probe_graph import ProbeShape, Stored, build
from edgephi.runtime.rotary import RotaryTables
from edgephi.runtime.stepping import FreeSteps

folder, kv, text, seen = Path(sys.argv[1]), sys.argv[2], TextModel(**json.loads(sys.argv[3])), int(sys.argv[4])
model, largest = build(ProbeShape(text, 256, Stored(32), Stored(32), 4), "zeros")
table = Region("zeros", 0, (text.context_length, text.head_dim // 2))
(folder / "text.onnx").write_bytes(model)
with (folder / "zeros").open("wb") as file:
    file.truncate(max(largest, 4 * text.context_length * text.head_dim // 2))
if kv == "int8":
    made = ir.to_proto(with_int8_cache(ir.load(folder / "text.onnx")))
    (folder / "text.onnx").write_bytes(made.SerializeToString())
graph = Graph(folder / "text.onnx", providers.find("cpu"), 1)
tables = RotaryTables(folder, (RotaryTable(text.context_length, table, table),), text.context_length)
inputs, scales = TokenInputs(graph), np.ones(scales_shape(text), np.float32) if kv == "int8" else None
steps = FreeSteps(graph, text, tables, inputs, CHUNK, scales)
decoder = Decoder(graph, text, tables, inputs, steps=steps)
shape = decoder.cache.shape
decoder.cache.enter(Regime(decoder.context))
decoder.cache.reserve(seen + CHUNK)
decoder.cache.append(np.ones((2 * shape.layers, shape.kv_heads, seen, shape.head_dim), shape.dtype), [0] * seen)
before = anonymous()
decoder.advance([0] * (seen + CHUNK), Interrupt())
print(anonymous() - before)
"""
SEEN = 4000
TEXT: dict[str, object] = {
    "layers": 1, "hidden_size": 3072, "heads": 24, "kv_heads": 8, "head_dim": 128, "vocab_size": 1024,
    "context_length": 4096, "sliding_window": None, "rotary": [],
}
WEIGHTS = [(5120, 3072), (3072, 3072), (16384, 3072), (3072, 8192), (1024, 3072)]


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc")
@pytest.mark.parametrize(("written", "stored"), [
    ("uint4-block64", [4, 64, True]), ("int8-block128", [8, 128, False]), ("float32", [32, 0, False]),
])
def test_weights_take_what_the_kernels_pack(tmp_path: Path, written: str, stored: list[object]) -> None:
    held = _measured(LOADED, tmp_path, json.dumps(stored), json.dumps(TEXT))
    # scales of a bundle come as float16 through a Cast; those of this graph are float32 in the file, so not counted
    scales = 0 if stored[0] == 32 else sum(n * k // int(str(stored[1])) * 4 for n, k in WEIGHTS)
    expected = sum(resident(_record(written, n, k)) for n, k in WEIGHTS) - scales
    # the session itself takes a few megabytes of the 10 %
    assert 0.97 * expected < held < 1.1 * expected


@pytest.mark.parametrize("precision", ["int4", "int8", "fp16", "fp32"])
def test_every_value_of_a_bundle_is_counted(
    tiny_checkpoint: Callable[..., Path], tiny_bundle: Callable[..., Path], precision: str
) -> None:
    from edgephi.export.checkpoint import open_checkpoint

    with open_checkpoint(tiny_checkpoint("mini")) as checkpoint:
        shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
    report = read_manifest(tiny_bundle("mini", precision=precision)).report
    # rows of 4-bit zero points are filled up to whole bytes: 1 % of these narrow rows, nothing of real ones
    assert {record.name: elements(record) for record in report} == pytest.approx(
        {record.name: prod(shapes[record.name]) for record in report}, rel=0.01 if precision == "int4" else 0
    )


def test_memory_grows_with_the_conversation(tiny_bundle: Callable[..., Path]) -> None:
    manifest = read_manifest(tiny_bundle("mini"))
    text = manifest.text
    short, long = (footprint(manifest, count) for count in (1000, 4000))
    assert long.cache - short.cache == 3000 * 2 * text.layers * text.kv_heads * text.head_dim * 4
    assert long.activations > short.activations
    assert (long.weights, long.program) == (short.weights, short.program)
    assert long.total == long.program + long.weights + long.cache + long.activations


def test_an_int8_cache_takes_a_byte_a_number_of_its_whole_buffer(tiny_bundle: Callable[..., Path]) -> None:
    manifest = read_manifest(tiny_bundle("mini"))
    text = manifest.text
    shape = CacheShape(text.layers, text.kv_heads, text.head_dim, np.dtype(np.int8))
    cache = KeyValueCache(shape, lambda array: Placed(array, None), lambda *_: None)
    for length in (*range(CHUNK, 5000, CHUNK), 5000):
        cache.reserve(length)
    assert cache.capacity > 5000
    assert footprint(manifest, 5000, "int8").cache == cache.capacity * shape.bytes_per_position
    # the first step of a prompt finds nothing to turn into float32
    assert footprint(manifest, CHUNK, "int8").activations == footprint(manifest, CHUNK).activations


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc")
def test_a_step_over_an_int8_cache_holds_one_layer_in_float32(
    tiny_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    text = json.dumps({**TEXT, "hidden_size": 256, "context_length": 8192})
    floats, int8 = (_measured(STEPPED, tmp_path, kv, text, str(SEEN)) for kv in ("float", "int8"))
    manifest = read_manifest(tiny_bundle("mini"))
    shaped = replace(manifest, text=replace(manifest.text, heads=24, kv_heads=8, head_dim=128))
    expected = activations(shaped, SEEN + CHUNK, "int8") - activations(shaped, SEEN + CHUNK)
    assert expected > 80e6
    # arrays of two lengths, of which each may or may not find the place of one that was given up
    assert 0.85 * expected < int8 - floats < 1.15 * expected


def test_attention_scores_stay_bounded(tiny_bundle: Callable[..., Path]) -> None:
    manifest = read_manifest(tiny_bundle("mini"))
    large = replace(manifest, text=replace(manifest.text, heads=24, context_length=131072))
    # 24 heads of 512 positions over 131,072 would be 6.4 GB; steps of 32 positions are not
    assert footprint(large, 131072).activations < 800e6


def test_a_table_that_is_only_looked_up_stays_in_its_file(tiny_bundle: Callable[..., Path]) -> None:
    tied, untied = (read_manifest(tiny_bundle(name)) for name in ("mini", "mini-untied"))
    for manifest, held in ((tied, {"model.embed_tokens.weight"}), (untied, {"lm_head.weight"})):
        sizes = {record.name: resident(record) for record in manifest.report}
        tables = {"model.embed_tokens.weight", "lm_head.weight"}
        counted = sum(size for name, size in sizes.items() if name not in tables or name in held)
        assert footprint(manifest, 1).weights == counted


def test_encoders_and_adapters_come_on_demand(tiny_multimodal_bundle: Callable[..., Path]) -> None:
    found = footprint(read_manifest(tiny_multimodal_bundle()), 100)
    assert found.on_demand > 0 and found.weights > 0


@pytest.mark.parametrize("screen", ["uint4-block64", "int4-block128"])
def test_of_a_screened_head_the_screen_is_resident(screen: str) -> None:
    n, k = 2048, 256
    exact, coarse = _record("int8-block128", n, k), _record(screen, n, k)
    both = TensorRecord("w", f"int8-block128+{screen}", 0, exact.bytes_after + coarse.bytes_after, 0.0)
    assert elements(both) == n * k
    assert resident(both) == resident(coarse) + n * k // 128 * 4  # and the exact form's scales


def _measured(script: str, *arguments: str | Path) -> int:
    """What a process of its own prints."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _record(written: str, n: int, k: int) -> TensorRecord:
    from edgephi.quantize.formats import BlockFormat

    if written == "float32":
        return TensorRecord("w", written, 0, 4 * n * k, 0.0)
    bits, size = int(written.partition("-")[0][-1]), int(written.rpartition("block")[2])
    return TensorRecord("w", written, 0, BlockFormat(bits, size, written.startswith("int")).nbytes(n, k), 0.0)
