"""Random checkpoints: real sizes, the published layout as transformers reads it, no half-written folders."""

from __future__ import annotations

import json
import os
import shutil
import sys
import warnings
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgephi.benchmarks import __main__ as command
from edgephi.benchmarks import checkpoints, processes, published, shapes
from edgephi.benchmarks.checkpoints import bfloat16_bits
from edgephi.export import families
from edgephi.export.config import read_config
from edgephi.export.weights import bind
from edgephi.runtime.errors import RequestError
from edgephi.runtime.providers import find as find_provider

SHARED = Path(os.environ.get("EDGEPHI_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
CHAT = shapes.Chat(
    (("<|endoftext|>", 600), ("<|assistant|>", 601), ("<|end|>", 602), ("<|user|>", 603)), (602, 600), 600,
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
)
TINY = shapes.Shape(
    "tiny", hidden=128, intermediate=192, layers=2, heads=4, kv_heads=2, vocabulary=640, context=8192,
    original_context=4096, theta=10000.0, chat=CHAT, rotary_fraction=0.5, sliding_window=262144, tied=True,
)


@pytest.mark.parametrize(("name", "parameters", "tensors"), [
    # 3,836,021,760 is the published count; 14.66 and 3.82 billion are the rounded ones
    ("phi-4-mini", 3_836_021_760, 194), ("phi-4-mini-reasoning", 3_836_021_760, 194),
    ("phi-4", 14_659_507_200, 243), ("phi-4-reasoning", 14_659_507_200, 243),
    ("phi-4-reasoning-plus", 14_659_507_200, 243), ("phi-3.5-mini", 3_821_079_552, 195),
    ("phi-3-mini-4k", 3_821_079_552, 195),
    # published, and 160 values of two buffers
    ("phi-4-multimodal", 5_574_460_224 + 160, 2047),
    # published: 15.1 billion, 243 tensors of the decoder and 452 of encoder and projector
    ("phi-4-reasoning-vision", 15_119_518_144, 695),
])
def test_full_size_is_the_published_size(name: str, parameters: int, tensors: int) -> None:
    found = published.find(name).tensors()
    assert (sum(map(prod, found.values())), len(found)) == (parameters, tensors)
    assert name in published.MODELS


def test_the_mini_configuration_is_the_published_one() -> None:
    path = SHARED / "phi-4-mini" / "config.json"
    if not path.is_file():
        pytest.skip(f"no published configuration at {path}; set EDGEPHI_SHARED_DATA")
    theirs = json.loads(path.read_text())
    ours = published.find("phi-4-mini").config()
    scaling, own_scaling = theirs.pop("rope_scaling"), ours.pop("rope_scaling")
    # keys that newer transformers drops or that only name code
    unneeded = {
        "_name_or_path", "auto_map", "transformers_version", "full_attn_mod", "interpolate_factor", "lm_head_bias",
        "mlp_bias",
    }
    assert ours == {key: value for key, value in theirs.items() if key not in unneeded}
    assert own_scaling["short_factor"] == scaling["short_factor"]
    assert len(own_scaling["long_factor"]) == len(scaling["long_factor"])


@pytest.mark.parametrize("name", list(published.MODELS))
def test_the_export_finds_every_tensor_that_it_needs(name: str, tmp_path: Path) -> None:
    model = published.find(name)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(model.config()))
    raw = read_config(path)
    family = families.for_architecture(raw.architecture())
    config = family.read(raw)
    assert raw.unread() == ()
    weights = families.weight_shapes(family.build(config, find_provider("cpu")))
    filled = {weight: shape for weight, shape in weights.items() if not weight.startswith("rotary_")}
    assert bind(family.rules(config), model.tensors(), filled).weights.keys() == filled.keys()


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(RequestError, match=r"'phi-5': choose one of phi-4-mini, .*phi-3-mini-4k"):
        published.find("phi-5")


@given(arrays.arrays(np.float32, 16, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_bfloat16_rounds_as_ml_dtypes_does(values: np.ndarray) -> None:
    with np.errstate(over="ignore"):
        expected = values.astype(ml_dtypes.bfloat16).view(np.uint16)
    assert np.array_equal(bfloat16_bits(values), expected)


class Written(NamedTuple):
    folder: Path
    progress: list[tuple[str, int, int]]
    total: int


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A tiny checkpoint of four shards."""
    folder, progress = tmp_path_factory.mktemp("random") / "tiny", []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "SHARD_BYTES", 160_000)
        total = checkpoints.write(TINY, folder, progress=lambda *step: progress.append(step))
    return Written(folder, progress, total)


def test_transformers_loads_it_and_runs(written: Written) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch and transformers warn about their own insides
        import torch
        from transformers import AutoTokenizer, Phi3ForCausalLM

        model: Any = Phi3ForCausalLM.from_pretrained(written.folder, dtype=torch.float32)
        tokenizer: Any = AutoTokenizer.from_pretrained(written.folder)
    messages = [{"role": "user", "content": "hi"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids == [603, *tokenizer.encode("hi"), 602, 601]
    with torch.no_grad():
        logits = model.eval()(torch.tensor([ids])).logits
    assert logits.shape == (1, len(ids), 640)
    assert torch.isfinite(logits).all() and logits.std() > 0.01
    state = {name for name, _ in model.named_parameters()}
    assert state | {"lm_head.weight"} == set(TINY.tensors()) | {"lm_head.weight"}
    assert model.config.vocab_size == 640


def test_every_id_decodes_to_text(written: Written) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(written.folder / "tokenizer.json"))
    texts = [tokenizer.decode([number], skip_special_tokens=False) for number in range(640)]
    assert all(texts)
    assert len(set(texts[300:])) == 340
    assert tokenizer.encode("Grüße!").ids and tokenizer.decode(tokenizer.encode("Grüße!").ids) == "Grüße!"


def test_statistics_are_those_of_real_weights(written: Written) -> None:
    weights = _read(written.folder)
    columns = weights["model.layers.0.mlp.gate_up_proj.weight"].std(axis=0)
    assert np.median(columns) == pytest.approx(0.02, rel=0.05)
    assert weights["model.norm.weight"].min() > 0
    wide = np.concatenate([weight.std(axis=0) for weight in weights.values() if weight.ndim == 2]) > 0.08
    assert 0 < wide.mean() < 0.02


def test_progress_counts_every_byte(written: Written) -> None:
    assert written.total == 2 * sum(map(prod, TINY.tensors().values()))
    assert written.progress[-1][1:] == (written.total, written.total)
    steps = [done for _, done, _ in written.progress]
    assert steps == sorted(steps)
    assert len(list(written.folder.glob("*.safetensors"))) > 2


def test_values_depend_on_name_and_seed_only(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "CHUNK_ELEMENTS", 1000)
    checkpoints.write(TINY, tmp_path / "chunks")
    checkpoints.write(TINY, tmp_path / "seed", seed=1)
    first, chunks, other = (_read(folder) for folder in (written.folder, tmp_path / "chunks", tmp_path / "seed"))
    assert all(np.array_equal(first[name], chunks[name]) for name in first)
    assert not any(np.array_equal(first[name], other[name]) for name in first)
    upper, lower = (first[f"model.layers.{layer}.mlp.down_proj.weight"] for layer in (0, 1))
    assert not np.array_equal(upper, lower)


def test_a_full_disk_shows_before_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nearly_full = shutil.disk_usage(tmp_path)._replace(free=29_000_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: nearly_full)
    with pytest.raises(RequestError, match=r"has 29\.00 GB free, the checkpoint needs 29\.39 GB"):
        checkpoints.write(published.find("phi-4"), tmp_path / "large")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RequestError, match="is not an empty folder"):
        checkpoints.write(TINY, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interruption_leaves_no_checkpoint(tmp_path: Path) -> None:
    def interrupt(tensor: str, done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoints.write(TINY, tmp_path / "tiny", progress=interrupt)
    assert not (tmp_path / "tiny").exists()
    assert checkpoints.write(TINY, tmp_path / "tiny") > 0
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_the_command_writes_fewer_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(published.MODELS, "phi-4-mini", TINY)
    result = CliRunner().invoke(command.cli, ["checkpoint", "phi-4-mini", "-o", str(tmp_path / "c"), "--layers", "1"])
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "c" / "config.json").read_text())["num_hidden_layers"] == 1
    assert _read(tmp_path / "c").keys() == replace(TINY, layers=1).tensors().keys()


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is measured through /proc")
def test_memory_does_not_grow_with_a_tensor(tmp_path: Path) -> None:
    """A table of 64 MB, which would take 190 MB at once, in chunks of half a megabyte."""
    code = (
        "import sys; from dataclasses import replace; from pathlib import Path\n"
        "from edgephi.benchmarks import checkpoints, published\n"
        "checkpoints.CHUNK_ELEMENTS = 1 << 16\n"
        "model = replace(published.find('phi-3-mini-4k'), hidden=1024, intermediate=64, layers=1)\n"
        "checkpoints.write(model, Path(sys.argv[2])) if sys.argv[1] == 'write' else None"
    )
    idle, writing = (
        processes.run([sys.executable, "-c", code, verb, str(tmp_path / "c")]).peak_resident
        for verb in ("none", "write")
    )
    # the stand-in tokenizer of 32,064 entries takes the most of it
    assert writing - idle < 60 << 20


def _read(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.torch import load_file

    return {
        name: tensor.float().numpy() for path in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }
