"""What goes into a render beside the Gaussians, and what comes out of it beside the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class GaussianRasterizationSettings(NamedTuple):
    """Settings of one view. The camera looks along z, with x right and y down.

    Matrices are transposed, for row vectors, as 3DGS passes them.
    """

    image_height: int
    image_width: int
    tanfovx: float  # tan of half the field of view; focal length in pixels = image_width / (2 tanfovx)
    tanfovy: float
    bg: Tensor  # (3,) background color
    scale_modifier: float
    viewmatrix: Tensor  # (4, 4) world to camera
    projmatrix: Tensor  # (4, 4) world to clip space; may hold an off-centre principal point
    sh_degree: int  # 0 to 3
    campos: Tensor  # (3,) world
    prefiltered: bool = False  # accepted for compatibility: culling is always tested
    debug: bool = False  # look for NaN and infinity in all inputs and their gradients
    antialiasing: bool = False  # opacity compensation of Mip-Splatting
    statistics: bool = False  # collect RasterStatistics in the backward pass
    energy_weights: Tensor | None = None  # (H, W), how much each pixel counts in removal energies; absent: 1
    near: float = 0.2  # world units; Gaussians whose camera z is not larger are not drawn
    dilation: float = 0.3  # px^2 that the screen-space low-pass filter adds to both variances (EWA)


@dataclass
class RasterStatistics:
    """Sums over the pixels of one view for each Gaussian, set by the backward pass.

    w is the blending weight alpha * T of a Gaussian at a pixel.
    """

    weight_sum: Tensor  # (N,) sum of w
    weight_max: Tensor  # (N,) max of w
    pixels: Tensor  # (N,) int32, pixels it was blended into
    removal_energy: Tensor  # (N,) weighed sum over pixels of the squared change of color without it


class Splats(NamedTuple):
    """What a camera sees of N Gaussians: from `project` to `blend`.

    Rows may be left out, sorted anew, and put together from several calls for the same camera, as with
    `torch.cat`. Of splats at one depth the first is blended first.
    """

    rows: Tensor  # (N, 16), differentiable, see SPLAT_COLUMNS; zeros where not seen
    depths: Tensor  # (N,) camera z
    radii: Tensor  # (N,) int32 pixels, 0: not seen


# At dx, dy pixels from its mean a splat is G = 2^(quad_u (dx - shear dy)^2 + quad_v dy^2). Those that are
# bounds follow from the others and have no gradient.
SPLAT_COLUMNS = (
    *("x", "y", "quad_u", "shear", "quad_v"),  # mean in pixels; exponent
    *("log2_cut", "half_width", "half_height", "dy_right"),  # bounds
    *("opacity", "importance", "red", "green", "blue", "inv_depth", "carrier"),
)
