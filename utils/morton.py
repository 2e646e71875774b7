"""The order of points along Morton's curve, on which neighbors in space are mostly neighbors in order."""

from __future__ import annotations

import torch
from torch import Tensor

MOST_BITS = 21  # of each coordinate, in a code of 64


def morton_order(points: Tensor, bits: int = 10) -> Tensor:
    """Return the indices (N,) int64 that sort finite points (N, 3) along the curve (Morton 1966).

    Each coordinate has `bits` in the code, at most MOST_BITS: more order the points finer and take longer.
    Space is contracted around their median, so that points far outside take little room from the others.
    Points in one cell keep their order.
    """
    if len(points) == 0:
        return torch.zeros(0, dtype=torch.int64, device=points.device)
    offsets = points - points.median(0).values
    distances = offsets.abs()
    spread = distances.median(0).values.clamp_min(torch.finfo(points.dtype).tiny)
    cells = ((1 + offsets / (distances + spread)) * 2 ** (bits - 1)).long().clamp_max(2**bits - 1)
    codes = torch.zeros_like(cells[:, 0])
    for axis, cell in enumerate(cells.T.contiguous()):
        for bit in range(bits):
            codes |= (cell >> bit & 1) << 3 * bit + axis
    return codes.argsort(stable=True)
