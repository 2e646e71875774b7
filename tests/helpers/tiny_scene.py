"""A COLMAP scene small enough to train in a test: smooth pictures of colored points, cameras on an arc."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from scene_files import Model, write_photo, write_text

WIDTH, HEIGHT, FOCAL = 48, 36, 50.0
VIEWS, POINTS = 9, 60


def write_tiny_scene(folder: Path, seed: int = 0) -> Path:
    """Make the scene in `folder` (with images/ and sparse/0) and return it."""
    random = np.random.default_rng(seed)
    points = random.uniform(-1, 1, (POINTS, 3))
    colors = random.integers(30, 226, (POINTS, 3))
    model = Model(cameras={1: ("PINHOLE", WIDTH, HEIGHT, (FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2))}, images=[])
    for index in range(VIEWS):
        angle = 0.25 * (index - VIEWS / 2)  # about the y axis
        quaternion, translation = (math.cos(angle / 2), 0.0, math.sin(angle / 2), 0.0), (0.0, 0.0, 4.0)
        model.images.append((f"view_{index}.png", 1, quaternion, translation))
        write_photo(folder / "images" / f"view_{index}.png", _splat(points, colors, angle))
    model.points = [(*map(float, xyz), *map(int, rgb)) for xyz, rgb in zip(points, colors)]
    write_text(folder / "sparse" / "0", model)
    return folder


def _splat(points: np.ndarray, colors: np.ndarray, angle: float) -> np.ndarray:
    """(H, W, 3) uint8: every point a soft round blob, blended by distance in the picture."""
    turn = np.array(
        [[math.cos(angle), 0, math.sin(angle)], [0, 1, 0], [-math.sin(angle), 0, math.cos(angle)]]
    )
    x, y, z = (points @ turn.T + [0, 0, 4.0]).T
    centers = np.stack([FOCAL * x / z + WIDTH / 2, FOCAL * y / z + HEIGHT / 2], -1)
    grid = np.stack(np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5), -1)
    weights = np.exp(-((grid[None] - centers[:, None, None]) ** 2).sum(-1) / (2 * 2.5**2))
    shown = np.einsum("phw,pc->hwc", weights, colors) / (weights.sum(0)[..., None] + 0.2)
    return np.rint(shown).astype(np.uint8)
