"""Show renders beside photos: python scripts/compare_views.py output/demo docs/images/demo.jpg 0 1

Exactly this command makes the README's image, after `make demo`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cv2
import numpy as np

from utils import run_folder
from utils.commands import run_command

GAP = 6  # white pixels between images


def side_by_side(folder: Path, iteration: int, view: int) -> np.ndarray:
    """Return the render and the ground-truth image of a held-out view: (H, 2 W + GAP, 3) uint8 BGR.

    Raise FileNotFoundError if one of them is missing.
    """
    images = []
    for kind in ("renders", "gt"):
        path = run_folder.images_path(folder, "test", iteration, kind) / f"{view:05d}.png"
        image = cv2.imread(str(path))
        if image is None:
            raise FileNotFoundError(f"{path}: no such image; run render.py first")
        images.append(image)
    gap = np.full((len(images[0]), GAP, 3), 255, np.uint8)
    return np.hstack([images[0], gap, images[1]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model_path", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("views", type=int, nargs="+", help="numbers of held-out views")
    options = parser.parse_args()
    iteration = run_folder.choose_iteration(options.model_path)
    rows = [side_by_side(options.model_path, iteration, view) for view in options.views]
    gap = np.full((GAP, rows[0].shape[1], 3), 255, np.uint8)
    stacked = np.vstack([part for row in rows for part in (row, gap)][:-1])
    options.image.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(options.image), stacked):
        raise OSError(f"{options.image}: could not be written")


if __name__ == "__main__":
    run_command(main)
