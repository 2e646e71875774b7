"""The photos that convert.py reads: which files of input/ are photos, and how COLMAP gets to see them."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from scene.written_files import files_in
from utils.images import PHOTO_SUFFIXES, read_image, write_png

FEWEST_PHOTOS = 3
# COLMAP reads and writes these, each by its suffix, and the beginnings of their files.
COLMAP_FORMATS = {
    (".jpg", ".jpeg"): (b"\xff\xd8",),
    (".png",): (b"\x89PNG",),
    (".tif", ".tiff"): (b"II", b"MM"),
    (".bmp",): (b"BM",),
}
# Formats of cameras that are not read, and what to do about them.
ADVICE = {
    (".heic", ".heif"): "convert them to JPEG, or set the camera to 'most compatible'",
    (".dng", ".arw", ".cr2", ".cr3", ".nef", ".raf", ".rw2"): "develop them to JPEG or 16-bit TIFF",
    (".mp4", ".mov", ".avi", ".mkv", ".webm"): "a video is given by --video",
    (".jxl", ".jp2", ".gif", ".exr", ".hdr"): "convert them to PNG",
}


@dataclass(frozen=True)
class PhotoList:
    """The photos in a folder, and the files in it that are none."""

    folder: Path
    names: list[str]  # relative to the folder
    others: list[str]

    def about_others(self) -> str:
        """Return a sentence on the files that are not read, by kind and number; empty if there are none."""
        if not self.others:
            return ""
        kinds = Counter(map(self._kind, self.others))
        found = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        advice = {text for suffixes, text in ADVICE.items() if kinds.keys() & set(suffixes)}
        return f"Not read in {self.folder}: {found}" + "".join(f" ({text})" for text in sorted(advice))

    def _kind(self, name: str) -> str:
        if not (self.folder / name).is_file():
            return f"link {name}"
        return Path(name).suffix.lower() or Path(name).name


def photo_files(folder: Path) -> list[Path]:
    """Return the files in `folder` and below that are photos by their suffix; hidden files are left out."""
    return [path for path in files_in(folder) if path.suffix.lower() in PHOTO_SUFFIXES and path.is_file()]


def other_files(folder: Path) -> list[str]:
    """Return the names of all else in `folder` and below, links that lead to no file included."""
    photos = set(photo_files(folder))
    return [path.relative_to(folder).as_posix() for path in files_in(folder) if path not in photos]


def find_photos(folder: Path) -> PhotoList:
    """Return the photos in `folder` and below; hidden files are neither photos nor others.

    Raise FileNotFoundError if there is no folder, ValueError if it holds too few photos.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"photos are expected in {folder}, which does not exist")
    photos = [path.relative_to(folder).as_posix() for path in photo_files(folder)]
    found = PhotoList(folder, photos, other_files(folder))
    if len(found.names) < FEWEST_PHOTOS:
        also = f". {found.about_others()}" if found.others else ""
        raise ValueError(
            f"{folder} holds {len(found.names)} photos ({', '.join(PHOTO_SUFFIXES)}); "
            f"at least {FEWEST_PHOTOS} are needed{also}"
        )
    return found


def names_for_colmap(folder: Path, names: list[str]) -> dict[str, str]:
    """Return the name in the scene of each photo: its own, or that of the PNG that COLMAP will see.

    No two names are equal without their suffix if the photos' are not.
    """
    own = {name: name for name in names if colmap_reads(folder / name)}
    taken = {name.lower() for name in own}
    for name in names:
        if name not in own:
            forms = (
                Path(name).with_suffix(".png").as_posix(),
                *(f"{name}{'_' * k}.png" for k in range(len(names))),
            )
            own[name] = next(form for form in forms if form.lower() not in taken)
            taken.add(own[name].lower())
    return {name: own[name] for name in names}


def colmap_reads(photo: Path) -> bool:
    """Return whether COLMAP reads and writes the format, which suffix and content agree on."""
    with open(photo, "rb") as file:
        beginning = file.read(4)
    beginnings = [known for suffixes, known in COLMAP_FORMATS.items() if photo.suffix.lower() in suffixes]
    return any(beginning.startswith(known) for known in beginnings)


def show_to_colmap(folder: Path, names: dict[str, str], shown: Path) -> Path:
    """Return the folder in which COLMAP finds the photos by their names in the scene.

    It is `folder` itself if COLMAP reads all of them. Else it is `shown`, with links to those that COLMAP
    reads and PNGs of the others; those that exist are kept.
    """
    if all(name == seen for name, seen in names.items()):
        return folder
    for name, seen in names.items():
        target = shown / seen
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if name == seen:
            os.symlink((folder / name).resolve(), target)
        else:
            write_png(target, read_image(folder / name))
    return shown
