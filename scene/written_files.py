"""The record of what convert.py wrote into a scene's folder, so that it replaces that and nothing else.

It is FOLDER/distorted/written.json: the SHA-256 of every file, by its path in the folder.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from utils.files import read_json, write_json

RECORD = "distorted/written.json"


class WrittenFiles:
    """The files in a folder that convert.py wrote. A file that was changed since then is not one of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._hashes: dict[str, str] = read_json(folder / RECORD)

    def foreign(self, places: Iterable[str]) -> list[Path]:
        """Return the files in `places`, folders inside the folder, that convert.py did not write.

        A place that is a link to elsewhere is one of them. What operating systems leave in folders is not.
        """
        found = []
        for place in places:
            path = self.folder / place
            if any(part.is_symlink() for part in (path, *path.parents) if self.folder in part.parents):
                found.append(path)
            else:
                found += [file for file in files_in(path) if not is_clutter(file) and not self._wrote(file)]
        return found

    def is_whole(self, place: str) -> bool:
        """Return whether every file that was written to `place` is still there, and any was."""
        names = [name for name in self._hashes if name.startswith(f"{place}/")]
        return bool(names) and all((self.folder / name).is_file() for name in names)

    def discard(self, place: str) -> None:
        """Delete what convert.py wrote to `place`, and the folders that this leaves empty."""
        for name in [name for name in self._hashes if name.startswith(f"{place}/")]:
            path = self.folder / name
            if path.is_file() and self._wrote(path):
                path.unlink()
                _remove_empty(path.parent, self.folder)
            del self._hashes[name]
        self._save()

    def put(self, source: Path, place: str) -> None:
        """Move the files of the finished folder `source` to `place`, instead of what was written there before.

        They are recorded first: whenever this is interrupted, what lies at `place` is known to be ours.
        """
        self.discard(place)
        moves = {self.folder / place / file.relative_to(source): file for file in files_in(source)}
        self._hashes |= {self._name(target): content_hash(file) for target, file in moves.items()}
        self._save()
        for target, file in moves.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, target)

    def _wrote(self, path: Path) -> bool:
        known = self._hashes.get(self._name(path))
        return known is not None and not path.is_symlink() and known == content_hash(path)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _save(self) -> None:
        write_json(self.folder / RECORD, self._hashes)


def files_in(folder: Path) -> Iterator[Path]:
    """Yield the files and links below `folder`, sorted; nothing if there is no such folder."""
    yield from sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())


def is_clutter(path: Path) -> bool:
    """Return whether an operating system left the file: hidden ones, and Windows' thumbnails."""
    return path.name.startswith(".") or path.name in ("Thumbs.db", "desktop.ini")


def content_hash(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def _remove_empty(folder: Path, top: Path) -> None:
    while folder != top and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
