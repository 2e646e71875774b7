"""The one operator of this package, in a module of the name that 3DGS code bases import."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _kernels
from ._checks import check_tensor

__all__ = ["distCUDA2"]

_MOST_POINTS = 2**31 - 1


def distCUDA2(points: Tensor) -> Tensor:  # noqa: N802 - the ecosystem's name
    """Mean squared distance of each point to its three nearest others: (N,) float32, exact, same device.

    points: (N, 3) float32, finite, on any device; the search runs on the CPU. Another point at the same place
    counts, with distance 0. With fewer than three others the mean is over those; a point alone gets 0.
    Raises TypeError or ValueError for another dtype or shape, NaN, infinity, or 2^31 points and more.
    """
    host = check_tensor("points", points, ("N", 3)).detach().cpu()
    if len(host) > _MOST_POINTS:
        raise ValueError(f"points: expected at most {_MOST_POINTS} points, got {len(host)}")
    finite = torch.isfinite(host).all(dim=1)
    if not finite.all():
        bad = int((~finite).nonzero()[0])
        raise ValueError(f"points: expected finite coordinates, got {host[bad].tolist()} for point {bad}")
    mean_squares = host.new_empty(len(host))
    threads = torch.get_num_threads()
    _kernels.mean_squared_distance(host.data_ptr(), len(host), mean_squares.data_ptr(), threads)
    return mean_squares.to(points.device)
