"""Importance s_k in (0, 1) from a small network that never sees a Gaussian's opacity (docs/method.md, 4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from utils.sh import MAX_DEGREE, base_count, sh_to_rgb

OPEN_FROM = 0.5  # importance from which a Gaussian is in a file, where gates are 0 or 1
INPUTS = {  # what each kind of network sees
    "full": ("features", "latents"),
    "mlp": ("features",),
    "latent": ("latents",),
    "constant": (),
}


class ImportanceMLP(nn.Module):
    """logit(s_k) = MLP(x_k) with one hidden layer; x_k are features of the Gaussian and its latent."""

    def __init__(
        self,
        kind: str,  # a key of INPUTS
        latent_size: int,
        width: int,
        frequencies: int,  # octaves that encode the position
        start: float,  # s_k of every Gaussian before training
        center: Tensor,  # (3,) world; features are relative to it
        extent: float,  # world units
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.kind, self.frequencies, self.extent = kind, frequencies, extent
        self.register_buffer("center", center.detach().clone())
        sizes = {"features": 3 + 6 * frequencies + 3 + 2 + 3 + 3, "latents": latent_size}
        inputs = sum(sizes[name] for name in INPUTS[kind])
        self.bias = nn.Parameter(torch.tensor([math.log(start / (1 - start))]))
        if inputs:
            bound = 1 / math.sqrt(inputs)
            self.hidden = nn.Parameter(
                torch.empty(width, inputs).uniform_(-bound, bound, generator=generator)
            )
            # Above 0: latents alone start at 0, and units that are all 0 would never learn.
            self.hidden_bias = nn.Parameter(torch.empty(width).uniform_(0, bound, generator=generator))
            self.out = nn.Parameter(torch.zeros(1, width))  # s is the same for all until this has moved
        self.to(center.device)

    def forward(self, raw: dict[str, Tensor]) -> Tensor:
        """s (N, 1) of Gaussians given by raw parameters. Differentiable in the network and the latents."""
        if not INPUTS[self.kind]:
            return self.bias.sigmoid().expand(len(raw["means"]), 1)
        parts = []
        if "features" in INPUTS[self.kind]:
            parts.append(self._features({name: values.detach() for name, values in raw.items()}))
        if "latents" in INPUTS[self.kind]:
            parts.append(raw["latents"])
        hidden = torch.relu(torch.addmm(self.hidden_bias, torch.cat(parts, 1), self.hidden.T))
        return torch.addmm(self.bias, hidden, self.out.T).sigmoid()

    def _features(self, raw: dict[str, Tensor]) -> Tensor:
        position = (raw["means"] - self.center) / self.extent
        position = position / (1 + position.norm(dim=1, keepdim=True))  # the far background stays bounded
        log_scales = raw["scales"] - math.log(self.extent)
        large, small = log_scales.amax(1), log_scales.amin(1)
        middle = log_scales.sum(1) - large - small
        return torch.cat(
            [
                *_octaves(position, self.frequencies),
                torch.stack([large, middle, small], 1) / 4 + 1,  # of order 1 for usual scenes
                torch.stack([middle - large, small - large], 1).exp(),  # shape, whatever the rotation
                sh_to_rgb(0, raw["sh_dc"], position),
                _sh_energy(raw["sh_rest"]),
            ],
            1,
        )


def _octaves(position: Tensor, frequencies: int) -> list[Tensor]:
    """The position, and sine and cosine of pi, 2 pi, 4 pi ... times it."""
    parts, sine, cosine = [position], (math.pi * position).sin(), (math.pi * position).cos()
    for _ in range(frequencies):
        parts += [sine, cosine]
        sine, cosine = 2 * sine * cosine, 1 - 2 * sine * sine
    return parts


def _sh_energy(sh_rest: Tensor) -> Tensor:  # (N, K - 1, 3) -> (N, 3)
    """Norm of each degree's coefficients; zero for degrees that are not there."""
    squares = sh_rest.square().sum(2)
    energy = sh_rest.new_zeros(len(sh_rest), MAX_DEGREE)
    for degree in range(1, MAX_DEGREE + 1):
        energy[:, degree - 1] = squares[:, base_count(degree - 1) - 1 : base_count(degree) - 1].sum(1).sqrt()
    return energy


def gate(probability: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """What the rasterizer sees of s (N, 1) in training: itself (soft), or 0 and 1 with the gradient of s.

    sampled: 1 with probability s (as MaskGaussian, Liu et al. 2024); rounded: 1 where s reaches a half.
    """
    if kind == "sampled":
        threshold = torch.rand(probability.shape, generator=generator).to(probability)
        hard = (probability.detach() > threshold).to(probability)
    else:
        hard = deterministic_gate(probability.detach(), kind)
    return hard + (probability - probability.detach())


def deterministic_gate(probability: Tensor, kind: str, threshold: float = OPEN_FROM) -> Tensor:
    """The same (N, 1) for files and measuring: nothing is left to chance."""
    return probability if kind == "soft" else (probability >= threshold).to(probability)
