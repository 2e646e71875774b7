"""Devices that keep images: which ones a flag may name, and how images get from there to the GPU."""

from __future__ import annotations

import torch
from diff_gaussian_rasterization import best_device
from torch import Tensor


def check_data_device(name: str) -> None:
    """Raise ValueError if images cannot be kept on the device `name`, on this machine with this build."""
    usable = sorted({"cpu", best_device().type})
    try:
        fits = torch.device(name).type in usable
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(f"--data_device: expected {' or '.join(usable)} on this machine, got {name!r}")


def reads_at_once(device: torch.device) -> bool:
    """Return whether Python can read a number on the device without waiting for queued work."""
    return device.type == "cpu"


def keep_on(device: torch.device | str, pixels: Tensor) -> Tensor:
    """Return `pixels` on `device`: if that is the CPU, but a GPU renders, in page-locked memory."""
    kept = pixels.to(device)
    return kept.pin_memory() if kept.device.type == "cpu" != best_device().type else kept


def bring_to(device: torch.device | str, kept: Tensor) -> Tensor:
    """Return on `device` what `keep_on` keeps; a copy from the CPU is queued and not waited for."""
    # Towards the CPU a copy has to be waited for.
    return kept.to(device, non_blocking=kept.device.type == "cpu")
