"""Where the time goes and what is left to gain: profiles of our steps set beside the speeds of other runtimes.

Boundary: reads result files of `profile` and `peers`, computes shares and bounds, and writes a page. What follows from
them is said in benchmarks/README.md by people.

A bound is the time of a part if it ran at the limit that was measured just before: bytes at the speed of reading,
operations at that of the int8 instructions, whichever takes longer.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgephi.runtime.errors import RequestError

from .comparison_report import OURS

NAME = "analysis"
PARTS = ("layers' products", "head", "attention", "norms and the rest", "between nodes")
_LAYERS, _ATTENTION, _PRODUCT = "layers.", "GroupQueryAttention", "MatMulNBits"
_HEADS = ("model.embed_tokens.", "lm_head.")
_LOOK_UP = "model.embed_tokens.gather"
_WANTED = {"prefill": ("512", "2048"), "decode": ("64", "512", "2048")}


@dataclass(frozen=True)
class Part:
    """A part of a step: seconds, bytes streamed, operations, and the seconds that the limits allow (0: none known)."""

    name: str
    seconds: float
    streamed: int
    operations: int
    bound: float


@dataclass(frozen=True)
class Step:
    """One profiled case: `rows` new positions behind `past` old ones."""

    rows: int
    past: int
    seconds: float
    read_limit: float
    parts: tuple[Part, ...]

    @property
    def name(self) -> str:
        """For tables."""
        return f"a token behind {self.past}" if self.rows == 1 else f"a prompt of {self.rows}"


def steps(record: Mapping[str, Any]) -> list[Step]:
    """The cases of a profile record."""
    found = []
    for profile in record["profiles"]:
        limits, groups = profile["limits"], profile["groups"]
        spent = sum(group["seconds"] for group in groups)
        sums: dict[str, list[Mapping[str, Any]]] = {name: [] for name in PARTS[:-1]}
        for group in groups:
            sums[_part(group["name"], group["kind"])].append(group)
        parts = [_sum(name, members, limits) for name, members in sums.items()]
        parts.append(Part(PARTS[-1], profile["seconds"] - spent, 0, 0, 0.0))
        case = profile["case"]
        found.append(Step(case["rows"], case["past"], profile["seconds"], limits["read_bytes"], tuple(parts)))
    return found


def _part(name: str, kind: str) -> str:
    if kind == _ATTENTION:
        return PARTS[2]
    if kind == _PRODUCT and _LAYERS in name:
        return PARTS[0]
    # the nodes behind a screened head's product have its name; the look-up of the tokens is no part of it
    return PARTS[1] if name.startswith(_HEADS) and name != _LOOK_UP else PARTS[3]


def _sum(name: str, groups: Sequence[Mapping[str, Any]], limits: Mapping[str, float]) -> Part:
    streamed, operations = (sum(group[key] for group in groups) for key in ("streamed", "operations"))
    speed = limits["int8_operations"]
    # attention multiplies in float32: no limit is measured for it but that of reading
    reckoned = operations / speed if speed and name != PARTS[2] else 0.0
    bound = max(streamed / limits["read_bytes"], reckoned)
    return Part(name, sum(group["seconds"] for group in groups), streamed, operations, bound)


def speeds(record: Mapping[str, Any]) -> dict[str, dict[tuple[str, str], float]]:
    """Contender → (kind, length) → median seconds: of a token, or of a prompt."""
    found: dict[str, dict[tuple[str, str], list[float]]] = {}
    for run in record["runs"]:
        mine = found.setdefault(run["contender"], {})
        for answer in run["answers"]:
            length = str(answer["length"])
            mine.setdefault(("prefill", length), []).append(answer["first"])
            if answer["steps"]:
                mine.setdefault(("decode", length), []).append(statistics.median(answer["steps"]))
    return {name: {key: statistics.median(values) for key, values in mine.items()} for name, mine in found.items()}


def write(results: Path, profiles: Sequence[str], peers: str) -> str:
    """Write analysis.md from the profiles and the comparison of these names in `results`; returns it.

    Raises RequestError where one is missing.
    """
    records = [_read(results / f"{name}.json") for name in profiles]
    compared = _read(results / f"{peers}.json")
    text = table(records, compared)
    (results / f"{NAME}.md").write_text(text, encoding="utf-8")
    return text


def table(records: Sequence[Mapping[str, Any]], compared: Mapping[str, Any]) -> str:
    """Markdown: the parts of each step with their bounds, then what others need for the same."""
    lines = [
        "# Where the time goes, and what is left to gain\n",
        "Parts of a step under ONNX Runtime's profiler, against the limits measured just before it: bytes at the speed "
        "of reading, operations at that of the int8 instructions. The bound is the larger of the two times; where a "
        "part is at its bound, only fewer bytes or operations make it faster. What follows is said in "
        "[benchmarks/README.md](../README.md).",
    ]
    for record in records:
        lines.append(f"\n## {record['bundle']}, {record['threads']} threads, {record['date']}\n")
        overhead = record["overhead"]
        lines.append(
            f"Outside the run of the graph: {overhead['outside'] * 1e3:.2f} ms of {overhead['token'] * 1e3:.1f} ms a "
            f"token ({overhead['outside'] / overhead['token']:.1%}).\n"
        )
        lines += ["| step | part | ms | share | GB | GB/s | TOPS | bound, ms | above it |",
                  "|---|---|---:|---:|---:|---:|---:|---:|---:|"]  # fmt: skip
        for step in steps(record):
            lines += [_row(step, part) for part in step.parts]
            bound = sum(part.bound for part in step.parts)
            lines.append(
                f"| **{step.name}** | **all** | **{step.seconds * 1e3:.1f}** | | "
                f"{sum(part.streamed for part in step.parts) / 1e9:.2f} | {step.read_limit / 1e9:.0f} allowed | | "
                f"**{bound * 1e3:.1f}** | **{(step.seconds - bound) * 1e3:.1f}** |"
            )
    return "\n".join([*lines, "", *_others(compared)]) + "\n"


def _row(step: Step, part: Part) -> str:
    rate = f"{part.streamed / part.seconds / 1e9:.1f}" if part.streamed else ""
    speed = f"{part.operations / part.seconds / 1e12:.2f}" if part.operations and step.rows > 1 else ""
    bound, above = (f"{part.bound * 1e3:.1f}", f"{(part.seconds - part.bound) * 1e3:.1f}") if part.bound else ("", "")
    return (
        f"| {step.name} | {part.name} | {part.seconds * 1e3:.2f} | {part.seconds / step.seconds:.1%} | "
        f"{part.streamed / 1e9:.2f} | {rate} | {speed} | {bound} | {above} |"
    )


def _others(compared: Mapping[str, Any]) -> list[str]:
    """What each runtime takes for the same, and how much less or more than each of ours."""
    found = speeds(compared)
    keys = [(kind, length) for kind, lengths in _WANTED.items() for length in lengths
            if any((kind, length) in mine for mine in found.values())]  # fmt: skip
    titles = [f"{kind} {'of' if kind == 'prefill' else 'at'} {length}, ms" for kind, length in keys]
    lines = [
        f"## Beside other runtimes, {compared['date']}\n",
        "Median milliseconds of a prompt and of a token; in brackets how much more or less than ours that is.\n",
        f"| | {' | '.join(titles)} |", f"|---|{'---:|' * len(keys)}",
    ]
    ours = {name: mine for name, mine in found.items() if name.startswith(OURS)}
    for name, mine in found.items():
        cells = []
        for key in keys:
            value = mine.get(key)
            against = [other[key] for other in ours.values() if key in other] if name not in ours else []
            beside = f" ({', '.join(f'{(value - own) * 1e3:+.1f}' for own in against)})" if value and against else ""
            cells.append("–" if value is None else f"{value * 1e3:.1f}{beside}")
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    lines.append(f"\nIn this order: {', '.join(f'`{name}`' for name in ours)}.")
    return lines


def _read(path: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"{path} is not there: run `profile` and `peers` first, or name their results") from error
    return record
