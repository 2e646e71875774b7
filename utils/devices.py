"""Devices that keep images: which ones a flag may name, and how images get from there to the GPU."""

from __future__ import annotations

import torch
from diff_gaussian_rasterization import best_device
from torch import Tensor


PHOTO_SHARE = 0.25  # of a GPU's free memory that photos may take: Gaussians grow into the rest


def check_data_device(name: str) -> None:
    """Raise ValueError if images cannot be kept on the device `name`, on this machine with this build."""
    if name == "auto":
        return
    usable = sorted({"cpu", best_device().type})
    try:
        fits = torch.device(name).type in usable
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(f"--data_device: expected auto, {' or '.join(usable)} on this machine, got {name!r}")


def device_for_photos(name: str, taken: float) -> tuple[torch.device, str]:
    """Return the device that photos of `taken` bytes stay on, and a sentence about a choice that was made.

    `auto` is the GPU that renders, if they leave enough of its free memory.
    """
    gpu = best_device()
    if name != "auto" or gpu.type == "cpu":
        return torch.device("cpu" if name == "auto" else name), ""
    free = torch.get_device_module(gpu).mem_get_info()[0]
    fit = taken <= PHOTO_SHARE * free
    sizes = f"{taken / 1e9:.1f} of the {free / 1e9:.1f} GB free there (--data_device)"
    where = "on the GPU" if fit else "in the CPU's memory: on the GPU they would take"
    return gpu if fit else torch.device("cpu"), f"The photos stay {where}{', ' if fit else ' '}{sizes}."


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
