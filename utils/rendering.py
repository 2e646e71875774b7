"""The one caller of the rasterizer: a camera and Gaussians in, an image out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from diff_gaussian_rasterization import GaussianRasterizationSettings, GaussianRasterizer, StepInBackward
from torch import Tensor

from utils.exposures import Exposures
from utils.rotations import covariances
from utils.sh import sh_to_rgb


@dataclass
class RenderOutput:
    """A rendered view. After a backward pass, `means2d.grad` holds screen gradients in NDC units."""

    image: Tensor  # (3, H, W), not clamped
    invdepth: Tensor  # (1, H, W) inverse depth, blended as colors are
    radii: Tensor  # (N,) pixels, 0 where not drawn
    means2d: Tensor  # (N, 3)
    error_image: Tensor | None  # (1, H, W) blended error carrier, if one was given
    rasterizer: GaussianRasterizer  # holds the statistics of the backward pass, if asked for


def render(
    camera: Any,  # scene.camera.Camera
    model: Any,  # GaussianModel
    background: Tensor,  # (3,)
    *,
    antialiasing: bool = False,
    convert_SHs_python: bool = False,
    compute_cov3D_python: bool = False,
    debug: bool = False,
    scaling_modifier: float = 1.0,
    importance: Tensor | None = None,  # (N, 1)
    error_carrier: Tensor | None = None,  # (N, 1)
    statistics: bool = False,
    energy_weights: Tensor | None = None,  # (H, W) of the pixels in removal energies
    stepping: StepInBackward | None = None,  # Adam as a part of the backward pass
) -> RenderOutput:
    """Render `model` as `camera` sees it, over `background`; differentiable where gradients are enabled."""
    flags = {"antialiasing": antialiasing, "debug": debug, "scaling_modifier": scaling_modifier}
    settings = rasterizer_settings(camera, model, background, **flags)
    settings = settings._replace(statistics=statistics, energy_weights=energy_weights)
    rasterizer = GaussianRasterizer(settings, stepping)
    means2d = torch.zeros_like(model.means, requires_grad=torch.is_grad_enabled())
    in_torch = {"convert_SHs_python": convert_SHs_python, "compute_cov3D_python": compute_cov3D_python}
    image, radii, invdepth, *rest = rasterizer(
        means2D=means2d,
        importance=importance,
        error_carrier=error_carrier,
        **gaussians_of(model, camera, scaling_modifier=scaling_modifier, **in_torch),
    )
    return RenderOutput(image, invdepth, radii, means2d, rest[0] if rest else None, rasterizer)


def rasterizer_settings(
    camera: Any,  # scene.camera.Camera
    model: Any,  # GaussianModel
    background: Tensor,  # (3,)
    *,
    antialiasing: bool = False,
    debug: bool = False,
    scaling_modifier: float = 1.0,
    **_: bool,
) -> GaussianRasterizationSettings:
    """Return what the rasterizer is to know of a view."""
    matrices = camera.matrices(model.device)
    return GaussianRasterizationSettings(
        image_height=camera.height,
        image_width=camera.width,
        tanfovx=math.tan(camera.FoVx / 2),
        tanfovy=math.tan(camera.FoVy / 2),
        bg=background,
        scale_modifier=scaling_modifier,
        viewmatrix=matrices.world_view_transform,
        projmatrix=matrices.full_proj_transform,
        sh_degree=model.active_sh_degree,
        campos=matrices.camera_center,
        debug=debug,
        antialiasing=antialiasing,
        near=camera.near,
        dilation=camera.dilation,
    )


def gaussians_of(
    model: Any,  # GaussianModel
    camera: Any,  # scene.camera.Camera
    *,
    convert_SHs_python: bool = False,
    compute_cov3D_python: bool = False,
    scaling_modifier: float = 1.0,
    **_: bool,
) -> dict[str, Tensor]:
    """Return the Gaussians as the rasterizer takes them."""
    center = camera.matrices(model.device).camera_center
    return {
        "means3D": model.means,
        "opacities": model.opacities,
        **_colors(model, center, convert_SHs_python),
        **_shapes(model, scaling_modifier, compute_cov3D_python),
    }


def background_color(white: bool, device: torch.device) -> Tensor:
    """Return white or black (3,)."""
    return torch.full((3,), float(white), device=device)


def render_beside_photos(
    cameras: Iterable[Any],  # scene.camera.Camera, with photos
    model: Any,
    background: Tensor,  # (3,)
    exposures: Exposures | None = None,
    **flags: bool,
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Yield image (3, H, W) in [0, 1], ground truth and mask (H, W) of every view.

    Mask None: all pixels count.
    """
    for camera in cameras:
        image = render(camera, model, background, **flags).image
        if exposures is not None:
            image = exposures.apply(image, camera.image_name)
        gt_image = camera.ground_truth(background, model.device)
        yield image.clamp(0, 1), gt_image, camera.mask_on(model.device)


def _colors(model: Any, camera_center: Tensor, in_torch: bool) -> dict[str, Tensor]:
    if not in_torch:
        return {"dc": model.sh_dc, "shs": model.sh_rest}
    directions = torch.nn.functional.normalize(model.means - camera_center, dim=-1)
    sh = torch.cat([model.sh_dc, model.sh_rest], 1)
    return {"colors_precomp": sh_to_rgb(model.active_sh_degree, sh, directions)}


def _shapes(model: Any, scaling_modifier: float, in_torch: bool) -> dict[str, Tensor]:
    if not in_torch:  # the rasterizer normalises quaternions itself, with the gradient of doing so
        return {"scales": model.scales, "rotations": model.raw["quats"]}
    return {"cov3D_precomp": covariances(scaling_modifier * model.scales, model.quats)}
