"""Numbers as colours."""

from __future__ import annotations

import cv2
import numpy as np
from torch import Tensor

TURBO, INFERNO = cv2.COLORMAP_TURBO, cv2.COLORMAP_INFERNO  # blue to red; black to bright yellow
TAIL = 0.01  # share of the values that may lie beyond either end of a scale


def color_range(values: Tensor, scale: str) -> tuple[float, float]:
    """Where a scale for these values (N,) begins and ends; NaN, and on a log scale 0, is left out.

    unit: 0 and 1 whatever the values are; linear and log: the values, but for a few at either end.
    """
    if scale == "unit":
        return 0.0, 1.0
    known = values[values.isfinite() & (values > 0 if scale == "log" else True)].float().sort().values
    if len(known) == 0:
        return (1.0, 10.0) if scale == "log" else (0.0, 1.0)
    last = len(known) - 1
    low, high = known[round(TAIL * last)].item(), known[round((1 - TAIL) * last)].item()
    return (low, high) if high > low else (low, low * 10 if scale == "log" else low + 1)


def apply_colormap(values: Tensor, scale: str, low: float, high: float) -> np.ndarray:
    """(..., 3) uint8 RGB of values (...), blue at `low`, red at `high`; what is no number is blue."""
    values = values.detach().float().nan_to_num(low)
    if scale == "log":
        values = values.clamp_min(low * 1e-3).log10()
        low, high = np.log10(low), np.log10(high)
    return colorize(((values - low) / (high - low)).cpu().numpy(), TURBO)


def colorize(values: np.ndarray, colors: int) -> np.ndarray:
    """(..., 3) uint8 RGB of values (...), which are clipped to [0, 1]."""
    gray = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    flat = cv2.applyColorMap(gray.reshape(-1, 1), colors)
    return np.ascontiguousarray(flat[..., ::-1].reshape(*gray.shape, 3))
