"""Checkpoint tensor names → weights of the graphs: every tensor is used exactly once, every weight is filled exactly once.

Boundary: names and shapes only; no data is read here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..runtime.errors import WeightMismatch

SHOWN = 6


@dataclass(frozen=True)
class Rename:
    """The tensor `source` is the weight `target`; `{layer}` in both stands for each of `layers` indices."""

    source: str
    target: str
    layers: int = 0


@dataclass(frozen=True)
class Tie:
    """`source` may be left out of the checkpoint; where it is there, it must hold the same values as `target`."""

    source: str
    target: str


Rule = Rename | Tie


@dataclass(frozen=True)
class Binding:
    """Weight name → tensor name, and pairs of tensors (copy, original) that must hold the same values."""

    tensors: Mapping[str, str]
    copies: tuple[tuple[str, str], ...]


def bind(
    rules: Sequence[Rule], tensors: Mapping[str, tuple[int, ...]], weights: Mapping[str, tuple[int, ...]]
) -> Binding:
    """Match a checkpoint's tensors (name → shape) with the weights that the graphs declare (name → shape).

    Raises WeightMismatch naming both sides: tensors that are missing, left over or misshapen, and weights that no rule fills.
    """
    pairs = [pair for rule in rules if isinstance(rule, Rename) for pair in _expand(rule)]
    wanted = {source for source, _ in pairs}
    copies = tuple((rule.source, rule.target) for rule in rules if isinstance(rule, Tie) and rule.source in tensors)
    problems = [
        _problem("missing from the checkpoint", sorted(wanted - tensors.keys())),
        _problem("left over in the checkpoint", sorted(tensors.keys() - wanted - {source for source, _ in copies})),
        _problem("declared by the graphs but not filled by any tensor", sorted(weights.keys() - {target for _, target in pairs})),
        _problem("filled by a tensor but not declared by any graph", sorted({target for _, target in pairs} - weights.keys())),
        _problem("of the wrong shape", [
            f"{source} is {list(tensors[source])}, config.json asks for {list(weights[target])}"
            for source, target in pairs if source in tensors and target in weights and tensors[source] != weights[target]
        ]),
    ]
    found = "; ".join(problem for problem in problems if problem)
    if found:
        raise WeightMismatch(f"tensors and configuration do not agree: {found}: check that config.json and the shards belong together")
    return Binding({target: source for source, target in pairs}, copies)


def _expand(rule: Rename) -> list[tuple[str, str]]:
    if not rule.layers:
        return [(rule.source, rule.target)]
    return [(rule.source.replace("{layer}", str(i)), rule.target.replace("{layer}", str(i))) for i in range(rule.layers)]


def _problem(label: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} {label}: {', '.join(names[:SHOWN])}{more}"
