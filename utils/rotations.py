"""Quaternions (w, x, y, z), rotation matrices, and covariances built from them."""

from __future__ import annotations

import torch
from torch import Tensor


def quats_to_matrices(quats: Tensor) -> Tensor:  # (N, 4) -> (N, 3, 3)
    """Return rotation matrices of quaternions of any length but 0, which are normalized here."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def covariances(
    scales: Tensor,  # (N, 3) world units
    quats: Tensor,  # (N, 4)
) -> Tensor:
    """Return upper triangles (N, 6) of R S S^T R^T (Kerbl et al. 2023, eq. 6): xx xy xz yy yz zz."""
    axes = quats_to_matrices(quats) * scales[:, None, :]
    full = axes @ axes.transpose(1, 2)
    rows, columns = torch.triu_indices(3, 3)
    return full[:, rows, columns]
