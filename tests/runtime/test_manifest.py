"""The contract of a bundle folder: what is written is read back, and nothing else is believed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgephi import HashMismatch, ManifestError
from edgephi.runtime.manifest import (
    MANIFEST_NAME,
    MAXIMUM_BYTES,
    Manifest,
    check_sizes,
    parse_object,
    printable,
    read_manifest,
    verify_files,
    write_manifest,
)


@pytest.fixture
def bundle(tiny_bundle: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle("mini"), tmp_path / "bundle"))


def edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads((bundle / MANIFEST_NAME).read_text())
    change(values)
    (bundle / MANIFEST_NAME).write_text(json.dumps(values))


def refused(bundle: Path, found: str) -> None:
    with pytest.raises(ManifestError, match=found) as caught:
        read_manifest(bundle)
    text = str(caught.value)
    assert text.isprintable() and len(text) < 1000 and str(bundle) in text


def test_what_is_written_is_read_back(bundle: Path, tmp_path: Path) -> None:
    manifest = read_manifest(bundle)
    assert read_manifest(write_manifest(tmp_path, manifest).parent) == manifest
    assert (tmp_path / MANIFEST_NAME).read_bytes() == (bundle / MANIFEST_NAME).read_bytes()
    seen: list[int] = []
    verify_files(bundle, manifest, seen.append)
    assert sum(seen) == sum(record.size for record in manifest.files.values())


@pytest.mark.parametrize("name", [
    "../secret", "..", "a/b", "/etc/passwd", "a\\b", "C:x", ".hidden", "", "x" * 200, "a\0b", "\x1b[31m", "a..b",
    "a\nb",
])
def test_a_name_outside_the_folder_is_refused(bundle: Path, name: str) -> None:
    record = {"size": 1, "sha256": "0" * 64}
    edit(bundle, lambda values: values["files"].update({name: record}))
    refused(bundle, "file name .* is not allowed")


@pytest.mark.parametrize("path", ["../text.onnx", "other.onnx"])
def test_a_graph_that_is_not_listed_is_refused(bundle: Path, path: str) -> None:
    edit(bundle, lambda values: values["graphs"]["text"].update(file=path))
    refused(bundle, "used but not listed under 'files'")


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "unknown key": (lambda v: v.update(custom_ops_library="evil.so"), "unknown keys .*custom_ops_library"),
    "unknown key inside": (lambda v: v["text"].update(session_options={}), "unknown keys .*session_options"),
    "missing key": (lambda v: v.pop("tokens"), r"missing keys \['tokens'\]"),
    "other schema": (lambda v: v.update(schema=99), "schema is 99, this edgephi reads 1"),
    "no schema": (lambda v: v.pop("schema"), "schema is None"),
    "bool for a count": (lambda v: v["text"].update(layers=True), "layers: True is not a int"),
    "text for a count": (lambda v: v["text"].update(layers="2"), "layers: '2' is not a int"),
    "huge count": (lambda v: v["text"].update(layers=2**62), "layers: 4611686018427387904 is not a int"),
    "fraction for a count": (lambda v: v["text"].update(heads=2.0), "heads: 2.0 is not a int"),
    "null": (lambda v: v.update(family=None), "family: None is not a str"),
    "list for an object": (lambda v: v.update(text=[]), r"text: \[\] is not an object"),
    "object for a list": (lambda v: v["tokens"].update(eos={}), "eos: {} is not a"),
    "negative size": (lambda v: v["files"]["text.onnx"].update(size=-1), "size or SHA-256"),
    "short hash": (lambda v: v["files"]["text.onnx"].update(sha256="abc"), "size or SHA-256"),
    "upper case hash": (lambda v: v["files"]["text.onnx"].update(sha256="A" * 64), "size or SHA-256"),
    "table beyond the file": (lambda v: v["text"]["rotary"][0]["cos"].update(offset=1 << 40), "rotary table ends"),
    "table before the file": (lambda v: v["text"]["rotary"][0]["sin"].update(offset=-8), "rotary table ends"),
    "negative table": (lambda v: v["text"]["rotary"][1]["sin"].update(shape=[-1, -24]), "rotary table ends"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_what_does_not_fit_is_refused(bundle: Path, case: str) -> None:
    change, found = CHANGES[case]
    edit(bundle, change)
    refused(bundle, found)


@pytest.mark.parametrize(("content", "found"), [
    (b"", "not valid JSON"), (b"[]", "object"), (b"\xff", "not valid JSON"), (b"[" * 100_000, "not valid JSON"),
    (b'{"schema": 1, "schema": 1}', "given twice"), (b'{"schema": NaN}', "no number"), (b'{"a": 1e999}', "float64"),
    (b'{"a":' * 100 + b"1" + b"}" * 100, "nested deeper"), (b" " * (MAXIMUM_BYTES + 1), "at most"),
])
def test_what_is_no_manifest_is_refused(bundle: Path, content: bytes, found: str) -> None:
    (bundle / MANIFEST_NAME).write_bytes(content)
    refused(bundle, found)


def test_a_folder_without_a_manifest_says_what_to_do(tmp_path: Path, tiny_checkpoint: Callable[..., Path]) -> None:
    refused(tmp_path, "give the folder that `edgephi export` wrote")
    refused(tmp_path / "absent", "there is no edgephi.json in it")
    refused(tiny_checkpoint("mini"), "looks like a checkpoint: run `edgephi export` on it first")


def test_links_folders_and_pipes_are_no_files_of_a_bundle(bundle: Path) -> None:
    manifest, path = read_manifest(bundle), bundle / "text.onnx"
    content = path.read_bytes()
    (bundle.parent / "elsewhere").write_bytes(content)
    for make in (lambda: path.symlink_to(bundle.parent / "elsewhere"), path.mkdir, lambda: os.mkfifo(path)):
        path.rmdir() if path.is_dir() else path.unlink()
        make()
        with pytest.raises(HashMismatch, match=r"text\.onnx is not a plain file"):
            check_sizes(bundle, manifest)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_change_of_a_value_escapes_as_another_error(
    tiny_bundle: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Replace a random value of a valid manifest by anything: it is read as a manifest or refused."""
    values = json.loads((tiny_bundle("mini") / MANIFEST_NAME).read_text())
    anything = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
        max_leaves=4,
    )
    place: Any = values
    while True:
        keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            place[key] = data.draw(anything)
            break
        place = place[key]
    folder = tmp_path_factory.getbasetemp() / "changed"
    folder.mkdir(exist_ok=True)
    (folder / MANIFEST_NAME).write_text(json.dumps(values))
    try:
        assert isinstance(read_manifest(folder), Manifest)
    except ManifestError as error:
        assert str(error).isprintable()


def test_foreign_text_is_shown_without_harm() -> None:
    assert printable("\x1b[31m\n") == r"'\x1b[31m\n'" and len(printable("x" * 999)) == 80
    assert parse_object(b'{"a": [1, 2.5]}', "here", ManifestError, "do it") == {"a": [1, 2.5]}


@pytest.mark.parametrize(("changes", "found"), [
    ({"pictures": {"kind": "crops", "minimum": 1, "maximum": 36, "after": ""}}, "graph 'vision' or what belongs"),
    ({"tokens": {"bos": None, "eos": [1], "pad": None, "image": 5}}, "graph 'vision' or what belongs"),
    ({"tokens": {"bos": None, "eos": [1], "pad": None, "audio": 5}}, "graph 'speech' or what belongs"),
])
def test_pictures_and_recordings_need_their_graphs(bundle: Path, changes: dict[str, Any], found: str) -> None:
    path = bundle / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    refused(bundle, found)


@pytest.mark.parametrize("pictures", [
    {"kind": "tiles", "minimum": 1, "maximum": 36}, {"kind": "patches", "minimum": 0, "maximum": 36},
    {"kind": "patches", "minimum": 37, "maximum": 36}, {"kind": "patches", "minimum": 1, "maximum": 1 << 20},
    {"kind": "crops", "minimum": 1, "maximum": 36, "side": 100},
    {"kind": "crops", "minimum": 1, "maximum": 36, "patch": 0},
])
def test_pictures_are_cut_in_ways_that_there_are(bundle: Path, pictures: dict[str, Any]) -> None:
    path = bundle / MANIFEST_NAME
    raw = json.loads(path.read_text())
    raw["graphs"]["vision"], raw["tokens"]["image"] = raw["graphs"]["text"], 5
    path.write_text(json.dumps(raw | {"pictures": pictures}))
    refused(bundle, "can be: export the checkpoint again")
