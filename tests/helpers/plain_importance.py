"""The importance network in plain torch, to compare the kernels with, and random ones."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from diff_gaussian_rasterization import FEATURES, LATENTS, UNITS, ImportanceNetwork
from torch import Tensor

OCTAVES, MAX_DEGREE = 4, 3


def plain_importance(
    network: ImportanceNetwork,
    means: Tensor,  # (N, 3)
    log_scales: Tensor,  # (N, 3)
    sh_dc: Tensor,  # (N, 1, 3)
    sh_rest: Tensor,  # (N, K - 1, 3)
    latents: Tensor,  # (N, LATENTS)
) -> Tensor:
    """Return s (N, 1)."""
    features = plain_features(network, means, log_scales, sh_dc, sh_rest)
    inputs = torch.cat([features, latents, torch.ones_like(means[:, :1])], 1)
    return ((inputs @ network.weights.T).relu() @ network.out[:, None] + network.bias).sigmoid()


def plain_features(
    network: ImportanceNetwork, means: Tensor, log_scales: Tensor, sh_dc: Tensor, sh_rest: Tensor
) -> Tensor:
    """Return the features (N, FEATURES)."""
    position = (means - network.center) / network.extent
    position = position / (1 + position.norm(dim=1, keepdim=True))
    angles = [2**octave * math.pi * position for octave in range(OCTAVES)]
    octaves = [wave for angle in angles for wave in (angle.sin(), angle.cos())]
    sizes = (log_scales - math.log(network.extent)).sort(1, descending=True).values
    shape = (sizes[:, 1:] - sizes[:, :1]).exp()
    color = (sh_dc[:, 0] / (2 * math.sqrt(math.pi)) + 0.5).clamp_min(0)
    energies = [
        sh_rest[:, d * d - 1 : (d + 1) ** 2 - 1].flatten(1).norm(dim=1) for d in range(1, MAX_DEGREE + 1)
    ]
    return torch.cat([position, *octaves, sizes / 4 + 1, shape, color, torch.stack(energies, 1)], 1)


def make_network(dtype: torch.dtype, generator: torch.Generator) -> ImportanceNetwork:
    weights = torch.randn(UNITS, FEATURES + LATENTS + 1, generator=generator, dtype=dtype) / 6
    out, bias = (torch.randn(n, generator=generator, dtype=dtype) / 3 for n in (UNITS, 1))
    return ImportanceNetwork(weights, out, bias, torch.tensor([0.5, -1.0, 2.0], dtype=dtype), 3.0)


def make_gaussians(count: int, bases: int, dtype: torch.dtype, generator: torch.Generator) -> list[Tensor]:
    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator, dtype=dtype)

    return [4 * normal(3), normal(3) - 3, normal(1, 3), 0.3 * normal(bases - 1, 3), normal(LATENTS)]


def differentiate(
    function: Callable[..., Tensor], network: ImportanceNetwork, gaussians: list[Tensor]
) -> list[Tensor]:
    """Return s and the gradients of latents, weights, out and bias, of a sum with random weights."""
    *constant, latents = gaussians
    wanted = [t.clone().requires_grad_() for t in (latents, *network[:3])]
    importance = function(
        network._replace(weights=wanted[1], out=wanted[2], bias=wanted[3]), *constant, wanted[0]
    )
    weights = torch.randn(importance.shape, generator=torch.Generator().manual_seed(9)).to(importance)
    return [importance.detach(), *torch.autograd.grad((weights * importance).sum(), wanted)]
