"""Camera paths through a scene: cameras without photos, for films."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from scene.camera import Camera, camera_to_world
from utils.selection import evenly_spaced_with_ends

KINDS = ("orbit", "spiral", "interpolate")
KEYFRAMES = 12  # of the views, that `interpolate` goes through
SPIRAL_TURNS = 2
SPIRAL_SIZE = 0.5  # of the spread of the cameras


def camera_path(cameras: Sequence[Camera], kind: str, frames: int) -> list[Camera]:
    """`frames` cameras with the first one's lens and size.

    orbit: around what the cameras look at, at their mean height and distance. spiral: around their mean, looking at
    the same. interpolate: smoothly from view to view, in the order of their names. ValueError for another kind.
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
) -> np.ndarray:  # (frames, 4, 4)
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
    chosen = poses[evenly_spaced_with_ends(len(poses), KEYFRAMES)]
    knots = np.concatenate([chosen[:, :3, 3], chosen[:, :3, 2], -chosen[:, :3, 1]], 1)  # centre, forward, up
    values = catmull_rom(knots, np.linspace(0, len(knots) - 1, frames))
    return np.stack([look_at(row[:3], row[:3] + row[3:6], row[6:]) for row in values])


def catmull_rom(
    knots: np.ndarray,  # (K, D)
    positions: np.ndarray,  # (F,) in [0, K - 1]
) -> np.ndarray:
    """(F, D): the curve that goes through all knots, at knot numbers between them."""
    padded = np.concatenate([2 * knots[:1] - knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]]) if len(
        knots
    ) > 1 else np.repeat(knots, 3, axis=0)  # fmt: skip
    first = np.minimum(positions.astype(int), max(0, len(knots) - 2))
    t = (positions - first)[:, None]
    a, b, c = (padded[first + step] for step in range(3))
    d = padded[np.minimum(first + 3, len(padded) - 1)]
    return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))


def focus(poses: np.ndarray) -> np.ndarray:
    """(3,) the point nearest to all cameras' axes, pulled towards them where they are nearly parallel."""
    centers, axes = poses[:, :3, 3], poses[:, :3, 2]
    across = np.eye(3) - axes[:, :, None] * axes[:, None]
    pull = 1e-3 * np.eye(3)
    return np.linalg.solve(
        across.mean(0) + pull, (across @ centers[..., None]).mean(0)[:, 0] + pull @ centers.mean(0)
    )


def mean_up(poses: np.ndarray) -> np.ndarray:
    """(3,) of length 1: across all cameras' horizontal axes, as cameras are held level; near their mean up."""
    right, up = poses[:, :3, 0], -poses[:, :3, 1].mean(axis=0)
    length = np.linalg.norm(up)
    if length < 1e-6:
        return np.array([0.0, 0.0, 1.0])
    up = up / length
    tilts = right.T @ right / len(right) + 1e-3 * (np.eye(3) - np.outer(up, up))
    level = np.linalg.eigh(tilts)[1][:, 0]
    return level if level @ up > 0 else -level


def look_at(center: np.ndarray, target: np.ndarray, up: np.ndarray) -> np.ndarray:
    """(4, 4) camera to world: at `centre`, z towards `target`, y away from `up`."""
    forward = target - center
    forward = forward / max(np.linalg.norm(forward), 1e-12)
    right = np.cross(forward, up)
    if np.linalg.norm(right) < 1e-6:  # straight up or down: any right will do
        right = np.cross(forward, np.roll(up, 1) + [0.1, 0.2, 0.3])
    right = right / np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], 1)
    pose[:3, 3] = center
    return pose
