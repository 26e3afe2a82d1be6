"""The verb `edgephi show`: what a bundle is, from its manifest and without loading a graph.

Boundary: reads edgephi.json and, when asked, the template; checks nothing (that is `edgephi verify`).
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from ..manifest import Manifest, read_manifest


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--files", is_flag=True, help="List every file with its size and SHA-256.")
@click.option("--template", is_flag=True, help="Print the chat template.")
@click.option("--licence", "--license", is_flag=True, help="Print the licence.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
def show(bundle: Path, files: bool, template: bool, licence: bool, as_json: bool) -> None:
    """Say what BUNDLE is: model, sizes, precision, context, licence."""
    manifest = read_manifest(bundle)
    chat_template = _template(bundle)
    if as_json:
        size = sum(record.size for record in manifest.files.values())
        click.echo(json.dumps({**dataclasses.asdict(manifest), "bytes": size, "chat_template": chat_template}))
    elif template:
        click.echo(chat_template or "this bundle has no chat template")
    elif licence:
        click.echo(manifest.licence)
    elif files:
        for name, record in manifest.files.items():
            click.echo(f"{record.sha256}  {record.size:>14,}  {name}")
    else:
        for name, text in facts(manifest, has_template=chat_template is not None):
            click.echo(f"{name:14}{text}")


def facts(manifest: Manifest, *, has_template: bool) -> list[tuple[str, str]]:
    """What there is to know about a bundle, as pairs of a name and a text."""
    text = manifest.text
    total = sum(record.size for record in manifest.files.values())
    before = sum(record.bytes_before for record in manifest.report)
    limits = " then ".join(f"{table.limit:,}" for table in text.rotary)
    return [
        ("model", f"{manifest.source.name} ({manifest.source.architecture}, family {manifest.family})"),
        ("takes", ", ".join(manifest.capabilities)),
        ("size", _size(total) + (f" (checkpoint {_size(before)})" if before else "")),
        (
            "precision",
            ", ".join(f"{part} {kind}" for part, kind in manifest.precision.items()) + f", {manifest.preset}",
        ),
        ("made for", f"{manifest.device}{_compiled(manifest)}"),
        ("context", f"{text.context_length:,} tokens" + (f" (rotary tables up to {limits})" if limits else "")),
        (
            "decoder",
            f"{text.layers} layers of {text.hidden_size:,}, {text.heads} heads and {text.kv_heads} key/value heads of "
            f"{text.head_dim}",
        ),
        ("vocabulary", f"{text.vocab_size:,} tokens, an answer ends at {', '.join(map(str, manifest.tokens.eos))}"),
        ("sampling", _sampling(manifest)),
        ("thinks", _thinking(manifest)),
        ("adapters", ", ".join(manifest.adapters) or "none"),
        ("template", "yes (--template shows it)" if has_template else "none"),
        ("licence", manifest.licence.strip().split("\n")[0]),
        ("files", f"{len(manifest.files)}: {', '.join(manifest.files)}"),
        ("made by", manifest.generator),
    ]


def has_template(bundle: Path) -> bool:
    """Whether a bundle can hold conversations. Raises BundleError."""
    return _template(bundle) is not None


def _template(bundle: Path) -> str | None:
    """The chat template as published."""
    from ..chat import ChatTemplate

    opened = ChatTemplate.open(bundle, ())
    return None if opened is None else opened.source


def _sampling(manifest: Manifest) -> str:
    named = {name: value for name, value in dataclasses.asdict(manifest.sampling).items() if value is not None}
    return ", ".join(f"{name} {value}" for name, value in named.items()) or "no recommendation: greedy"


def _compiled(manifest: Manifest) -> str:
    forms = [f"{form.generation} by compiler {form.compiler}" for form in manifest.compiled]
    return f", compiled for {', '.join(forms)}" if forms else ""


def _thinking(manifest: Manifest) -> str:
    found = manifest.thinking
    return "no" if found is None else f"{found.open}…{found.close}, {found.skip or 'a closed thought'} to skip it"


def _size(count: float) -> str:
    return f"{count / 1e6:,.1f} MB" if count < 1e9 else f"{count / 1e9:,.2f} GB"
