"""The scene's place and size: where its origin is in the files' coordinates, and how long its unit is.

Parameters are float32, so coordinates far from the origin, as georeferenced ones, would be rounded: such
scenes are shifted. The constants of 3DGS that are lengths, such as its near plane, fit scenes as COLMAP
scales them: they are counted in a unit that follows from the depths in the views.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from scene.camera import camera_to_world
from scene.views import PosedPhoto
from utils.selection import evenly_spaced

# A scene is shifted if it is farther from the origin than this many times its cameras' spread.
FAR = 100.0
# Units of the median depth in the views. COLMAP scales the cameras' spread to about 10 units: photos taken
# around something have it at a depth of about 5.
MEDIAN_DEPTH = 5.0
MOST_VIEWS, MOST_POINTS = 100, 10_000  # of which the depths are measured


def find_shift(views: Sequence[PosedPhoto]) -> np.ndarray:
    """Return the point (3,) float64 of the files' coordinates that becomes the origin.

    It is the mean camera, rounded, if the scene is far from the origin, else 0.
    """
    centers = np.stack([camera_to_world(view.world_to_camera)[:3, 3] for view in views])
    mean = centers.mean(axis=0)
    spread = np.linalg.norm(centers - mean, axis=1).max()
    if not np.linalg.norm(mean) > FAR * spread > 0:
        return np.zeros(3)
    return np.round(mean, -math.floor(math.log10(spread)))


def shifted(view: PosedPhoto, shift: np.ndarray) -> PosedPhoto:
    """Return the view in coordinates whose origin is `shift` (3,)."""
    pose = view.world_to_camera.copy()
    pose[:3, 3] += pose[:3, :3] @ shift
    return replace(view, world_to_camera=pose)


def find_unit(
    views: Sequence[PosedPhoto],
    xyz: np.ndarray,  # (P, 3) world
    extent: float,  # world units, of the cameras
) -> float:
    """Return the length, in world units, that 1 means in the constants of 3DGS.

    It follows from the median depth (camera z) of the points within 45 degrees of the views' axes, or from
    the extent where no view sees a point. The same scene in other units has the same one in its own.
    """
    points = xyz[evenly_spaced(len(xyz), MOST_POINTS)]
    chosen = [views[number] for number in evenly_spaced(len(views), MOST_VIEWS)]
    depths = [_depths(view.world_to_camera, points) for view in chosen]
    medians = [np.median(values) for values in depths if len(values)]
    return float(np.median(medians) if medians else extent) / MEDIAN_DEPTH


def _depths(
    world_to_camera: np.ndarray,  # (4, 4)
    points: np.ndarray,  # (P, 3)
) -> np.ndarray:
    x, y, z = world_to_camera[:3, :3] @ points.T + world_to_camera[:3, 3:]
    return z[(z > abs(x)) & (z > abs(y))]
