"""The whole renderer in plain torch, written from the equations: what every kernel is compared with.

Dense over Gaussians x pixels, differentiated by autograd, in whatever dtype its inputs have (float64 as the
oracle, float32 to learn what float32 costs). Imports nothing from the project. Slow on purpose: a few hundred
Gaussians, a few thousand pixels.

Sources: Zwicker et al. 2001 (EWA splatting), Kerbl et al. 2023 (3D Gaussian splatting), Yu et al. 2024
(Mip-Splatting, the opacity compensation). Axes: camera x right, y down, z forward; matrices act on row
vectors; pixel (i, j) has its centre at (i + 0.5, j + 0.5); quaternions are (w, x, y, z).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

FRUSTUM_LIMIT = 1.3  # x/z and y/z in the Jacobian are clamped to this many half fields of view
MIN_COMPENSATION = 0.000025  # lower bound of det(cov) / det(cov + 0.3) under the root
MAX_ALPHA = 0.99
MIN_STRENGTH = 1.0 / 255.0  # opacity * G below this is skipped
MIN_TRANSMITTANCE = 1e-4  # a Gaussian that would bring T below this ends the pixel


@dataclass(frozen=True)
class ReferenceCamera:
    """A camera and how to render from it; tensors of one dtype."""

    width: int
    height: int
    tanfovx: float  # tan of half the horizontal field of view
    tanfovy: float
    viewmatrix: Tensor  # (4, 4) world to camera: p_camera = p_world @ viewmatrix
    projmatrix: Tensor  # (4, 4) world to clip, principal point included
    campos: Tensor  # (3,)
    background: Tensor  # (3,)
    sh_degree: int = 3
    scale_modifier: float = 1.0
    antialiasing: bool = False
    near: float = 0.2  # camera z at or below this is culled
    dilation: float = 0.3  # px^2, added to both diagonal entries of the screen covariance
    energy_weights: Tensor | None = None  # (H, W) of pixels in removal energies, absent: 1


@dataclass(frozen=True)
class Cutoffs:
    """Every yes/no decision of one rendering; passed back in, they stay as they were (finite differences)."""

    order: Tensor  # (M,) indices of the Gaussians in front of the near plane, front to back
    blended: Tensor  # (M, P) bool: neither skipped nor behind the end of the pixel


@dataclass(frozen=True)
class Statistics:
    """What each Gaussian did in this view, all (N,)."""

    weight_sum: Tensor
    weight_max: Tensor
    pixels: Tensor  # int
    removal_energy: Tensor


@dataclass(frozen=True)
class Rendering:
    color: Tensor  # (3, H, W)
    invdepth: Tensor  # (1, H, W)
    carried: Tensor | None  # (1, H, W), A(u) where an error carrier was given
    transmittance: Tensor  # (1, H, W), what is left for the background
    radii: Tensor  # (N,) int, 0 where invisible
    touches: Tensor  # (N,) bool: the exact pixel footprint meets at least one pixel
    weights: Tensor  # (N, P), w_k(u)
    statistics: Statistics
    cutoffs: Cutoffs
    margins: Tensor  # (N,) relative distance to the nearest threshold or kink


@dataclass(frozen=True)
class Splats:
    """Gaussians on the screen, front to back (M of them)."""

    mean: Tensor  # (M, 2) pixels
    depth: Tensor  # (M,) camera z
    covariance: Tensor  # (M, 2, 2) px^2, dilated
    opacity: Tensor  # (M,) compensated when antialiasing
    margin: Tensor  # (M,) relative distance to the nearest kink of the projection


def render(
    view: ReferenceCamera,
    means3D: Tensor,  # (N, 3) world
    opacities: Tensor,  # (N, 1)
    *,
    means2D: Tensor | None = None,  # (N, 3) offset of the screen means in NDC, there for its gradient
    shs: Tensor | None = None,  # (N, K, 3), or (N, K-1, 3) beside dc
    dc: Tensor | None = None,  # (N, 1, 3)
    colors_precomp: Tensor | None = None,  # (N, 3)
    scales: Tensor | None = None,  # (N, 3)
    rotations: Tensor | None = None,  # (N, 4), any length
    cov3D_precomp: Tensor | None = None,  # (N, 6) xx xy xz yy yz zz
    importance: Tensor | None = None,  # (N, 1)
    error_carrier: Tensor | None = None,  # (N, 1)
    cutoffs: Cutoffs | None = None,
) -> Rendering:
    """Render one view; argument names are those of the rasterizer. Gradients by autograd."""
    order = depth_order(view, means3D) if cutoffs is None else cutoffs.order
    means = means3D[order]
    if cov3D_precomp is None:
        covariance = covariance_3d(scales[order] * view.scale_modifier, rotations[order])
    else:
        covariance = symmetric(cov3D_precomp[order])
    offset = torch.zeros_like(means) if means2D is None else means2D[order]
    splats = project(view, means, covariance, opacities[order, 0], offset)
    if colors_precomp is None:
        coefficients = shs if dc is None else torch.cat([dc, shs], dim=1)
        raw = sh_color(view.sh_degree, coefficients[order], means - view.campos)
        colors, color_margin = raw.clamp_min(0.0), raw.abs().amin(dim=1)
    else:
        colors, color_margin = colors_precomp[order], means.new_full((len(order),), math.inf)
    importance = None if importance is None else importance[order, 0]
    carrier = None if error_carrier is None else error_carrier[order, 0]
    blended = None if cutoffs is None else cutoffs.blended
    blend = Blend(view, splats, importance, blended)
    return collect(view, means3D, order, splats, colors, carrier, blend, color_margin)


def depth_order(view: ReferenceCamera, means3D: Tensor) -> Tensor:
    """Indices of what lies in front of the near plane, front to back, ties in input order."""
    depth = to_camera(view, means3D.detach())[:, 2]
    order = torch.argsort(depth, stable=True)
    return order[depth[order] > view.near]


def to_camera(view: ReferenceCamera, points: Tensor) -> Tensor:
    return points @ view.viewmatrix[:3, :3] + view.viewmatrix[3, :3]


def rotation_matrix(quaternion: Tensor) -> Tensor:
    """(M, 4) quaternions of any length -> (M, 3, 3), v -> R v."""
    w, x, y, z = (quaternion / quaternion.norm(dim=1, keepdim=True)).unbind(1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], 1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], 1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], 1),
    ]
    return torch.stack(rows, 1)


def covariance_3d(scales: Tensor, rotations: Tensor) -> Tensor:
    """R S S^T R^T, (M, 3, 3)."""
    axes = rotation_matrix(rotations) * scales[:, None, :]
    return axes @ axes.transpose(1, 2)


def symmetric(packed: Tensor) -> Tensor:
    """(M, 6) upper triangle -> (M, 3, 3)."""
    return packed[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3)


def project(
    view: ReferenceCamera, means: Tensor, covariance: Tensor, opacity: Tensor, offset: Tensor
) -> Splats:
    """EWA: the mean through the full projection, the covariance through its Jacobian at the mean."""
    camera = to_camera(view, means)
    clip = means @ view.projmatrix[:3] + view.projmatrix[3]
    size = means.new_tensor([view.width, view.height])
    ndc = clip[:, :2] / clip[:, 3:] + offset[:, :2]
    mean = (ndc + 1.0) * size / 2.0

    tangent = means.new_tensor([view.tanfovx, view.tanfovy])
    limit = FRUSTUM_LIMIT * tangent
    slope = camera[:, :2] / camera[:, 2:]
    clamped = torch.minimum(torch.maximum(slope, -limit), limit)
    focal = size / (2.0 * tangent)
    depth = camera[:, 2]
    diagonal = torch.diag_embed(focal / depth[:, None])  # d(u, v) / d(x, y)
    jacobian = torch.cat([diagonal, (-focal * clamped / depth[:, None])[:, :, None]], dim=2)  # (M, 2, 3)
    to_screen = jacobian @ view.viewmatrix[:3, :3].T
    plain = to_screen @ covariance @ to_screen.transpose(1, 2)
    dilated = plain + view.dilation * torch.eye(2, dtype=means.dtype)

    margin = torch.minimum((slope.abs() / limit - 1).abs().amin(1), (depth / view.near - 1).abs()).detach()
    if view.antialiasing:
        ratio = determinant(plain) / determinant(dilated)
        opacity = opacity * ratio.clamp_min(MIN_COMPENSATION).sqrt()
        margin = torch.minimum(margin, (ratio.detach() / MIN_COMPENSATION - 1).abs())
    return Splats(mean, depth, dilated, opacity, margin)


def determinant(matrix: Tensor) -> Tensor:
    return matrix[:, 0, 0] * matrix[:, 1, 1] - matrix[:, 0, 1] * matrix[:, 1, 0]


def sh_basis(degree: int, directions: Tensor) -> Tensor:
    """Real spherical harmonics, Condon-Shortley phase, at unit directions (M, 3): (M, (degree + 1)^2)."""
    x, y, z = directions.unbind(1)
    basis = [torch.full_like(x, math.sqrt(1 / (4 * math.pi)))]
    if degree >= 1:
        c = math.sqrt(3 / (4 * math.pi))
        basis += [-c * y, c * z, -c * x]
    if degree >= 2:
        c, zonal = math.sqrt(15 / (4 * math.pi)), math.sqrt(5 / (16 * math.pi))
        basis += [
            c * x * y,
            -c * y * z,
            zonal * (2 * z * z - x * x - y * y),
            -c * x * z,
            c / 2 * (x * x - y * y),
        ]
    if degree >= 3:
        c1, c2 = math.sqrt(21 / (32 * math.pi)), math.sqrt(105 / (4 * math.pi))
        c3, zonal = math.sqrt(35 / (32 * math.pi)), math.sqrt(7 / (16 * math.pi))
        basis += [
            -c3 * y * (3 * x * x - y * y),
            c2 * x * y * z,
            -c1 * y * (4 * z * z - x * x - y * y),
            zonal * z * (2 * z * z - 3 * x * x - 3 * y * y),
            -c1 * x * (4 * z * z - x * x - y * y),
            c2 / 2 * z * (x * x - y * y),
            -c3 * x * (x * x - 3 * y * y),
        ]
    return torch.stack(basis, dim=1)


def sh_color(degree: int, coefficients: Tensor, offsets: Tensor) -> Tensor:
    """Color (M, 3) before the clamp at 0, seen along offsets (M, 3) = mean - camera centre."""
    basis = sh_basis(degree, offsets / offsets.norm(dim=1, keepdim=True))
    return torch.einsum("mk,mkc->mc", basis, coefficients[:, : basis.shape[1]]) + 0.5


class Blend:
    """Front-to-back compositing over all pixels, P = H * W in row-major order.

    strength (M, P): o_k G_k.   alpha (M, P): min(0.99, s_k o_k G_k), 0 where not blended.
    before, after (M, P): transmittance in front of and behind each Gaussian.
    weights (M, P): alpha * before.
    """

    def __init__(
        self, view: ReferenceCamera, splats: Splats, importance: Tensor | None, blended: Tensor | None
    ):
        power = gaussian_power(pixel_centers(view), splats)
        self.strength = splats.opacity[:, None] * power.exp()
        self.modulated = self.strength if importance is None else importance[:, None] * self.strength
        alpha = self.modulated.clamp_max(MAX_ALPHA)
        passes = (power <= 0) & (self.strength >= MIN_STRENGTH)
        self.trial = torch.where(passes, 1 - alpha, 1.0).cumprod(dim=0).detach()
        self.passes = passes
        self.blended = passes & (self.trial >= MIN_TRANSMITTANCE) if blended is None else blended
        self.alpha = torch.where(self.blended, alpha, 0.0)
        start = alpha.new_ones(1, alpha.shape[1])
        through = torch.cat([start, (1 - self.alpha).cumprod(dim=0)])
        self.before, self.after, self.final = through[:-1], through[1:], through[-1]
        self.weights = self.alpha * self.before

    def margin(self) -> Tensor:
        """(M,) relative distance to the skip test, the end of the pixel and the clamp of alpha."""
        skip = (self.strength / MIN_STRENGTH - 1).abs()
        stop = (self.trial / MIN_TRANSMITTANCE - 1).abs().where(self.passes, torch.inf)
        clamp = (self.modulated / MAX_ALPHA - 1).abs()
        return torch.stack([skip, stop, clamp]).detach().amin(dim=(0, 2))


def pixel_centers(view: ReferenceCamera) -> Tensor:
    """(P, 2), row-major."""
    dtype = view.viewmatrix.dtype
    y, x = torch.meshgrid(
        torch.arange(view.height, dtype=dtype), torch.arange(view.width, dtype=dtype), indexing="ij"
    )
    return torch.stack([x.reshape(-1), y.reshape(-1)], dim=1) + 0.5


def gaussian_power(points: Tensor, splats: Splats) -> Tensor:
    """log G_k(u) = -1/2 d^T Sigma'^-1 d, (M, P)."""
    dx, dy = (points[None] - splats.mean[:, None]).unbind(2)
    xx, xy, yy = (splats.covariance[:, i, j, None] for i, j in ((0, 0), (0, 1), (1, 1)))
    return -0.5 * (yy * dx * dx - 2 * xy * dx * dy + xx * dy * dy) / determinant(splats.covariance)[:, None]


def removal_energy(view: ReferenceCamera, blend: Blend, colors: Tensor) -> Tensor:
    """(M,) weighed sum over pixels of |alpha_k T_k (c_k - B_k)|^2.

    B_k is the color behind k, background included.
    """
    shares = blend.weights[:, :, None] * colors[:, None]  # (M, P, 3)
    behind = shares.flip(0).cumsum(0).flip(0) - shares + blend.final[:, None] * view.background
    change = blend.weights[:, :, None] * (colors[:, None] - behind / blend.after[:, :, None])
    energies = change.square().sum(2)
    return energies.sum(1) if view.energy_weights is None else energies @ view.energy_weights.flatten()


def radius_and_reach(view: ReferenceCamera, splats: Splats) -> tuple[Tensor, Tensor]:
    """(M,) ceil of 3 sigma along the long axis; (M,) bool: the box around {o G >= 1/255} meets the image."""
    xx, yy = splats.covariance[:, 0, 0], splats.covariance[:, 1, 1]
    middle = (xx + yy) / 2
    largest = middle + (middle**2 - determinant(splats.covariance)).clamp_min(0).sqrt()
    level = 2 * (splats.opacity / MIN_STRENGTH).log()  # squared Mahalanobis distance at which o G = 1/255
    half = (level.clamp_min(0)[:, None] * torch.stack([xx, yy], 1)).sqrt()
    size = half.new_tensor([view.width, view.height])
    reach = (level >= 0) & (splats.mean + half >= 0).all(1) & (splats.mean - half <= size).all(1)
    return (3 * largest.sqrt()).ceil().int(), reach


def collect(view, means3D, order, splats, colors, carrier, blend, color_margin) -> Rendering:
    """Images from the blend, and per-Gaussian results put back into the order of the input."""
    count = len(means3D)

    def image(values: Tensor) -> Tensor:  # (M, C) per Gaussian -> (C, H, W)
        return (values.T @ blend.weights).reshape(-1, view.height, view.width)

    def spread(values: Tensor) -> Tensor:  # (M, ...) -> (N, ...), 0 for what the near plane culled
        return values.new_zeros((count, *values.shape[1:])).index_copy(0, order, values)

    transmittance = blend.final.reshape(1, view.height, view.width)
    color = image(colors) + transmittance * view.background[:, None, None]
    with torch.no_grad():
        radius, reach = radius_and_reach(view, splats)
        statistics = Statistics(
            weight_sum=spread(blend.weights.sum(1)),
            weight_max=spread(blend.weights.amax(1)),
            pixels=spread(blend.blended.sum(1).int()),
            removal_energy=spread(removal_energy(view, blend, colors)),
        )
        margins = (to_camera(view, means3D)[:, 2] / view.near - 1).abs()
        margins[order] = torch.stack(
            [splats.margin, color_margin, blend.margin(), depth_gaps(splats.depth)]
        ).amin(0)
    return Rendering(
        color=color,
        invdepth=image(1 / splats.depth[:, None]),
        carried=None if carrier is None else image(carrier[:, None]),
        transmittance=transmittance,
        radii=spread(torch.where(reach, radius, 0)),
        touches=spread(blend.blended.any(1)),
        weights=spread(blend.weights),
        statistics=statistics,
        cutoffs=Cutoffs(order, blend.blended),
        margins=margins,
    )


def depth_gaps(depth: Tensor) -> Tensor:
    """(M,) relative gap between a Gaussian's depth and that of the next one behind it."""
    return torch.cat([depth.diff() / depth[:-1], depth.new_full((min(len(depth), 1),), math.inf)])
