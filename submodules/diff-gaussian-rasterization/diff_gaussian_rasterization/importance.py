"""The network that gives every Gaussian its importance, and the autograd function around its kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import _C
from ._checks import check_tensor
from .backends import KERNELS
from .passes import NUMBERS, addresses_of

UNITS, FEATURES, LATENTS = _C.importance_sizes
INPUTS = FEATURES + LATENTS + 1  # of each unit: features, latent and 1
MOST_BASES = (_C.max_sh_degree + 1) ** 2
_OF_GAUSSIANS = ("means", "scales", "sh_first", "sh_rest", "latents")  # the kernels' names
_NAMES = (*_OF_GAUSSIANS, "center", "weights", "out", "bias")


class ImportanceNetwork(NamedTuple):
    """The network logit(s) = bias + out . max(0, weights x), with x of features, a latent, and 1."""

    weights: Tensor  # (UNITS, INPUTS)
    out: Tensor  # (UNITS,)
    bias: Tensor  # (1,)
    center: Tensor  # (3,) world; features are relative to it
    extent: float  # world units


def evaluate_importance(
    network: ImportanceNetwork,
    means: Tensor,  # (N, 3) world
    log_scales: Tensor,  # (N, 3)
    sh_dc: Tensor,  # (N, 1, 3)
    sh_rest: Tensor,  # (N, K - 1, 3)
    latents: Tensor | None = None,  # (N, LATENTS), None: zeros
) -> Tensor:
    """Return s (N, 1) in (0, 1), differentiable in latents, weights, out and bias.

    Raise ValueError for tensors of other shapes, kinds or devices than the means, and for K above 16.
    """
    dtype, device = means.dtype, means.device
    means = check_tensor("means", means, (None, 3), tuple(NUMBERS))
    count = len(means)
    shapes = {
        "log_scales": (log_scales, (count, 3)),
        "sh_dc": (sh_dc, (count, 1, 3)),
        "sh_rest": (sh_rest, (count, None, 3)),
        "latents": (latents, (count, LATENTS)),
        "center": (network.center, (3,)),
        "weights": (network.weights, (UNITS, INPUTS)),
        "out": (network.out, (UNITS,)),
        "bias": (network.bias, (1,)),
    }
    checked = [
        None if tensor is None else check_tensor(name, tensor, shape, dtype, device)
        for name, (tensor, shape) in shapes.items()
    ]
    if sh_rest.shape[1] > MOST_BASES - 1:
        raise ValueError(f"sh_rest: expected at most {MOST_BASES - 1} coefficients, got {sh_rest.shape[1]}")
    return _Importance.apply(network.extent, means, *checked)


class _Importance(torch.autograd.Function):
    """The features are constant: only latents and network have gradients."""

    @staticmethod
    def forward(ctx, extent, *tensors):
        ctx.extent = extent
        ctx.save_for_backward(*tensors)
        importance = tensors[0].new_empty(len(tensors[0]), 1)
        _run("importance_forward", extent, tensors, importance=importance)
        return importance

    @staticmethod
    def backward(ctx, gradient):
        given = dict(zip(_NAMES, ctx.saved_tensors))
        latents, weights, out = given["latents"], given["weights"], given["out"]
        sums = weights.new_empty(UNITS + 1, INPUTS)
        of_latents = None if latents is None else torch.empty_like(latents)
        more = {"importance": gradient.contiguous(), "grad_latents": of_latents, "sums": sums}
        _run("importance_backward", ctx.extent, ctx.saved_tensors, **more)
        of_units, of_bias = sums[:UNITS], sums[UNITS, -1:]
        of_out = (weights * of_units).sum(1)  # a unit that is on hands on its input, weights . x
        found = {"latents": of_latents, "weights": out[:, None] * of_units, "out": of_out, "bias": of_bias}
        return None, *(found.get(name) for name in _NAMES)


def _run(name: str, extent: float, tensors: Sequence[Tensor | None], **more: Tensor | None) -> None:
    given = dict(zip(_NAMES, tensors))
    means, bases = given["means"], given["sh_rest"].shape[1] + 1
    kernels = KERNELS.on("means", means.device)
    run = getattr(kernels.module, name + NUMBERS[means.dtype])
    run(len(means), bases, extent, addresses_of(given | more), *kernels.place(means.device))
