"""The coloured points that Gaussians start from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# NeRF-synthetic objects lie within this cube around the origin, and 3DGS starts them from this many points.
RANDOM_POINTS = 100_000
RANDOM_HALF_SIDE = 1.3


@dataclass(frozen=True, eq=False)
class PointCloud:
    xyz: np.ndarray  # (P, 3) float64, world
    rgb: np.ndarray  # (P, 3) uint8

    def __len__(self) -> int:
        return len(self.xyz)


def random_points(seed: int) -> PointCloud:
    """RANDOM_POINTS points, uniform in a cube around the origin and in colour; the same for the same seed."""
    generator = np.random.default_rng(seed)
    xyz = generator.uniform(-RANDOM_HALF_SIDE, RANDOM_HALF_SIDE, (RANDOM_POINTS, 3))
    rgb = generator.integers(0, 256, (RANDOM_POINTS, 3), dtype=np.uint8)
    return PointCloud(xyz, rgb)


def require_finite_points(points: PointCloud, source: object) -> None:
    """Raise ValueError, naming `source`, if there is no point or one at NaN or infinity."""
    if len(points) == 0:
        raise ValueError(f"{source} holds no points; training starts from points and needs at least one")
    broken = np.flatnonzero(~np.isfinite(points.xyz).all(axis=1))
    if len(broken):
        raise ValueError(
            f"{source}: {len(broken)} of {len(points)} points are not finite; "
            f"the first is point {broken[0]} at {points.xyz[broken[0]].tolist()}"
        )
