"""Adaptive density control: collect statistics of every view, then densify and prune.

subfunction.py decides when and which, gaussian_model.py knows how; here the two meet.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

import subfunction as policy
from subfunction import Phase
from training.run import Training, TrainingView
from utils.heap import give_back_freed_memory

LARGEST_SHARE = 1.2  # of the Gaussians that a rank may own, over the mean


def collect(run: Training, due: Phase, view: TrainingView) -> None:
    """Add what the backward pass of a view says of every Gaussian to the statistics."""
    settings, model, totals = run.settings.densification, run.model, run.totals
    if due.collects_statistics:
        policy.accumulate_gradients(model.statistics, view.screen_gradients, view.radii)
    size = run.scene.median_pixels / view.pixels  # views of all sizes count alike
    if view.errors is not None:
        policy.accumulate_errors(model.statistics, view.errors * size, settings)
        totals.pixel_error += view.typical_error
        totals.error_views += 1
    if view.contributions is not None:
        error, scale = view.loss, 1.0
        if due.collects_removal_energy:
            error, scale = view.squared_error, size
        model.statistics["contribution_so_far"] += scale * view.contributions
        totals.error_so_far += scale * error
        if view.ends_round:
            finish_round(run, due, view.iteration)


def finish_round(run: Training, due: Phase, iteration: int) -> None:
    """Complete the sums of a round that ends with `iteration`: every view was seen since the last one."""
    contribution, totals = run.model.statistics["contribution_so_far"], run.totals
    error, least = totals.error_so_far / len(run.whole), totals.mean_error_per_gaussian
    if not due.collects_statistics:  # errors of before, perhaps of smaller photos, are no measure any more
        growth_ended = run.settings.densification.densify_until_iter
        least = torch.where(totals.round_start < growth_ended, error, least)
    totals.mean_error_per_gaussian = torch.minimum(least, error)
    totals.round_start = totals.next_round_start
    totals.next_round_start = torch.full_like(totals.next_round_start, iteration)
    totals.error_so_far = torch.zeros_like(totals.error_so_far)
    run.model.reset_statistics("round")
    run.model.statistics["contribution"] = contribution


def densify_and_prune(run: Training, due: Phase) -> None:
    """Densify and prune, where that is due."""
    if not (due.densifies or due.prunes):
        return
    give_back_freed_memory()  # of iterations with so many Gaussians
    pruned = prune(run, due) if due.prunes and run.budget else 0  # what goes makes room for what grows
    cloned, split = densify(run, due) if due.densifies else (0, 0)
    if due.prunes and not run.budget:
        pruned = prune(run, due)
    if due.densifies:
        balance(run)
        run.model.sort_by_place()
        restart_collecting(run)
    run.history.step(due.iteration, cloned, split, pruned, len(run.whole))


def densify(run: Training, due: Phase) -> tuple[int, int]:
    """Clone small candidates and split large ones (Kerbl et al. 2023, sec. 5.2); return how many of each."""
    settings, model, whole, totals = run.settings.densification, run.model, run.whole, run.totals
    scores = policy.densification_scores(whole.statistics, settings)
    picture_error = run.scene.median_pixels * totals.pixel_error / totals.error_views.clamp_min(1)
    candidates = policy.densification_candidates(scores, picture_error, settings)
    room = policy.growth_room(len(whole), run.growth_budget, settings)
    chosen = policy.top_k(candidates, scores, room)
    densify_mask = run.own(chosen)
    large = policy.is_large(model.scales, settings.percent_dense * run.scene.extent)
    split = run.ranks.total((densify_mask & large).sum())
    if settings.clone_opacity == "corrected":
        correct_opacities(run, densify_mask & ~large)
    model.tags["low_streak"][densify_mask] = 0
    clones = policy.with_newborn_tags(model.rows(densify_mask & ~large), due.iteration)
    parents = policy.with_newborn_tags(model.rows(densify_mask & large), due.iteration)
    model.keep(~(densify_mask & large))
    model.append(clones)
    model.append(policy.split_children(parents, settings, run.own_generator(due.iteration)))
    return int(chosen.sum()) - split, split


def balance(run: Training) -> None:
    """Move Gaussians from ranks that own many to those that own few, where they differ by much."""
    counts = run.ranks.counts(len(run.model), run.model.device)
    if max(counts) > LARGEST_SHARE * sum(counts) / len(counts):
        run.model.move_rows(run.ranks, moves_between(counts)[run.ranks.rank])


def moves_between(counts: list[int]) -> list[list[int]]:
    """Return how many rows each rank gives to each, and keeps, so that all have as many, but for one."""
    goals = [sum(counts) // len(counts) + (rank < sum(counts) % len(counts)) for rank in range(len(counts))]
    moves = [[0] * len(counts) for _ in counts]
    room = [goal - min(count, goal) for count, goal in zip(counts, goals)]
    for giver, (count, goal) in enumerate(zip(counts, goals)):
        moves[giver][giver] = min(count, goal)
        for taker in range(len(counts)):
            moved = min(count - sum(moves[giver]), room[taker])
            moves[giver][taker] += moved
            room[taker] -= moved
    return moves


def correct_opacities(run: Training, cloned: Tensor) -> None:  # (N,) bool
    """Make parents, before they are copied, as opaque as each of the two that replace them must be."""
    model, importance = run.model, 1.0
    if model.network is not None and run.settings.importance.importance_gate == "soft":
        importance = model.compute_importance()
    corrected = policy.opacity_after_clone(model.opacities, importance)
    raw = torch.where(cloned[:, None], corrected, model.raw["opacities"])
    model.overwrite("opacities", raw, moments="keep")


def restart_collecting(run: Training) -> None:
    """Set the densification statistics to zero."""
    run.model.reset_statistics("densification")
    run.totals.pixel_error = torch.zeros_like(run.totals.pixel_error)
    run.totals.error_views = torch.zeros_like(run.totals.error_views)


def prune(run: Training, due: Phase) -> int:
    """Drop the Gaussians whose score was low for long enough, or that are oversized; return how many."""
    if awaits_a_round(run, due):
        return 0
    streaks, prune_mask = select_for_pruning(run, due)
    run.model.tags["low_streak"] = run.own(streaks)
    run.model.keep(~run.own(prune_mask))
    run.totals.thinned.fill_(due.iteration)
    if bool(prune_mask.all()):
        raise ValueError(
            f"iteration {due.iteration} pruned the last of {len(prune_mask)} Gaussians; "
            "does the scene's scale fit its cameras?"
        )
    return int(prune_mask.sum())


def awaits_a_round(run: Training, due: Phase) -> bool:
    """Return whether the energies at hand are no measure, and those of the next rounds are waited for.

    They are not while opacities recover from a reset. By a threshold Gaussians are thinned only by what was
    measured since the last time: what was dropped then has changed the energies of its neighbors.
    """
    if not (due.collects_removal_energy or due.collects_sensitivity):
        return False
    known_from = policy.recovered_from_reset(due.iteration, run.settings)
    if run.settings.pruning.thin_energy and not (due.collects_statistics or due.thins_out):
        known_from = max(known_from, last_thinning(run))
    return bool(run.totals.round_start < known_from)


def last_thinning(run: Training) -> float:
    """Return the iteration of the last thinning, or that at which growth ended."""
    return max(run.totals.thinned.item(), run.settings.densification.densify_until_iter)


def select_for_pruning(run: Training, due: Phase) -> tuple[Tensor, Tensor]:
    """Return low streaks (N,) after this pruning round, and the mask (N,) of the Gaussians to prune.

    They are of the Gaussians of all ranks.
    """
    settings, model = run.settings.pruning, run.whole
    importance = model.compute_importance() if settings.prune_by in ("importance", "both") else None
    scores = pruning_scores(run, importance)
    low = is_low(run, due, scores, importance)
    streaks = policy.low_streaks(model.tags["low_streak"], ~scores.isnan() if due.thins_out else low)
    oversized = torch.zeros_like(low)
    if due.prunes_large:
        sizes = (model.scales, model.statistics["max_radius"])
        oversized = policy.is_oversized(*sizes, run.scene.extent, settings)
    prune_mask = policy.prunable(model.tags | {"low_streak": streaks}, oversized, due.iteration, settings)
    room = pruning_room(run, due, prune_mask & (low | oversized))
    return streaks, policy.top_k(prune_mask, -scores.nan_to_num(0.0), room)


def pruning_scores(run: Training, importance: Tensor | None = None) -> Tensor:
    """Return what --prune_by compares Gaussians by (N,); for both that is removal energy."""
    model, totals, kind = run.whole, run.totals, run.settings.pruning.prune_by
    if kind == "opacity":
        return model.opacities[:, 0]
    if kind == "importance":
        unknown = torch.full((len(model),), math.nan, device=model.device)  # before it is learnt
        return unknown if importance is None else importance[:, 0]
    return policy.relative_contribution(
        model.statistics, model.tags["birth"], totals.round_start, totals.mean_error_per_gaussian
    )


def is_low(run: Training, due: Phase, scores: Tensor, importance: Tensor | None) -> Tensor:
    """Return the mask (N,) of Gaussians with a low score; for both, a low energy or a low importance."""
    settings = run.settings.pruning
    excess = len(scores) - (run.growth_budget if due.collects_statistics else run.budget)
    threshold = policy.pruning_threshold(settings, due.collects_statistics)
    low = policy.low_scores(scores, threshold, excess, settings)
    if settings.prune_by == "both" and importance is not None:
        low = low | policy.low_scores(importance[:, 0], settings.prune_importance, excess, settings)
    return low


def pruning_room(run: Training, due: Phase, unwanted: Tensor) -> int:  # (N,) bool
    """Return how many Gaussians may go in this round."""
    pruning, count, grown = run.settings.pruning, len(unwanted), run.totals.grown
    intervals = (due.iteration - last_thinning(run)) / pruning.prune_interval
    cap = policy.pruning_cap(count, max(1.0, intervals), pruning)
    if due.collects_statistics:
        return cap
    if not due.thins_out:  # nothing will grow in place of what goes now
        return min(cap, max(0, count - run.budget)) if run.budget else cap
    if not grown:
        grown.fill_(count)
    goal = run.budget or round(policy.kept_share(run.settings) * grown.item())
    room = count - policy.next_count(count, goal, policy.thinning_rounds(due.iteration, run.settings))
    return room if run.budget else max(room, min(cap, int(unwanted.sum())))


def start_or_bake_importance(run: Training, due: Phase) -> None:
    """Start learning importance, or bake it: drop what it leaves out and train on without gates."""
    settings, model = run.settings.importance, run.model
    if due.learns_importance and model.network is None:
        center = run.whole.means.detach().median(0).values
        model.start_importance(settings, center, run.scene.extent, run.generator)
    if due.bakes_importance and model.network is not None:
        importance = run.whole.compute_importance()[:, 0]
        threshold = policy.baking_threshold(importance, run.budget)
        model.bake_importance(policy.baking_gate(due.iteration, run.settings), threshold)
        left = len(run.whole)
        run.history.step(due.iteration, 0, 0, len(importance) - left, left)


def control_opacity(run: Training, due: Phase) -> None:
    """Reset or decay all opacities, where that is due."""
    settings, model = run.settings.densification, run.model
    if due.resets_opacity:
        model.overwrite("opacities", policy.lowered_opacities(model.raw["opacities"]))
    if due.decays_opacity:
        opacities = policy.decayed_opacities(model.opacities, settings.opacity_decay)
        model.overwrite("opacities", opacities, moments="keep")
