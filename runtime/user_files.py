"""Where edgephi keeps small files of its own for a user, and how they are written. Boundary: reads nothing."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


def cached(name: str) -> Path:
    """`name` in the user's cache folder, whose content a system may delete."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("edgephi", appauthor=False)) / name


def write_whole(path: Path, content: bytes) -> None:
    """Write in one rename, so that another process reads the old file or the new one; makes the folder.

    Raises OSError, and leaves nothing half written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, begun = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.replace(begun, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(begun)
        raise
