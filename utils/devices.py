"""Which devices a flag may name."""

from __future__ import annotations

import torch
from diff_gaussian_rasterization import best_device


def check_data_device(name: str) -> None:
    """ValueError if pictures cannot be kept on the device called `name`, on this machine with this build."""
    usable = sorted({"cpu", best_device().type})
    try:
        fits = torch.device(name).type in usable
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(f"--data_device: expected {' or '.join(usable)} on this machine, got {name!r}")
