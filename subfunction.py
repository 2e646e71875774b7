"""Policy as small pure functions: when to densify and prune, and which. gaussian_model.py knows how."""

from __future__ import annotations

import torch
from fused_ssim import fused_ssim
from torch import Tensor

from arguments import OptimizationSettings
from utils.losses import l1
from utils.rotations import quats_to_matrices
from utils.schedules import log_linear

SPLIT_INTO = 2  # children of a split Gaussian
SPLIT_SHRINK = (
    0.8 * SPLIT_INTO
)  # their scale is the parent's divided by this (Kerbl et al. 2023, sec. 5.2: 1.6)

# When


def active_sh_degree(iteration: int, highest: int, settings: OptimizationSettings) -> int:
    """SH degree in use: one more every `sh_degree_interval` iterations."""
    return min(iteration // settings.sh_degree_interval, highest)


def position_learning_rate(iteration: int, extent: float, settings: OptimizationSettings) -> float:
    return log_linear(
        iteration,
        settings.position_lr_init * extent,
        settings.position_lr_final * extent,
        settings.position_lr_max_steps,
        settings.position_lr_delay_steps,
        settings.position_lr_delay_mult,
    )


def collects_statistics(iteration: int, settings: OptimizationSettings) -> bool:
    return iteration < settings.densify_until_iter


def densifies(iteration: int, settings: OptimizationSettings) -> bool:
    in_time = settings.densify_from_iter < iteration < settings.densify_until_iter
    return in_time and iteration % settings.densification_interval == 0


def resets_opacity(iteration: int, settings: OptimizationSettings, white_background: bool) -> bool:
    """Every `opacity_reset_interval`; before a white background also when densification starts."""
    if iteration >= settings.densify_until_iter:
        return False
    at_start = white_background and iteration == settings.densify_from_iter
    return iteration % settings.opacity_reset_interval == 0 or at_start


def prunes_large(iteration: int, settings: OptimizationSettings) -> bool:
    """Sizes mean little before the first opacity reset."""
    return iteration > settings.opacity_reset_interval


# What is minimised


def training_loss(image: Tensor, truth: Tensor, lambda_dssim: float) -> Tensor:  # (3, H, W) both
    """(1 - lambda) L1 + lambda (1 - SSIM) (Kerbl et al. 2023, eq. 7)."""
    return (1 - lambda_dssim) * l1(image, truth) + lambda_dssim * (1 - fused_ssim(image[None], truth[None]))


# Which


def accumulate_gradients(
    statistics: dict[str, Tensor],  # changed in place
    screen_gradients: Tensor,  # (N, 3) of the projected means, NDC units
    radii: Tensor,  # (N,) pixels
) -> None:
    """Add one view to what densification decides by (Kerbl et al. 2023, sec. 5.2)."""
    visible = radii > 0
    statistics["gradient_sum"] += screen_gradients[:, :2].norm(dim=-1) * visible
    statistics["gradient_views"] += visible
    torch.maximum(statistics["max_radius"], radii, out=statistics["max_radius"])


def densification_candidates(statistics: dict[str, Tensor], threshold: float) -> Tensor:
    """Gaussians (N,) bool whose mean screen gradient, over views that drew them, reaches the threshold."""
    mean = (
        statistics["gradient_sum"] / statistics["gradient_views"]
    )  # never drawn: 0 / 0, which reaches nothing
    return mean >= threshold


def is_large(scales: Tensor, limit: float) -> Tensor:  # (N, 3) -> (N,) bool
    return scales.amax(-1) > limit


def split_children(
    parents: dict[str, Tensor],  # raw parameters (M, ...)
    generator: torch.Generator,  # on the CPU: the same children whatever the device
) -> dict[str, Tensor]:
    """Raw parameters (2 M, ...) of smaller Gaussians placed at random by the parents' own densities."""
    children = {name: torch.cat([values] * SPLIT_INTO) for name, values in parents.items()}
    scales = children["scales"].exp()
    samples = torch.randn(scales.shape, generator=generator).to(scales.device) * scales
    offsets = (quats_to_matrices(children["quats"]) @ samples[..., None])[..., 0]
    children["means"] = children["means"] + offsets
    children["scales"] = (scales / SPLIT_SHRINK).log()
    return children


def prunable(
    opacities: Tensor,  # (N, 1)
    scales: Tensor,  # (N, 3)
    max_radius: Tensor,  # (N,) pixels
    extent: float,
    large_too: bool,
    settings: OptimizationSettings,
) -> Tensor:
    """Gaussians (N,) bool that are almost transparent, or too large once that counts."""
    mask = opacities[:, 0] < settings.prune_opacity
    if large_too:
        mask = mask | is_large(scales, settings.prune_scale * extent)
        if settings.max_screen_size > 0:
            mask = mask | (max_radius > settings.max_screen_size)
    return mask


def lowered_opacities(raw_opacities: Tensor, highest: float) -> Tensor:
    """Raw opacities clamped so that the opacities are at most `highest`."""
    return raw_opacities.clamp_max(torch.tensor(highest, dtype=torch.float64).logit().item())
