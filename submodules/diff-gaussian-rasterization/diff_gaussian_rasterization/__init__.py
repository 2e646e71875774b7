"""Differentiable rasterizer of 3D Gaussians (Kerbl et al. 2023) with importance and an error carrier.

The names and calls are those of the package that 3DGS projects import; `importance`, `error_carrier` and
`statistics` are ours.
"""

from .backends import best_device, cpu_info, take_profile
from .rasterizer import (
    GaussianRasterizationSettings,
    GaussianRasterizer,
    RasterStatistics,
    rasterize_gaussians,
)
from .adam import GaussianAdam, SparseGaussianAdam, StepInBackward

__all__ = [
    "GaussianRasterizationSettings",
    "GaussianRasterizer",
    "RasterStatistics",
    "GaussianAdam",
    "SparseGaussianAdam",
    "StepInBackward",
    "best_device",
    "cpu_info",
    "rasterize_gaussians",
    "take_profile",
]
