"""Real spherical harmonics, degrees 0 to 3, in the order and sign convention of 3DGS files."""

from __future__ import annotations

import math

import torch
from torch import Tensor

MAX_DEGREE = 3

# Normalisation of the real spherical harmonics (e.g. Sloan 2008, "Stupid Spherical Harmonics Tricks", A2).
C0 = math.sqrt(1 / (4 * math.pi))
C1 = math.sqrt(3 / (4 * math.pi))
C2_XY = math.sqrt(15 / (4 * math.pi))
C2_ZZ = math.sqrt(5 / (16 * math.pi))
C2_XX_YY = math.sqrt(15 / (16 * math.pi))
C3_33 = math.sqrt(35 / (32 * math.pi))
C3_32 = math.sqrt(105 / (4 * math.pi))
C3_31 = math.sqrt(21 / (32 * math.pi))
C3_30 = math.sqrt(7 / (16 * math.pi))
C3_22 = math.sqrt(105 / (16 * math.pi))


def base_count(degree: int) -> int:
    """Return the number of bases K up to and including `degree`."""
    return (degree + 1) ** 2


def degree_of(bases: int) -> int:
    """Return the degree that has `bases` bases. Raise ValueError if none from 0 to 3 has so many."""
    for degree in range(MAX_DEGREE + 1):
        if base_count(degree) == bases:
            return degree
    raise ValueError(f"expected 1, 4, 9 or 16 spherical harmonics per channel, got {bases}")


def rgb_to_sh(rgb: Tensor) -> Tensor:
    """Return the degree-0 coefficient that shows as color `rgb` in [0, 1] from everywhere."""
    return (rgb - 0.5) / C0


def sh_to_rgb(
    degree: int,
    sh: Tensor,  # (N, K, 3), K at least (degree + 1)^2
    directions: Tensor,  # (N, 3) unit vectors from the camera centre to the Gaussians
) -> Tensor:
    """Return colors (N, 3) seen along `directions`: the expansion up to `degree` plus 0.5, at least 0."""
    bases = _bases(degree, directions)  # (N, (degree + 1)^2)
    return ((bases[:, :, None] * sh[:, : bases.shape[1]]).sum(1) + 0.5).clamp_min(0)


def _bases(degree: int, directions: Tensor) -> Tensor:
    x, y, z = directions.unbind(-1)
    bases = [torch.full_like(x, C0)]
    if degree >= 1:
        bases += [-C1 * y, C1 * z, -C1 * x]
    if degree >= 2:
        bases += [C2_XY * x * y, -C2_XY * y * z, C2_ZZ * (2 * z * z - x * x - y * y)]
        bases += [-C2_XY * x * z, C2_XX_YY * (x * x - y * y)]
    if degree >= 3:
        bases += [
            -C3_33 * y * (3 * x * x - y * y),
            C3_32 * x * y * z,
            -C3_31 * y * (4 * z * z - x * x - y * y),
        ]
        bases += [C3_30 * z * (2 * z * z - 3 * x * x - 3 * y * y), -C3_31 * x * (4 * z * z - x * x - y * y)]
        bases += [C3_22 * z * (x * x - y * y), -C3_33 * x * (x * x - 3 * y * y)]
    return torch.stack(bases, -1)
