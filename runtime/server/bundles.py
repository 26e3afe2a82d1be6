"""What is known of a bundle before it is loaded, and how /v1/models tells it.

Boundary: reads the manifest and the text of the chat template; opens no graph and no tokenizer.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from ..chat import ChatTemplate
from ..manifest import MANIFEST_NAME, Manifest, read_manifest, serialize
from .settings import Loading

MEDIA = ("image", "audio")


@dataclass(frozen=True)
class Bundle:
    """A bundle under the name by which clients ask for it. `template`: its chat template, None where it has none.

    `adapter`: the one of its adapters that answers, None for none.
    """

    name: str
    folder: Path
    manifest: Manifest
    template: str | None
    created: int
    loading: Loading
    adapter: str | None = None

    @classmethod
    def open(cls, name: str, folder: Path, loading: Loading) -> Bundle:
        """Read what a folder says about itself. Raises BundleError."""
        manifest = read_manifest(folder)
        template = ChatTemplate.open(folder, controls=())
        created = int((folder / MANIFEST_NAME).stat().st_mtime)
        return cls(name, folder, manifest, None if template is None else template.source, created, loading)

    def with_adapters(self) -> list[Bundle]:
        """The same bundle once for each of its adapters, called `bundle:adapter`."""
        return [replace(self, name=f"{self.name}:{name}", adapter=name) for name in self.manifest.adapters]

    @property
    def takes(self) -> frozenset[str]:
        """Kinds of content besides text."""
        return frozenset(self.manifest.capabilities) & frozenset(MEDIA)

    @property
    def context(self) -> int:
        """The longest conversation in tokens."""
        whole = self.manifest.text.context_length
        return whole if self.loading.context is None else min(whole, self.loading.context)

    @property
    def fingerprint(self) -> str:
        """OpenAI's `system_fingerprint`: another one where the same seed may give another answer."""
        digest = hashlib.sha256(serialize(self.manifest))
        digest.update(repr((self.loading, self.adapter)).encode())
        return f"fp_{digest.hexdigest()[:10]}"

    def entry(self, state: str) -> dict[str, object]:
        """An item of /v1/models. What OpenAI does not have is named as llama.cpp's server does."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "edgephi",
            "context_length": self.context,
            "architecture": {"input_modalities": ["text", *sorted(self.takes)], "output_modalities": ["text"]},
            "license": self.manifest.licence,
            "state": state,
            **({} if self.adapter is None else {"parent": self.name.removesuffix(f":{self.adapter}")}),
        }
