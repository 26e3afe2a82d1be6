"""Environments and converted models of the peers, kept in one folder: what is there is not made again.

Boundary: installs packages and runs the peers' own converters, each in a process whose cost is noted; measures no
speed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from edgephi.runtime.errors import RequestError

from . import processes
from .peers import genai, layers, llama_cpp, openvino, ours
from .peers.peer import Conversion, Peer

PEERS = {module.PEER.name: module.PEER for module in (ours, genai, llama_cpp, openvino)}

Say = Callable[[str], None]


@dataclass(frozen=True)
class Cost:
    """What a conversion took: seconds, bytes; `steps` are the processes that it needed, one after the other."""

    seconds: float
    cpu_seconds: float
    peak_resident: int
    peak_anonymous: int
    steps: int
    load_before: float
    date: str


@dataclass(frozen=True)
class Contender:
    """A model that is ready to be measured."""

    peer: Peer
    variant: str
    python: str
    versions: dict[str, str]
    model: Path
    cost: Cost

    @property
    def name(self) -> str:
        """As on the command line."""
        return f"{self.peer.name}:{self.variant}"

    @property
    def disk(self) -> int:
        """Bytes of all files of the model."""
        return sum(path.stat().st_size for path in self.model.rglob("*") if path.is_file())


def choose(names: tuple[str, ...]) -> list[tuple[Peer, str]]:
    """`genai:best` is one variant, `genai` are all of a peer. Raises RequestError naming those that exist."""
    chosen = []
    for name in names:
        peer, _, variant = name.partition(":")
        if peer not in PEERS or (variant and variant not in PEERS[peer].variants):
            known = (f"{peer.name}:{variant}" for peer in PEERS.values() for variant in peer.variants)
            raise RequestError(f"no peer is called {name!r}: choose among {', '.join(known)}")
        chosen += [(PEERS[peer], each) for each in ([variant] if variant else PEERS[peer].variants)]
    return chosen


def shortened(checkpoint: Path, count: int | None, cache: Path, say: Say) -> Path:
    """A checkpoint of the first `count` layers; itself where it has no more. Raises RequestError."""
    if not (checkpoint / "config.json").is_file():
        raise RequestError(f"{checkpoint} has no config.json: give the folder of a checkpoint")
    if count is None or count >= layers.count(checkpoint):
        return checkpoint
    target = cache / "checkpoints" / f"{checkpoint.name}-{count}"
    if not target.is_dir():
        say(f"taking {count} layers of {checkpoint.name}")
        layers.take(checkpoint, target, 0, count)
    return target


def prepare(peer: Peer, variant: str, checkpoint: Path, cache: Path, threads: int, say: Say) -> Contender:
    """Make the environment and the model where they are missing. Raises RequestError when a step fails."""
    python = _environment(peer, cache, say)
    model = cache / "models" / checkpoint.name / f"{peer.name}-{variant}"
    noted = model.with_name(f"{model.name}.json")
    if not noted.is_file():
        say(f"converting {checkpoint.name} for {peer.title}, {variant}")
        shutil.rmtree(model, ignore_errors=True)
        cost = _convert(peer, variant, checkpoint, model, python, threads)
        noted.write_text(json.dumps(asdict(cost), indent=2) + "\n", encoding="utf-8")
    cost = Cost(**json.loads(noted.read_text(encoding="utf-8")))
    return Contender(peer, variant, python, _versions(peer, python), model, cost)


def _environment(peer: Peer, cache: Path, say: Say) -> str:
    """The interpreter of the peer."""
    if not peer.requirements:
        return sys.executable
    folder = cache / "environments" / peer.name
    python, noted = folder / "bin" / "python", folder / "installed.json"
    if noted.is_file() and json.loads(noted.read_text(encoding="utf-8")) == list(peer.requirements):
        return str(python)
    say(f"installing {', '.join(peer.requirements)}")
    _run([sys.executable, "-m", "venv", "--clear", str(folder)])
    pip = [str(python), "-m", "pip"]
    _run([*pip, "install", "--quiet", *peer.requirements], peer.environment)
    if peer.unwanted:
        _run([*pip, "uninstall", "--quiet", "--yes", *peer.unwanted])
    noted.write_text(json.dumps(list(peer.requirements)), encoding="utf-8")
    return str(python)


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, env=os.environ | (environment or {}), stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise RequestError(f"{' '.join(command)} ended with {done.returncode}: see its message above")


def _convert(peer: Peer, variant: str, checkpoint: Path, model: Path, python: str, threads: int) -> Cost:
    load = round(os.getloadavg()[0], 2)
    scratch = model.with_name(f"{model.name}.scratch")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    conversion = Conversion(variant, checkpoint, layers.count(checkpoint), model, scratch, threads)
    try:
        usages = [processes.run([python, *command]) for command in peer.convert(conversion)]
    finally:
        shutil.rmtree(scratch)
    return Cost(
        round(sum(usage.seconds for usage in usages), 1), round(sum(usage.cpu_seconds for usage in usages), 1),
        max(usage.peak_resident for usage in usages), max(usage.peak_anonymous for usage in usages), len(usages), load,
        datetime.now(UTC).date().isoformat(),
    )


def _versions(peer: Peer, python: str) -> dict[str, str]:
    names = [requirement.partition("==")[0].partition(">=")[0] for requirement in peer.requirements] or ["edgephi"]
    code = (
        "import importlib.metadata as m, json, sys; "
        "print(json.dumps({name: m.version(name) for name in sys.argv[1:]}))"
    )
    done = subprocess.run([python, "-c", code, *names], capture_output=True, text=True, check=True)
    versions: dict[str, str] = json.loads(done.stdout)
    return versions
