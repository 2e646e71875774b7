"""gsplat's plain-torch twin of its kernels (1.5.3, Apache-2.0, optional): a yardstick, an oracle in tests.

An independent reading of the same equations. gsplat's own code projects, evaluates spherical harmonics and
composites; what it needs compiled code for is written here: which pairs are blended, and the segmented
product along rays. It clamps alpha at 0.999 (3DGS: 0.99), has no lower bound for the antialiasing
compensation, and linearises the projection up to 0.3 half fields of view beyond the image's borders, which
for an off-centre principal point are not 1.3 from the axis as in 3DGS.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
import warnings
from functools import cache
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

NEAR_PLANE = 0.2  # the rest as in 3DGS, but for gsplat's bound of alpha
MIN_ALPHA, MAX_ALPHA = 1 / 255, 0.999
MIN_TRANSMITTANCE = 1e-4
TILE = 16  # pixels
RUNS = 3


def is_installed() -> bool:
    return all(importlib.util.find_spec(name) for name in ("gsplat", "nerfacc"))


@cache
def torch_impl() -> ModuleType:
    with warnings.catch_warnings():  # both warn when imported without CUDA
        warnings.simplefilter("ignore")
        import nerfacc  # noqa: F401 (gsplat imports it when it composites)
        from gsplat.cuda import _torch_impl
    return _torch_impl


def milliseconds(model: Any, camera: Any, background: Tensor) -> float:
    """Return the median over RUNS, after a warm-up, of rendering a model and differentiating the image's sum.

    Counted: activations, projection, SH, the search for the blended pairs (without gradients), compositing,
    and the gradients of all raw parameters. Not counted: loss and optimizer.
    """
    times = []
    for _ in range(1 + RUNS):
        start = time.perf_counter()
        torch.autograd.grad(render_model(model, camera, background).sum(), list(model.raw.values()))
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[1:])


def render_model(model: Any, camera: Any, background: Tensor) -> Tensor:
    """Return the image (3, H, W) of a GaussianModel as a scene's Camera sees it."""
    return render(
        torch.as_tensor(camera.world_to_camera).to(model.means),
        model.means.new_tensor([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]]),
        (camera.width, camera.height),
        background,
        model.active_sh_degree,
        means=model.means,
        quats=model.raw["quats"],
        scales=model.scales,
        opacities=model.opacities,
        sh=torch.cat([model.sh_dc, model.sh_rest], 1),
    )


def render(
    world_to_camera: Tensor,  # (4, 4), column vectors
    intrinsics: Tensor,  # (3, 3) pixels
    size: tuple[int, int],  # width, height
    background: Tensor,  # (3,)
    sh_degree: int,
    *,
    means: Tensor,  # (N, 3) world
    quats: Tensor,  # (N, 4) w x y z, of any length
    scales: Tensor,  # (N, 3)
    opacities: Tensor,  # (N, 1)
    sh: Tensor,  # (N, K, 3)
    antialiasing: bool = False,
) -> Tensor:
    """Return the image (3, H, W), differentiable in the Gaussians, of their dtype."""
    twin = torch_impl()
    covariance, _ = twin._quat_scale_to_covar_preci(quats, scales, compute_preci=False)
    _, means2d, depths, conics, compensation = twin._fully_fused_projection(
        means, covariance, world_to_camera[None], intrinsics[None], *size,
        near_plane=NEAR_PLANE, calc_compensations=antialiasing,
    )  # fmt: skip
    opacity = opacities[None, :, 0]
    if antialiasing:
        opacity = opacity * compensation
    center = torch.linalg.inv(world_to_camera)[:3, 3]
    colors = (twin._spherical_harmonics(sh_degree, means - center, sh) + 0.5).clamp_min(0)[None]
    gaussian, pixel = blended_pairs(means2d[0], conics[0], opacity[0], depths[0], *size)
    with patch("nerfacc.render_weight_from_alpha", segmented_weights):
        color, alpha = twin.accumulate(
            means2d, conics, opacity, colors, gaussian, pixel, torch.zeros_like(pixel), *size
        )
    return (color + (1 - alpha) * background)[0].permute(2, 0, 1)


@torch.no_grad()
def blended_pairs(
    means2d: Tensor,  # (N, 2) pixels
    conics: Tensor,  # (N, 3) xx xy yy of the inverse covariance
    opacities: Tensor,  # (N,)
    depths: Tensor,  # (N,)
    width: int,
    height: int,
) -> tuple[Tensor, Tensor]:
    """Return Gaussian and pixel of every blended pair; those of one pixel lie together, front to back."""
    order = depths.argsort(stable=True)  # as 3DGS does: of points that coincide the first is in front
    order = order[depths[order] > NEAR_PLANE]
    means2d, conics, opacities = means2d[order], conics[order], opacities[order]
    reach = half_extents(conics, opacities)
    (left, top), (right, bottom) = (means2d - reach).unbind(1), (means2d + reach).unbind(1)
    index = torch.arange(width * height).view(height, width)
    gaussians, pixels = [], []
    for y in range(0, height, TILE):
        row = ((top <= y + TILE) & (bottom >= y)).nonzero()[:, 0]
        for x in range(0, width, TILE):
            near = row[(left[row] <= x + TILE) & (right[row] >= x)]
            tile = index[y : y + TILE, x : x + TILE].flatten()
            centers = torch.stack([tile % width, tile // width], 1) + 0.5
            blended = blended_in_tile(centers.to(means2d), means2d[near], conics[near], opacities[near])
            pixel, rank = blended.nonzero(as_tuple=True)
            gaussians.append(order[near[rank]])
            pixels.append(tile[pixel])
    return torch.cat(gaussians), torch.cat(pixels)


def half_extents(conics: Tensor, opacities: Tensor) -> Tensor:  # (N, 3), (N,) -> (N, 2)
    """Return half extents (N, 2) of the boxes around the ellipses alpha = MIN_ALPHA; NaN if there is none."""
    xx, xy, yy = conics.unbind(1)
    variances = torch.stack([yy, xx], 1) / (xx * yy - xy * xy)[:, None]
    return (2 * (opacities / MIN_ALPHA).log()[:, None] * variances).sqrt()


def blended_in_tile(centers: Tensor, means2d: Tensor, conics: Tensor, opacities: Tensor) -> Tensor:
    """Return the mask (P, N) of blended pairs of pixel centers (P, 2) and Gaussians, front to back."""
    dx, dy = (centers[:, None] - means2d).unbind(2)
    xx, xy, yy = conics.unbind(1)
    power = -0.5 * (xx * dx * dx + yy * dy * dy) - xy * dx * dy
    alpha = (opacities * power.exp()).clamp_max(MAX_ALPHA)
    passes = alpha >= MIN_ALPHA
    return passes & (torch.where(passes, 1 - alpha, 1.0).cumprod(1) >= MIN_TRANSMITTANCE)


def segmented_weights(
    alphas: Tensor,  # (M,)
    *,
    ray_indices: Tensor,  # (M,), those of one ray together, front to back
    n_rays: int,
) -> tuple[Tensor, Tensor]:
    """Return alpha times the exclusive product of (1 - alpha) along each ray, as nerfacc does."""
    _, ray, counts = ray_indices.unique_consecutive(return_inverse=True, return_counts=True)
    rank = torch.arange(len(alphas)) - (counts.cumsum(0) - counts)[ray]
    table = alphas.new_zeros(len(counts), int(counts.max())).index_put((ray, rank), alphas)
    through = torch.cat([torch.ones_like(table[:, :1]), (1 - table).cumprod(1)[:, :-1]], dim=1)
    trans = through[ray, rank]
    return alphas * trans, trans
