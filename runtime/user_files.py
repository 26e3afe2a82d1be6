"""Where edgephi keeps files of its own for a user. Boundary: names the folder; makes none and reads nothing."""

from __future__ import annotations

from pathlib import Path


def cached(name: str) -> Path:
    """`name` in the user's cache folder, whose content a system may delete."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("edgephi", appauthor=False)) / name
