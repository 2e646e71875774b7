"""Error maps: the difference per pixel between the renders and ground-truth images that render.py saved."""

from __future__ import annotations

from pathlib import Path
from typing import Iterable

import numpy as np

from utils.images import read_image
from utils.run_folder import images_path

# Share of the pixels whose errors fit into the color scale. The few larger ones would only darken the map.
SHARE_IN_SCALE = 0.995


def pair_paths(folder: Path, split: str, iteration: int, name: str) -> tuple[Path, Path]:
    """Return the paths of a view's render and ground-truth image in the folder of a run."""
    return tuple(images_path(folder, split, iteration, kind) / name for kind in ("renders", "gt"))


def read_rgb(path: Path) -> np.ndarray:
    """Read an image as (H, W, 3) uint8 and drop its alpha channel."""
    return read_image(path)[..., :3]


def error_map(
    render: np.ndarray,  # (H, W, 3) uint8
    gt_image: np.ndarray,  # same shape
) -> np.ndarray:  # (H, W) in [0, 1]
    """Return the absolute difference, averaged over the channels; 1 is black against white."""
    return np.abs(render.astype(np.float32) - gt_image).mean(axis=2) / 255


def full_scale(errors: Iterable[np.ndarray]) -> float:
    """Return the error at which a common color scale for all these maps ends."""
    return float(np.quantile(np.concatenate([error.ravel() for error in errors]), SHARE_IN_SCALE))
