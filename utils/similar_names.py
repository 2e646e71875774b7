"""What a missing file may be meant to be: one whose name differs in case, suffix or slashes."""

from __future__ import annotations

import os
from pathlib import Path


def hint(path: str | os.PathLike) -> str:
    """Return the end of a message about a missing file: `; there is a/1.jpg`, empty if nothing is alike."""
    found = find_similar(Path(path))
    return f"; there is {found}" if found else ""


def find_similar(path: Path) -> Path | None:
    """Return a file or folder whose path differs from `path` in case, suffix or slashes only, else None."""
    if "\\" in str(path):
        path = Path(str(path).replace("\\", "/"))
    if path.exists():
        return path
    folder = path.parent if path.parent.is_dir() else path != path.parent and find_similar(path.parent)
    if not folder or not os.access(folder, os.R_OK) or not folder.is_dir():
        return None
    entries = sorted(folder.iterdir())
    for form in (lambda entry: entry.name.lower(), lambda entry: entry.stem.lower()):
        for entry in entries:
            if form(entry) == form(path):
                return entry
    return None
