"""The record that every peer fills in, and what its runtime must be able to do. Standard library only."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Command = tuple[str, ...]
"""Arguments of a Python interpreter."""

Verb = Callable[..., object]
WORKER = Path(__file__).with_name("worker.py")


Pause = Callable[[], None]
"""What is done behind a token; its time is nobody's."""


def go_on() -> None:
    """No pause."""


class Engine(Protocol):
    """A loaded model."""

    def answer(self, tokens: Sequence[int], steps: int, pause: Pause = go_on) -> list[float]:
        """Read `tokens` into an empty cache and continue greedily by 1 + `steps` tokens, with a `pause` behind each.

        Returns seconds: up to the first token, then of each further one. Fewer where the model ended its answer.
        """


@dataclass(frozen=True)
class Conversion:
    """A checkpoint of `layers` layers to convert into the folder `target`, which does not exist yet.

    `scratch` is an empty folder that is thrown away afterwards.
    """

    variant: str
    checkpoint: Path
    layers: int
    target: Path
    scratch: Path
    threads: int


@dataclass(frozen=True)
class Peer:
    """One runtime.

    `requirements` go to pip in an environment of their own, built under the variables of `environment`; without any,
    the peer runs in the interpreter of the benchmark. `variants`: name → what that conversion is. `convert` gives the
    commands of a conversion, `open` loads what they made with so many threads and room for so many tokens. `verbs` are
    functions of the peer's own that its commands call. `unwanted`: packages that pip brings along and that are removed
    again. `note`: what a reader of its figures must know. `variables`: those that its own program sets for itself on
    this machine, before it starts. `pauses`: whether it computes nothing while it is kept from giving out a token.
    """

    name: str
    title: str
    requirements: tuple[str, ...]
    environment: dict[str, str]
    variants: Mapping[str, str]
    convert: Callable[[Conversion], Sequence[Command]]
    open: Callable[[Path, int, int], Engine]
    verbs: Mapping[str, Verb]
    unwanted: tuple[str, ...] = ()
    note: str = ""
    variables: Callable[[], Mapping[str, str]] = dict
    pauses: bool = True


def call(peer: str, verb: str, **arguments: str | int | float | Sequence[object]) -> Command:
    """The command that runs `verb` of a peer inside its environment."""
    return (str(WORKER), peer, verb, json.dumps(arguments))
