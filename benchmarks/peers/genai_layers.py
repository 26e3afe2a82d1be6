"""Puts the graphs of consecutive slices of a model together, as onnxruntime-genai's builder writes them.

Boundary: names and external data of ONNX files; values are copied, never read. The first slice has embedding and head;
of the others only the weights of their layers and, of the last one, the final norm are used. Its last layer is the
pattern of all that follow: the same nodes between other names.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .layers import copy

_NUMBER = re.compile(r"((?:^|[./])(?:layers|past_key_values|present)\.)(\d+)(?=[./])")
_GRAPH, _DATA, _CONFIG = "model.onnx", "model.onnx.data", "genai_config.json"
_ALIGNMENT = 4096


def join(parts: Sequence[str], target: str) -> None:
    """Write one model of all layers of `parts`, in order, to the folder `target`."""
    import onnx

    folders = [Path(part) for part in parts]
    models = [onnx.load(folder / _GRAPH, load_external_data=False) for folder in folders]
    counts = [_layers(folder) for folder in folders]
    size, total = counts[0], sum(counts)
    whole = models[0]
    graph = whole.graph
    del graph.value_info[:]
    nodes = list(_grown(list(graph.node), size, total))
    del graph.node[:]
    graph.node.extend(nodes)
    for values in (graph.input, graph.output):
        pattern = [value for value in values if _number(value.name) == size - 1]
        values.extend(_renamed(value, {size - 1: layer}) for layer in range(size, total) for value in pattern)
    Path(target).mkdir(parents=True)
    initializers = list(_initializers(models, counts))
    with (Path(target) / _DATA).open("wb") as data:
        for tensor, part in initializers:
            _move(tensor, folders[part], data)
    del graph.initializer[:]
    graph.initializer.extend(tensor for tensor, _ in initializers)
    onnx.save(whole, Path(target) / _GRAPH)
    for path in folders[0].iterdir():
        if path.name not in (_GRAPH, _DATA):
            shutil.copyfile(path, Path(target) / path.name)
    config = json.loads((folders[0] / _CONFIG).read_text(encoding="utf-8"))
    config["model"]["decoder"]["num_hidden_layers"] = total
    (Path(target) / _CONFIG).write_text(json.dumps(config, indent=4), encoding="utf-8")


def _layers(folder: Path) -> int:
    config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    layers: int = config["model"]["decoder"]["num_hidden_layers"]
    return layers


def _grown(nodes: Sequence[Any], size: int, total: int) -> Iterator[Any]:
    """The nodes of `size` layers, then those of further ones, then what follows the last layer."""
    numbers = [_number(node.name) for node in nodes]
    pattern = [node for node, number in zip(nodes, numbers, strict=True) if number == size - 1]
    tail = next(index for index, number in enumerate(numbers) if number == size)  # the final norm
    yield from nodes[:tail]
    for layer in range(size, total):
        yield from (_renamed(node, {size - 1: layer, size - 2: layer - 1}) for node in pattern)
    yield from (_renamed(node, {size - 1: total - 1, size: total}) for node in nodes[tail:])


def _initializers(models: Sequence[Any], counts: Sequence[int]) -> Iterator[tuple[Any, int]]:
    """Every initializer under its new name, and the part that its bytes are in."""
    before, total = 0, sum(counts)
    for part, (model, count) in enumerate(zip(models, counts, strict=True)):
        for tensor in model.graph.initializer:
            number = _number(tensor.name)
            if number is not None and number < count:
                yield _renamed(tensor, {number: before + number}), part
            elif number == count and part == len(models) - 1:
                yield _renamed(tensor, {count: total}), part
            elif number is None and part == 0:
                yield tensor, part
        before += count


def _number(name: str) -> int | None:
    found = _NUMBER.search(name)
    return None if found is None else int(found[2])


def _renamed(message: Any, numbers: dict[int, int]) -> Any:
    """A copy of a node, tensor or value with other layer numbers in all of its names."""
    copied = type(message)()
    copied.CopyFrom(message)

    def replace(found: re.Match[str]) -> str:
        return f"{found[1]}{numbers.get(int(found[2]), int(found[2]))}"

    copied.name = _NUMBER.sub(replace, message.name)
    for field in ("input", "output"):
        if hasattr(message, field):
            names = [_NUMBER.sub(replace, name) for name in getattr(message, field)]
            del getattr(copied, field)[:]
            getattr(copied, field).extend(names)
    return copied


def _move(tensor: Any, folder: Path, data: Any) -> None:
    """Append the bytes of a tensor to `data` and let it point there; small ones stay in the graph."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if not entries:
        return
    data.write(bytes(-data.tell() % _ALIGNMENT))
    offset, length = data.tell(), int(entries["length"])
    with (folder / entries["location"]).open("rb") as source:
        source.seek(int(entries.get("offset", "0")))
        copy(source, data, length)
    del tensor.external_data[:]
    for key, value in (("location", _DATA), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
