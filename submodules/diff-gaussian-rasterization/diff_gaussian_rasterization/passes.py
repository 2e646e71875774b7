"""The autograd functions around the kernels: a render, and each of its two halves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ._checks import check_tensor
from .adam import SparseGaussianAdam, StepInBackward
from .arguments import ARGUMENTS, View
from .backends import KERNELS
from .data import SPLAT_COLUMNS, RasterStatistics, Splats

NUMBERS = {torch.float32: "Float", torch.float64: "Double"}  # in the names of the kernels' classes
OnStatistics = Callable[[RasterStatistics], None]

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


class Rasterize(torch.autograd.Function):
    """Gaussians to the picture and back, without gradients of splats in between."""

    @staticmethod
    def forward(
        ctx,
        view: View,
        on_statistics: OnStatistics,
        stepping: StepInBackward | None,
        *gaussians: Tensor | None,
    ):
        given, keep = dict(zip(ARGUMENTS, gaussians)), any(ctx.needs_input_grad)
        projection, splats, tiles = _project(view, given)
        blending, outputs = _blend(view, splats, given["error_carrier"], keep, tiles)
        if keep:
            ctx.projection, ctx.blending, ctx.view = projection, blending, view
            ctx.on_statistics, ctx.stepping = on_statistics, stepping
            # The kernels go on reading these.
            kept = splats.rows, splats.radii, outputs["transmittance"], outputs["blended"]
            ctx.save_for_backward(*gaussians, *kept, splats.depths, tiles)
        ctx.mark_non_differentiable(splats.radii)
        ctx.set_materialize_grads(False)
        return outputs["color"], splats.radii, outputs["inv_depth"], outputs["carrier"]

    @staticmethod
    def backward(ctx, grad_color, _, grad_inv_depth, grad_carrier):
        saved = ctx.saved_tensors
        gaussians, (rows, radii, _, _, depths, tiles) = saved[: len(ARGUMENTS)], saved[len(ARGUMENTS) :]
        place = KERNELS.on("means3D", rows.device).place(rows.device)
        statistics = _empty_statistics(rows) if ctx.view.statistics else None
        grads = _empty_gradients(gaussians, ctx.needs_input_grad[3:])
        pixels = _picture_gradients(ctx.view, rows, grad_color, grad_inv_depth, grad_carrier)
        ctx.projection.backward_from_pixels(
            _splat_addresses(Splats(rows, depths, radii), tiles),
            ctx.blending.backward(addresses_of(pixels), *place),
            _array_addresses(dict(zip(ARGUMENTS, grads))),
            {} if statistics is None else addresses_of(vars(statistics)),
            *_step_entries(ctx.stepping, dict(zip(ARGUMENTS, gaussians))),
            *place,
        )
        if statistics is not None:
            ctx.on_statistics(statistics)
        return None, None, None, *grads


class Project(torch.autograd.Function):
    """Gaussians to splats and back."""

    @staticmethod
    def forward(ctx, view: View, *gaussians: Tensor | None):
        ctx.projection, splats, _ = _project(view, dict(zip(ARGUMENTS, gaussians)))
        splats.rows.masked_fill_((splats.radii == 0)[:, None], 0)
        ctx.save_for_backward(*gaussians, *splats)
        ctx.mark_non_differentiable(splats.depths, splats.radii)
        return tuple(splats)

    @staticmethod
    def backward(ctx, grad_rows, *_):
        saved = ctx.saved_tensors
        gaussians, splats = saved[: len(ARGUMENTS)], Splats(*saved[len(ARGUMENTS) :])
        grads, rows = _empty_gradients(gaussians, ctx.needs_input_grad[1:]), splats.rows
        grad_rows = check_tensor("output gradient", grad_rows, tuple(rows.shape), rows.dtype, rows.device)
        ctx.projection.backward(
            _splat_addresses(splats),
            _address(grad_rows),
            _array_addresses(dict(zip(ARGUMENTS, grads))),
            *KERNELS.on("means3D", rows.device).place(rows.device),
        )
        return None, *grads


class Blend(torch.autograd.Function):
    """Splats to the picture and back."""

    @staticmethod
    def forward(ctx, view: View, on_statistics: OnStatistics, with_carrier: bool, *splats: Tensor):
        given, keep = Splats(*splats), any(ctx.needs_input_grad)
        carrier = given.rows[:, SPLAT_COLUMNS.index("carrier")] if with_carrier else None
        blending, outputs = _blend(view, given, carrier, keep)
        if keep:
            ctx.blending, ctx.view, ctx.on_statistics = blending, view, on_statistics
            ctx.save_for_backward(*given, outputs["transmittance"], outputs["blended"])
        ctx.set_materialize_grads(False)
        return outputs["color"], outputs["inv_depth"], outputs["carrier"]

    @staticmethod
    def backward(ctx, grad_color, grad_inv_depth, grad_carrier):
        rows = ctx.saved_tensors[0]
        place = KERNELS.on("splats.rows", rows.device).place(rows.device)
        statistics = _empty_statistics(rows) if ctx.view.statistics else None
        grad_rows = torch.empty_like(rows)
        pixels = _picture_gradients(ctx.view, rows, grad_color, grad_inv_depth, grad_carrier)
        ctx.blending.reduce(
            ctx.blending.backward(addresses_of(pixels), *place),
            _address(grad_rows),
            {} if statistics is None else addresses_of(vars(statistics)),
            *place,
        )
        if statistics is not None:
            ctx.on_statistics(statistics)
        return None, None, None, grad_rows, None, None


def _project(view: View, given: dict[str, Tensor | None]) -> tuple[Any, Splats, Tensor | None]:
    """Return the kernels' Projection, what it sees, and how many tiles (N,) each meets, if counted."""
    means = given["means3D"]
    kernels, count = KERNELS.on("means3D", means.device), len(means)
    gaussians = count, _array_addresses(given), _sh_layout(given["dc"], given["shs"])
    kind = getattr(kernels.module, f"Projection{NUMBERS[means.dtype]}")
    projection = kind(addresses_of(view.matrices), view.numbers, *gaussians)
    whole = {"dtype": torch.int32, "device": means.device}
    rows, depths = means.new_empty(count, len(SPLAT_COLUMNS)), means.new_empty(count)
    splats = Splats(rows, depths, torch.empty(count, **whole))
    tiles = torch.empty(count, **whole) if kernels.module.counts_tiles else None
    projection.forward(_splat_addresses(splats, tiles), *kernels.place(means.device))
    return projection, splats, tiles


def _blend(
    view: View, splats: Splats, carrier: Tensor | None, keep: bool, tiles: Tensor | None = None
) -> tuple[Any, dict[str, Tensor | None]]:
    """Return the kernels' Blending and the images that it has filled."""
    rows, size = splats.rows, (view.height, view.width)
    kernels = KERNELS.on("splats.rows", rows.device)
    outputs = {
        "color": rows.new_empty(3, *size),
        "inv_depth": rows.new_empty(1, *size),
        "carrier": None if carrier is None else rows.new_empty(1, *size),
        "transmittance": rows.new_empty(size),
        "blended": rows.new_empty(size, dtype=torch.int32),
    }
    kind = getattr(kernels.module, f"Blending{NUMBERS[rows.dtype]}")
    blending = kind(view.width, view.height, len(rows), _splat_addresses(splats, tiles))
    carried = _address(carrier), 0 if carrier is None else carrier.stride(0)
    addresses = addresses_of({"background": view.background, **outputs})
    blending.forward(addresses, *carried, keep, view.statistics, *kernels.place(rows.device))
    return blending, outputs


def _splat_addresses(splats: Splats, tiles: Tensor | None = None) -> dict[str, int]:
    return addresses_of(splats._asdict() | {"tiles": tiles})


def _picture_gradients(
    view: View, like: Tensor, color: Tensor | None, inv_depth: Tensor | None, carrier: Tensor | None
) -> dict[str, Tensor | None]:
    if color is None:
        color = like.new_zeros(3, view.height, view.width)
    grads = {"color": color, "inv_depth": inv_depth, "carrier": carrier}
    checked = {name: _picture_gradient(grad, view, like) for name, grad in grads.items()}
    return checked | {"energy_weights": view.energy_weights}


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def addresses_of(tensors: dict[str, Tensor | None]) -> dict[str, int]:
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


def _step_entries(stepping: StepInBackward | None, gaussians: dict[str, Tensor | None]) -> tuple[dict, bool]:
    """Return the steps to take by the kernels' names, and whether only of Gaussians that are seen."""
    if stepping is None:
        return {}, False
    ours = {name: ours for ours, name in _ARRAYS.items()} | {"dc": "sh_first", "shs": "sh_rest"}
    entries = {ours[name]: entry for name, entry in stepping.entries(gaussians).items()}
    return entries, isinstance(stepping.optimizer, SparseGaussianAdam)


def _picture_gradient(grad: Tensor | None, view: View, like: Tensor) -> Tensor | None:
    return (
        None
        if grad is None
        else check_tensor("output gradient", grad, (None, view.height, view.width), like.dtype, like.device)
    )


def _empty_gradients(gaussians: Sequence[Tensor | None], needed: tuple[bool, ...]) -> list[Tensor | None]:
    """Return an empty gradient for each tensor that needs one.

    Scales and rotations, and dc and shs, share code of the kernels: both get a gradient or neither.
    """
    wanted = dict(zip(ARGUMENTS, needed))
    for pair in (("scales", "rotations"), ("dc", "shs")):
        if any(wanted[name] for name in pair):
            wanted.update(dict.fromkeys(pair, True))
    return [
        torch.empty_like(t) if wanted[name] and t is not None else None
        for name, t in zip(ARGUMENTS, gaussians)
    ]


def _empty_statistics(means: Tensor) -> RasterStatistics:
    n = means.shape[0]
    return RasterStatistics(
        means.new_empty(n), means.new_empty(n), means.new_empty(n, dtype=torch.int32), means.new_empty(n)
    )
