"""The masks beside photos: how they are named, and which pixels of a photo they let count."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from scene.lenses import require_same_image
from scene.photo_list import PhotoList, other_files, photo_files
from utils.images import HALF, read_image

FOLDERS = ("masks", "mask")  # beside the image folder; the first that exists
# What programs put behind the photo's name, with or without its suffix: RealityScan and Metashape.
ENDINGS = (".mask", "_mask")
NAMES = "a mask of a/1.jpg is a/1.jpg.png, a/1.png, a/1.jpg.mask.png or a/1_mask.png, with any image suffix"


class Masks:
    """The masks in a folder, found by the names of their photos."""

    def __init__(self, source: Path, folders: Sequence[str] = FOLDERS) -> None:
        """List the masks in the first of `folders` inside `source` that holds any."""
        existing = [source / name for name in folders if (source / name).is_dir()]
        found = {folder: photo_files(folder) for folder in existing}
        self.folder = next((folder for folder in existing if found[folder]), next(iter(existing), None))
        self._files = found.get(self.folder, [])
        self._by_name: dict[str, Path] = {}
        for form in (_stem, _without_ending):
            for path in self._files:
                self._by_name.setdefault(form(path.relative_to(self.folder)), path)

    def of(self, image_name: str) -> Path | None:
        """Return the mask of an image, None if there is none: by exact names first, then in any case."""
        if self.folder is None:
            return None
        name = Path(image_name)
        if name.parts[0] in ("images", "input"):  # as names in transforms.json begin
            name = Path(*name.parts[1:])
        for exact in (name.with_name(f"{name.name}.png"), name, name.with_suffix(".png")):
            if (self.folder / exact).is_file():
                return self.folder / exact
        forms = (name.as_posix().lower(), _stem(name))
        return next((self._by_name[form] for form in forms if form in self._by_name), None)

    def report(self, found: dict[str, Path | None], quiet: bool) -> None:
        """Print for how many images there are masks, by their names, and what is not used, unless `quiet`.

        Raise ValueError if there are masks and none is of an image.
        """
        used = set(filter(None, found.values()))
        if self._files and not used:
            raise ValueError(
                f"{self.folder}: none of its {len(self._files)} masks belongs to a photo: the first mask is "
                f"{self._files[0].relative_to(self.folder)}, the first photo {min(found)}; {NAMES}"
            )
        if quiet or self.folder is None:
            return
        if used:
            unused = len(set(self._files) - used)
            left = f"; {unused} masks in {self.folder} are not used" if unused else ""
            count = sum(path is not None for path in found.values())
            print(f"Masks for {count} of {len(found)} photos{left}.")
        if others := other_files(self.folder):
            print(f"{PhotoList(self.folder, [], others).about_others()}.")


def _stem(name: Path) -> str:
    return name.with_suffix("").as_posix().lower()


def _without_ending(name: Path) -> str:
    """Return the photo's name, with its suffix or without, of a mask's name, in lower case."""
    stem = _stem(name)
    return next((stem.removesuffix(ending) for ending in ENDINGS if stem.endswith(ending)), stem)


def used_pixels(
    image: np.ndarray,  # (H, W, 3 or 4) uint8
    image_path: Path,
    mask_path: Path | None,
    alpha_is_mask: bool,
) -> np.ndarray:
    """Return (H, W) bool: which pixels of a photo its mask and its alpha let count.

    Raise ValueError, naming the file, if the mask has another aspect ratio than the photo.
    """
    used = np.full(image.shape[:2], True)
    if mask_path is not None:
        mask = read_image(mask_path)
        try:
            require_same_image(image.shape[1::-1], mask.shape[1::-1])
        except ValueError:
            raise ValueError(
                f"{mask_path} is {mask.shape[1]}x{mask.shape[0]} pixels, "
                f"but its photo {image_path} is {image.shape[1]}x{image.shape[0]}"
            ) from None
        bright = (mask[..., :3].max(-1) >= HALF) & (mask[..., -1] >= HALF if mask.shape[2] == 4 else True)
        used = scaled_mask(bright.astype(np.uint8) * 255, *image.shape[1::-1])
    if alpha_is_mask and image.shape[2] == 4:
        used = used & (image[..., 3] >= HALF)
    return used


def scaled_mask(
    mask: np.ndarray,  # (H, W) uint8
    width: int,
    height: int,
) -> np.ndarray:
    """Return a (height, width) bool mask: True in pixels that cover only used ones."""
    method = cv2.INTER_AREA if width <= mask.shape[1] else cv2.INTER_NEAREST
    return cv2.resize(mask, (width, height), interpolation=method) >= 255
