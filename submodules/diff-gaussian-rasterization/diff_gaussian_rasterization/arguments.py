"""The checks of what callers give, before anything is computed."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from . import _C
from ._checks import check_tensor
from .adam import StepInBackward
from .backends import KERNELS
from .data import SPLAT_COLUMNS, GaussianRasterizationSettings, Splats

ARGUMENTS = (
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
STEPPED = ("means3D", "scales", "rotations", "dc", "shs", "opacities")
_REQUIRED = ("means2D", "opacities")  # besides means3D, and of others one or the other
_LARGEST_SIDE = 1 << 16  # pixels


def check_gaussians(
    settings: GaussianRasterizationSettings, given: dict[str, Tensor | None]
) -> dict[str, Tensor | None]:
    """Return Gaussians as the kernels take them. Raise ValueError or TypeError naming what does not fit."""
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


class View(NamedTuple):
    """Checked settings."""

    height: int
    width: int
    numbers: dict[str, float]  # by the kernels' names, as the matrices
    matrices: dict[str, Tensor]
    background: Tensor
    statistics: bool
    energy_weights: Tensor | None


def check_settings(s: GaussianRasterizationSettings, means: Tensor) -> View:
    """Return the settings for Gaussians like `means`. Raise ValueError or TypeError naming a bad one."""
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
    return View(height, width, numbers, matrices, tensors["bg"], bool(s.statistics), weights)


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


def check_stepping(checked: dict[str, Tensor | None], stepping: StepInBackward) -> None:
    """Raise ValueError unless Adam can step all that the view shows in its backward pass."""
    given = {name for name in STEPPED if checked[name] is not None}
    if given != set(STEPPED) or set(stepping.parameters) != set(STEPPED):
        raise ValueError(
            f"stepping: expected arguments and parameters {', '.join(STEPPED)}, got arguments "
            f"{', '.join(sorted(given))} and parameters {', '.join(sorted(stepping.parameters))}"
        )
    for name in STEPPED:
        if checked[name].dtype != torch.float32 or stepping.parameters[name].shape != checked[name].shape:
            shape, got = tuple(stepping.parameters[name].shape), tuple(checked[name].shape)
            raise ValueError(
                f"stepping: expected {name} as float32 of shape {shape}, got {checked[name].dtype} of {got}"
            )


def check_splats(given: Splats) -> Splats:
    """Raise ValueError or TypeError unless `given` are splats as `project` returns them."""
    numbers = (torch.float32, torch.float64)
    rows = check_tensor("splats.rows", given.rows, ("N", len(SPLAT_COLUMNS)), numbers)
    KERNELS.on("splats.rows", rows.device)
    count, device = len(rows), rows.device
    depths = check_tensor("splats.depths", given.depths, (count,), rows.dtype, device)
    return Splats(rows, depths, check_tensor("splats.radii", given.radii, (count,), torch.int32, device))


def require_finite(tensors: dict[str, Tensor | None]) -> None:
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
