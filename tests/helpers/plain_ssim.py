"""SSIM in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d


def plain_ssim_map(x: Tensor, y: Tensor, padding: str) -> Tensor:
    """Wang et al. 2004, equation 13, with an 11x11 Gaussian window of standard deviation 1.5."""
    offsets = torch.arange(-5, 6, dtype=x.dtype)
    gauss = torch.exp(-offsets.square() / (2 * 1.5**2))
    window = torch.outer(gauss, gauss) / gauss.sum() ** 2
    channels = x.shape[1]

    def mean(t: Tensor) -> Tensor:
        border = 5 if padding == "same" else 0
        return conv2d(t, window.expand(channels, 1, 11, 11), padding=border, groups=channels)

    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    return (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
