"""The verb `edgephi doctor`: what this machine offers, and why each device was accepted or not.

Boundary: prints what diagnosis.py found, or writes it as a report that can be attached to an issue as it is.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..diagnosis import Report

_REPORT = """\
## What happened

<!-- The command or call, what you expected, what came instead; errors word for word. -->

## Where (`edgephi doctor`)

```text
{facts}
```
"""


@click.command()
@click.argument("bundles", nargs=-1, type=click.Path(path_type=Path), metavar="[BUNDLE]...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--report", type=click.Path(dir_okay=False, path_type=Path),
    help="Write a report in Markdown for an issue: no names of users, no folders of yours.",
)
def doctor(bundles: tuple[Path, ...], as_json: bool, report: Path | None) -> None:
    """Say what this machine offers: devices, providers, memory, versions; and for each BUNDLE, what can serve it."""
    from ..diagnosis import diagnose

    found = diagnose(bundles)
    lines = [f"{name:17}{text}" for name, text in _lines(found)]
    if report is not None:
        report.write_text(_REPORT.format(facts=_anonymous("\n".join(lines))), encoding="utf-8")
        click.echo(f"written: {report}", err=True)
    if as_json:
        click.echo(json.dumps(asdict(found)))
    elif report is None:
        click.echo("\n".join(lines))


def _anonymous(text: str) -> str:
    """`text` without the folders of Python and of the user, which libraries name in their errors."""
    for folder, sign in ((sys.prefix, "<python>"), (os.path.expanduser("~"), "~")):
        if len(Path(folder).parts) > 1:  # the home of some services is the root of all paths
            text = text.replace(folder, sign)
    return text


def _lines(report: Report) -> Iterator[tuple[str, str]]:
    from ..fit import gigabytes

    yield "machine", f"{report.processor}, {report.logical_processors} processors, {report.threads} threads used"
    yield "system", f"{report.system}, {report.python}"
    yield "versions", ", ".join(f"{name} {version}" for name, version in report.versions.items())
    yield "drivers", ", ".join(report.drivers) or "none of a GPU or NPU that the system names"
    yield "telemetry", report.telemetry
    yield "large pages", report.large_pages
    if report.available_memory is None or report.int4_parameters is None:
        yield "free memory", "this system does not tell"
    else:
        yield "free memory", (
            f"{gigabytes(report.available_memory)}: about {report.int4_parameters / 1e9:.1f} billion parameters at "
            "INT4; `edgephi fit` answers for one model"
        )
    for device in report.devices:
        told = f"yes: {'; '.join(device.found)}" if device.accepted else f"no: {device.reason}"
        yield device.name, f"{told} ({device.kind}, {device.provider})"
    for bundle in report.bundles:
        fits = "" if bundle.fits is None else ", fits" if bundle.fits else ", does not fit"
        yield "bundle", (
            f"{bundle.bundle}, made for {bundle.made_for}: {gigabytes(bundle.needs)} for {bundle.context:,} tokens"
            f"{fits}; served by {', '.join(bundle.serves) or 'nothing here'}"
            + "".join(f", {part} by what --{part}-device names" for part in bundle.encoders)
        )
        for name, reason in bundle.refused.items():
            yield "", f"not {name}: {reason}"
