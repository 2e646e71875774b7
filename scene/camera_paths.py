"""Camera paths through a scene: cameras without photos, for videos."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from scene.camera import Camera, camera_to_world
from utils.selection import evenly_spaced_with_ends

KINDS = ("orbit", "spiral", "interpolate")
KEYFRAMES = 12  # views that `interpolate` passes through
SPIRAL_TURNS = 2
SPIRAL_SIZE = 0.5  # as a share of the spread of the cameras


def camera_path(cameras: Sequence[Camera], kind: str, frames: int) -> list[Camera]:
    """Return `frames` cameras along a path of the given kind, with the lens and size of the first camera.

    orbit: a circle around the point that the cameras look at, at their mean height and distance.
    spiral: a curve around the mean of the cameras that looks at the same point.
    interpolate: a smooth curve from view to view, in the order of `cameras`.
    Raise ValueError for another kind.
    """
    makers = {"orbit": orbit, "spiral": spiral, "interpolate": interpolate}
    if kind not in makers:
        raise ValueError(f"expected one of {', '.join(KINDS)}, got {kind!r}")
    poses = makers[kind](np.stack([camera_to_world(camera.world_to_camera) for camera in cameras]), frames)
    template = replace(cameras[0], image=None, mask=None, invdepth=None)
    return [replace(template, image_name=f"{kind}_{index:05d}", world_to_camera=camera_to_world(pose))
            for index, pose in enumerate(poses)]  # fmt: skip


def orbit(
    poses: np.ndarray,  # (C, 4, 4) camera to world
    frames: int,
) -> np.ndarray:
    """Return the (frames, 4, 4) camera to world poses of an orbit."""
    target, up = focus(poses), mean_up(poses)
    offsets = poses[:, :3, 3] - target
    heights = offsets @ up
    flat = offsets - heights[:, None] * up
    radius = np.linalg.norm(flat, axis=1).mean()
    start = flat[0] / max(np.linalg.norm(flat[0]), 1e-12)
    side = np.cross(up, start)
    turns = np.linspace(0, 2 * math.pi, frames, endpoint=False)[:, None]
    centers = target + radius * (np.cos(turns) * start + np.sin(turns) * side) + heights.mean() * up
    return np.stack([look_at(center, target, up) for center in centers])


def spiral(poses: np.ndarray, frames: int) -> np.ndarray:
    """Return the (frames, 4, 4) camera to world poses of a spiral."""
    target, up = focus(poses), mean_up(poses)
    center = poses[:, :3, 3].mean(axis=0)
    right, down, forward = look_at(center, target, up)[:3, :3].T
    spread = (poses[:, :3, 3] - center) @ np.stack([right, down, forward], 1)
    sizes = SPIRAL_SIZE * 2 * spread.std(axis=0)
    share = np.linspace(0, 1, frames, endpoint=False)
    angle = 2 * math.pi * SPIRAL_TURNS * share
    moved = np.stack([np.cos(angle), np.sin(angle), np.sin(2 * math.pi * share)], 1) * sizes
    return np.stack([look_at(center + move @ [right, down, forward], target, up) for move in moved])


def interpolate(poses: np.ndarray, frames: int) -> np.ndarray:
    """Return (frames, 4, 4) camera to world poses on a curve through evenly spaced views."""
    keys = poses[evenly_spaced_with_ends(len(poses), KEYFRAMES)]
    knots = np.concatenate([keys[:, :3, 3], keys[:, :3, 2], -keys[:, :3, 1]], 1)  # center, forward, up
    values = catmull_rom(knots, np.linspace(0, len(knots) - 1, frames))
    return np.stack([look_at(row[:3], row[:3] + row[3:6], row[6:]) for row in values])


def catmull_rom(
    knots: np.ndarray,  # (K, D)
    positions: np.ndarray,  # (F,) in [0, K - 1]
) -> np.ndarray:
    """Return the (F, D) points of the Catmull-Rom spline through all knots.

    A position is a knot number: position 1.5 lies half way between knots 1 and 2.
    """
    padded = np.concatenate([2 * knots[:1] - knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]]) if len(
        knots
    ) > 1 else np.repeat(knots, 3, axis=0)  # fmt: skip
    first = np.minimum(positions.astype(int), max(0, len(knots) - 2))
    t = (positions - first)[:, None]
    a, b, c = (padded[first + step] for step in range(3))
    d = padded[np.minimum(first + 3, len(padded) - 1)]
    return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))


def focus(poses: np.ndarray) -> np.ndarray:
    """Return the (3,) point nearest to all optical axes, by least squares.

    A weak pull towards the mean camera keeps it finite where the axes are nearly parallel.
    """
    centers, axes = poses[:, :3, 3], poses[:, :3, 2]
    across = np.eye(3) - axes[:, :, None] * axes[:, None]
    pull = 1e-3 * np.eye(3)
    return np.linalg.solve(
        across.mean(0) + pull, (across @ centers[..., None]).mean(0)[:, 0] + pull @ centers.mean(0)
    )


def mean_up(poses: np.ndarray) -> np.ndarray:
    """Return the (3,) unit vector that points up in the scene.

    Cameras are mostly held level, so it is perpendicular to their horizontal axes, by least squares. A weak
    pull keeps it near the mean up vector of the cameras.
    """
    right, up = poses[:, :3, 0], -poses[:, :3, 1].mean(axis=0)
    length = np.linalg.norm(up)
    if length < 1e-6:
        return np.array([0.0, 0.0, 1.0])
    up = up / length
    tilts = right.T @ right / len(right) + 1e-3 * (np.eye(3) - np.outer(up, up))
    level = np.linalg.eigh(tilts)[1][:, 0]
    return level if level @ up > 0 else -level


def look_at(center: np.ndarray, target: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Return the (4, 4) camera to world pose at `center`, with z towards `target` and y away from `up`."""
    forward = target - center
    forward = forward / max(np.linalg.norm(forward), 1e-12)
    right = np.cross(forward, up)
    # A camera that looks straight up or down has no unique right.
    if np.linalg.norm(right) < 1e-6:
        right = np.cross(forward, np.roll(up, 1) + [0.1, 0.2, 0.3])
    right = right / np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], 1)
    pose[:3, 3] = center
    return pose
