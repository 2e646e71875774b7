"""The paper's formula of LPIPS on torchvision's layers, in float64; and weights and pictures to try it on."""

from __future__ import annotations

import math
from typing import Sequence

import torch
from torch import Tensor, nn

# torchvision's VGG16 `features` up to the last pooling; a number: 3x3 convolution to so many channels, ReLU.
LAYERS = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512)
TAPS = (3, 8, 15, 22, 29)  # the ReLU at the end of each stage


def vgg16_features() -> nn.Sequential:
    modules, inputs = [], 3
    for layer in LAYERS:
        if layer == "pool":
            modules.append(nn.MaxPool2d(2, 2))
        else:
            modules += [nn.Conv2d(inputs, layer, 3, padding=1), nn.ReLU()]
            inputs = layer
    return nn.Sequential(*modules)


def random_vgg16(seed: int = 0) -> dict[str, Tensor]:
    """A state dict with torchvision's names, float16, scaled so that signals neither die nor explode."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in vgg16_features().state_dict().items():
        deviation = math.sqrt(2 / (9 * value.shape[1])) if value.ndim == 4 else 0.1
        state[f"features.{name}"] = (deviation * torch.randn(value.shape, generator=generator)).half()
    return state


def plain_network(state: dict[str, Tensor]) -> nn.Sequential:
    network = vgg16_features().double()
    network.load_state_dict({name.removeprefix("features."): value.double() for name, value in state.items()})
    return network


@torch.no_grad()
def plain_lpips(
    image: Tensor,  # (3, H, W)
    reference: Tensor,  # (3, H, W)
    network: nn.Sequential,
    heads: Sequence[Tensor],  # five of (C,)
) -> float:
    """Sum over stages of the mean over pixels of head . (unit features' difference)^2."""
    mean = torch.tensor([-0.030, -0.088, -0.188], dtype=torch.float64)
    deviation = torch.tensor([0.458, 0.448, 0.450], dtype=torch.float64)
    one, other = (
        ((x.double().permute(1, 2, 0) - mean) / deviation).permute(2, 0, 1)[None] for x in (image, reference)
    )
    total = 0.0
    for index, module in enumerate(network):
        one, other = module(one), module(other)
        if index in TAPS:
            difference = one / one.norm(dim=1, keepdim=True) - other / other.norm(dim=1, keepdim=True)
            weights = heads[TAPS.index(index)].double().view(1, -1, 1, 1)
            total += (weights * difference**2).sum(dim=1).mean().item()
    return total


def waves(height: int, width: int, phase: float = 0.0) -> Tensor:
    """(3, H, W) in [0, 1]: a picture from sines alone, the same on every machine and with every torch."""
    y = torch.arange(height, dtype=torch.float64)[:, None]
    x = torch.arange(width, dtype=torch.float64)[None, :]
    crossed = [(x / (3 + c) + phase).sin() * (y / (5 - c) - phase).cos() for c in range(3)]
    rippled = [((x * y) / (40 + c)).sin() for c in range(3)]
    return ((torch.stack(crossed) + torch.stack(rippled)) / 4 + 0.5).float()
