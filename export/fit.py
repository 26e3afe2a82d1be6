"""The verb `edgephi fit`: whether a bundle, or the bundle that a checkpoint would become, suits this machine.

Boundary: options in, an answer out. Arithmetic and probe are the runtime's; only a checkpoint needs what export needs.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..runtime.errors import ManifestError, RequestError
from ..runtime.manifest import MANIFEST_NAME, Manifest, read_manifest
from .cli import PRECISIONS, PRESETS

if TYPE_CHECKING:
    from ..runtime.fit import Fit
    from ..runtime.probe import Speed

EXAMPLES = """\b
Examples:
  edgephi fit phi-4-mini
  edgephi fit phi-4-mini --context 65536 --kv int8
  edgephi fit phi-4-reasoning --context 16384 --prompt 2000
  edgephi fit ./Phi-4-reasoning-checkpoint --precision int8
"""


@click.command(epilog=EXAMPLES)
@click.argument("folder", metavar="BUNDLE|CHECKPOINT", type=click.Path(path_type=Path))
@click.option("-c", "--context", type=click.IntRange(min=1), metavar="N", help="Tokens of a conversation.")
@click.option(
    "-p", "--prompt", type=click.IntRange(min=1), default=512, show_default=True, metavar="N",
    help="Tokens that are read before the answer begins.",
)
@click.option(
    "--kv", type=click.Choice(("float", "int8")), default="float", show_default=True,
    help="How keys and values are kept, as `edgephi run` has it.",
)
@click.option("-t", "--threads", type=click.IntRange(min=1), metavar="N", help="Default: the physical cores.")
@click.option("--precision", type=click.Choice(PRECISIONS), default="int4", show_default=True, help="Of a checkpoint.")
@click.option("--preset", type=click.Choice(PRESETS), default="balanced", show_default=True, help="Of a checkpoint.")
@click.option("--device", default="cpu", show_default=True, help="Of a checkpoint.")
@click.option(
    "--no-probe", is_flag=True,
    help="Say nothing of speed, which takes a few seconds to find out; of graphs for an NPU nothing is said.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def fit(
    folder: Path, context: int | None, prompt: int, kv: str, threads: int | None, precision: str, preset: str,
    device: str, no_probe: bool, as_json: bool,
) -> None:
    """Say before loading whether BUNDLE, or what CHECKPOINT would become, fits this machine, and how fast it would be.

    Without --context a conversation of 4096 tokens is assumed, or of all that the model has if that is less.
    """
    manifest = _manifest(folder, precision, preset, device)
    from ..runtime import providers
    from ..runtime.fit import DEFAULT_CONTEXT, judge
    from ..runtime.memory import available_memory

    length = manifest.text.context_length
    chosen = min(context or DEFAULT_CONTEXT, length)
    if max(chosen, context or 0, prompt) > length:
        raise RequestError(f"the model takes {length} tokens, asked for is {max(context or 0, prompt)}: choose fewer")
    answer = judge(manifest, chosen, available_memory(), kv)
    provider, speed = providers.find(manifest.device), None
    if not no_probe and provider.window is None:  # the probe is a graph of free shapes
        from ..runtime.probe import measure

        speed = measure(manifest, provider, threads or provider.default_threads(), kv=kv)
    if as_json:
        click.echo(json.dumps(_summary(manifest, kv, answer, speed, prompt)))
    else:
        for name, text in _lines(manifest, kv, answer, speed, prompt):
            click.echo(f"{name:14}{text}")


def _manifest(folder: Path, precision: str, preset: str, device: str) -> Manifest:
    """Of the bundle, or of the one that an export would write."""
    if (folder / MANIFEST_NAME).is_file() or not (folder / "config.json").is_file():
        try:
            return read_manifest(folder)
        except ManifestError as error:
            if folder.is_dir():
                raise
            raise RequestError(f"{folder} is no folder: give a bundle or a checkpoint that is on this disk") from error
    from .dependencies import require_export

    require_export()
    from .pipeline import Options, foresee

    return foresee(folder, Options(precision, preset, device=device))


def _summary(manifest: Manifest, kv: str, answer: Fit, speed: Speed | None, prompt: int) -> dict[str, object]:
    expected = None if speed is None else {
        "threads": speed.threads, "prompt": prompt, "first_token_seconds": speed.first_token(prompt),
        "tokens_per_second": speed.decode_rate(prompt), "tokens_per_second_at_end": speed.decode_rate(answer.context),
    }
    memory = asdict(answer)
    memory["footprint"]["total"] = answer.footprint.total
    precision = manifest.precision.get("text")
    return {"model": manifest.source.name, "precision": precision, "kv": kv, **memory, "speed": expected}


def _busy() -> bool:
    """Whether more programs want to run than there are processors, where the system tells."""
    return hasattr(os, "getloadavg") and os.getloadavg()[0] > (os.cpu_count() or 1) + 1  # this one is the 1


def _lines(manifest: Manifest, kv: str, answer: Fit, speed: Speed | None, prompt: int) -> list[tuple[str, str]]:
    from ..runtime.fit import gigabytes

    needed = answer.footprint
    parts = [
        (needed.weights, "weights"), (needed.cache, "keys and values" if kv == "float" else "keys and values as INT8"),
        (needed.activations, "a step of the prompt"), (needed.program, "program and tokenizer"),
    ]
    lines = [
        ("model", f"{manifest.source.name}, {manifest.precision.get('text', '?')} {manifest.preset}"),
        ("needs", f"{gigabytes(needed.total)} for {answer.context:,} tokens: "
                  f"{', '.join(f'{gigabytes(size)} {name}' for size, name in parts)}"),
    ]
    if needed.on_demand:
        lines.append(("", f"and {gigabytes(needed.on_demand)} from the first picture or recording on"))
    lines.append(("", f"and up to {gigabytes(needed.kept)} for earlier conversations, if they are kept (prefix_cache)"))
    if answer.available is None or answer.largest_context is None:
        lines.append(("free", "this system does not tell"))
    else:
        verdict = f"it fits, with up to {answer.largest_context:,} tokens" if answer.fits else "it does not fit"
        lines.append(("free", f"{gigabytes(answer.available)}: {verdict}"))
    lines += [("" if index else "what helps", change) for index, change in enumerate(answer.changes)]
    if speed is not None:
        lines.append((
            "speed", f"{speed.decode_rate(prompt):.1f} tokens/s behind {prompt:,} tokens, "
                     f"{speed.decode_rate(answer.context):.1f} behind {answer.context:,}; first token of a prompt of "
                     f"{prompt:,} after {speed.first_token(prompt):.1f} s ({manifest.device}, {speed.threads} threads)"
        ))
        if _busy():
            lines.append(("", "other programs keep this machine busy now: it is faster when they end"))
    return lines
