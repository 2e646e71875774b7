"""The state of a run: the progress line, measures of whole views, and the history that report.py draws."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from fused_ssim import fused_ssim_map
from torch import Tensor

import subfunction as policy
from gaussian_model import gate
from scene import Cameras
from training.run import Training, TrainingView, choose_background
from training.saving import require_sound
from training.tensorboard import TensorBoardLog
from training.together import blending_weights, images_here
from training.views import exposed
from utils.counter_random import Stream, random_key
from utils.devices import reads_at_once
from utils.history import shares_of_weight
from utils.losses import l1, masked_mean, psnr
from utils.progress import Progress

TRAINING_VIEWS_MEASURED = range(5, 30, 5)  # indices, as in 3DGS
DISTRIBUTIONS = 20  # of a run, in its history


def looks_at_gaussians(run: Training, iteration: int) -> bool:
    """Return whether the Gaussians that an iteration rendered are recorded, measured or saved."""
    return (
        iteration == run.settings.optimization.iterations
        or run.reaches(iteration, distribution_iterations(run))
        or run.reaches(iteration, run.settings.run.test_iterations)
        or run.reaches(iteration, export_gap_iterations(run))
        or run.keeps_size(iteration)
    )


def report(
    run: Training,
    iteration: int,
    views: Sequence[TrainingView],
    progress: Progress,
    log: TensorBoardLog,
) -> None:
    """Show and log the state of the run, every few iterations: reading a number waits for the device."""
    count = len(run.whole) if is_shown(run, iteration) else 0
    here = [view for view in views if view.shown is not None]
    if count and here:
        shown = here[-1].shown
        decibels = psnr(shown.image.clamp(0, 1), shown.gt_image).item()
        numbers = (iteration, here[-1].loss.item(), decibels, count)
        progress.update(*numbers)
        log.training(*numbers)
        run.history.progress(*numbers, run.seconds)
    if run.reaches(iteration, distribution_iterations(run)):
        record_distributions(run, iteration)
    if run.reaches(iteration, run.settings.run.test_iterations) or run.keeps_size(iteration):
        measure(run, iteration, progress, log)
    if run.model.network is not None and run.reaches(iteration, export_gap_iterations(run)):
        report_export_gap(run, iteration, progress)


def is_shown(run: Training, iteration: int) -> bool:
    """Return whether the progress line shows the iteration."""
    last = run.settings.optimization.iterations
    return iteration == last or run.reaches(iteration, range(0, last, Progress.INTERVAL))


def check_numbers(run: Training, iteration: int, views: Sequence[TrainingView], progress: Progress) -> None:
    """Report views that show no Gaussian. Raise ValueError if none ever does, or the model holds NaN.

    On a device where reading a number waits, this is done every few iterations.
    """
    if not (reads_at_once(run.model.device) or is_shown(run, iteration)):
        return
    require_sound(run, iteration)
    seen = run.ranks.sum(torch.stack([(view.radii > 0).sum() for view in views]))
    for view, is_seen in zip(views, (seen > 0).tolist()):
        if is_seen:
            run.sees_gaussians = True
        elif view.name not in run.empty_views:
            run.empty_views.add(view.name)
            told = f"No Gaussian is seen in the view {view.name}: is its camera right?"
            progress.say(f"[ITER {iteration}] {told}")
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
        sums = torch.zeros(3, device=model.device)
        background, flags = choose_background(run), vars(run.settings.pipeline)
        for number, image in images_here(run.ranks, cameras.without_images, model, background, **flags):
            camera = cameras[number]
            gt_image, mask = camera.ground_truth(background, model.device), camera.mask_on(model.device)
            image = exposed(run, image, camera).clamp(0, 1)
            ssim = masked_mean(fused_ssim_map(image[None], gt_image[None])[0], mask)
            sums += torch.stack([l1(image, gt_image, mask), psnr(image, gt_image, mask), ssim])
        error, decibels, ssim = (run.ranks.sum(sums) / len(cameras)).tolist()
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
    background, cameras = choose_background(run), measured_cameras(run).without_images
    keys = [
        random_key(seed, Stream.MEASURED_GATES, iteration, n, *run.ranks.word) for n in range(len(cameras))
    ]
    gates = [gate(run.model.compute_importance(), kind, key) for key in keys]
    trained = dict(images_here(run.ranks, cameras, run.model, background, gates, **flags))
    written = dict(images_here(run.ranks, cameras, saved, background, **flags))
    differences = [(trained[number] - written[number]).abs().flatten() for number in trained]
    values = run.ranks.together(torch.cat([background.new_zeros(0), *differences]))
    mean, extreme = values.mean().item(), policy.upper_quantile(values, 0.001).item()
    run.measures.setdefault(str(iteration), {})["export_gap"] = {"mean": mean, "percentile_99.9": extreme}
    gap = f"{mean:.6f} mean, {extreme:.6f} at 99.9 %"
    progress.say(f"[ITER {iteration}] Difference of the saved file to what was trained on: {gap}")


def measured_cameras(run: Training) -> Cameras:
    """Return a few of the training views, as 3DGS measures them."""
    train = run.scene.train
    return train.only(sorted({index % len(train) for index in TRAINING_VIEWS_MEASURED}))


def distribution_iterations(run: Training) -> range:
    """Return about twenty iterations, spread evenly over the run."""
    total = run.settings.optimization.iterations
    every = max(1, total // DISTRIBUTIONS)
    return range(every, total + 1, every)


def record_distributions(run: Training, iteration: int) -> None:
    """Record distributions of errors, importances, opacities and ages, and the share of floaters."""
    model = run.whole
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
    model, flags = run.baked_model(iteration), vars(run.settings.pipeline)
    cameras = measured_cameras(run).without_images
    weights = blending_weights(run.ranks, cameras, model, choose_background(run), **flags)
    depths = torch.full((len(model),), float("inf"), device=model.device)
    for camera in cameras:
        center = camera.matrices(model.device).camera_center
        depths = torch.minimum(depths, (model.means - center).norm(dim=1))
    return shares_of_weight(*map(run.ranks.together, (weights, model.opacities, depths)))
