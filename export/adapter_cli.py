"""The verbs `edgephi adapter add`, `list` and `remove`.

Boundary: options in, a line out; the work is done by adapters.py, which is loaded when a verb runs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..runtime.manifest import read_manifest

if TYPE_CHECKING:
    from ..runtime.manifest import Manifest

EXAMPLES = """\b
Examples:
  edgephi adapter add phi-4-mini ./my-lora --name mine
  edgephi run phi-4-mini --adapter mine "Hello."
  edgephi adapter remove phi-4-mini mine
"""


@click.group(epilog=EXAMPLES)
def adapter() -> None:
    """Fine-tuned LoRA adapters of a bundle: add one as the PEFT library saves it, list them, remove one."""


@adapter.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("folder", metavar="PEFT_FOLDER", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="What requests call it.")
@click.option("--json", "as_json", is_flag=True, help="Print what was added as JSON.")
def add(bundle: Path, folder: Path, name: str, as_json: bool) -> None:
    """Add the adapter in PEFT_FOLDER to BUNDLE, for the models that are loaded from now on.

    The checkpoint is not exported again. All adapters of a bundle are in memory while it is loaded; each request
    chooses one of them or none.
    """
    from .dependencies import require_export

    require_export()
    from .adapters import add_adapter

    manifest = add_adapter(bundle, folder, name)
    click.echo(json.dumps(_facts(manifest, name)) if as_json else _line(manifest, name))


@adapter.command("list")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def list_adapters(bundle: Path, as_json: bool) -> None:
    """Say which adapters BUNDLE has."""
    manifest = read_manifest(bundle)
    if as_json:
        click.echo(json.dumps([_facts(manifest, name) for name in manifest.adapters]))
        return
    for name in manifest.adapters:
        click.echo(_line(manifest, name))
    if not manifest.adapters:
        click.echo(f"{bundle} has no adapters", err=True)


@adapter.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("name")
def remove(bundle: Path, name: str) -> None:
    """Take the adapter NAME out of BUNDLE and delete its files."""
    from .dependencies import require_export

    require_export()
    from .adapters import remove_adapter

    remove_adapter(bundle, name)


def _facts(manifest: Manifest, name: str) -> dict[str, object]:
    found = manifest.adapters[name]
    return {
        "name": name, "source": found.source, "base": found.base, "ranks": found.ranks,
        "bytes": manifest.files[found.file].size,
    }


def _line(manifest: Manifest, name: str) -> str:
    found = manifest.adapters[name]
    ranks = sorted(set(found.ranks.values()))
    shown = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
    size = manifest.files[found.file].size / 1e6
    trained = f", trained for {ascii(found.base)[1:-1][:80]}" if found.base else ""
    return f"{name:20}{shown}, {len(found.ranks)} linears, {size:,.1f} MB, from {ascii(found.source)[1:-1]}{trained}"
