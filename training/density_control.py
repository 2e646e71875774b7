"""How Gaussians come and go: what every view tells of them is collected, then some grow and some are pruned.

subfunction.py decides when and which, gaussian_model.py knows how; here the two meet.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

import subfunction as policy
from training.run import Training, TrainingView


def collect(run: Training, iteration: int, view: TrainingView) -> None:
    """Take in what the backward pass says of every Gaussian in this view."""
    settings, model, totals = run.settings, run.model, run.totals
    if policy.collects_statistics(iteration, settings.densification):
        policy.accumulate_gradients(model.statistics, view.render.means2d.grad, view.render.radii)
    if view.carrier is not None:
        pixels = view.error.numel()  # views of all sizes count alike
        scale = run.scene.median_pixels / pixels / settings.densification.aux_scale
        errors = view.carrier.grad[:, 0] * scale
        policy.accumulate_errors(model.statistics, errors, settings.densification)
        totals["pixel_error"] += policy.typical_error(view.error)
        totals["error_views"] += 1
    if policy.collects_energy(iteration, settings.densification, settings.pruning):
        squared_error = (view.image - view.gt_image).square().sum()
        collect_contribution(run, iteration, view.render.rasterizer.statistics.removal_energy, squared_error)
    if policy.collects_sensitivity(iteration, settings.densification, settings.pruning):
        collect_contribution(run, iteration, (view.gates * view.gates.grad)[:, 0].abs(), view.loss)


def collect_contribution(run: Training, iteration: int, contribution: Tensor, error: Tensor) -> None:
    """Add what Gaussians (N,) are worth in a view, and its error, to the sums over the round."""
    run.model.statistics["contribution_so_far"] += contribution
    run.totals["error_so_far"] += error
    if not run.views.remaining:
        finish_round(run, iteration)


def finish_round(run: Training, iteration: int) -> None:
    """Every view was seen since the last round: its sums are complete."""
    contribution, totals = run.model.statistics["contribution_so_far"], run.totals
    totals["round_start"] = totals["next_round_start"]
    totals["mean_error_per_gaussian"] = torch.minimum(
        totals["mean_error_per_gaussian"], totals["error_so_far"] / len(run.model)
    )
    totals["next_round_start"] = torch.full_like(totals["next_round_start"], iteration)
    totals["error_so_far"] = torch.zeros_like(totals["error_so_far"])
    run.model.reset_statistics("round")
    run.model.statistics["contribution"] = contribution


def densify_and_prune(run: Training, iteration: int) -> None:
    """Where it is due: add Gaussians where they are wanted, drop what the picture does not need."""
    settings = run.settings
    densifies = policy.densifies(iteration, settings.densification)
    prunes = policy.prunes(iteration, settings.densification, settings.pruning)
    pruned = prune(run, iteration) if prunes and run.budget else 0  # what goes makes room for what grows
    cloned, split = densify(run, iteration) if densifies else (0, 0)
    if prunes and not run.budget:
        pruned = prune(run, iteration)
    if densifies:
        start_collecting(run)
    if densifies or prunes:
        run.history.step(iteration, cloned, split, pruned, len(run.model))


def densify(run: Training, iteration: int) -> tuple[int, int]:
    """Clone small candidates and split large ones (Kerbl et al. 2023, sec. 5.2); how many of each."""
    settings, model, totals = run.settings.densification, run.model, run.totals
    scores = policy.densification_scores(model.statistics, settings)
    pixel_error = totals["pixel_error"] / totals["error_views"].clamp_min(1)
    candidates = policy.densification_candidates(scores, pixel_error, settings)
    room = policy.growth_room(len(model), run.budget_at(iteration), settings)
    densify_mask = policy.top_k(candidates, scores, room)
    large = policy.is_large(model.scales, settings.percent_dense * run.scene.extent)
    if settings.clone_opacity == "corrected":
        correct_opacities(run, densify_mask & ~large)
    model.tags["low_streak"][densify_mask] = 0
    clones = policy.with_newborn_tags(model.rows(densify_mask & ~large), iteration)
    parents = policy.with_newborn_tags(model.rows(densify_mask & large), iteration)
    model.keep(~(densify_mask & large))
    model.append(clones)
    model.append(policy.split_children(parents, settings, run.generator))
    return len(clones["means"]), len(parents["means"])


def correct_opacities(run: Training, cloned: Tensor) -> None:  # (N,) bool
    """Make parents, before they are copied, as opaque as one of two that take their place must be."""
    model, importance = run.model, 1.0
    if model.network is not None and run.settings.importance.importance_gate == "soft":
        importance = model.importance[cloned]
    raw = model.raw["opacities"].detach().clone()
    raw[cloned] = policy.opacity_after_clone(model.opacities[cloned], importance)
    model.overwrite("opacities", raw, moments="keep")


def prune(run: Training, iteration: int) -> int:
    """Drop what has had a low score for long enough, or is oversized; how many."""
    streaks, prune_mask = select_for_pruning(run, iteration)
    run.model.tags["low_streak"] = streaks
    run.model.keep(~prune_mask)
    if len(run.model) == 0:
        raise ValueError(
            f"iteration {iteration} pruned the last of {len(prune_mask)} Gaussians; "
            "does the scene's scale fit its cameras?"
        )
    return int(prune_mask.sum())


def select_for_pruning(run: Training, iteration: int) -> tuple[Tensor, Tensor]:
    """Low streaks (N,) after this pruning round, and which Gaussians (N,) bool go."""
    settings, model, scores = run.settings.pruning, run.model, pruning_scores(run)
    unwanted = is_low(run, iteration, scores)
    thins = policy.thins_out(iteration, run.settings.densification, settings)
    streaks = policy.low_streaks(model.tags["low_streak"], ~scores.isnan() if thins else unwanted)
    oversized = torch.zeros_like(streaks, dtype=torch.bool)
    if policy.prunes_large(iteration, run.settings.densification):
        sizes = (model.scales, model.statistics["max_radius"])
        oversized = policy.is_oversized(*sizes, run.scene.extent, settings)
    prune_mask = policy.prunable(model.tags | {"low_streak": streaks}, oversized, iteration, settings)
    room = pruning_room(run, iteration, prune_mask & (unwanted | oversized))
    return streaks, policy.top_k(prune_mask, -scores.nan_to_num(0.0), room)


def pruning_room(run: Training, iteration: int, unwanted: Tensor) -> int:  # (N,) bool
    """How many Gaussians may go in this round."""
    growth, pruning, count = run.settings.densification, run.settings.pruning, len(run.model)
    cap = math.ceil(pruning.prune_cap * count) if pruning.prune_cap else count
    if policy.collects_statistics(iteration, growth):
        return cap
    if pruning.prune_keep == 1:  # nothing will grow in place of what goes now
        return min(cap, max(0, count - run.budget)) if run.budget else cap
    if not run.totals["grown"]:
        run.totals["grown"].fill_(count)
    goal = run.budget or round(pruning.prune_keep * run.totals["grown"].item())
    room = count - policy.next_count(count, goal, policy.thinning_rounds(iteration, run.settings))
    return room if run.budget else max(room, min(cap, int(unwanted.sum())))


def pruning_scores(run: Training) -> Tensor:
    """What --prune_by compares Gaussians by (N,); for both that is removal energy."""
    model, kind = run.model, run.settings.pruning.prune_by
    if kind == "opacity":
        return model.opacities[:, 0]
    if kind == "importance":
        unknown = torch.full((len(model),), math.nan, device=model.device)  # before it is learnt
        return unknown if model.network is None else model.importance[:, 0]
    totals = run.totals
    return policy.relative_contribution(
        model.statistics, model.tags["birth"], totals["round_start"], totals["mean_error_per_gaussian"]
    )


def is_low(run: Training, iteration: int, scores: Tensor) -> Tensor:
    """Which Gaussians (N,) bool have a low score; for both, a low energy or a low importance."""
    settings, model = run.settings.pruning, run.model
    excess = len(model) - run.budget_at(iteration)
    threshold = policy.pruning_threshold(settings)
    low = policy.low_scores(scores, threshold, excess, settings)
    if settings.prune_by == "both" and model.network is not None:
        low = low | policy.low_scores(model.importance[:, 0], settings.prune_importance, excess, settings)
    return low


def start_or_bake_importance(run: Training, iteration: int) -> None:
    """Importance is learnt for a time; then what it leaves out goes, and the rest is trained on without gates."""
    settings, model = run.settings, run.model
    end = policy.importance_end(settings)
    if policy.learns_importance(iteration, end, settings.importance) and model.network is None:
        model.start_importance(settings.importance, run.scene.extent, run.generator)
    if iteration >= end and model.network is not None:
        before = len(model)
        threshold = policy.baking_threshold(model.importance[:, 0], run.budget)
        model.bake_importance(settings.importance.importance_gate, threshold)
        run.history.step(iteration, 0, 0, before - len(model), len(model))


def start_collecting(run: Training) -> None:
    """Densification statistics begin anew."""
    run.model.reset_statistics("densification")
    for name in ("pixel_error", "error_views"):
        run.totals[name] = torch.zeros_like(run.totals[name])


def control_opacity(run: Training, iteration: int) -> None:
    settings, model = run.settings.densification, run.model
    if policy.resets_opacity(iteration, settings, run.settings.model.white_background):
        model.overwrite("opacities", policy.lowered_opacities(model.raw["opacities"], settings.reset_opacity))
    if policy.decays_opacity(iteration, settings):
        model.overwrite(
            "opacities", policy.decayed_opacities(model.opacities, settings.opacity_decay), "keep"
        )
