"""A source given by the user → a local checkpoint folder; a hub id is downloaded, once, with resume.

Boundary: the only file of export that may use the network, and only when the source is a hub id.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from ..runtime.errors import CheckpointError, MissingDependency
from ..runtime.manifest_types import printable

INDEX = "model.safetensors.index.json"
ADAPTER_SETTINGS = "*-lora/adapter_config.json"
ADAPTER = "adapter_model.safetensors"
# what an export reads; remote code (*.py) and copies in other formats are never fetched
FILES = (
    "config.json", "generation_config.json", "model.safetensors", "model-*.safetensors", INDEX,
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "chat_template.json", "preprocessor_config.json", "processor_config.json", "LICENSE*", "README.md",
    ADAPTER_SETTINGS,
)

_HUB_ID = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._\-]{0,95}/[A-Za-z0-9][A-Za-z0-9._\-]{0,95})(?:@(?P<revision>[A-Za-z0-9._/\-]{1,99}))?"
)


def resolve(source: str) -> Path:
    """The folder of a checkpoint: `source` itself, or what the hub has under that id, `owner/name` or with `@revision`.

    Raises CheckpointError for what is no folder and no hub id that can be fetched.
    """
    folder = Path(source).expanduser()
    if source and folder.is_dir():
        return folder
    if folder.is_file():
        raise CheckpointError(f"{source} is a file: give the folder that holds config.json and *.safetensors")
    hub_id = _HUB_ID.fullmatch(source)
    if hub_id is None:
        raise CheckpointError(
            f"{printable(source)} is no folder here and no hub id: "
            "give a checkpoint folder, or an id such as microsoft/Phi-4-mini-instruct"
        )
    fetched = _download(source, hub_id["name"], hub_id["revision"], FILES)
    index = fetched / INDEX
    adapters = [f"{settings.parent.name}/{ADAPTER}" for settings in fetched.glob(ADAPTER_SETTINGS)]
    if adapters and not (index.is_file() and ".lora_A." in index.read_text(encoding="utf-8", errors="replace")):
        _download(source, hub_id["name"], hub_id["revision"], adapters)  # else the shards hold them too
    return fetched


def _download(source: str, name: str, revision: str | None, files: Sequence[str]) -> Path:
    """From the hub or from its cache; what an earlier, interrupted call fetched is kept."""
    # the library reads it once, while it is imported; setdefault leaves a user's own choice alone
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # noqa: TID251
    try:
        from huggingface_hub import errors, snapshot_download
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError as error:
        raise MissingDependency(
            f"{source} must be fetched, which needs huggingface_hub: run `pip install 'edgephi[export]'`"
        ) from error
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(files)))
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{source} is gated: accept its terms on the hub, run `hf auth login`, then export again"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"the hub has no model {source}, or it is private: check the spelling, or run `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(
            f"the hub has {name}, but no revision {revision}: check the spelling, or leave it out"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{source} is not, or not completely, in the hub's cache on this machine and the hub gives no answer "
            f"({_first_line(error.__cause__ or error)}): go online once, or give a local checkpoint folder"
        ) from error
    except (errors.HfHubHTTPError, OSError) as error:
        raise CheckpointError(
            f"{source} could not be fetched ({_first_line(error)}): "
            "run the same command again, it goes on where it stopped"
        ) from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
