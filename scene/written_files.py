"""The record of the files that convert.py wrote below a scene's folder: it removes and overwrites no others.

FOLDER/distorted/written.json holds {path below FOLDER: SHA-256 of the content}, with null for a content that
may change.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from utils.files import read_json, remove_empty_folders, write_json

RECORD = "distorted/written.json"
# File browsers leave these, and names with a leading dot.
SYSTEM_FILES = ("Thumbs.db", "desktop.ini")
CHUNK = 1 << 20  # bytes


class WrittenFiles:
    """Moves finished files to their places and discards them.

    A place is the path of a file or folder relative to `folder`.
    """

    def __init__(self, folder: Path) -> None:
        """Read the record in `folder`. Raise ValueError if the file is something else."""
        self.folder = folder
        self._digests: dict[str, str | None] = read_json(folder / RECORD)
        if not all(value is None or isinstance(value, str) for value in self._digests.values()):
            raise ValueError(f"{folder / RECORD} is no record of convert.py: move it away")

    def require_own(self, places: Iterable[str]) -> None:
        """Raise ValueError, naming the first one, if a link or a foreign file is in one of `places`."""
        for place in places:
            self.require_folders_above(place)
            for file in self.foreign(place):
                raise ValueError(
                    f"{file} was not written by convert.py (or by an earlier version), or has "
                    "changed since, and would be replaced: "
                    f"move it away (photos to convert belong into {self.folder / 'input'}), or give another "
                    "folder with -s"
                )

    def require_folders_above(self, place: str) -> None:
        """Raise ValueError if there is a link or a file where a folder above `place` is to be."""
        self.refuse_links(place)
        for path in (self.folder / place).parents:
            if self.folder in path.parents and path.is_file():
                raise ValueError(f"{path} is a file, where convert.py makes a folder: move it away")

    def refuse_links(self, place: str) -> None:
        """Raise ValueError if `place`, or a folder between it and the scene's folder, is a symbolic link."""
        path = self.folder / place
        for link in (path, *path.parents):
            if self.folder in link.parents and link.is_symlink():
                raise ValueError(
                    f"{link} is a symbolic link, and convert.py replaces nothing through links: "
                    "remove it, or give another folder with -s"
                )

    def foreign(self, place: str) -> Iterator[Path]:
        """Return the files in `place` that convert.py did not write, or that have changed since."""
        return (path for path in files_in(self.folder / place) if not self._is_own(path))

    def is_whole(self, places: Iterable[str]) -> bool:
        """Return whether every file that was put into `places` still exists."""
        return all((self.folder / name).exists() for name in self._names(places))

    def put(self, finished: dict[Path, str], discarded: Iterable[str] = ()) -> None:
        """Move finished files and folders to their places.

        Earlier files in these places and in the places `discarded` are deleted. Raise ValueError, with
        nothing changed, if a link or a foreign file is in the way.
        """
        places = [*finished.values(), *discarded]
        self.require_own(places)
        self.discard(places)
        moves = {
            path: self.folder / place / path.relative_to(source)
            for source, place in finished.items()
            for path in files_in(source)
        }
        self._digests |= {self._name(target): digest(path) for path, target in moves.items()}
        self._save()
        for path, target in moves.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)

    def write_json(self, place: str, value: Any) -> None:
        """Write a record of the work, whose content may change later.

        Raise ValueError if a foreign file is in the way.
        """
        if place not in self._digests:
            self.require_own([place])
            self._digests[place] = None
            self._save()
        write_json(self.folder / place, value)

    def discard(self, places: Iterable[str]) -> None:
        """Delete the files in `places` that convert.py wrote and nobody changed, and folders left empty."""
        names = self._names(places)
        for path in (self.folder / name for name in names):
            if path.is_file() and self._is_own(path):
                path.unlink()
                remove_empty_folders(path.parent, self.folder)
        for name in names:
            del self._digests[name]
        self._save()

    def _is_own(self, path: Path) -> bool:
        name = self._name(path)
        if name not in self._digests or path.is_symlink():
            return False
        return self._digests[name] in (None, digest(path))

    def _names(self, places: Iterable[str]) -> list[str]:
        prefixes = [f"{place}/" for place in places]
        return [name for name in self._digests if any(f"{name}/".startswith(prefix) for prefix in prefixes)]

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _save(self) -> None:
        write_json(self.folder / RECORD, self._digests)


def files_in(place: Path) -> list[Path]:
    """Return the files and links in the folder `place` and below, or `place` itself if it is a file.

    Files that operating systems leave are left out.
    """
    if not place.is_dir():
        return [place] if place.exists() or place.is_symlink() else []
    found = (path for path in place.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(path for path in found if not is_system_file(path.relative_to(place)))


def is_system_file(path: Path) -> bool:
    """Return whether `path`, relative to a place, is a file that operating systems leave everywhere."""
    return path.name in SYSTEM_FILES or any(part.startswith(".") for part in path.parts)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    content = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            content.update(chunk)
    return content.hexdigest()
