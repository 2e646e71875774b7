"""The public call, its argument checks, and the autograd function around the kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from . import _C
from ._checks import check_tensor
from .adam import SparseGaussianAdam, StepInBackward
from .backends import KERNELS


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
            _require_finite(gaussians)
        outputs = rasterize_gaussians(
            self.raster_settings, gaussians, self._receive_statistics, self.stepping
        )
        return outputs if error_carrier is not None else outputs[:3]

    def _receive_statistics(self, statistics: RasterStatistics) -> None:
        self.statistics = statistics


def rasterize_gaussians(
    settings: GaussianRasterizationSettings,
    gaussians: dict[str, Tensor | None],
    on_statistics,
    stepping: StepInBackward | None = None,
):
    """Check the arguments and render as `GaussianRasterizer.forward`, which describes both."""
    checked = _check_gaussians(settings, gaussians)
    view = _check_settings(settings, checked["means3D"])
    if stepping is not None:
        _check_stepping(checked, stepping)
        checked |= {name: checked[name].detach() for name in _STEPPED}
    return _Rasterize.apply(view, on_statistics, stepping, *(checked[name] for name in _ARGUMENTS))


def _check_stepping(checked: dict[str, Tensor | None], stepping: StepInBackward) -> None:
    """Raise ValueError unless Adam can step all that the view shows in its backward pass."""
    given = {name for name in _STEPPED if checked[name] is not None}
    if given != set(_STEPPED) or set(stepping.parameters) != set(_STEPPED):
        raise ValueError(
            f"stepping: expected arguments and parameters {', '.join(_STEPPED)}, got arguments "
            f"{', '.join(sorted(given))} and parameters {', '.join(sorted(stepping.parameters))}"
        )
    for name in _STEPPED:
        if checked[name].dtype != torch.float32 or stepping.parameters[name].shape != checked[name].shape:
            shape, got = tuple(stepping.parameters[name].shape), tuple(checked[name].shape)
            raise ValueError(
                f"stepping: expected {name} as float32 of shape {shape}, got {checked[name].dtype} of {got}"
            )


def _require_finite(tensors: dict[str, Tensor | None]) -> None:
    """Raise ValueError for the first tensor that is not finite, and for its gradient in the backward pass."""
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        _require_finite_rows(name, tensor.detach())
        if tensor.requires_grad:
            tensor.register_hook(lambda grad, name=name: _require_finite_rows(f"gradient of {name}", grad))


def _require_finite_rows(name: str, tensor: Tensor) -> None:
    bad = ~torch.isfinite(tensor).reshape(len(tensor), -1).all(1)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"{name}: expected finite values, got {int(bad.sum())} bad rows, the first is row {row}"
        )


_ARGUMENTS = (
    "means3D",
    "means2D",
    "scales",
    "rotations",
    "cov3D_precomp",
    "dc",
    "shs",
    "colors_precomp",
    "opacities",
    "importance",
    "error_carrier",
)


_ARRAYS = {  # by the kernels' names; the SH coefficients are in two, or two parts of one
    "means": "means3D",
    "means2d": "means2D",
    "scales": "scales",
    "quats": "rotations",
    "covariances": "cov3D_precomp",
    "colors": "colors_precomp",
    "opacities": "opacities",
    "importance": "importance",
    "carrier": "error_carrier",
}
_STEPPED = ("means3D", "scales", "rotations", "dc", "shs", "opacities")
_REQUIRED = ("means2D", "opacities")  # besides means3D, and of others one or the other
_LARGEST_SIDE = 1 << 16  # pixels


def _check_gaussians(
    settings: GaussianRasterizationSettings, given: dict[str, Tensor | None]
) -> dict[str, Tensor | None]:
    has_sh = given["shs"] is not None or given["dc"] is not None
    if has_sh == (given["colors_precomp"] is not None):
        raise ValueError(
            "expected either shs (with or without dc) or colors_precomp, got "
            + ("both" if has_sh else "neither")
        )
    has_shape = given["scales"] is not None or given["rotations"] is not None
    if has_shape == (given["cov3D_precomp"] is not None):
        raise ValueError(
            "expected either scales and rotations or cov3D_precomp, got "
            + ("both" if has_shape else "neither")
        )
    if has_shape and (given["scales"] is None or given["rotations"] is None):
        raise ValueError("expected scales and rotations together, got only one of them")
    means = check_tensor("means3D", given["means3D"], ("N", 3), (torch.float32, torch.float64))
    n, dtype, device = means.shape[0], means.dtype, means.device
    KERNELS.on("means3D", device)
    columns = {
        "means2D": (3,),
        "scales": (3,),
        "rotations": (4,),
        "cov3D_precomp": (6,),
        "dc": (1, 3),
        "shs": (None, 3),
        "colors_precomp": (3,),
        "opacities": (1,),
        "importance": (1,),
        "error_carrier": (1,),
    }
    checked = {
        name: check_tensor(name, given[name], (n, *shape), dtype, device)
        if name in _REQUIRED or given[name] is not None
        else None
        for name, shape in columns.items()
    }
    checked["means3D"] = means
    if has_sh:
        _check_sh(settings.sh_degree, checked)
    return checked


def _check_sh(degree: int, checked: dict[str, Tensor | None]) -> None:
    degree = _whole("sh_degree", degree)
    if not 0 <= degree <= _C.max_sh_degree:
        raise ValueError(f"sh_degree: expected 0 to {_C.max_sh_degree}, got {degree}")
    bases = sum(checked[name].shape[1] for name in ("dc", "shs") if checked[name] is not None)
    if bases < (degree + 1) ** 2:
        raise ValueError(
            f"shs: expected at least {(degree + 1) ** 2} coefficients for sh_degree {degree}, got {bases}"
        )


class _View(NamedTuple):
    """Checked settings."""

    height: int
    width: int
    numbers: dict[str, float]  # by the kernels' names, as the matrices
    matrices: dict[str, Tensor]
    background: Tensor
    statistics: bool
    energy_weights: Tensor | None


def _check_settings(s: GaussianRasterizationSettings, means: Tensor) -> _View:
    width, height = _whole("image_width", s.image_width), _whole("image_height", s.image_height)
    if not (1 <= width <= _LARGEST_SIDE and 1 <= height <= _LARGEST_SIDE):
        raise ValueError(
            f"image size: expected 1 x 1 to {_LARGEST_SIDE} x {_LARGEST_SIDE} pixels, got {width} x {height}"
        )
    tan_fov = (_number("tanfovx", s.tanfovx), _number("tanfovy", s.tanfovy))
    if not min(tan_fov) > 0:
        raise ValueError(f"tanfovx, tanfovy: expected positive finite numbers, got {tan_fov}")
    near = _number("near", s.near)
    if not near > 0:
        raise ValueError(f"near: expected a distance above 0, got {near}")
    dilation = _number("dilation", s.dilation)
    if not dilation > 0:
        raise ValueError(f"dilation: expected a variance above 0 px^2, got {dilation}")
    shapes = {"viewmatrix": (4, 4), "projmatrix": (4, 4), "campos": (3,), "bg": (3,)}
    tensors = {
        name: check_tensor(name, getattr(s, name), shape, (torch.float32, torch.float64), means.device).to(
            means.dtype
        )
        for name, shape in shapes.items()
    }
    numbers = {
        "width": width,
        "height": height,
        "tan_fovx": tan_fov[0],
        "tan_fovy": tan_fov[1],
        "scale_modifier": _number("scale_modifier", s.scale_modifier),
        "near": near,
        "dilation": dilation,
        "sh_degree": _whole("sh_degree", s.sh_degree),
        "antialiasing": bool(s.antialiasing),
    }
    weights = s.energy_weights
    if weights is not None:
        weights = check_tensor("energy_weights", weights, (height, width), means.dtype, means.device)
    matrices = {
        "view": tensors["viewmatrix"],
        "projection": tensors["projmatrix"],
        "campos": tensors["campos"],
    }
    return _View(height, width, numbers, matrices, tensors["bg"], bool(s.statistics), weights)


def _whole(name: str, value: object) -> int:
    number = _number(name, value)
    if number != int(number):
        raise ValueError(f"{name}: expected a whole number, got {value}")
    return int(value)


def _number(name: str, value: object) -> float:
    try:
        if isinstance(value, str):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{name}: expected a number, got {value!r}") from None
    if not math.isfinite(number):
        raise ValueError(f"{name}: expected a finite number, got {number}")
    return number


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _addresses(tensors: dict[str, Tensor | None]) -> dict[str, int]:
    return {name: _address(tensor) for name, tensor in tensors.items()}


def _array_addresses(tensors: dict[str, Tensor | None]) -> dict[str, int]:
    """Return where Gaussians, or their gradients, are, by the kernels' names."""
    dc, shs = tensors["dc"], tensors["shs"]
    addresses = {ours: _address(tensors[name]) for ours, name in _ARRAYS.items()}
    addresses["sh_first"] = _address(shs if dc is None else dc)
    addresses["sh_rest"] = _address(shs)
    if dc is None and shs is not None:
        addresses["sh_rest"] += 3 * shs.element_size()
    return addresses


def _sh_layout(dc: Tensor | None, shs: Tensor | None) -> tuple[int, int, int]:
    """Return the strides, in scalars, of the first SH coefficient and of the others, and their number."""
    rest = 0 if shs is None else shs.shape[1]
    if dc is None:
        return 3 * rest, 3 * rest, rest
    return 3, 3 * rest, rest + 1


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        view: _View,
        on_statistics,
        stepping: StepInBackward | None,
        *gaussians: Tensor | None,
    ):
        given = dict(zip(_ARGUMENTS, gaussians))
        means, size = given["means3D"], (view.height, view.width)
        kernels = KERNELS.on("means3D", means.device)
        kind = kernels.module.RenderFloat if means.dtype == torch.float32 else kernels.module.RenderDouble
        render = kind(_addresses(view.matrices), view.numbers)
        render.set_gaussians(len(means), _array_addresses(given), _sh_layout(given["dc"], given["shs"]))
        outputs = {
            "color": means.new_empty(3, *size),
            "radii": means.new_empty(len(means), dtype=torch.int32),
            "inv_depth": means.new_empty(1, *size),
            "carrier": None if given["error_carrier"] is None else means.new_empty(1, *size),
            "transmittance": means.new_empty(size),
            "blended": means.new_empty(size, dtype=torch.int32),
        }
        keep = any(ctx.needs_input_grad)
        addresses = _addresses({"background": view.background, **outputs})
        render.forward(addresses, keep, view.statistics, *kernels.place(means.device))
        if keep:
            ctx.render, ctx.kernels, ctx.view, ctx.on_statistics = render, kernels, view, on_statistics
            ctx.stepping = stepping
            kept = (outputs[name] for name in ("radii", "transmittance", "blended"))
            ctx.save_for_backward(*gaussians, *kept)  # the kernels go on reading these
        ctx.mark_non_differentiable(outputs["radii"])
        ctx.set_materialize_grads(False)
        return tuple(outputs[name] for name in ("color", "radii", "inv_depth", "carrier"))

    @staticmethod
    def backward(ctx, grad_color, _, grad_inv_depth, grad_carrier):
        gaussians = ctx.saved_tensors[: len(_ARGUMENTS)]
        like = gaussians[0]
        grads = _empty_gradients(gaussians, ctx.needs_input_grad[3:])
        statistics = _empty_statistics(like) if ctx.view.statistics else None
        if grad_color is None:
            grad_color = like.new_zeros(3, ctx.view.height, ctx.view.width)
        picture = {"color": grad_color, "inv_depth": grad_inv_depth, "carrier": grad_carrier}
        picture = {name: _picture_gradient(grad, ctx.view, like) for name, grad in picture.items()}
        picture["energy_weights"] = ctx.view.energy_weights
        ctx.render.backward(
            _addresses(picture),
            _array_addresses(dict(zip(_ARGUMENTS, grads))),
            {} if statistics is None else _addresses(vars(statistics)),
            *_step_entries(ctx.stepping, dict(zip(_ARGUMENTS, gaussians))),
            *ctx.kernels.place(like.device),
        )
        if statistics is not None:
            ctx.on_statistics(statistics)
        return None, None, None, *grads


def _step_entries(stepping: StepInBackward | None, gaussians: dict[str, Tensor | None]) -> tuple[dict, bool]:
    """Return the steps to take by the kernels' names, and whether only of Gaussians that are seen."""
    if stepping is None:
        return {}, False
    ours = {name: ours for ours, name in _ARRAYS.items()} | {"dc": "sh_first", "shs": "sh_rest"}
    entries = {ours[name]: entry for name, entry in stepping.entries(gaussians).items()}
    return entries, isinstance(stepping.optimizer, SparseGaussianAdam)


def _picture_gradient(grad: Tensor | None, view: _View, like: Tensor) -> Tensor | None:
    return (
        None
        if grad is None
        else check_tensor("output gradient", grad, (None, view.height, view.width), like.dtype, like.device)
    )


def _empty_gradients(gaussians: Sequence[Tensor | None], needed: tuple[bool, ...]) -> list[Tensor | None]:
    """Return an empty gradient for each tensor that needs one.

    Scales and rotations, and dc and shs, share code of the kernels: both get a gradient or neither.
    """
    wanted = dict(zip(_ARGUMENTS, needed))
    for pair in (("scales", "rotations"), ("dc", "shs")):
        if any(wanted[name] for name in pair):
            wanted.update(dict.fromkeys(pair, True))
    return [
        torch.empty_like(t) if wanted[name] and t is not None else None
        for name, t in zip(_ARGUMENTS, gaussians)
    ]


def _empty_statistics(means: Tensor) -> RasterStatistics:
    n = means.shape[0]
    return RasterStatistics(
        means.new_empty(n), means.new_empty(n), means.new_empty(n, dtype=torch.int32), means.new_empty(n)
    )
