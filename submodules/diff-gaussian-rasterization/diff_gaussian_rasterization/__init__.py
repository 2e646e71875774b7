"""Differentiable rasterizer of 3D Gaussians (Kerbl et al. 2023) with importance and an error carrier.

The names and calls are those of the package that 3DGS projects import; `importance`, `error_carrier` and
`statistics` are ours.
"""

from .backends import best_device, cpu_info, take_profile
from .data import SPLAT_COLUMNS, GaussianRasterizationSettings, RasterStatistics, Splats
from .rasterizer import GaussianRasterizer, rasterize_gaussians
from .importance import FEATURES, LATENTS, UNITS, ImportanceNetwork, evaluate_importance
from .adam import GaussianAdam, SparseGaussianAdam, StepInBackward

__all__ = [
    "GaussianRasterizationSettings",
    "GaussianRasterizer",
    "RasterStatistics",
    "SPLAT_COLUMNS",
    "Splats",
    "FEATURES",
    "LATENTS",
    "UNITS",
    "ImportanceNetwork",
    "evaluate_importance",
    "GaussianAdam",
    "SparseGaussianAdam",
    "StepInBackward",
    "best_device",
    "cpu_info",
    "rasterize_gaussians",
    "take_profile",
]
