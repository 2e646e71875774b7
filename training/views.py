"""One training view: the photo, what its loss and errors are, what Gaussians carry through it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

import subfunction as policy
from gaussian_model import gate
from scene import Camera
from scene.smaller import smaller
from subfunction import Phase
from training.run import Shown, Training
from utils.counter_random import Stream, random_key
from utils.devices import bring_to

READ_AHEAD = 3  # views whose photos are read meanwhile, if they are not all in memory


def next_camera(run: Training, divisor: int = 1, with_photo: bool = True) -> Camera:
    """Return the next training view, its sides divided, and begin to read the photos of those after it."""
    index, train = run.views.next(), run.scene.train
    if not with_photo:
        return smaller(train.without_images[index], divisor)
    camera = train.at_divisor(index, divisor)
    train.expect(list(islice(run.views.coming(run.ranks), READ_AHEAD)))
    return camera


def new_carrier(run: Training, due: Phase) -> Tensor | None:
    """Return e_k = 0 (N, 1), where E_k is collected.

    A new one every time, so that no old gradient is left.
    """
    if not due.collects_errors:
        return None
    return torch.zeros(len(run.model), 1, device=run.model.device, requires_grad=True)


def new_gates(run: Training, due: Phase, importance: Tensor | None) -> Tensor | None:
    """Return what opacities are multiplied by (N, 1); with its gradient where that prunes."""
    settings, gates = run.settings, None
    if importance is not None:
        random = random_key(settings.run.seed, Stream.GATES, due.iteration, *run.ranks.word)
        gates = gate(importance, settings.importance.importance_gate, random)
    if due.collects_sensitivity:
        if gates is None:
            gates = torch.ones(len(run.model), 1, device=run.model.device, requires_grad=True)
        gates.retain_grad()
    return gates


@dataclass
class Measured:
    """The loss of a rendered view, and what its errors are."""

    objective: Tensor  # () whose gradients are wanted
    loss: Tensor  # () of the picture alone, no gradient
    shown: Shown
    typical_error: Tensor | None  # () of E(u), where E_k is collected
    squared_error: Tensor | None  # () weighed as removal energies are, where those prune


def measure_view(
    run: Training,
    due: Phase,
    camera: Camera,
    gt_image: Tensor,  # (3, H, W)
    rendered: Tensor,  # (3, H, W)
    invdepth: Tensor,  # (1, H, W)
    error_image: Tensor | None,  # (1, H, W) A(u), where E_k is collected
    energy_weights: Tensor | None,  # (H, W), where removal energies are
) -> Measured:
    """Return the loss of a view; its gradient to the error carrier is E_k, scaled."""
    settings = run.settings
    image = camera.masked(exposed(run, rendered, camera), gt_image)
    metric = settings.densification.error_metric if due.collects_errors else None
    loss, pixel_errors = policy.training_loss(image, gt_image, settings.optimization.lambda_dssim, metric)
    objective, typical_error, squared_error = loss, None, None
    if due.collects_errors:
        pixel_errors = camera.masked(pixel_errors, 0.0)
        auxiliary = policy.auxiliary_loss(pixel_errors, error_image)
        objective = objective + settings.densification.aux_scale * auxiliary
        typical_error = policy.typical_error(pixel_errors)
    if camera.invdepth is not None:
        objective = objective + weighted_depth_loss(run, due, camera, invdepth)
    shown = Shown(image.detach(), gt_image, pixel_errors)
    if due.collects_removal_energy:
        squared_error = (energy_weights * (shown.image - gt_image).square()).sum()
    return Measured(objective, loss.detach(), shown, typical_error, squared_error)


def exposed(run: Training, image: Tensor, camera: Camera) -> Tensor:
    """Return the image (3, H, W) as the view was exposed, where exposures are learnt."""
    return image if run.exposures is None else run.exposures.apply(image, camera.image_name)


def weighted_depth_loss(run: Training, due: Phase, camera: Camera, invdepth: Tensor) -> Tensor:
    """Return the loss () of rendered inverse depths (1, H, W) against the view's depth map."""
    known = camera.masked(bring_to(run.model.device, camera.invdepth), 0.0)
    weight = policy.depth_weight(due.iteration, run.settings.optimization) * run.scene.unit
    return weight * policy.depth_loss(invdepth, known)


def weights_of_pixels(run: Training, due: Phase, camera: Camera, gt_image: Tensor) -> Tensor | None:
    """Return how much each pixel (H, W) counts in removal energies, where those prune."""
    if not due.collects_removal_energy:
        return None
    return camera.masked(policy.energy_weights(gt_image, run.settings.pruning.energy_contrast), 0.0)


def contributions(due: Phase, energies: Tensor | None, gates: Tensor | None) -> Tensor | None:
    """Return what Gaussians (N,) are worth in this view after its backward pass, where that prunes."""
    if due.collects_removal_energy:
        return energies
    if due.collects_sensitivity:
        return (gates.detach() * gates.grad)[:, 0].abs()
    return None


def importance_penalty(run: Training, due: Phase, importance: Tensor, loss: Tensor) -> Tensor:
    """Return the price () of this rank's importances (N, 1), whose weight is steered where that is due."""
    settings, weight = run.settings.importance, run.totals.lambda_importance
    count, device = len(importance), importance.device
    if due.steers_importance:
        all_of_them = run.ranks.together(importance.detach())
        run.totals.lambda_importance = policy.steered_lambda(weight, all_of_them, run.budget, settings)
    share = count / sum(run.ranks.counts(count, device)) if run.ranks.count > 1 else 1.0
    return share * policy.importance_penalty(importance, loss, weight, settings.lambda_binary)
