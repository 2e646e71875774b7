"""LPIPS v0.1 on VGG16: how different two images look.

Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric". Both images
go through the convolutions of VGG16. After each of its five stages, the features of every pixel are scaled
to length 1. Their squared differences are weighted per channel by a learned head, averaged over the pixels
and added up over the stages. The heads lie beside this file (lpips_vgg_heads.safetensors, license in
lpips_vgg_heads.LICENSE.txt). The VGG16 convolutions are torchvision's, read from a state dict.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
from pathlib import Path
from typing import Iterator

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

VGG16_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
VGG16_HASH = "397923af"  # first digits of the file's SHA-256
CONNECTION_TIMEOUT = 10.0  # seconds without an answer, after which a download fails
HEADS = Path(__file__).with_name("lpips_vgg_heads.safetensors")

STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))  # N of torchvision's `features.N`
CHANNELS = (64, 128, 256, 512, 512)  # of the features after each stage
# RGB mean and standard deviation in LPIPS v0.1.
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
TINY = 1e-10  # avoids 0 / 0 where all features are 0; the reference implementation's value
SMALLEST_SIDE = 16  # pixels; halving it four times leaves one
# Pixels that are computed at once: 16 MiB of features in the first stage. More is not faster.
STRIP_PIXELS = 1 << 16


class LPIPS:
    """The LPIPS metric with its weights on one device."""

    def __init__(self, backbone: dict[str, Tensor], device: torch.device | str = "cpu") -> None:
        """Move the heads and the backbone to `device`.

        backbone: a torchvision state dict of VGG16, as `read_vgg16` returns it.
        """
        names = [[f"features.{index}" for index in stage] for stage in STAGES]
        heads = safetensors.torch.load_file(HEADS)
        self._stages = [
            [(backbone[f"{name}.weight"].to(device), backbone[f"{name}.bias"].to(device)) for name in stage]
            for stage in names
        ]
        self._heads = [heads[f"lin{level}"].to(device) for level in range(len(STAGES))]
        self._shift = torch.tensor(SHIFT, device=device).view(3, 1, 1)
        self._scale = torch.tensor(SCALE, device=device).view(3, 1, 1)

    @torch.no_grad()
    def __call__(
        self,
        images: Tensor,  # (B, 3, H, W) in [0, 1]
        references: Tensor,  # same shape
        normalize: bool = False,
    ) -> Tensor:
        """Return the LPIPS of each pair, (B,).

        The network expects values in [-1, 1]; `normalize=True` maps [0, 1] to that range. 3DGS (Kerbl et al.
        2023) and the papers that compare with it feed [0, 1] unchanged, which is the default here. The two
        conventions give different numbers.
        Raise ValueError if the shapes differ or a side is shorter than 16 pixels.
        """
        _check(images, references)
        pairs = torch.cat([images, references])
        features = ((2 * pairs - 1 if normalize else pairs) - self._shift) / self._scale
        total = torch.zeros(len(images), device=images.device)
        for stage, head in zip(self._stages, self._heads):
            distance, features = _stage_in_strips(features, stage, head)
            total += distance
        return total


def _check(images: Tensor, references: Tensor) -> None:
    if images.shape != references.shape or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            "LPIPS: expected two (B, 3, H, W) tensors of one shape, "
            f"got {tuple(images.shape)} and {tuple(references.shape)}"
        )
    height, width = images.shape[2:]
    if min(height, width) < SMALLEST_SIDE:
        raise ValueError(f"LPIPS needs images of at least 16 x 16 pixels, got {width} x {height}")


def _stage_in_strips(
    features: Tensor,  # (2B, C, H, W) images, then references
    stage: list[tuple[Tensor, Tensor]],  # weights (D, C, 3, 3) and biases (D,)
    head: Tensor,  # (D,)
) -> tuple[Tensor, Tensor]:
    """Return the distances (B,) after the stage and the next stage's input (2B, D, H // 2, W // 2).

    The stage is computed in strips of rows, because the features of a whole photo fill gigabytes. A strip
    has a margin of one row for each convolution, so that the result is that of the whole image.
    """
    count, _, height, width = features.shape
    margin = len(stage)
    distance = features.new_zeros(count // 2)
    halved = features.new_empty(count, len(head), height // 2, width // 2)
    for top, bottom in _strips(height, STRIP_PIXELS // (count * width)):
        start = max(top - margin, 0)
        strip = features[:, :, start : bottom + margin]
        for weight, bias in stage:
            strip = F.relu_(F.conv2d(strip, weight, bias, padding=1))
        strip = strip[:, :, top - start : bottom - start]
        distance += _weighted_difference(strip, head)
        if halved.numel():  # the last features of an image below 32 pixels cannot be halved again
            halved[:, :, top // 2 : bottom // 2] = F.max_pool2d(strip, 2)
    return distance / (height * width), halved


def _strips(height: int, rows: int) -> Iterator[tuple[int, int]]:
    """Cut `height` into strips of about `rows`.

    Every strip begins at an even row and has at least two rows, so that it can be halved.
    """
    tops = range(0, max(height - 1, 1), max(rows // 2 * 2, 2))
    return zip(tops, [*tops[1:], height])


def _weighted_difference(
    features: Tensor,  # (2B, D, H, W)
    head: Tensor,  # (D,)
) -> Tensor:
    """Return the squared differences of the unit features, weighted by channel, summed over pixels: (B,)."""
    unit = features / (features.square().sum(dim=1, keepdim=True).sqrt() + TINY)
    images, references = unit.chunk(2)
    return torch.einsum("bdhw,d->b", (images - references).square(), head)


# Weights


def read_vgg16(path: str | Path) -> dict[str, Tensor]:
    """Read the convolutions of a torchvision state dict of VGG16 as float32; half precision is accepted.

    No code in the file is run. Raise FileNotFoundError without the file, and ValueError if it is no such
    state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"VGG16 weights not found: {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:  # torch's readers of several formats raise errors of many types
        raise ValueError(f"{path}: not a state dict saved by torch ({type(problem).__name__})") from problem
    shapes = _convolution_shapes()
    for name, shape in shapes.items():
        value = state.get(name) if isinstance(state, dict) else None
        if not isinstance(value, Tensor) or tuple(value.shape) != shape or not value.is_floating_point():
            raise ValueError(f"{path}: no torchvision VGG16, expected {name} of shape {shape}")
        if not value.isfinite().all():
            raise ValueError(f"{path}: {name} has values that are not finite")
    return {name: state[name].float() for name in shapes}


def _convolution_shapes() -> dict[str, tuple[int, ...]]:
    shapes, inputs = {}, 3
    for stage, outputs in zip(STAGES, CHANNELS):
        for index in stage:
            shapes[f"features.{index}.weight"] = (outputs, inputs, 3, 3)
            shapes[f"features.{index}.bias"] = (outputs,)
            inputs = outputs
    return shapes


def fetch_vgg16(quiet: bool = False) -> Path:
    """Return the path of VGG16's weights in torch hub's cache; download them (528 MB) if they are missing.

    Raise OSError if the download fails; the message says what to do instead.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(VGG16_URL).name
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _connection_timeout(CONNECTION_TIMEOUT):
            torch.hub.download_url_to_file(VGG16_URL, str(path), hash_prefix=VGG16_HASH, progress=not quiet)
    except (OSError, http.client.HTTPException, RuntimeError) as problem:  # RuntimeError: wrong hash
        raise OSError(
            f"VGG16 weights are not at {path} and could not be downloaded from {VGG16_URL} ({problem}); "
            "put the file there, or name one with --lpips_weights"
        ) from problem
    return path


@contextlib.contextmanager
def _connection_timeout(seconds: float) -> Iterator[None]:
    """Set a time limit on connections inside the block, because torch.hub sets none."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
