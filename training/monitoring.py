"""The state of a run: the progress line, measures of whole views, and the history that report.py draws."""

from __future__ import annotations

import math

import torch
from fused_ssim import fused_ssim_map
from torch import Tensor

import subfunction as policy
from gaussian_model import gate
from scene import Camera
from training.run import Training, TrainingView, choose_background
from training.saving import require_sound
from training.tensorboard import TensorBoardLog
from utils.counter_random import Stream, random_key
from utils.devices import reads_at_once
from utils.history import shares_of_weight
from utils.losses import l1, masked_mean, psnr
from utils.progress import Progress
from utils.rendering import render, render_beside_photos

TRAINING_VIEWS_MEASURED = range(5, 30, 5)  # indices, as in 3DGS
DISTRIBUTIONS = 20  # of a run, in its history


def looks_at_gaussians(run: Training, iteration: int) -> bool:
    """Return whether the Gaussians that an iteration rendered are recorded, measured or saved."""
    return (
        iteration == run.settings.optimization.iterations
        or iteration in distribution_iterations(run)
        or iteration in run.settings.run.test_iterations
        or iteration in export_gap_iterations(run)
        or run.keeps_size(iteration)
    )


def report(
    run: Training,
    iteration: int,
    view: TrainingView,
    progress: Progress,
    log: TensorBoardLog,
) -> None:
    """Show and log the state of the run, every few iterations: reading a number waits for the device."""
    if iteration % Progress.INTERVAL == 0 or iteration == run.settings.optimization.iterations:
        decibels = psnr(view.image.clamp(0, 1), view.gt_image).item()
        numbers = (iteration, view.loss.item(), decibels, len(run.model))
        progress.update(*numbers)
        log.training(*numbers)
        run.history.progress(*numbers, run.seconds)
    if iteration in distribution_iterations(run):
        record_distributions(run, iteration)
    if iteration in run.settings.run.test_iterations or run.keeps_size(iteration):
        measure(run, iteration, progress, log)
    if run.model.network is not None and iteration in export_gap_iterations(run):
        report_export_gap(run, iteration, progress)


def check_numbers(run: Training, iteration: int, view: TrainingView, progress: Progress) -> None:
    """Report a view that shows no Gaussian. Raise ValueError if none ever does, or the model holds NaN.

    On a device where reading a number waits, this is done every few iterations.
    """
    last = iteration == run.settings.optimization.iterations
    if not (reads_at_once(run.model.device) or last or iteration % Progress.INTERVAL == 0):
        return
    require_sound(run, iteration)
    if bool((view.radii > 0).any()):
        run.sees_gaussians = True
    elif view.name not in run.empty_views:
        run.empty_views.add(view.name)
        progress.say(f"[ITER {iteration}] No Gaussian is seen in the view {view.name}: is its camera right?")
        require_a_seen_gaussian(run)


def require_a_seen_gaussian(run: Training) -> None:
    """Raise ValueError once every view has been trained on and none showed a Gaussian."""
    if len(run.empty_views) == len(run.scene.train) and not run.sees_gaussians:
        raise ValueError(
            f"no Gaussian is seen in any of the {len(run.scene.train)} training views: "
            f"do the cameras of {run.scene.source} look at its points?"
        )


def measure(run: Training, iteration: int, progress: Progress, log: TensorBoardLog) -> None:
    """Measure L1, PSNR and SSIM on all held-out views and on a few training views."""
    model = run.baked_model(iteration)
    for name, cameras in (("test", run.scene.test), ("train", measured_cameras(run))):
        if not cameras:
            continue
        sums = torch.zeros(3)
        background, flags = choose_background(run), vars(run.settings.pipeline)
        for image, gt_image, mask in render_beside_photos(cameras, model, background, run.exposures, **flags):
            ssim = masked_mean(fused_ssim_map(image[None], gt_image[None])[0], mask)
            sums += torch.stack([l1(image, gt_image, mask), psnr(image, gt_image, mask), ssim]).cpu()
        error, decibels, ssim = (sums / len(cameras)).tolist()
        numbers = f"L1 {error:.6f} PSNR {decibels:.4f} SSIM {ssim:.4f}"
        progress.say(f"[ITER {iteration}] Evaluating {name}: {numbers}")
        log.views(iteration, name, error, decibels)
        measured = {"L1": error, "PSNR": decibels, "SSIM": ssim, "views": len(cameras)}
        run.measures.setdefault(str(iteration), {})[name] = measured
    log.opacities(iteration, model.opacities)


def export_gap_iterations(run: Training) -> set[int]:
    """Return the iterations at which files are saved, and the last one before importance is baked."""
    return {*run.settings.run.save_iterations, policy.importance_end(run.settings) - 1}


def report_export_gap(run: Training, iteration: int, progress: Progress) -> None:
    """Measure how far renders of the saved file are from the training-mode renders."""
    kind, seed = run.settings.importance.importance_gate, run.settings.run.seed
    saved, flags = run.baked_model(iteration), vars(run.settings.pipeline)
    background, differences = choose_background(run), []
    for number, camera in enumerate(measured_cameras(run)):
        random = random_key(seed, Stream.MEASURED_GATES, iteration, number)
        gates = gate(run.model.compute_importance(), kind, random)
        trained = render(camera, run.model, background, importance=gates, **flags).image
        differences.append((trained - render(camera, saved, background, **flags).image).abs().flatten())
    values = torch.cat(differences)
    mean, extreme = values.mean().item(), policy.upper_quantile(values, 0.001).item()
    run.measures.setdefault(str(iteration), {})["export_gap"] = {"mean": mean, "percentile_99.9": extreme}
    gap = f"{mean:.6f} mean, {extreme:.6f} at 99.9 %"
    progress.say(f"[ITER {iteration}] Difference of the saved file to what was trained on: {gap}")


def measured_cameras(run: Training) -> list[Camera]:
    """Return a few of the training views, as 3DGS measures them."""
    train = run.scene.train
    return [train[index] for index in sorted({index % len(train) for index in TRAINING_VIEWS_MEASURED})]


def distribution_iterations(run: Training) -> range:
    """Return about twenty iterations, spread evenly over the run."""
    total = run.settings.optimization.iterations
    every = max(1, total // DISTRIBUTIONS)
    return range(every, total + 1, every)


def record_distributions(run: Training, iteration: int) -> None:
    """Record distributions of errors, importances, opacities and ages, and the share of floaters."""
    model = run.model
    values = {"opacity": model.opacities, "age": iteration - model.tags["birth"]}
    due = policy.phase(iteration, run.settings)
    if due.collects_errors:
        values["E_k"] = policy.reduced_errors(model.statistics, run.settings.densification)
    if due.collects_removal_energy:
        values["removal energy"] = model.statistics["contribution"]
    together = None
    if (importance := model.compute_importance()) is not None:
        values["s_k"] = importance
        together = correlation(importance, importance * model.opacities)
    last = run.settings.optimization.iterations
    run.history.distributions(iteration, last, values, floaters(run, iteration), together)


def correlation(first: Tensor, second: Tensor) -> float | None:
    """Return Pearson's correlation of two tensors of one size; None if one of them is constant."""
    pair = torch.stack([first.flatten(), second.flatten()]).double()
    value = torch.corrcoef(pair)[0, 1].item() if pair.shape[1] > 1 else math.nan
    return value if math.isfinite(value) else None


def floaters(run: Training, iteration: int) -> dict[str, float]:
    """Return the shares of the blending weight that hint at floaters, over a few training views."""
    model = run.baked_model(iteration)
    weights = torch.zeros(len(model), device=model.device)
    depths = torch.full((len(model),), float("inf"), device=model.device)
    for camera in measured_cameras(run):
        with torch.enable_grad():
            background = choose_background(run)
            rendered = render(camera, model, background, statistics=True, **vars(run.settings.pipeline))
            torch.autograd.grad(rendered.image.sum(), rendered.means2d)  # the backward pass collects weights
        weights += rendered.rasterizer.statistics.weight_sum
        center = camera.matrices(model.device).camera_center
        depths = torch.minimum(depths, (model.means - center).norm(dim=1))
    return shares_of_weight(weights, model.opacities, depths)
