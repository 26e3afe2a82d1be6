"""Runs of a comparison as JSON, a Markdown table and a plot.

Boundary: numbers in, text out. Medians with the smallest and the largest value; a ratio is one of medians, above 1
where edgephi is better.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from . import machine
from .comparison import ORIGINAL_CONTEXT, Run
from .environments import Contender

OURS = "ours"
_NEAR = 64  # a prompt this close to ORIGINAL_CONTEXT is called so


@dataclass(frozen=True)
class Figure:
    """One thing that was measured: `values` by contender; `higher` says which side is better."""

    name: str
    unit: str
    values: Mapping[str, tuple[float, ...]]
    higher: bool
    digits: int = 1


def figures(contenders: Sequence[Contender], runs: Sequence[Run]) -> list[Figure]:
    """Everything that is compared, in the order of the tables."""
    names = [contender.name for contender in contenders]
    lengths = sorted({answer.length for run in runs for answer in run.answers})

    def each(value: Callable[[Run], float | None]) -> dict[str, tuple[float, ...]]:
        found = {name: [value(run) for run in runs if run.contender == name] for name in names}
        return {name: tuple(item for item in items if item is not None) for name, items in found.items()}

    def known(value: Callable[[Contender], float]) -> dict[str, tuple[float, ...]]:
        return {contender.name: (value(contender),) for contender in contenders}

    prefill = [Figure(f"prefill {_called(n)}", "tokens/s", each(_of(n, _prefill)), True) for n in lengths]
    decode = [Figure(f"decode at {_called(n)}", "tokens/s", each(_of(n, _decode)), True) for n in lengths]
    return [
        *prefill, *decode,
        Figure("load", "s", each(lambda run: None if run.cold else run.load), False, 2),
        Figure("first token, warm", "s", each(lambda run: None if run.cold else run.first_token), False, 2),
        Figure("first token, cold", "s", each(lambda run: run.first_token if run.cold else None), False, 2),
        *(Figure(f"peak memory to {_called(n)}", "GB", each(_of(n, _peak)), False, 2) for n in lengths),
        Figure("private memory", "GB", each(lambda run: run.peak_anonymous / 1e9), False, 2),
        Figure("disk", "GB", known(lambda contender: contender.disk / 1e9), False, 2),
        Figure("export", "s", known(lambda contender: contender.cost.seconds), False, 0),
        Figure("export, processor", "s", known(lambda contender: contender.cost.cpu_seconds), False, 0),
        Figure("export, peak memory", "GB", known(lambda contender: contender.cost.peak_resident / 1e9), False, 2),
    ]


def write(
    checkpoint: str, threads: int, contenders: Sequence[Contender], runs: Sequence[Run], results: Path, stem: str
) -> str:
    """Write STEM.json, STEM.md and, where matplotlib is there, STEM.svg to the folder `results`; returns the table."""
    results.mkdir(parents=True, exist_ok=True)
    record = {
        "checkpoint": checkpoint, "threads": threads, "date": datetime.now(UTC).date().isoformat(),
        "machine": machine.describe(),
        "contenders": [
            {
                "name": contender.name, "runtime": contender.peer.title,
                "variant": contender.peer.variants[contender.variant], "versions": contender.versions,
                "disk": contender.disk, "conversion": asdict(contender.cost),
            }
            for contender in contenders
        ],
        "runs": [asdict(run) for run in runs],
    }
    (results / f"{stem}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    measured = figures(contenders, runs)
    drawn = _plot(measured, results / f"{stem}.svg")
    text = table(checkpoint, threads, contenders, runs, measured) + (f"\n![speeds]({stem}.svg)\n" if drawn else "")
    (results / f"{stem}.md").write_text(text, encoding="utf-8")
    return text


def table(
    checkpoint: str, threads: int, contenders: Sequence[Contender], runs: Sequence[Run], measured: Sequence[Figure]
) -> str:
    """Markdown: what was compared, the figures, and the ratios of each of our bundles."""
    described = machine.describe()
    names = [contender.name for contender in contenders]
    others = [run.others for run in runs]
    bandwidth = [run.bandwidth / 1e9 for run in runs]
    lines = [
        f"# edgephi beside other runtimes: {checkpoint}\n",
        f"{described['processor']}, {described['processors']} processors, {int(described['memory_bytes']) / 1e9:.0f} "
        f"GB of memory, {described['system']}; {threads} threads each; {datetime.now(UTC).date().isoformat()}. Random "
        "weights: speed and size, no quality. Median [range] over rounds in which every runtime took its turn, in a "
        f"fresh process each time. Other programs kept {min(others):.2f} to {max(others):.2f} processors busy; "
        f"{min(bandwidth):.0f} to {max(bandwidth):.0f} GB/s were read before the runs.\n",
        *(f"- `{item.name}`: {item.peer.title} {_version(item)}, {item.peer.variants[item.variant]}"
          for item in contenders),
        *dict.fromkeys(f"\n{item.peer.note}" for item in contenders if item.peer.note),
        "", "| | unit | " + " | ".join(f"`{name}`" for name in names) + " |", "|---|---|" + "---|" * len(names),
        *(
            f"| {figure.name} | {figure.unit} | "
            + " | ".join(_spread(figure.values[name], figure.digits) for name in names) + " |"
            for figure in measured
        ),
    ]
    for ours in (name for name in names if name.startswith(OURS)):
        theirs = [name for name in names if not name.startswith(OURS)]
        if theirs:
            lines += ["", *_ratios(ours, theirs, measured)]
    lines += [
        "",
        "`first token` is the time from the start of the process to the first token of a prompt of 64 tokens; cold: "
        "the system's copy of the model's files was dropped before (a host's is out of reach). Peak memory counts "
        "mapped files, private memory is the largest amount of anonymous pages. Exports ran at another time, some on "
        "a busy machine: their processor time compares, their wall time does not.",
        f"A prompt called {ORIGINAL_CONTEXT} is as much shorter as its answer needs, so that no runtime changes its "
        "rotary table in the middle.\n",
    ]
    return "\n".join(lines)


def _ratios(ours: str, theirs: Sequence[str], measured: Sequence[Figure]) -> list[str]:
    rows = []
    for figure in measured:
        cells = []
        for name in theirs:
            own, other = figure.values[ours], figure.values[name]
            if not own or not other:
                cells.append("–")
                continue
            better, worse = (own, other) if figure.higher else (other, own)
            cells.append(f"{statistics.median(better) / statistics.median(worse):.2f}")
        rows.append(f"| {figure.name} | " + " | ".join(cells) + " |")
    head = f"| `{ours}` is better by a factor of | " + " | ".join(f"`{name}`" for name in theirs) + " |"
    return [head, "|---|" + "---|" * len(theirs), *rows]


def _of(length: int, value: Callable[[Run, int], float | None]) -> Callable[[Run], float | None]:
    def read(run: Run) -> float | None:
        index = next((i for i, answer in enumerate(run.answers) if answer.length == length), None)
        return None if index is None else value(run, index)

    return read


def _prefill(run: Run, index: int) -> float:
    return run.answers[index].length / run.answers[index].first


def _decode(run: Run, index: int) -> float | None:
    steps = run.answers[index].steps
    return 1 / statistics.median(steps) if steps else None


def _peak(run: Run, index: int) -> float:
    return run.answers[index].peak_resident / 1e9


def _called(length: int) -> int:
    return ORIGINAL_CONTEXT if 0 <= ORIGINAL_CONTEXT - length < _NEAR else length


def _version(contender: Contender) -> str:
    return next(iter(contender.versions.values()))


def _spread(values: Sequence[float], digits: int) -> str:
    if not values:
        return "–"
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} [{min(values):.{digits}f}–{max(values):.{digits}f}]"


def _plot(measured: Sequence[Figure], path: Path) -> bool:
    """Bars of all speeds, whiskers from the smallest to the largest value; False without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
    for axis, kind in zip(axes, ("prefill", "decode"), strict=True):
        shown = [item for item in measured if item.name.startswith(kind)]
        names = list(shown[0].values)
        width = 0.8 / len(names)
        for place, name in enumerate(names):
            values = [item.values[name] or (0.0,) for item in shown]
            middles = [statistics.median(value) for value in values]
            reach = [
                [middle - min(value) for middle, value in zip(middles, values, strict=True)],
                [max(value) - middle for middle, value in zip(middles, values, strict=True)],
            ]
            where = [index + (place - (len(names) - 1) / 2) * width for index in range(len(shown))]
            axis.bar(where, middles, width, yerr=reach, label=name, error_kw={"elinewidth": 0.8})
        axis.set_xticks(range(len(shown)), [item.name for item in shown])
        axis.set_ylabel("tokens/s")
    axes[0].legend(fontsize="small")
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return True
