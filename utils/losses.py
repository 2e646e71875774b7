"""How far a picture is from another, pixel by pixel. For SSIM see fused_ssim, for LPIPS utils/lpips.py."""

from __future__ import annotations

from torch import Tensor


def l1(
    image: Tensor,  # (..., 3, H, W)
    truth: Tensor,  # same shape
) -> Tensor:
    """Mean absolute difference, a scalar."""
    return (image - truth).abs().mean()


def psnr(
    image: Tensor,  # (..., 3, H, W) in [0, 1]
    truth: Tensor,  # same shape
) -> Tensor:
    """Peak signal-to-noise ratio in decibels, (...): one per picture, of all channels. Infinite if equal."""
    return -10 * (image - truth).square().mean(dim=(-3, -2, -1)).log10()
