"""Views at a whole fraction of their size, by averaging pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from scene.camera import Camera
from utils.devices import keep_on

SMALLEST_SIDE = 32  # pixels that are left of a photo


def smaller(camera: Camera, divisor: int) -> Camera:
    """Return the camera with 1 / `divisor` of its pixels along each side, each the mean of a square of them.

    The divisor is less where a side would have fewer than SMALLEST_SIDE pixels. Rows and columns at the end
    that do not fill a square are left out. A pixel of a mask counts if all of its square do; a depth is the
    mean of those that are known.
    """
    divisor = min(divisor, max(1, min(camera.width, camera.height) // SMALLEST_SIDE))
    if divisor == 1:
        return camera
    width, height = camera.width // divisor, camera.height // divisor
    return replace(
        camera,
        divisor=divisor,
        width=width,
        height=height,
        fx=camera.fx / divisor,
        fy=camera.fy / divisor,
        cx=camera.cx / divisor,
        cy=camera.cy / divisor,
        image=_changed(camera.image, lambda image: _smaller_photo(image, divisor)),
        mask=_changed(camera.mask, lambda mask: _means(mask[None], divisor)[0] == 1),
        invdepth=_changed(camera.invdepth, lambda invdepth: _mean_of_known(invdepth, divisor)),
    )


def _changed(kept: Tensor | None, change: Callable[[Tensor], Tensor]) -> Tensor | None:
    return None if kept is None else keep_on(kept.device, change(kept))


def _smaller_photo(image: Tensor, divisor: int) -> Tensor:  # (H, W, 3 or 4) uint8
    planes = image.permute(2, 0, 1).float()
    if len(planes) == 3:
        means = _means(planes, divisor)
    else:  # colors count as far as they are opaque
        alpha = _means(planes[3:], divisor)
        colors = _means(planes[:3] * planes[3:], divisor) / alpha.clamp_min(torch.finfo(alpha.dtype).tiny)
        means = torch.cat([colors, alpha])
    return means.round_().to(torch.uint8).permute(1, 2, 0)


def _mean_of_known(invdepth: Tensor, divisor: int) -> Tensor:  # (1, H, W)
    known = _means((invdepth > 0).to(invdepth), divisor)
    return torch.where(known > 0, _means(invdepth, divisor) / known, 0.0)


def _means(planes: Tensor, divisor: int) -> Tensor:  # (C, H, W)
    return avg_pool2d(planes.float(), divisor)
