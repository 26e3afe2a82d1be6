"""Which form of its graphs a device opens: one that was compiled ahead of time for its generation, or the ONNX form.

Boundary: decides and says why; compiling is export's business, opening that of graphs.py. A provider opens what was
compiled for an older generation, too, without a word: here only the device's own counts. From the ONNX form its
compiler makes the same graphs while they are loaded, which takes longer and is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from .devices import compiler_version, takes
from .manifest import Compiled, Graph, Manifest
from .providers.provider import Generation, Provider

SHARE = ("ep.share_ep_contexts", "1")


@dataclass(frozen=True)
class Form:
    """What is opened: the compiled `graphs` by name, by `provider`; those that are not among them in the ONNX form.

    `note`: what the user should know of it, if anything.
    """

    provider: Provider
    graphs: Mapping[str, Graph] = field(default_factory=dict)
    note: str | None = None


def choose(manifest: Manifest, provider: Provider, encoder: str | None = None) -> Form:
    """The compiled form for the generation of `provider` that the bundle has, else the ONNX form with the reason.

    It is that of the decoders, or that of one `encoder`, which shares its weights with no other graph.
    """
    if not provider.generations:
        return Form(provider)
    forms = [form for form in manifest.compiled if provider.find_generation(form.generation) is not None]
    if encoder is not None:
        forms = [
            replace(form, shared_weights=False, graphs={encoder: form.graphs[encoder]})
            for form in forms if encoder in form.graphs
        ]
    reasons = []
    for form in forms:
        reason = _refusal(form, provider)
        if reason is None:
            opened = provider.configured(SHARE) if form.shared_weights else provider
            return Form(opened, form.graphs, f"compiled ahead of time for {form.generation}")
        reasons.append(f"{form.generation}: {reason}")
    found = "; ".join(reasons) or "the bundle has no compiled form"
    note = f"compiled while it was loaded, from the ONNX form ({found}); `edgephi compile` does that once for all"
    return Form(provider, {}, note)


def _refusal(form: Compiled, provider: Provider) -> str | None:
    """Why a compiled form is not opened, None where it is."""
    made_for, installed = provider.find_generation(form.generation), compiler_version(provider)
    if made_for is None or not _is_own(form, made_for, provider):
        own = f", this is {provider.generation.name}" if provider.generation else ""
        return f"for another generation{own}"
    # what an older compiler made a newer one opens, not the other way round
    if installed is not None and _number(form.compiler) > _number(installed):
        return f"made by compiler {form.compiler}, here is {installed}"
    if form.shared_weights and not provider.shares_weights:
        return f"its graphs share weights, which {provider.name} does not open"
    return None


def _is_own(form: Compiled, made_for: Generation, provider: Provider) -> bool:
    """Whether a form is for the generation of this device.

    A record without one asks the device, which takes its own version and older ones: the newest of these is its own.
    """
    if provider.generation is not None:
        return made_for == provider.generation
    newer = [item for item in provider.generations if item.version > made_for.version]
    return takes(provider, form.compatibility) and not any(
        takes(provider, form.compatibility.replace(made_for.mark, item.mark)) for item in newer
    )


def _number(version: str) -> tuple[int, ...]:
    """The first three parts of a version; what is no number counts as 0."""
    parts = version.split(".")[:3]
    return tuple(int(part) if part.isdecimal() else 0 for part in parts)
