"""Pixel-wise differences of two images. SSIM: fused_ssim; LPIPS: evaluation/lpips.py."""

from __future__ import annotations

from torch import Tensor


def l1(
    image: Tensor,  # (..., 3, H, W)
    gt_image: Tensor,  # same shape
    counts: Tensor | None = None,  # (H, W) bool: only these pixels do; None: all
) -> Tensor:
    """Return the mean absolute difference ()."""
    return masked_mean((image - gt_image).abs(), counts).mean()


def psnr(
    image: Tensor,  # (..., 3, H, W) in [0, 1]
    gt_image: Tensor,  # same shape
    counts: Tensor | None = None,  # (H, W) bool: only these pixels do; None: all
) -> Tensor:
    """Return the peak signal-to-noise ratio in decibels (...): one per image, of all channels.

    Infinite if equal.
    """
    return -10 * masked_mean((image - gt_image).square(), counts).log10()


def masked_mean(values: Tensor, counts: Tensor | None) -> Tensor:  # (..., C, H, W) -> (...)
    """Return the mean over channels and pixels, or over the pixels of a mask (H, W); NaN if it is empty."""
    if counts is None:
        return values.mean(dim=(-3, -2, -1))
    return (values * counts.to(values)).sum(dim=(-3, -2, -1)) / (counts.sum() * values.shape[-3])
