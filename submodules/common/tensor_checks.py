"""Argument checks of the kernel packages: everything that reaches a kernel went through here.

CMake installs this file as `_checks.py` into each package.
"""

from __future__ import annotations

import torch
from torch import Tensor


def check_tensor(
    name: str,
    tensor: Tensor,
    shape: tuple[int | str | None, ...],
    dtype: torch.dtype | tuple[torch.dtype, ...] = torch.float32,
    device: torch.device | None = None,
) -> Tensor:
    """The tensor, contiguous, if it is what a kernel expects.

    shape: a size per dimension; `None` or a letter (which the message then shows) stands for any size.
    device: `None` accepts any.
    Raises TypeError for what is no tensor, else ValueError; both name the argument, what was expected and
    what came.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected {_expected(shape, dtype, device)}, got {type(tensor).__name__}")
    sizes = tensor.shape
    fits = len(sizes) == len(shape)
    if fits:
        for size, wanted in zip(sizes, shape):
            if size != wanted and isinstance(wanted, int):
                fits = False
    if tensor.dtype is not dtype and not (isinstance(dtype, tuple) and tensor.dtype in dtype):
        fits = False
    if not fits or (device is not None and tensor.device != device):
        raise ValueError(f"{name}: expected {_expected(shape, dtype, device)}, got {_received(tensor)}")
    return tensor if tensor.is_contiguous() else tensor.contiguous()


def _expected(shape, dtype, device) -> str:
    dtypes = dtype if isinstance(dtype, tuple) else (dtype,)
    kinds = " or ".join(_short(d) for d in dtypes)
    sizes = ", ".join("N" if size is None else str(size) for size in shape)
    if len(shape) == 1:
        sizes += ","
    place = "" if device is None else f" on {device}"
    return f"a {kinds} tensor of shape ({sizes}){place}"


def _received(tensor: Tensor) -> str:
    return f"a {_short(tensor.dtype)} tensor of shape {tuple(tensor.shape)} on {tensor.device}"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
