"""Reading safetensors: what is right is read as the reference library does, what is wrong is named and refused."""

from __future__ import annotations

import json
import os
import pickle
import random
import resource
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from edgephi import WeightMismatch
from edgephi.export.checkpoint import INDEX_NAME, SINGLE_NAME, open_checkpoint

VALID = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
}


def folder_of(path: Path) -> Path:
    (path.parent / "config.json").write_text("{}")
    return path.parent


def entry(shape: object = (4,), dtype: object = "F32", offsets: object = (0, 16)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_rows_are_those_of_the_reference_library(tmp_path: Path, dtype: Any) -> None:
    original = {
        "m": np.random.default_rng(0).normal(size=(7, 5)).astype(dtype),
        "v": np.arange(3).astype(dtype), "cube": np.arange(24).reshape(2, 3, 4).astype(dtype),
        "empty": np.zeros((0, 4), dtype),
    }
    if dtype is ml_dtypes.bfloat16:
        torch = pytest.importorskip("torch")
        from safetensors.torch import save_file as save_torch

        save_torch({
            name: torch.from_numpy(value.astype(np.float32)).to(torch.bfloat16) for name, value in original.items()
        }, tmp_path / SINGLE_NAME)
    else:
        save_file(original, tmp_path / SINGLE_NAME)
    with open_checkpoint(folder_of(tmp_path / SINGLE_NAME)) as checkpoint:
        assert checkpoint.tensors.keys() == original.keys()
        for name, value in original.items():
            rows = checkpoint.read_rows(name, 0, len(value))
            assert rows.dtype == np.float32
            np.testing.assert_array_equal(rows, value.astype(np.float32))
        np.testing.assert_array_equal(checkpoint.read_rows("m", 2, 5), original["m"][2:5].astype(np.float32))
        np.testing.assert_array_equal(checkpoint.read("cube", 5, 9), np.arange(5, 9, dtype=np.float32))


HEADERS: dict[str, tuple[dict[str, Any], int, str]] = {
    "overlap": ({"a": entry(), "b": entry(offsets=[8, 24])}, 24, "overlaps"),
    "gap": ({"a": entry(), "b": entry(offsets=[20, 36])}, 36, "gap"),
    "starts late": ({"a": entry(offsets=[4, 20])}, 20, "gap"),
    "reversed": ({"a": entry(offsets=[16, 0])}, 16, "data_offsets"),
    "too short": ({"a": entry(offsets=[0, 12])}, 12, "needs 16 bytes"),
    "negative dimension": ({"a": entry(shape=[-4])}, 16, "counts"),
    "boolean dimension": ({"a": entry(shape=[True])}, 4, "counts"),
    "fractional dimension": ({"a": entry(shape=[4.0])}, 16, "counts"),
    "deep": ({"a": entry(shape=[1] * 9, offsets=[0, 4])}, 4, "at most 8"),
    "overflow": ({"a": entry(shape=[4194305, 4194305, 211106198978564])}, 16, "needs"),
    "no shape": ({"a": {"dtype": "F32", "data_offsets": [0, 16]}}, 16, "exactly"),
    "more keys": ({"a": entry() | {"stride": [1]}}, 16, "exactly"),
    "no object": ({"a": [1]}, 0, "exactly"),
    "three offsets": ({"a": entry(offsets=[0, 16, 16])}, 16, "data_offsets"),
    "quantized": ({"a": entry(dtype="I32")}, 16, "already quantized"),
    "dtype list": ({"a": entry(dtype=["F32"])}, 16, "dtype"),
    "parent folder": ({"../../x": entry()}, 16, "name that is not allowed"),
    "terminal escape": ({"\x1b[31mred": entry()}, 16, "name that is not allowed"),
    "nul": ({"a\0b": entry()}, 16, "name that is not allowed"),
    "long name": ({"x" * (1 << 20): entry()}, 16, "name that is not allowed"),
    "line break": ({"a\nb": entry()}, 16, "name that is not allowed"),
    "trailing": ({"a": entry()}, 17, "trailing"),
    "truncated": ({"a": entry()}, 15, "was cut"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_wrong_header_is_refused(tmp_path: Path, raw_file: Callable[..., Path], case: str) -> None:
    header, nbytes, expected = HEADERS[case]
    path = raw_file(tmp_path / SINGLE_NAME, header, bytes(nbytes))
    with pytest.raises(WeightMismatch, match=expected) as caught:
        open_checkpoint(folder_of(path))
    assert_one_line(caught.value, SINGLE_NAME)


def assert_one_line(error: Exception, *parts: str) -> None:
    text = str(error)
    assert text.isprintable() and len(text) < 1000, text
    assert all(part in text for part in parts)
    assert ": " in text.rstrip()[len(text) // 3:], "it says what to do"


@pytest.mark.parametrize("content", [b"", b"\x01\x02", bytes(7)])
def test_a_file_too_short_for_a_length(tmp_path: Path, content: bytes) -> None:
    (tmp_path / SINGLE_NAME).write_bytes(content)
    with pytest.raises(WeightMismatch, match="at least 8"):
        open_checkpoint(folder_of(tmp_path / SINGLE_NAME))


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 200 << 20, 1000])
def test_a_length_beyond_the_file_allocates_nothing(
    tmp_path: Path, raw_file: Callable[..., Path], length: int
) -> None:
    path = raw_file(tmp_path / SINGLE_NAME, VALID, bytes(32), length=length)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WeightMismatch, match="header should have"):
        open_checkpoint(folder_of(path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 5 << 10


@pytest.mark.parametrize("header", [
    b"[]", b"null", b"{", b'{"a": NaN}', b"\xff\xfe", b'{"a":1e999}', b"[" * 100_000, b'{"a":' * 70 + b"1" + b"}" * 70,
    b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"w":{"dtype":"F16","shape":[8],"data_offsets":[0,16]}}',
])
def test_a_header_that_is_no_strict_json(tmp_path: Path, raw_file: Callable[..., Path], header: bytes) -> None:
    path = raw_file(tmp_path / SINGLE_NAME, header, bytes(16))
    with pytest.raises(WeightMismatch, match=r"JSON|twice|number|nested"):
        open_checkpoint(folder_of(path))


def test_a_file_cut_anywhere_is_refused(tmp_path: Path, raw_file: Callable[..., Path]) -> None:
    path = raw_file(tmp_path / SINGLE_NAME, VALID, bytes(32))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightMismatch):
            open_checkpoint(folder_of(path))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_damage_escapes_as_another_error(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Flip, cut or splice bytes of a valid file: it is read as a valid file or refused, nothing else."""
    folder = tmp_path_factory.getbasetemp() / "damaged"
    folder.mkdir(exist_ok=True)
    text = json.dumps(VALID).encode()
    content = bytearray(struct.pack("<Q", len(text)) + text + bytes(32))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place:place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
        if not content:
            break
    (folder / SINGLE_NAME).write_bytes(bytes(content))
    try:
        with open_checkpoint(folder_of(folder / SINGLE_NAME)) as checkpoint:
            for info in checkpoint.tensors.values():
                if info.shape:
                    checkpoint.read_rows(info.name, 0, info.shape[0])
    except WeightMismatch as error:
        assert str(error).isprintable()


@pytest.mark.parametrize(("value", "shown"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")])
def test_a_value_that_is_not_finite_is_named_with_its_index(tmp_path: Path, value: float, shown: str) -> None:
    weights = np.ones((6, 4), np.float32)
    weights[3, 1] = weights[5, 0] = value
    save_file({"w": weights}, tmp_path / SINGLE_NAME)
    with open_checkpoint(folder_of(tmp_path / SINGLE_NAME)) as checkpoint:
        np.testing.assert_array_equal(checkpoint.read_rows("w", 0, 3), 1)
        with pytest.raises(WeightMismatch, match=rf"tensor w holds {shown} at \[3, 1\]"):
            checkpoint.read_rows("w", 2, 6)


def test_a_file_that_shrinks_while_it_is_open_is_an_error(tmp_path: Path) -> None:
    """A memory map would end the process here."""
    save_file({"w": np.ones((4096, 4), np.float32)}, tmp_path / SINGLE_NAME)
    with open_checkpoint(folder_of(tmp_path / SINGLE_NAME)) as checkpoint:
        os.truncate(tmp_path / SINGLE_NAME, 4096)
        with pytest.raises(WeightMismatch, match="ends at byte 4096"):
            checkpoint.read_rows("w", 0, 4096)


@pytest.fixture
def sharded(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint("mini"), tmp_path / "sharded"))


def edit_index(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    index = json.loads((folder / INDEX_NAME).read_text())
    change(index["weight_map"])
    (folder / INDEX_NAME).write_text(json.dumps(index))


def test_shards_are_read_as_one(sharded: Path) -> None:
    shards = sorted(sharded.glob("*.safetensors"))
    assert len(shards) > 2
    with open_checkpoint(sharded) as checkpoint:
        assert {info.shard for info in checkpoint.tensors.values()} == set(shards)


def test_missing_shards_are_listed(sharded: Path) -> None:
    gone = sorted(sharded.glob("*.safetensors"))[1:3]
    for path in gone:
        path.unlink()
    with pytest.raises(WeightMismatch, match=f"2 shards are missing: {gone[0].name}, {gone[1].name}"):
        open_checkpoint(sharded)


@pytest.mark.parametrize("place", [
    "../x.safetensors", "/etc/passwd", "sub/x.safetensors", ".hidden.safetensors", "x.bin", 3, None, "a\n.safetensors",
])
def test_an_index_that_points_elsewhere(sharded: Path, place: object) -> None:
    edit_index(sharded, lambda placed: placed.update({"model.norm.weight": place}))
    with pytest.raises(WeightMismatch, match=r"only \*\.safetensors files of the same folder") as caught:
        open_checkpoint(sharded)
    assert_one_line(caught.value, INDEX_NAME)


def test_every_disagreement_of_the_index_is_listed_at_once(sharded: Path) -> None:
    def change(placed: dict[str, Any]) -> None:
        other = next(name for name in placed.values() if name != placed["model.norm.weight"])
        placed["model.norm.weight"] = other
        placed["model.ghost.weight"] = other
        del placed["model.layers.0.mlp.down_proj.weight"]

    edit_index(sharded, change)
    with pytest.raises(WeightMismatch) as caught:
        open_checkpoint(sharded)
    assert_one_line(
        caught.value, "1 tensors named by the index but in no shard: 'model.ghost.weight'",
        "1 tensors in a shard but not named by the index: model.layers.0.mlp.down_proj.weight",
        "1 tensors in another shard than the index says: model.norm.weight",
    )


def test_a_tensor_that_two_shards_hold(sharded: Path) -> None:
    first, second = sorted(sharded.glob("*.safetensors"))[:2]
    shutil.copy(first, second)
    with pytest.raises(WeightMismatch, match=r"lies in .* and in"):
        open_checkpoint(sharded)


@pytest.mark.parametrize("index", ["{}", '{"weight_map": {}}', '{"weight_map": []}', "[]", "{"])
def test_an_index_without_a_map(sharded: Path, index: str) -> None:
    (sharded / INDEX_NAME).write_text(index)
    with pytest.raises(WeightMismatch, match=r"weight_map|JSON"):
        open_checkpoint(sharded)


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path]]:
        return Path.touch, (self.marker,)


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    marker = tmp_path / "opened"
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(marker)))
    with pytest.raises(WeightMismatch, match="pickle file, which can run code"):
        open_checkpoint(folder_of(tmp_path / "pytorch_model.bin"))
    assert not marker.exists()


def test_an_empty_folder_says_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(WeightMismatch, match="found neither"):
        open_checkpoint(tmp_path)


def test_the_identity_follows_the_content(sharded: Path) -> None:
    def identity() -> str:
        with open_checkpoint(sharded) as checkpoint:
            return checkpoint.identity()

    first = identity()
    assert identity() == first
    shard = sorted(sharded.glob("*.safetensors"))[0]
    content = bytearray(shard.read_bytes())
    content[-random.Random(0).randrange(1, 100)] ^= 1
    shard.write_bytes(content)
    assert identity() != first
