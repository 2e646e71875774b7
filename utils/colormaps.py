"""Color maps: numbers shown as colors."""

from __future__ import annotations

import cv2
import numpy as np
from torch import Tensor

TURBO, INFERNO = cv2.COLORMAP_TURBO, cv2.COLORMAP_INFERNO  # blue to red; black to bright yellow
TAIL = 0.01  # share of the values that lie beyond each end of a scale


def color_range(values: Tensor, scale: str) -> tuple[float, float]:
    """Return the ends of a color scale for values (N,).

    The scale "unit" runs from 0 to 1. "linear" and "log" span the values, except a share TAIL at each end.
    NaN and infinity are ignored, and values that are not positive on a "log" scale.
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
    """Return (..., 3) uint8 RGB of values (...): blue at `low` and for NaN, red at `high`."""
    values = values.detach().float().nan_to_num(low)
    if scale == "log":
        values = values.clamp_min(low * 1e-3).log10()
        low, high = np.log10(low), np.log10(high)
    return colorize(((values - low) / (high - low)).cpu().numpy(), TURBO)


def colorize(values: np.ndarray, colors: int) -> np.ndarray:
    """Return (..., 3) uint8 RGB of values (...), clipped to [0, 1]; colors: TURBO or INFERNO."""
    gray = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    flat = cv2.applyColorMap(gray.reshape(-1, 1), colors)
    return np.ascontiguousarray(flat[..., ::-1].reshape(*gray.shape, 3))
