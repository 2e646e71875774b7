"""Structural similarity (SSIM) of images, differentiable in the first, in one pass over the pixels.

Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity", equation 13,
with an 11x11 Gaussian window of standard deviation 1.5. Under "same" padding the images are zero
outside; under "valid" only windows that lie inside count. float32, and float64 for checks.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import _kernels
from ._checks import check_tensor
from ._devices import DeviceKernels

__all__ = ["FusedSSIMMap", "fused_l1_ssim", "fused_ssim", "fused_ssim_map"]

KERNELS = DeviceKernels(__package__, cpu=_kernels)

# (K L)^2 of Wang et al. for K1 = 0.01, K2 = 0.03 and values in [0, 1].
C1 = 0.01**2
C2 = 0.03**2

_MARGINS = {"same": 0, "valid": 5}
_WINDOW = 11


def fused_ssim(img1: Tensor, img2: Tensor, padding: str = "same", train: bool = True) -> Tensor:
    """Mean SSIM of two batches of images, a scalar of their dtype.

    img1, img2: (B, C, H, W) float32 or float64 on one device, values in [0, 1]. padding: "same" or "valid".
    train: whether a gradient, to img1 alone, may be asked for.
    Raises ValueError or TypeError for other shapes, dtypes, devices or padding, for no pixels, and when img2
    needs a gradient.
    """
    margin = _check_padding(padding)
    img1, img2 = _check_images(img1, img2, margin)
    if train and torch.is_grad_enabled():
        _refuse_gradient(img2.requires_grad)
        if img1.requires_grad:
            return _FusedSSIM.apply(img1, img2, margin)
    return _mean(img1, img2, margin)


def fused_ssim_map(img1: Tensor, img2: Tensor, padding: str = "same") -> Tensor:
    """SSIM at every pixel: (B, C, H, W), or (B, C, H - 10, W - 10) under "valid"; differentiable to img1.

    Arguments and errors as for `fused_ssim`.
    """
    if torch.is_grad_enabled():
        _refuse_gradient(isinstance(img2, Tensor) and img2.requires_grad)
    return FusedSSIMMap.apply(C1, C2, img1, img2, padding)


def fused_l1_ssim(
    img1: Tensor, img2: Tensor, ssim_weight: float, error_share: float | None = None
) -> tuple[Tensor, Tensor | None]:
    """The loss of 3DGS, (1 - w) L1 + w (1 - SSIM), of two batches of images, in one pass with its gradient.

    Returns the loss, a scalar, and for an `error_share` s the error of every pixel, (B, 1, H, W), which is
    the mean of (1 - s) |img1 - img2| + s (1 - SSIM) over its channels and carries no gradient. Images and
    errors as for `fused_ssim`, under "same" padding; ValueError also for a weight or share outside of [0, 1].
    Source: Kerbl et al. 2023, equation 7.
    """
    for name, number in (("ssim_weight", ssim_weight), ("error_share", error_share or 0.0)):
        if not 0 <= number <= 1:
            raise ValueError(f"{name}: expected a number in [0, 1], got {number!r}")
    img1, img2 = _check_images(img1, img2, 0)
    _refuse_gradient(img2.requires_grad and torch.is_grad_enabled())
    error = None if error_share is None else img1.new_empty(len(img1), 1, *img1.shape[2:])
    return _FusedL1SSIM.apply(img1, img2, ssim_weight, error, error_share), error


class FusedSSIMMap(torch.autograd.Function):
    """The SSIM map for autograd: `FusedSSIMMap.apply(C1, C2, img1, img2, padding="same", train=True)`."""

    @staticmethod
    def forward(
        ctx, c1: float, c2: float, img1: Tensor, img2: Tensor, padding: str = "same", train: bool = True
    ) -> Tensor:
        ctx.margin = _check_padding(padding)
        img1, img2 = _check_images(img1, img2, ctx.margin)
        ctx.constants = (c1, c2)
        if train:
            ctx.save_for_backward(img1, img2)
        ssim_map = img1.new_empty(_map_shape(img1, ctx.margin))
        _run(img1, img2, ctx.margin, c1, c2, ssim_map=ssim_map)
        return ssim_map

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_map: Tensor):
        _refuse_gradient(ctx.needs_input_grad[3])
        img1, img2 = ctx.saved_tensors
        grad = torch.empty_like(img1)
        _run(img1, img2, ctx.margin, *ctx.constants, weight=grad_map.contiguous(), grad=grad)
        return None, None, grad, None, None, None


class _FusedSSIM(torch.autograd.Function):
    """The mean. Every SSIM value counts alike, so the gradient is known as soon as the map is: one pass."""

    @staticmethod
    def forward(ctx, img1: Tensor, img2: Tensor, margin: int) -> Tensor:
        grad = torch.empty_like(img1)
        ctx.save_for_backward(grad)
        return _mean(img1, img2, margin, grad)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_mean: Tensor):
        (grad,) = ctx.saved_tensors
        return grad * grad_mean, None, None


class _FusedL1SSIM(torch.autograd.Function):
    """The loss of 3DGS, whose gradient is known as soon as it is, too."""

    @staticmethod
    def forward(
        ctx, img1: Tensor, img2: Tensor, weight: float, error: Tensor | None, error_share: float | None
    ) -> Tensor:
        grad = torch.empty_like(img1) if ctx.needs_input_grad[0] else None
        means, values = img1.new_empty(2), img1.numel()
        scales = {"scale": -weight / values, "difference_scale": (1 - weight) / values}
        outputs = {"error": error, "error_share": error_share or 0.0, "grad": grad, "means": means}
        _run(img1, img2, 0, C1, C2, **outputs, **scales, with_differences=True)
        ctx.save_for_backward(grad)
        return weight * (1 - means[0]) + (1 - weight) * means[1]

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_loss: Tensor):
        (grad,) = ctx.saved_tensors
        return grad * grad_loss, None, None, None, None


def _check_padding(padding: str) -> int:
    if padding not in _MARGINS:
        raise ValueError(f'padding: expected "same" or "valid", got {padding!r}')
    return _MARGINS[padding]


def _check_images(img1: Tensor, img2: Tensor, margin: int) -> tuple[Tensor, Tensor]:
    img1 = check_tensor("img1", img1, ("B", "C", "H", "W"), (torch.float32, torch.float64))
    KERNELS.on("img1", img1.device)
    img2 = check_tensor("img2", img2, tuple(img1.shape), img1.dtype, img1.device)
    smallest = _WINDOW if margin else 1
    if img1.numel() == 0 or min(img1.shape[2:]) < smallest:
        least = f"at least one image of {smallest}x{smallest} pixels"
        raise ValueError(f"img1: expected {least}, got shape {tuple(img1.shape)}")
    return img1, img2


def _refuse_gradient(img2_needs_it: bool) -> None:
    if img2_needs_it:
        raise ValueError("img2: expected a tensor that needs no gradient, which only img1 gets")


def _map_shape(images: Tensor, margin: int) -> torch.Size:
    batch, channels, height, width = images.shape
    return torch.Size((batch, channels, height - 2 * margin, width - 2 * margin))


def _mean(img1: Tensor, img2: Tensor, margin: int, grad: Tensor | None = None) -> Tensor:
    """The mean SSIM; its gradient in `grad` where given."""
    mean = img1.new_empty(())
    _run(img1, img2, margin, C1, C2, grad=grad, means=mean, scale=1 / _map_shape(img1, margin).numel())
    return mean


def _run(
    img1: Tensor,  # (B, C, H, W)
    img2: Tensor,  # (B, C, H, W)
    margin: int,
    c1: float,
    c2: float,
    *,
    weight: Tensor | None = None,  # of each SSIM value in what `grad` differentiates; as ssim_map
    ssim_map: Tensor | None = None,  # out, (B, C, H - 2 margin, W - 2 margin)
    error: Tensor | None = None,  # out, (B, 1, H, W)
    grad: Tensor | None = None,  # out, (B, C, H, W)
    means: Tensor | None = None,  # out, of SSIM and, if they count, of the differences
    scale: float = 1.0,  # of SSIM in grad
    difference_scale: float = 0.0,  # of the differences in grad
    error_share: float = 0.0,  # of 1 - SSIM in error
    with_differences: bool = False,  # whether they count
) -> None:
    """Fills ssim_map, error, grad and means where given."""
    batch, channels, height, width = img1.shape
    kernels = KERNELS.on("img1", img1.device)
    kernel = kernels.module.ssim_f32 if img1.dtype == torch.float32 else kernels.module.ssim_f64
    arrays = (img1, img2, weight, ssim_map, error, grad, means)
    addresses = [0 if t is None else t.data_ptr() for t in arrays]
    size = (batch * channels, height, width, channels)
    scales = (scale, difference_scale, error_share, with_differences)
    kernel(*addresses, *size, margin, c1, c2, *scales, *kernels.place(img1.device))
