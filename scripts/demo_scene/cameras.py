"""The camera path: three orbits around the table and close-ups of each thin thing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from demo_scene.room import PLACEMENTS
from demo_scene.shapes import Array

ASPECT = 4 / 3
FOCAL_PER_WIDTH = 0.95  # 55.5 degrees across
TARGET = (0.0, 0.0, 0.13)  # m, the point that the orbits look at
ORBITS = ((12, 14.0, 1.95), (16, 30.0, 1.85), (12, 50.0, 1.8))  # views, elevation (degrees), distance (m)

# For each thing: the height of the target (m), the distance (m), and (azimuth, elevation) in degrees of its
# close-ups. The first close-up is held out by `--eval` and lies between the others.
CLOSE_UPS = {
    "wheel": (0.27, 0.82, ((-122, 20), (-150, 24), (-95, 17), (170, 22), (-64, 30))),
    "grass": (0.27, 0.85, ((-20, 20), (-48, 25), (8, 16), (36, 24), (-78, 30))),
    "flowers": (0.38, 0.85, ((-92, 20), (-120, 26), (-66, 15), (-35, 24), (-150, 18))),
    "glass": (0.19, 0.80, ((88, 18), (60, 24), (112, 14), (138, 24), (30, 28))),
}
HOLD_OUT = 8  # every 8th view is held out
HELD_OUT_ORBIT = (12, 4, 20, 33)  # indices into the orbit poses of the other held-out views


@dataclass(frozen=True)
class DemoView:
    """The pose and image name of a demo camera."""

    name: str  # file name of the image
    rotation: Array  # (3, 3) world to camera; x right, y down, z forward
    center: Array  # (3,) world

    @property
    def translation(self) -> Array:
        return -self.rotation @ self.center


def look_at(target: Array, azimuth: float, elevation: float, distance: float) -> tuple[Array, Array]:
    """Return (rotation, center) of a camera that looks at the target; azimuth and elevation in degrees."""
    a, e = np.radians([azimuth, elevation])
    backward = np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
    right = np.cross(-backward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(-backward, right), -backward]), target + distance * backward


def orbit_poses() -> list[tuple[Array, Array]]:
    """Return (rotation, center) of all cameras on the orbits."""
    poses = []
    for k, (count, elevation, distance) in enumerate(ORBITS):
        for i in range(count):
            wave = 3.0 * np.sin(2.4 * i + k)  # uneven, like the path of a hand-held camera
            azimuth = 360 / count * (i + k / 3) - 90
            poses.append(look_at(np.array(TARGET), azimuth, elevation + wave, distance + 0.02 * wave))
    return poses


def close_up_poses() -> list[list[tuple[Array, Array]]]:
    """Return one list of poses per thing, the held-out pose first."""
    poses = []
    for name, (height, distance, angles) in CLOSE_UPS.items():
        target = np.array([*PLACEMENTS[name][:2], height])
        poses.append([look_at(target, azimuth, elevation, distance) for azimuth, elevation in angles])
    return poses


def all_views() -> list[DemoView]:
    """Return the 60 views in the order of their names; every second held-out view is a close-up."""
    orbits, close_ups = orbit_poses(), close_up_poses()
    held_out = [pose for k, poses in enumerate(close_ups) for pose in (orbits[HELD_OUT_ORBIT[k]], poses[0])]
    others = [pose for k, pose in enumerate(orbits) if k not in HELD_OUT_ORBIT]
    others += [pose for poses in close_ups for pose in poses[1:]]
    total = len(held_out) + len(others)
    order = [held_out.pop(0) if k % HOLD_OUT == 0 and held_out else others.pop(0) for k in range(total)]
    return [DemoView(f"frame_{k:03d}.jpg", rotation, center) for k, (rotation, center) in enumerate(order)]


def intrinsics(width: int) -> tuple[int, int, float]:
    """Return (width, height, focal length) in pixels; the principal point is the image's center."""
    return width, round(width / ASPECT), FOCAL_PER_WIDTH * width


def project(view: DemoView, points: Array, width: int) -> tuple[Array, Array]:
    """Return pixel positions (N, 2), with pixel centers at +0.5, and depths (N,) of world points (N, 3)."""
    width, height, focal = intrinsics(width)
    local = points @ view.rotation.T + view.translation
    return focal * local[:, :2] / local[:, 2:] + [width / 2, height / 2], local[:, 2]
