"""Renders and photos as render.py saved them, and how far apart they are at each pixel."""

from __future__ import annotations

from pathlib import Path
from typing import Iterable

import numpy as np

from utils.images import read_image
from utils.run_folder import images_path

SHARE_IN_SCALE = 0.995  # of the pixels; the few beyond would darken a map without showing more


def pair_paths(folder: Path, split: str, iteration: int, name: str) -> tuple[Path, Path]:
    """Render and photo of a view, in the folder of a run."""
    return tuple(images_path(folder, split, iteration, kind) / name for kind in ("renders", "gt"))


def read_rgb(path: Path) -> np.ndarray:
    """(H, W, 3) uint8."""
    return read_image(path)[..., :3]


def error_map(
    render: np.ndarray,  # (H, W, 3) uint8
    gt_image: np.ndarray,  # same shape
) -> np.ndarray:  # (H, W) in [0, 1]
    """Absolute difference, mean of the channels; 1 is black against white."""
    return np.abs(render.astype(np.float32) - gt_image).mean(axis=2) / 255


def full_scale(errors: Iterable[np.ndarray]) -> float:
    """The error at which a scale for all these maps may end."""
    return float(np.quantile(np.concatenate([error.ravel() for error in errors]), SHARE_IN_SCALE))
