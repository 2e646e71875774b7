"""The colored points that Gaussians start from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.ply import COLOR, read_point_cloud

# 3DGS starts NeRF-synthetic objects from this many random points.
RANDOM_POINTS = 100_000
# Those objects lie within this distance of the origin along each axis.
BLENDER_HALF_SIDE = 1.3
GRAY = 128  # the color of points whose colors nobody wrote
FEWEST_TO_DIFFER = 10  # fewer points may have one color by chance


@dataclass(frozen=True, eq=False)
class PointCloud:
    """Points with colors."""

    xyz: np.ndarray  # (P, 3) float64, world
    rgb: np.ndarray  # (P, 3) uint8

    def __len__(self) -> int:
        return len(self.xyz)

    def require_finite(self, source: object) -> None:
        """Raise ValueError, naming `source`, if a point lies at NaN or infinity."""
        broken = np.flatnonzero(~np.isfinite(self.xyz).all(axis=1))
        if len(broken):
            raise ValueError(
                f"{source}: {len(broken)} of {len(self)} points are not finite; "
                f"the first is point {broken[0]} at {self.xyz[broken[0]].tolist()}"
            )

    def relative_to(self, origin: np.ndarray) -> PointCloud:
        """Return the points in coordinates whose origin is at `origin` (3,)."""
        return PointCloud(self.xyz - origin, self.rgb)

    def with_colors(self, quiet: bool) -> PointCloud:
        """Return the points in gray where nobody measured their color; say so unless `quiet`.

        That is a channel of which all points have the same value.
        """
        same = (self.rgb == self.rgb[0]).all(axis=0)  # (3,)
        if len(self) < FEWEST_TO_DIFFER or not same.any():
            return self
        if not quiet:
            channels = ", ".join(name for name, is_same in zip(COLOR, same) if is_same)
            print(f"All {len(self)} points have the same {channels}: starting from gray.")
        return PointCloud(self.xyz, np.where(same, np.uint8(GRAY), self.rgb))


@dataclass(frozen=True)
class Region:
    """A cube along the axes of the world."""

    center: np.ndarray  # (3,) world
    half_side: float  # world units


def read_points(path: Path) -> PointCloud:
    """Return the points of a PLY.

    Raise ValueError, naming the file, if it holds no points, is damaged, or a point is not finite.
    """
    points = PointCloud(*read_point_cloud(path))
    points.require_finite(path)
    if len(points) == 0:
        raise ValueError(f"{path} holds no points; training starts from points and needs at least one")
    return points


def random_points(region: Region, seed: int) -> PointCloud:
    """Return RANDOM_POINTS points, uniform in the region and in color.

    The same seed gives the same points.
    """
    generator = np.random.default_rng(seed)
    offsets = generator.uniform(-region.half_side, region.half_side, (RANDOM_POINTS, 3))
    rgb = generator.integers(0, 256, (RANDOM_POINTS, 3), dtype=np.uint8)
    return PointCloud(region.center + offsets, rgb)
