"""Copy a COLMAP scene and mask the border of every photo: python masked_scene.py SCENE COPY"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import numpy as np

from utils.images import read_image, write_png

BORDER = 8  # one over the share of the width and height that is masked at each side


def main() -> None:
    source, target = map(Path, sys.argv[1:])
    shutil.copytree(source, target)
    for photo in (target / "images").iterdir():
        height, width = read_image(photo).shape[:2]
        mask = np.zeros((height, width, 3), np.uint8)
        mask[height // BORDER : -height // BORDER, width // BORDER : -width // BORDER] = 255
        (target / "masks").mkdir(exist_ok=True)
        write_png(target / "masks" / f"{photo.name}.png", mask)


if __name__ == "__main__":
    main()
