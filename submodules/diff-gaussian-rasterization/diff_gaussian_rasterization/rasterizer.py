"""The public calls: a render, and each of its two halves."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._checks import check_tensor
from .adam import StepInBackward
from .arguments import ARGUMENTS, STEPPED, check_gaussians, check_settings, check_splats, check_stepping
from .arguments import require_finite
from .data import GaussianRasterizationSettings, RasterStatistics, Splats
from .passes import Blend, Project, Rasterize


class GaussianRasterizer(nn.Module):
    """Render Gaussians, differentiably in all their parameters.

    stepping: the backward pass takes Adam's step with these parameters instead of returning their gradients.
    """

    def __init__(
        self, raster_settings: GaussianRasterizationSettings, stepping: StepInBackward | None = None
    ):
        super().__init__()
        self.raster_settings = raster_settings
        self.stepping = stepping
        self.statistics: RasterStatistics | None = None

    def markVisible(self, positions: Tensor) -> Tensor:
        """Return (N,) bool, which positions (N, 3) are in front of the near plane."""
        positions = check_tensor("positions", positions.detach(), (None, 3), (torch.float32, torch.float64))
        matrix = self.raster_settings.viewmatrix.to(positions)
        return positions @ matrix[:3, 2] + matrix[3, 2] > self.raster_settings.near

    def forward(
        self,
        means3D: Tensor,  # (N, 3) world
        means2D: Tensor,  # (N, 3), only receives a gradient: dL/d(projected mean) in NDC, third column 0
        opacities: Tensor,  # (N, 1) in [0, 1]
        shs: Tensor | None = None,  # (N, K, 3) SH coefficients; without the first when dc is given
        colors_precomp: Tensor | None = None,  # (N, 3) instead of shs
        scales: Tensor | None = None,  # (N, 3) world
        rotations: Tensor | None = None,  # (N, 4) quaternions (w, x, y, z), normalized inside
        cov3D_precomp: Tensor | None = None,  # (N, 6) xx xy xz yy yz zz, instead of scales and rotations
        dc: Tensor | None = None,  # (N, 1, 3) first SH coefficient
        importance: Tensor | None = None,  # (N, 1) factor on alpha; absent: 1
        error_carrier: Tensor | None = None,  # (N, 1) blended into a fourth output
    ) -> tuple[Tensor, ...]:
        """Return color (3, H, W), radii (N,) int32 in pixels and inverse depth (1, H, W).

        With `error_carrier` e the carrier's image A = sum_k w_k e_k (1, H, W) is the fourth. Tensors are
        float32, or all float64 for verification. A Gaussian with values that are not finite is not drawn
        and its gradient is zero. Raise ValueError for arguments that do not fit each other, MemoryError if
        the view needs more memory than the machine has (on a GPU, torch's OutOfMemoryError).

        With `stepping` the tensors of its parameters get no gradient, and `means2D` must want one: it is what
        the backward pass is reached by.
        """
        gaussians = {
            "means3D": means3D,
            "means2D": means2D,
            "opacities": opacities,
            "dc": dc,
            "shs": shs,
            "colors_precomp": colors_precomp,
            "scales": scales,
            "rotations": rotations,
            "cov3D_precomp": cov3D_precomp,
            "importance": importance,
            "error_carrier": error_carrier,
        }
        if self.raster_settings.debug:
            require_finite(gaussians)
        outputs = rasterize_gaussians(
            self.raster_settings, gaussians, self._receive_statistics, self.stepping
        )
        return outputs if error_carrier is not None else outputs[:3]

    def project(self, **gaussians: Tensor | None) -> Splats:
        """Return what the camera sees of Gaussians: the first half of `forward`, with the same arguments.

        The radii are those that `forward` returns. It raises the same errors, TypeError for other arguments,
        and ValueError where there is Adam's step to take, which only the whole can.
        """
        if unknown := gaussians.keys() - set(ARGUMENTS):
            raise TypeError(f"project: expected the arguments of forward, got {', '.join(sorted(unknown))}")
        if self.stepping is not None:
            raise ValueError("project: expected a rasterizer without stepping")
        checked = check_gaussians(self.raster_settings, dict.fromkeys(ARGUMENTS) | gaussians)
        view = check_settings(self.raster_settings, checked["means3D"])
        return Splats(*Project.apply(view, *(checked[name] for name in ARGUMENTS)))

    def blend(self, splats: Splats, with_carrier: bool = False) -> tuple[Tensor, ...]:
        """Return color (3, H, W) and inverse depth (1, H, W): the second half of `forward`.

        With `with_carrier` the carrier's image (1, H, W) is the third. The backward pass gives the gradient
        of the splats' rows, and the statistics of splats, (N,), if the settings ask for them. Both halves
        together have the same bits as `forward`. Raise ValueError or TypeError for what no `project` returns,
        MemoryError as `forward` does.
        """
        splats = check_splats(splats)
        view = check_settings(self.raster_settings, splats.rows)
        outputs = Blend.apply(view, self._receive_statistics, with_carrier, *splats)
        return outputs if with_carrier else outputs[:2]

    def _receive_statistics(self, statistics: RasterStatistics) -> None:
        self.statistics = statistics


def rasterize_gaussians(
    settings: GaussianRasterizationSettings,
    gaussians: dict[str, Tensor | None],
    on_statistics,
    stepping: StepInBackward | None = None,
):
    """Check the arguments and render as `GaussianRasterizer.forward`, which describes both."""
    checked = check_gaussians(settings, gaussians)
    view = check_settings(settings, checked["means3D"])
    if stepping is not None:
        check_stepping(checked, stepping)
        checked |= {name: checked[name].detach() for name in STEPPED}
    return Rasterize.apply(view, on_statistics, stepping, *(checked[name] for name in ARGUMENTS))
