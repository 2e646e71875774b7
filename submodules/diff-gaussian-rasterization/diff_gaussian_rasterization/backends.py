"""The devices of the installed kernels."""

from __future__ import annotations

import torch

from . import _C
from ._devices import DeviceKernels

KERNELS = DeviceKernels(__package__, cpu=_C)


def best_device() -> torch.device:
    """The fastest device that this build has kernels for and this machine has."""
    return KERNELS.best_device()


def cpu_info() -> dict[str, str | int]:
    """Instruction set, threads and build (compiler, hash of the sources) of the CPU kernels.

    Results have the same bits per build and instruction set."""
    return {"isa": _C.isa(), "threads": torch.get_num_threads(), "build": _C.build}


def take_profile() -> tuple[dict[str, float], int]:
    """Return seconds of each stage and tile-Gaussian pairs of all renders on the CPU since the last call."""
    return _C.take_profile()
