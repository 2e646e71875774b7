"""The one operator of this package, in a module of the name that 3DGS code bases import."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _kernels
from ._checks import check_tensor
from ._devices import DeviceKernels

__all__ = ["distCUDA2"]

KERNELS = DeviceKernels(__package__, cpu=_kernels)
_MOST_POINTS = 2**31 - 1


def distCUDA2(points: Tensor) -> Tensor:  # noqa: N802 - the ecosystem's name
    """Return the mean squared distance of each point to its three nearest others: (N,) float32, exact.

    points: (N, 3) float32, finite, on any device. The search runs there, or on the CPU if this build has no
    kernels for the device; the result is on the device of `points`. Another point at the same place counts,
    with distance 0. With fewer than three others the mean is over those; a single point gets 0.
    Raise TypeError or ValueError for another dtype or shape, NaN, infinity, or 2^31 points and more.
    """
    there = check_tensor("points", points, ("N", 3)).detach()
    if not KERNELS.has(there.device):
        there = there.cpu()
    if len(there) > _MOST_POINTS:
        raise ValueError(f"points: expected at most {_MOST_POINTS} points, got {len(there)}")
    finite = torch.isfinite(there).all(dim=1)
    if not finite.all():
        bad = int((~finite).nonzero()[0])
        raise ValueError(f"points: expected finite coordinates, got {there[bad].tolist()} for point {bad}")
    mean_squares = there.new_empty(len(there))
    kernels = KERNELS.on("points", there.device)
    place = kernels.place(there.device)
    kernels.module.mean_squared_distance(there.data_ptr(), len(there), mean_squares.data_ptr(), *place)
    return mean_squares.to(points.device)
