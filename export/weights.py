"""Checkpoint tensor names → weights of the graphs: every tensor is used exactly once, every weight is filled exactly.

Boundary: names and shapes only; no data is read here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from ..runtime.errors import WeightMismatch

SHOWN = 6
WEIGHT_AND_BIAS = ("weight", "bias")
LAYER = "{layer}"  # in the names of a rule: stands for each of its `layers` indices

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Rename:
    """The tensor `source` is the weight `target`, multiplied by `scale`.

    `reshape` allows another shape of as many elements in the same order; `pad` allows a larger weight, whose further
    rows and columns are zero.
    """

    source: str
    target: str
    layers: int = 0
    scale: float = 1.0
    reshape: bool = False
    pad: bool = False


def layer_renames(
    source: str, target: str, layers: int = 0, *, reshape: bool = False, pad: bool = False
) -> list[Rename]:
    """Rules for the weight and the bias of one layer; `reshape` is for the weight."""
    return [
        Rename(f"{source}.{kind}", f"{target}.{kind}", layers, reshape=reshape and kind == "weight", pad=pad)
        for kind in WEIGHT_AND_BIAS
    ]


@dataclass(frozen=True)
class Join:
    """The rows of the tensors `sources`, one below the other, are the weight `target`."""

    sources: tuple[str, ...]
    target: str
    layers: int = 0


@dataclass(frozen=True)
class Split:
    """The rows of the tensor `source`, from the first on, are the weights `targets`; `reshape` as in Rename."""

    source: str
    targets: tuple[str, ...]
    layers: int = 0
    reshape: bool = False


@dataclass(frozen=True)
class Tie:
    """`source` may be left out of the checkpoint; where it is there, it must hold the same values as `target`."""

    source: str
    target: str


@dataclass(frozen=True)
class Drop:
    """`source` may be there and is not used, because of `reason`."""

    source: str
    reason: str
    layers: int = 0


@dataclass(frozen=True)
class Strip:
    """`part` is left out of every tensor's name before any other rule sees it."""

    part: str


Rule = Rename | Join | Split | Tie | Drop | Strip


@dataclass(frozen=True)
class Piece:
    """`rows` rows of `columns` elements, taken from a tensor's elements in order from `first` on, times `scale`."""

    tensor: str
    first: int
    rows: int
    columns: int
    scale: float = 1.0


@dataclass(frozen=True)
class Binding:
    """What each weight is made of, and pairs of tensors (copy, original) that must hold the same values.

    The pieces of a weight lie one below the other; what they leave of its rows and columns is zero.
    """

    weights: Mapping[str, tuple[Piece, ...]]
    copies: tuple[tuple[str, str], ...]


def bind(rules: Sequence[Rule], tensors: Mapping[str, Shape], weights: Mapping[str, Shape]) -> Binding:
    """Match a checkpoint's tensors (name → shape) with the weights that the graphs declare (name → shape).

    Raises WeightMismatch naming both sides: tensors that are missing, left over or misshapen, and weights that no rule
    fills.
    """
    stripped = {_strip(name, rules): name for name in tensors}
    if len(stripped) < len(tensors):
        twice = sorted(name for name in tensors if stripped[_strip(name, rules)] != name)
        raise WeightMismatch(
            f"{_problem('in the checkpoint twice, once under a wrapped name', twice)}: keep one of each"
        )
    binding = _bind(rules, {name: tensors[full] for name, full in stripped.items()}, weights)
    return Binding(
        {
            weight: tuple(replace(piece, tensor=stripped[piece.tensor]) for piece in pieces)
            for weight, pieces in binding.weights.items()
        },
        tuple((stripped[copy], stripped[original]) for copy, original in binding.copies),
    )


def _bind(rules: Sequence[Rule], tensors: Mapping[str, Shape], weights: Mapping[str, Shape]) -> Binding:
    copies = tuple((rule.source, rule.target) for rule in rules if isinstance(rule, Tie) and rule.source in tensors)
    dropped = {name for rule in rules if isinstance(rule, Drop) for name in _names(rule.source, rule.layers)}
    maps = [each for rule in rules if isinstance(rule, Rename | Join | Split) for each in _each_layer(rule)]
    wanted = Counter(source for each in maps for source in _sources(each))
    filled = Counter(target for each in maps for target in _targets(each))
    problems = [
        _problem("missing from the checkpoint", sorted(wanted.keys() - tensors.keys())),
        _problem("left over in the checkpoint", sorted(
            tensors.keys() - wanted.keys() - dropped - {source for source, _ in copies}
        )),
        _problem("declared by the graphs but not filled by any tensor", sorted(weights.keys() - filled.keys())),
        _problem("filled by a tensor but not declared by any graph", sorted(filled.keys() - weights.keys())),
        _problem("used more than once", sorted(
            name for name, times in [*wanted.items(), *filled.items()] if times > 1
        )),
    ]
    bound: dict[str, tuple[Piece, ...]] = {}
    misshapen: list[str] = []
    for each in maps:
        if all(name in tensors for name in _sources(each)) and all(name in weights for name in _targets(each)):
            found, wrong = _pieces(each, tensors, weights)
            bound |= found
            misshapen += wrong
    problems.append(_problem("of the wrong shape", misshapen))
    found_problems = "; ".join(problem for problem in problems if problem)
    if found_problems:
        raise WeightMismatch(
            f"tensors and configuration do not agree: {found_problems}: "
            "check that config.json and the shards belong together"
        )
    return Binding(bound, copies)


def _pieces(
    rule: Rename | Join | Split, tensors: Mapping[str, Shape], weights: Mapping[str, Shape]
) -> tuple[dict[str, tuple[Piece, ...]], list[str]]:
    """Pieces of the weights that one rule fills, and what is wrong with the shapes."""
    if isinstance(rule, Rename):
        given, needed = tensors[rule.source], weights[rule.target]
        fits = given == needed or (rule.pad and _within(given, needed))
        fits = fits or (rule.reshape and prod(given) == prod(needed))
        shape = needed if rule.reshape else given
        piece = Piece(rule.source, 0, shape[0] if shape else 1, prod(shape[1:]), rule.scale)
        return {rule.target: (piece,)}, [] if fits else [_wrong(rule.source, given, needed)]
    if isinstance(rule, Join):
        needed = weights[rule.target]
        parts = [tensors[source] for source in rule.sources]
        fits = all(part[1:] == needed[1:] for part in parts) and sum(part[0] for part in parts) == needed[0]
        joined = tuple(
            Piece(source, 0, part[0], prod(part[1:])) for source, part in zip(rule.sources, parts, strict=True)
        )
        wrong = f"{' + '.join(rule.sources)} are {parts}, config.json asks for {list(needed)} together"
        return {rule.target: joined}, [] if fits else [wrong]
    given = tensors[rule.source]
    cut: dict[str, tuple[Piece, ...]] = {}
    first = 0
    for target in rule.targets:
        needed = weights[target]
        cut[target] = (Piece(rule.source, first, needed[0], prod(needed[1:])),)
        first += prod(needed)
    fits = first == prod(given) and (rule.reshape or all(weights[name][1:] == given[1:] for name in rule.targets))
    wrong = f"{rule.source} is {list(given)}, config.json asks for {[list(weights[name]) for name in rule.targets]}"
    return cut, [] if fits else [wrong]


def _within(given: Shape, needed: Shape) -> bool:
    return len(given) == len(needed) <= 2 and all(small <= large for small, large in zip(given, needed, strict=True))


def _wrong(source: str, given: Shape, needed: Shape) -> str:
    return f"{source} is {list(given)}, config.json asks for {list(needed)}"


def _sources(rule: Rename | Join | Split) -> tuple[str, ...]:
    return rule.sources if isinstance(rule, Join) else (rule.source,)


def _targets(rule: Rename | Join | Split) -> tuple[str, ...]:
    return rule.targets if isinstance(rule, Split) else (rule.target,)


def _each_layer(rule: Rename | Join | Split) -> Iterator[Rename | Join | Split]:
    """The rule with its layer index filled in, once for each layer."""
    for index in range(max(1, rule.layers)):
        def name(pattern: str, number: str = str(index)) -> str:
            return pattern.replace(LAYER, number) if rule.layers else pattern

        if isinstance(rule, Join):
            yield Join(tuple(map(name, rule.sources)), name(rule.target))
        elif isinstance(rule, Split):
            yield Split(name(rule.source), tuple(map(name, rule.targets)), reshape=rule.reshape)
        else:
            yield Rename(name(rule.source), name(rule.target), 0, rule.scale, rule.reshape, rule.pad)


def _strip(name: str, rules: Sequence[Rule]) -> str:
    for rule in rules:
        if isinstance(rule, Strip):
            name = name.replace(rule.part, "")
    return name


def _names(pattern: str, layers: int) -> list[str]:
    return [pattern.replace(LAYER, str(index)) for index in range(layers)] if layers else [pattern]


def _problem(label: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} {label}: {', '.join(names[:SHOWN])}{more}"
