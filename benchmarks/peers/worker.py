"""Runs inside the environment of a peer: one verb of it, `measure`, or `take_turns`.

Boundary: arguments in, one JSON line out; knows time and memory, not what a peer does. Standard library only.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PACKAGE = "edgephi_peers"
TURN = "turn:"


def measure(
    peer: Any, model: str, threads: int, context: int, tokens: int, started: float, stages: Sequence[Sequence[int]]
) -> None:
    """Load a model, let it answer prompts of random ids below `tokens`, and print what was seen.

    `stages`: (length of the prompt, tokens after the first); `started`: the monotonic clock of the machine when this
    process was made. `at` are seconds since then; memory is in bytes, its peak is that of the process so far.
    """
    engine = peer.open(Path(model), threads, context)
    report: dict[str, Any] = {"loaded": {"at": time.monotonic() - started, **memory()}, "stages": []}
    for number, (length, steps) in enumerate(stages):
        # another prompt each time: some runtimes keep what they read
        prompt = random.Random(number).choices(range(tokens), k=length)
        begun = time.monotonic() - started
        seconds = engine.answer(prompt, steps)
        report["stages"].append({
            "length": length, "at": begun + seconds[0], "first": seconds[0], "steps": seconds[1:], **memory(),
        })
    print(json.dumps(report), flush=True)  # noqa: T201  # the report of this process


def take_turns(peer: Any, model: str, threads: int, tokens: int, length: int, steps: int, burst: int) -> None:
    """Load a model, let it read `length` random ids, and make `burst` of `steps` tokens at each line of stdin.

    A line of stdout that begins with TURN says that it waits, with the seconds of the tokens since the last one.
    """
    engine = peer.open(Path(model), threads, length + steps + 1)
    seconds: list[float] = []
    begun: float | None = None

    def pause() -> None:
        nonlocal begun
        if begun is not None:
            seconds.append(time.perf_counter() - begun)
        if begun is None or len(seconds) == burst:
            print(TURN, json.dumps(seconds), flush=True)  # noqa: T201  # likewise
            seconds.clear()
            sys.stdin.readline()
        begun = time.perf_counter()

    engine.answer(random.Random(length).choices(range(tokens), k=length), steps, pause)


def memory() -> dict[str, int]:
    """Peak of the resident set, and anonymous pages now, in bytes."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
    sizes = {"peak_resident": "VmHWM", "anonymous": "RssAnon"}
    return {name: int(fields[field].split()[0]) * 1024 for name, field in sizes.items()}


def main() -> None:
    """`worker.py PEER VERB JSON`: the folder becomes a package, so that its files hide no package of the peer's."""
    folder = Path(__file__).parent
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != folder.resolve()]
    start = folder / "__init__.py"
    spec = importlib.util.spec_from_file_location(PACKAGE, start, submodule_search_locations=[str(folder)])
    assert spec is not None and spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = package
    spec.loader.exec_module(package)
    name, verb, arguments = sys.argv[1:]
    peer = importlib.import_module(f"{PACKAGE}.{name}").PEER
    if verb == "measure":
        measure(peer, **json.loads(arguments))
    elif verb == "take_turns":
        take_turns(peer, **json.loads(arguments))
    else:
        peer.verbs[verb](**json.loads(arguments))


if __name__ == "__main__":
    main()
