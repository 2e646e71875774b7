"""Views of Gaussians that several ranks share: each projects its own, one of them blends what all see.

As Zhao et al. 2024 (On Scaling Up 3D Gaussian Splatting Training): splats go to the rank that renders a view,
their gradients come back, so that every rank ends with all that the views say of its own Gaussians.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from diff_gaussian_rasterization import GaussianRasterizer, Splats
from torch import Tensor

from gaussian_model import GaussianModel
from scene import Camera
from subfunction import Phase
from training.run import Training, TrainingView, choose_background
from training.views import Measured, contributions, importance_penalty, measure_view, new_carrier, new_gates
from training.views import next_camera, weights_of_pixels
from utils.heap import give_back_if_little_is_left
from utils.ranks import Ranks
from utils.rendering import RenderOutput, gaussians_of, rasterizer_settings, render


@dataclass
class Sight:
    """What a camera sees of this rank's Gaussians."""

    radii: Tensor  # (N,) pixels
    means2d: Tensor  # (N, 3)
    seen: Tensor  # (M,) the numbers of those in view
    rows: Tensor | None  # (M, 16) of their splats; None once they have gone to the rank that renders the view
    depths: Tensor | None  # (M,) of the same


def look(
    camera: Camera,
    model: GaussianModel,
    background: Tensor,
    importance: Tensor | None = None,
    error_carrier: Tensor | None = None,
    **flags: bool,
) -> Sight:
    """Return what the camera sees of Gaussians (N, ...), to be rendered elsewhere."""
    rasterizer = GaussianRasterizer(rasterizer_settings(camera, model, background, **flags))
    means2d = torch.zeros_like(model.means, requires_grad=torch.is_grad_enabled())
    splats = rasterizer.project(
        means2D=means2d,
        importance=importance,
        error_carrier=error_carrier,
        **gaussians_of(model, camera, **flags),
    )
    seen = splats.radii.nonzero()[:, 0]
    # Before the next view is projected: then the backward pass ends with a view before it begins another.
    rows, depths = (values.index_select(0, seen) for values in (splats.rows, splats.depths))
    return Sight(splats.radii, means2d, seen, rows, depths)


class Turn:
    """As many views as there are ranks, or fewer: the first rank renders the first one, and so on."""

    def __init__(self, ranks: Ranks, sights: Sequence[Sight]) -> None:
        self._ranks, self._sights = ranks, sights
        self._sent = [len(sight.seen) for sight in sights] + [0] * (ranks.count - len(sights))
        # What arrives is of the view that this rank renders.
        self.rows, self._counts = ranks.exchange(self._for_all([sight.rows for sight in sights]))
        self.depths, _ = ranks.exchange(self._for_all([sight.depths for sight in sights]), self._counts)
        for sight in sights:
            sight.rows = sight.depths = None

    def _for_all(self, parts: list[Tensor]) -> list[Tensor]:
        return parts + [parts[0][:0]] * (self._ranks.count - len(parts))

    def splats(self, rows: Tensor) -> Splats:
        """Return the splats that have arrived, with these rows."""
        return Splats(rows, self.depths, torch.ones_like(self.depths, dtype=torch.int32))

    def backward(self, gradient: Tensor | None) -> None:  # (M, 16), None without a view
        """Give the owners of splats their gradients, and Gaussians theirs."""
        self.rows.backward(torch.zeros_like(self.rows) if gradient is None else gradient)

    def to_owners(self, values: Tensor | None) -> list[Tensor]:  # (M,), of what arrived
        """Return for every view what the rank that rendered it says of this rank's Gaussians (N,)."""
        values = torch.zeros_like(self.depths) if values is None else values
        returned, _ = self._ranks.exchange(values.split(self._counts), self._sent)
        found = []
        for sight, part in zip(self._sights, returned.split(self._sent)):
            of_all = values.new_zeros(len(sight.means2d))
            of_all[sight.seen] = part
            found.append(of_all)
        return found


def images_here(
    ranks: Ranks,
    cameras: Sequence[Camera],  # without pixels
    model: GaussianModel,
    background: Tensor,
    gates: Sequence[Tensor] | None = None,  # (N, 1) for each camera
    **flags: bool,
) -> Iterator[tuple[int, Tensor]]:
    """Yield the numbers of the views that this rank renders, and their images (3, H, W)."""
    gates = [None] * len(cameras) if gates is None else gates
    for numbers in turns(range(len(cameras)), ranks):
        if ranks.count == 1:
            number = numbers[0]
            yield number, render(cameras[number], model, background, importance=gates[number], **flags).image
            continue
        turn = Turn(ranks, [look(cameras[n], model, background, gates[n], **flags) for n in numbers])
        if ranks.rank < len(numbers):
            number = numbers[ranks.rank]
            settings = rasterizer_settings(cameras[number], model, background, **flags)
            yield number, GaussianRasterizer(settings).blend(turn.splats(turn.rows))[0]


def render_at_first(
    ranks: Ranks,
    camera: Camera,
    model: GaussianModel,
    background: Tensor,
    importance: Tensor | None = None,  # (N, 1)
    **flags: bool,
) -> RenderOutput:
    """Render the Gaussians of all ranks at the first one; the others have black images."""
    if ranks.count == 1:
        return render(camera, model, background, importance=importance, **flags)
    sight = look(camera, model, background, importance, **flags)
    turn = Turn(ranks, [sight])
    rasterizer = GaussianRasterizer(rasterizer_settings(camera, model, background, **flags))
    if ranks.is_first:
        image, invdepth = rasterizer.blend(turn.splats(turn.rows))[:2]
    else:
        image = background.new_zeros(3, camera.height, camera.width)
        invdepth = image[:1]
    return RenderOutput(image, invdepth, sight.radii, sight.means2d, None, rasterizer)


@torch.enable_grad()
def blending_weights(
    ranks: Ranks, cameras: Sequence[Camera], model: GaussianModel, background: Tensor, **flags: bool
) -> Tensor:
    """Return how much of the pictures each of this rank's Gaussians (N,) makes up."""
    weights = torch.zeros(len(model), device=model.device)
    for numbers in turns(range(len(cameras)), ranks):
        turn, own = Turn(ranks, [look(cameras[n], model, background, **flags) for n in numbers]), None
        if ranks.rank < len(numbers):
            settings = rasterizer_settings(cameras[numbers[ranks.rank]], model, background, **flags)
            rasterizer, rows = GaussianRasterizer(settings._replace(statistics=True)), turn.rows.detach()
            image = rasterizer.blend(turn.splats(rows.requires_grad_()))[0]
            torch.autograd.grad(image.sum(), rows)  # the backward pass collects weights
            own = rasterizer.statistics.weight_sum
        weights += torch.stack(turn.to_owners(own)).sum(0)
    return weights


def turns(numbers: Sequence[int], ranks: Ranks) -> list[Sequence[int]]:
    """Return the numbers in groups of as many as there are ranks."""
    return [numbers[start : start + ranks.count] for start in range(0, len(numbers), ranks.count)]


def views_of_turn(
    run: Training, due: Phase, numbers: Sequence[int], flags: dict[str, bool]
) -> list[TrainingView]:
    """Render the next views and run their backward passes, one at each rank; see `forward_backward`."""
    ranks, model, settings = run.ranks, run.model, run.settings
    importance = model.hold_importance()
    cameras, ends, carriers, gates, sights = [], [], [], [], []
    for place, number in enumerate(numbers):
        cameras.append(next_camera(run, due.divisor, with_photo=place == ranks.rank))
        ends.append(not run.views.remaining)
        carriers.append(new_carrier(run, due))
        gates.append(new_gates(run, due, importance))
        background = choose_background(run, number)
        sights.append(look(cameras[-1], model, background, gates[-1], carriers[-1], **flags))
    turn, measured, gradient, energies = Turn(ranks, sights), None, None, None
    if ranks.rank < len(numbers):
        own = cameras[ranks.rank], numbers[ranks.rank]
        measured, gradient, energies = measure_turn(run, due, *own, turn, flags)
    losses = shared_numbers(run, len(numbers), measured)
    give_back_if_little_is_left()  # of blending
    turn.backward(gradient)
    if importance is not None:
        importance_penalty(run, due, importance, losses[:, 0].sum().to(importance)).backward()
    returned = turn.to_owners(energies) if due.collects_removal_energy else [None] * len(numbers)

    scale = settings.densification.aux_scale
    return [
        TrainingView(
            iteration=number,
            name=camera.image_name,
            pixels=camera.width * camera.height,
            ends_round=end,
            radii=sight.radii * camera.divisor,
            screen_gradients=sight.means2d.grad,
            errors=None if carrier is None else carrier.grad[:, 0] / scale,  # E_k
            contributions=contributions(due, energy, gate),
            loss=loss[0],
            typical_error=loss[1] if due.collects_errors else None,
            squared_error=loss[2] if due.collects_removal_energy else None,
            shown=measured.shown if measured is not None and place == ranks.rank else None,
        )
        for place, (number, camera, end, sight, carrier, gate, energy, loss) in enumerate(
            zip(numbers, cameras, ends, sights, carriers, gates, returned, losses)
        )
    ]


def measure_turn(
    run: Training, due: Phase, camera: Camera, number: int, turn: Turn, flags: dict[str, bool]
) -> tuple[Measured, Tensor, Tensor | None]:
    """Return what the view that this rank renders is, the gradient of its splats and removal energies.

    The graph ends at the splats, and with this function: its memory is free for gradients of Gaussians.
    """
    background = choose_background(run, number)
    gt_image = camera.ground_truth(background, run.model.device)
    weights = weights_of_pixels(run, due, camera, gt_image)
    settings = rasterizer_settings(camera, run.model, background, **flags)
    settings = settings._replace(statistics=due.collects_removal_energy, energy_weights=weights)
    rasterizer = GaussianRasterizer(settings)
    rows = turn.rows.detach().requires_grad_()
    color, invdepth, *carried = rasterizer.blend(turn.splats(rows), with_carrier=due.collects_errors)
    pictures = color, invdepth, carried[0] if carried else None
    measured = measure_view(run, due, camera, gt_image, *pictures, weights)
    measured.objective.backward()
    energies = rasterizer.statistics.removal_energy if due.collects_removal_energy else None
    return replace(measured, objective=measured.objective.detach()), rows.grad, energies


def shared_numbers(run: Training, count: int, measured: Measured | None) -> Tensor:
    """Return loss, typical and squared error (views, 3) of the views of a turn, on every rank."""
    numbers = torch.zeros(count, 3, dtype=torch.float64, device=run.model.device)
    if measured is not None:
        found = (measured.loss, measured.typical_error, measured.squared_error)
        for column, value in enumerate(found):
            if value is not None:
                numbers[run.ranks.rank, column] = value
    return run.ranks.sum(numbers)
