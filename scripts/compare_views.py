"""Show renders beside photos.

    python scripts/compare_views.py output/demo docs/images/demo.jpg 0 1
    python scripts/compare_views.py output/3dgs docs/images/thin_structures.jpg 1 3 4 \\
        --beside output/method --crops 110,60,168,126 175,0,168,126 45,65,168,126

Exactly these commands make the README's images: the first after `make demo`, the second after two runs of
7,000 iterations on the bundled scene. A row shows the renders of every run, and the photo on the right.
"""

from __future__ import annotations

import argparse
import sys
from itertools import zip_longest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cv2
import numpy as np

from utils import run_folder
from utils.commands import run_command

GAP = 6  # white pixels between images
ZOOM = 2  # of crops

Crop = tuple[int, int, int, int]  # left, top, width, height in pixels


def read_view(folder: Path, kind: str, view: int) -> np.ndarray:
    """Return a held-out view of a run, (H, W, 3) uint8 BGR: one of its `renders`, or `gt`.

    Raise FileNotFoundError if it is missing.
    """
    iteration = run_folder.choose_iteration(folder)
    path = run_folder.images_path(folder, "test", iteration, kind) / f"{view:05d}.png"
    image = cv2.imread(str(path))
    if image is None:
        raise FileNotFoundError(f"{path}: no such image; run render.py first")
    return image


def cropped(image: np.ndarray, crop: Crop | None) -> np.ndarray:
    """Return the crop, zoomed, or without one the image. Raise ValueError if it reaches out of the image."""
    if crop is None:
        return image
    left, top, width, height = crop
    if left + width > image.shape[1] or top + height > image.shape[0]:
        raise ValueError(f"--crops {','.join(map(str, crop))}: the image has {image.shape[1::-1]} pixels")
    return cv2.resize(image[top : top + height, left : left + width], None, fx=ZOOM, fy=ZOOM,
                      interpolation=cv2.INTER_CUBIC)  # fmt: skip


def joined(images: list[np.ndarray], axis: int) -> np.ndarray:
    """Return the images in a row (axis 1) or a column (axis 0), with gaps between them."""
    shape = list(images[0].shape)
    shape[axis] = GAP
    gap = np.full(shape, 255, np.uint8)
    return np.concatenate([part for image in images for part in (image, gap)][:-1], axis)


def comparison(runs: list[Path], views: list[int], crops: list[Crop]) -> np.ndarray:
    """Return a row for each view: the renders of all runs and the photo."""
    rows = []
    for view, crop in zip_longest(views, crops):
        images = [read_view(run, "renders", view) for run in runs] + [read_view(runs[0], "gt", view)]
        rows.append(joined([cropped(image, crop) for image in images], 1))
    return joined(rows, 0)


def parsed_crop(text: str) -> Crop:
    """Return the crop that a flag names, such as `110,60,168,126`."""
    try:
        left, top, width, height = map(int, text.split(","))
    except ValueError:
        left = top = width = height = -1
    if min(left, top) < 0 or min(width, height) < 1:
        raise argparse.ArgumentTypeError(f"expected LEFT,TOP,WIDTH,HEIGHT in pixels, got {text!r}")
    return left, top, width, height


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model_path", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("views", type=int, nargs="+", help="numbers of held-out views")
    parser.add_argument("--beside", type=Path, nargs="+", default=[], help="more runs of the same scene")
    about = "LEFT,TOP,WIDTH,HEIGHT in pixels, one for each view, shown at twice the size"
    parser.add_argument("--crops", type=parsed_crop, nargs="+", default=[], metavar="CROP", help=about)
    options = parser.parse_args()
    if options.crops and len(options.crops) != len(options.views):
        parser.error(f"--crops: expected {len(options.views)}, one for each view, got {len(options.crops)}")
    picture = comparison([options.model_path, *options.beside], options.views, options.crops)
    options.image.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(options.image), picture):
        raise OSError(f"{options.image}: could not be written")


if __name__ == "__main__":
    run_command(main)
