"""Policy as small pure functions: when to densify and prune, and which Gaussians.

gaussian_model.py knows how rows are added and dropped; training/density_control.py brings the two together.
"""

from __future__ import annotations

import math
from collections.abc import Container
from typing import NamedTuple

import torch
from fused_ssim import fused_l1_ssim
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from arguments import DensificationSettings, ImportanceSettings, OptimizationSettings, PruningSettings
from arguments import Settings
from gaussian_model import OPEN_FROM, rate_of_batch
from utils.rotations import quats_to_matrices
from utils.schedules import log_linear

SPLIT_INTO = 2  # children of a split Gaussian
# Their scale is the parent's divided by this (Kerbl et al. 2023, sec. 5.2: 1.6).
SPLIT_SHRINK = 0.8 * SPLIT_INTO
HALF_LENGTH = (
    0.6  # of a half of a split, over its parent's, along the longest axis: hardly a dip between the two
)
QUARTER_SHARE = 0.2  # of the time on smaller photos is for those with a quarter of the sides
RESET_OPACITY = 0.01  # what a reset leaves at most (3DGS)
LARGEST_SCALE = 0.1  # Gaussians of larger scale are pruned, over the extent (3DGS)
KEPT_WITHIN_BUDGET = 0.31  # of what may grow: where there is a budget and thinning, growth goes beyond it
CONTRAST_SQUARE = 8  # pixels along the squares over which a photo's contrast is measured
LEAST_OPACITY = 1e-6  # distance from 0 and 1 that keeps its logit finite

# When


def position_learning_rate(iteration: int, extent: float, settings: OptimizationSettings) -> float:
    return rate_of_batch(settings) * log_linear(
        iteration,
        settings.position_lr_init * extent,
        settings.position_lr_final * extent,
        settings.position_lr_max_steps,
        settings.position_lr_delay_steps,
        settings.position_lr_delay_mult,
    )


def exposure_learning_rate(iteration: int, settings: OptimizationSettings) -> float:
    return log_linear(
        iteration,
        settings.exposure_lr_init,
        settings.exposure_lr_final,
        settings.iterations,
        settings.exposure_lr_delay_steps,
        settings.exposure_lr_delay_mult,
    )


def depth_weight(iteration: int, settings: OptimizationSettings) -> float:
    """Return the weight of the depth loss."""
    ends = settings.depth_l1_weight_init, settings.depth_l1_weight_final
    return log_linear(iteration, *ends, settings.iterations)


def resolution_divisor(iteration: int, full_after: int) -> int:
    """Return by what the sides of photos are divided: 4 in a first fifth, then 2, 1 after `full_after`."""
    if iteration > full_after:
        return 1
    return 2 if iteration > QUARTER_SHARE * full_after else 4


def step_of(iteration: int, settings: Settings) -> range:
    """Return the iterations, one for each view, that make up one step of Adam with the given one."""
    views, last = settings.optimization.views_per_step, settings.optimization.iterations
    first = (iteration - 1) // views * views + 1
    return range(first, max(iteration, min(first + views - 1, last)) + 1)


def step_ends(done: int, settings: Settings) -> list[int]:
    """Return the last iteration of each step that is left after `done` iterations."""
    ends, last = [], settings.optimization.iterations
    while done < last:
        done = step_of(done + 1, settings)[-1]
        ends.append(done)
    return ends


def step_reaches(iteration: int, milestones: Container[int], settings: Settings) -> bool:
    """Return whether one of the milestones lies in the step that ends with `iteration`."""
    return any(i in milestones for i in step_of(iteration, settings))


class Phase(NamedTuple):
    """All that is due in one step."""

    iteration: int  # the last one of the step, counted from 1
    divisor: int  # of the sides of the photos
    sh_degree: int  # in use
    collects_statistics: bool  # of every view, for densification; Gaussians may grow until this ends
    collects_errors: bool  # E_k, by the carrier
    collects_removal_energy: bool
    collects_sensitivity: bool
    learns_importance: bool
    steps_importance: bool
    bakes_importance: bool
    steers_importance: bool
    densifies: bool
    prunes: bool
    prunes_large: bool
    thins_out: bool  # pruning works towards a number of Gaussians, no longer by a threshold
    may_keep_size: bool  # of --save_shares: at the end, and before more is thinned out
    resets_opacity: bool
    decays_opacity: bool


EVENTS = (  # what is due once, in whichever of a step's iterations; the rest lasts
    *("steps_importance", "densifies", "prunes", "may_keep_size", "resets_opacity", "decays_opacity"),
)


def phase(iteration: int, settings: Settings) -> Phase:
    """Return what is due in the step of `iteration`."""
    phases = [_phase(i, settings) for i in step_of(iteration, settings)]
    return phases[-1]._replace(**{name: any(getattr(one, name) for one in phases) for name in EVENTS})


def _phase(iteration: int, settings: Settings) -> Phase:
    growth, pruning, importance = settings.densification, settings.pruning, settings.importance
    grows, may_prune = iteration < growth.densify_until_iter, iteration < pruning_end(settings)
    has_begun = iteration > growth.densify_from_iter
    densifies = has_begun and grows and iteration % growth.densification_interval == 0
    has_importance = importance.importance != "none"
    is_baked = iteration >= importance_end(settings)
    prunes = has_begun and may_prune and iteration % pruning.prune_interval == 0
    thins_out, is_last = kept_share(settings) < 1 and not grows, iteration == settings.optimization.iterations
    return Phase(
        iteration=iteration,
        divisor=resolution_divisor(iteration, settings.optimization.resolution_schedule),
        sh_degree=min(iteration // settings.optimization.sh_degree_interval, settings.model.sh_degree),
        collects_statistics=grows,
        collects_errors=grows and growth.densify_by == "error",
        collects_removal_energy=may_prune and pruning.prune_by in ("removal_energy", "both"),
        collects_sensitivity=may_prune and pruning.prune_by == "sensitivity",
        learns_importance=has_importance and iteration >= importance.importance_from_iter and not is_baked,
        steps_importance=iteration % importance.importance_interval == 0,
        bakes_importance=has_importance and is_baked,
        # Not while Gaussians grow: there is room then, and cheap importances would all be 1 and tell nothing.
        steers_importance=importance.importance_control == "budget" and not grows,
        densifies=densifies,
        prunes=prunes,
        # Sizes mean little before the first opacity reset; later nothing grows in a large Gaussian's place.
        prunes_large=grows and iteration > growth.opacity_reset_interval,
        thins_out=thins_out,
        may_keep_size=bool(pruning.save_shares) and (is_last or prunes and thins_out),
        resets_opacity=grows and _is_reset(iteration, settings),
        decays_opacity=densifies and growth.opacity_control == "decay",
    )


def _is_reset(iteration: int, settings: Settings) -> bool:
    """Return whether opacities are reset: at intervals, on white also when densification starts."""
    growth = settings.densification
    at_start = settings.model.white_background and iteration == growth.densify_from_iter
    due = iteration % growth.opacity_reset_interval == 0 or at_start
    return growth.opacity_control == "reset" and due


def recovered_from_reset(iteration: int, settings: Settings) -> float:
    """Return the iteration from which opacities tell something again: a lifespan after the last reset.

    It is -inf before the first one.
    """
    last = min(iteration, settings.densification.densify_until_iter - 1)
    resets = (i for i in range(last, 0, -1) if _is_reset(i, settings))
    return next(resets, -math.inf) + settings.pruning.tag_lifespan


def pruning_end(settings: Settings) -> int:
    """Return the iteration before which pruning ends."""
    return settings.pruning.prune_until_iter or settings.densification.densify_until_iter


def importance_end(settings: Settings) -> int:
    """Return the iteration before which importance is baked.

    That is not while importance alone prunes, but no later than the last iteration: what is rendered then is
    what the file holds.
    """
    end, asked = pruning_end(settings), settings.importance.importance_until_iter
    alone = settings.pruning.prune_by == "importance"
    return min(max(end, asked) if alone else asked or end, settings.optimization.iterations)


# What is minimised


def depth_loss(
    invdepth: Tensor,  # (1, H, W) rendered
    known: Tensor,  # (1, H, W) of the depth map, 0 where unknown
) -> Tensor:
    """Return the mean absolute difference of inverse depths, over all pixels (Kerbl et al. 2024)."""
    return ((invdepth - known).abs() * (known > 0)).mean()


def training_loss(
    image: Tensor,  # (3, H, W)
    gt_image: Tensor,  # (3, H, W)
    lambda_dssim: float,
    error_metric: str | None = None,  # None: E(u) is not wanted
) -> tuple[Tensor, Tensor | None]:
    """Return (1 - lambda) L1 + lambda (1 - SSIM) (Kerbl et al. 2023, eq. 7), and E(u) without gradient.

    E(u), (1, H, W), is a pixel's part of L1, of 1 - SSIM, or of the training loss.
    """
    share = None if error_metric is None else {"l1": 0.0, "dssim": 1.0, "mixed": lambda_dssim}[error_metric]
    loss, error = fused_l1_ssim(image[None], gt_image[None], lambda_dssim, share)
    return loss, None if error is None else error[0]


def energy_weights(gt_image: Tensor, contrast: float) -> Tensor:  # (3, H, W) -> (H, W)
    """Return how much each pixel counts in removal energies: less, the more the photo varies around it.

    A change is seen less beside strong texture, which is also how SSIM counts it (Wang et al. 2004, eq. 6):
    by 1 / (1 + variance / contrast), variance being that of the gray values in squares of pixels.
    """
    height, width = gt_image.shape[1:]
    if not contrast:
        return gt_image.new_ones(height, width)
    gray = gt_image.mean(0, keepdim=True)
    pooling = {"kernel_size": CONTRAST_SQUARE, "ceil_mode": True, "count_include_pad": False}
    mean, mean_square = avg_pool2d(torch.cat([gray, gray.square()])[None], **pooling)[0]
    weights = contrast / (contrast + (mean_square - mean.square()).clamp_min(0))
    weights = interpolate(weights[None, None], scale_factor=CONTRAST_SQUARE, mode="bilinear")
    return weights[0, 0, :height, :width].contiguous()


def typical_error(error: Tensor) -> Tensor:  # (1, H, W) -> ()
    """Return the root mean square () of E(u).

    An image that is half empty, without error there, has 0.7 times the value of its other half.
    """
    return error.norm() / math.sqrt(error.numel())


def auxiliary_loss(
    error: Tensor,  # (1, H, W) E(u)
    error_image: Tensor,  # (1, H, W) A(u) = sum_k w_k e_k
) -> Tensor:
    """Return sum_u E(u) A(u): 0, as e_k is; its gradient to e_k is E_k (Rota Bulo et al. 2024, sec. 4.1)."""
    return error.flatten() @ error_image.flatten()


def importance_penalty(
    importance: Tensor,  # (N, 1) s
    loss: Tensor,  # () of the view, without gradient
    lambda_mean: Tensor,
    lambda_binary: float,
) -> Tensor:
    """Return (lambda_mean * mean(s) + lambda_binary * mean(s (1 - s))) * loss.

    The price is in units of the loss: a Gaussian is worth keeping if the loss would rise without it by more
    than lambda_mean times the loss per Gaussian. So one lambda serves all scenes.
    """
    price = lambda_mean.to(loss) * importance.mean()
    if lambda_binary:
        price = price + lambda_binary * (importance * (1 - importance)).mean()
    return price * loss


def steered_lambda(
    lambda_mean: Tensor, importances: Tensor, budget: int, settings: ImportanceSettings
) -> Tensor:
    """Return the weight of the mean importance, raised while the importances add up to more than the budget.

    It stays near the given one: importances follow slowly, and a weight that had run far ahead would close
    them all.
    """
    excess = (importances.sum() / budget - 1).clamp(-1, 1)
    given, times = settings.lambda_importance, settings.importance_control_range
    steered = lambda_mean * (settings.importance_control_rate * excess).exp()
    return steered.clamp(given / times, given * times)


def baking_gate(iteration: int, settings: Settings) -> str:
    """Return the gate by which importance is baked: `soft`, s itself, where energies judge what is left.

    Opacities times s look on average as the gates did, whatever the network had time to learn.
    """
    judged = settings.pruning.prune_by == "both" and iteration < pruning_end(settings)
    return "soft" if judged else settings.importance.importance_gate


def baking_threshold(importances: Tensor, budget: int) -> float:
    """Return the importance below which Gaussians are dropped at baking; lower where the budget has room."""
    if not budget:
        return OPEN_FROM
    return min(OPEN_FROM, importances.topk(min(budget, len(importances))).values[-1].item())


# Statistics


def accumulate_gradients(
    statistics: dict[str, Tensor],  # changed in place
    screen_gradients: Tensor,  # (N, 3) of the projected means, NDC units
    radii: Tensor,  # (N,) pixels
) -> None:
    """Add one view to the statistics that densification by gradients needs (Kerbl et al. 2023, sec. 5.2)."""
    visible = radii > 0
    statistics["gradient_sum"] += screen_gradients[:, :2].norm(dim=-1) * visible
    statistics["gradient_views"] += visible
    torch.maximum(statistics["max_radius"], radii, out=statistics["max_radius"])


def accumulate_errors(
    statistics: dict[str, Tensor],  # changed in place
    errors: Tensor,  # (N,) E_k of one view
    settings: DensificationSettings,
) -> None:
    """Add one view to each Gaussian's error; views in which it has no share of the error are left out."""
    value, spread, views = (statistics[name] for name in ("error", "error_spread", "error_views"))
    seen = errors > 0
    views += seen
    if settings.error_reduce == "max":
        torch.maximum(value, errors, out=value)
    elif settings.error_reduce == "ema":
        blended = settings.error_keep * value + (1 - settings.error_keep) * errors
        value.copy_(torch.where(seen, torch.where(views == 1, errors, blended), value))
    else:  # Welford 1962
        deviation = torch.where(seen, errors - value, 0)
        value += deviation / views.clamp_min(1)
        spread += deviation * torch.where(seen, errors - value, 0)


def reduced_errors(statistics: dict[str, Tensor], settings: DensificationSettings) -> Tensor:
    """Return E_k (N,), reduced over the views since the last densification."""
    if settings.error_reduce == "mean_drawn":
        return statistics["error"] * statistics["error_views"] / statistics["gradient_views"].clamp_min(1)
    if settings.error_reduce != "mean_std":
        return statistics["error"]
    variance = statistics["error_spread"] / statistics["error_views"].clamp_min(1)
    return statistics["error"] + settings.error_beta * variance.sqrt()


# Which grow


def densification_scores(statistics: dict[str, Tensor], settings: DensificationSettings) -> Tensor:
    """Return densification scores (N,): weighted E_k, or the mean screen gradient; NaN if never drawn."""
    gradients = statistics["gradient_sum"] / statistics["gradient_views"]
    if settings.densify_by == "gradient":
        return gradients
    errors = reduced_errors(statistics, settings) * coherence(gradients, settings.error_coherence)
    errors = errors * fineness(statistics["max_radius"], settings.error_fineness)
    return torch.where(statistics["error_views"] > 0, errors, math.nan)


def coherence(gradients: Tensor, power: float) -> Tensor:
    """Return weights (N,) of E_k: screen gradients (N,) relative to their mean, NaN if never drawn.

    E_k counts all error, noise and wrong poses included, to which more Gaussians would only overfit. Such
    error has no direction on the screen; error that a second Gaussian would reduce has one.
    """
    if power == 0:
        return torch.ones_like(gradients)
    mean = gradients.nanmean().nan_to_num().clamp_min(torch.finfo(gradients.dtype).tiny)
    return (gradients.nan_to_num() / mean) ** power


def fineness(radii: Tensor, power: float) -> Tensor:
    """Return weights (N,) of E_k: the median radius over the radius (N,) in pixels, 0 if never drawn.

    E_k adds up over pixels. An error as broad as a large Gaussian, for example of a photo's exposure, makes
    it large too, but more Gaussians do not reduce it.
    """
    drawn = radii[radii > 0].float()
    return (drawn.median() / radii.clamp_min(1)) ** power if len(drawn) else torch.ones_like(radii).float()


def error_threshold(scores: Tensor, picture_error: Tensor, settings: DensificationSettings) -> Tensor:
    """Return tau () from the E_k of the Gaussians seen; at least the error of the share `error_floor`.

    picture_error: the mean of `typical_error` over the views, times the pixels of one, ().
    """
    seen = scores[~scores.isnan()]
    floor = settings.error_floor * picture_error.to(scores)
    if len(seen) == 0:
        return floor
    if settings.error_threshold == "fixed":
        threshold = scores.new_tensor(settings.error_fixed)
    elif settings.error_threshold == "quantile":
        threshold = upper_quantile(seen, settings.error_quantile)
    else:
        threshold = seen.mean() + settings.error_deviations * seen.std(correction=0)
    return torch.maximum(threshold, floor)


def upper_quantile(values: Tensor, share: float) -> Tensor:
    """Return the largest value that at most the given share of the values (M,) exceeds."""
    above = min(int(share * len(values)), len(values) - 1)
    return values.sort(descending=True).values[above]


def densification_candidates(
    scores: Tensor, picture_error: Tensor, settings: DensificationSettings
) -> Tensor:
    """Return the mask (N,) of Gaussians whose E_k exceeds tau, or whose gradient reaches 3DGS's threshold."""
    if settings.densify_by == "error":
        return scores > error_threshold(scores, picture_error, settings)
    return scores >= settings.densify_grad_threshold


def growth_budget(budget: int, views: int, settings: Settings) -> int:
    """Return the most Gaussians there may be during growth: above the budget if the excess is sure to go."""
    return int(budget / kept_share(settings)) if thinning_is_sure(0, views, settings) else budget


def kept_share(settings: Settings) -> float:
    """Return the share of what has grown that thinning works towards. 1: a threshold decides."""
    growth, pruning = settings.densification, settings.pruning
    has_budget = bool(growth.max_gaussians or growth.target_size_mb)
    asked = min(pruning.prune_keep, *pruning.save_shares, 1.0)
    return KEPT_WITHIN_BUDGET if asked == 1 and pruning.thin_energy and has_budget else asked


def reaches_a_share(left: float, kept: list[float], settings: PruningSettings) -> bool:
    """Return whether the share that is left is the first at or below one of --save_shares.

    kept: the shares at which models were kept so far.
    """
    reached = min((share for share in settings.save_shares if left <= share), default=1.0)
    return reached < min(kept, default=1.0)


def thinning_is_sure(iteration: int, views: int, settings: Settings) -> bool:
    """Return whether thinning after `iteration` can reach any number of Gaussians.

    It can if it lasts until the youngest Gaussians are old enough, were seen for a whole round through the
    `views`, and had a low score for long enough.
    """
    pruning, begins = settings.pruning, max(iteration, settings.densification.densify_until_iter)
    known = 2 * views + pruning.tag_patience * pruning.prune_interval
    time = (thinning_rounds(begins, settings) - 1) * pruning.prune_interval
    return kept_share(settings) < 1 and time >= max(known, pruning.tag_lifespan)


def growth_room(count: int, budget: int, settings: DensificationSettings) -> int:
    """Return how many Gaussians may be added to `count`."""
    by_cap = round(settings.growth_cap * count) if settings.growth_cap else count
    return max(0, min(by_cap, budget - count)) if budget else by_cap


def top_k(candidates: Tensor, scores: Tensor, count: int) -> Tensor:
    """Return the mask (N,) of the `count` candidates with the highest scores; of equal ones the earlier."""
    if int(candidates.sum()) <= count:
        return candidates
    ranked = torch.where(candidates, scores.float(), -math.inf).sort(descending=True, stable=True).indices
    chosen = torch.zeros_like(candidates)
    chosen[ranked[:count]] = True
    return chosen


def is_large(scales: Tensor, limit: float) -> Tensor:  # (N, 3) -> (N,) bool
    return scales.amax(-1) > limit


def with_newborn_tags(rows: dict[str, Tensor], iteration: int) -> dict[str, Tensor]:
    """Return copies of parents' rows with the tags of children that are born at `iteration`."""
    tags = {
        "birth": torch.full_like(rows["birth"], iteration),
        "generation": rows["generation"] + 1,
        "low_streak": torch.zeros_like(rows["low_streak"]),
    }
    return rows | tags


def split_children(
    parents: dict[str, Tensor],  # raw parameters and tags (M, ...)
    settings: DensificationSettings,
    generator: torch.Generator,  # on the CPU: the same children whatever the device
) -> dict[str, Tensor]:
    """Return rows (2 M, ...) of the smaller Gaussians that replace their parents."""
    children = {name: torch.cat([values] * SPLIT_INTO) for name, values in parents.items()}
    if settings.split == "long_axis":
        return split_along_axis(children)
    return split_randomly(children, generator)


def split_randomly(children: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Return children placed at random by their parents' densities (Kerbl et al. 2023, sec. 5.2)."""
    scales = children["scales"].exp()
    samples = torch.randn(scales.shape, generator=generator).to(scales.device) * scales
    return children | {
        "means": children["means"] + to_world(children["quats"], samples),
        "scales": (scales / SPLIT_SHRINK).log(),
    }


def split_along_axis(children: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return two children side by side along each parent's longest axis.

    Together they have its mean, covariance and mass: the image hardly changes, so nothing has to be learnt
    again. Deng et al. 2025 (Improving Densification) split along this axis too, with other offsets and sizes.
    """
    longest = children["scales"].argmax(1, keepdim=True)
    side = torch.ones(len(longest), 1, device=longest.device)
    side[len(side) // SPLIT_INTO :] = -1
    length = children["scales"].gather(1, longest).exp()
    offsets = torch.zeros_like(children["scales"])
    offsets.scatter_(1, longest, side * math.sqrt(1 - HALF_LENGTH**2) * length)
    narrowed = torch.zeros_like(children["scales"]).scatter(1, longest, math.log(HALF_LENGTH))
    opacities = children["opacities"].sigmoid() / (SPLIT_INTO * HALF_LENGTH)
    return children | {
        "means": children["means"] + to_world(children["quats"], offsets),
        "scales": children["scales"] + narrowed,
        "opacities": opacities.clamp(LEAST_OPACITY, 1 - LEAST_OPACITY).logit(),
    }


def to_world(quats: Tensor, vectors: Tensor) -> Tensor:  # (M, 4), (M, 3) along the Gaussian's axes -> (M, 3)
    return (quats_to_matrices(quats) @ vectors[..., None])[..., 0]


# Opacity


def opacity_after_clone(
    opacities: Tensor,  # (M, 1) in (0, 1)
    importance: Tensor | float,  # (M, 1) in (0, 1], a factor on them
) -> Tensor:
    """Return raw opacities (M, 1) with which two Gaussians, one behind the other, are as opaque as one was.

    They solve 1 - (1 - s o_new)^2 = s o (Rota Bulo et al. 2024, eq. 9, with the factor s).
    """
    shared = (1 - (1 - importance * opacities).clamp_min(0).sqrt()) / importance
    return shared.clamp(LEAST_OPACITY, 1 - LEAST_OPACITY).logit()


def decayed_opacities(opacities: Tensor, decay: float) -> Tensor:
    """Return raw opacities (N, 1) of `opacities` less `decay` (Rota Bulo et al. 2024, sec. 4.3)."""
    return (opacities - decay).clamp_min(LEAST_OPACITY).logit()


def lowered_opacities(raw_opacities: Tensor) -> Tensor:
    """Return raw opacities (N, 1) with no opacity above RESET_OPACITY (Kerbl et al. 2023, sec. 5.2)."""
    return raw_opacities.clamp_max(torch.tensor(RESET_OPACITY, dtype=torch.float64).logit().item())


# Which go


def relative_contribution(
    statistics: dict[str, Tensor],
    births: Tensor,  # (N,) iterations
    round_start: Tensor,  # () iteration before the last complete round through all views
    mean_error_per_gaussian: Tensor,  # () least of the rounds so far; summed over views, pixels, channels
) -> Tensor:
    """Return removal energies (N,) of the last complete round, over the squared error per Gaussian.

    For sensitivities it is the loss per Gaussian. Pruning all Gaussians below x raises the squared error by
    less than about x of itself. The error per Gaussian is the least so far: with the present one, an error
    that pruning has raised would prune still more. NaN for Gaussians that did not exist for the whole round.
    """
    share = statistics["contribution"] / mean_error_per_gaussian.clamp_min(torch.finfo(torch.float32).tiny)
    return torch.where(births <= round_start, share.to(statistics["contribution"]), math.nan)


def pruning_threshold(settings: PruningSettings, grows: bool) -> float:
    """Return the fixed threshold below which a score is low: while Gaussians grow, or when that has ended."""
    if settings.prune_by in ("opacity", "importance"):
        return settings.prune_opacity if settings.prune_by == "opacity" else settings.prune_importance
    return settings.prune_energy if grows else settings.thin_energy or settings.prune_energy


def thinning_rounds(iteration: int, settings: Settings) -> int:
    """Return the number of pruning rounds from `iteration` on.

    Pruning in the last iteration reaches no file.
    """
    interval = settings.pruning.prune_interval
    end = min(pruning_end(settings), settings.optimization.iterations)
    return len(range(-(-iteration // interval) * interval, end, interval))


def pruning_cap(count: int, intervals: float, settings: PruningSettings) -> int:
    """Return how many of `count` Gaussians may go, this many pruning intervals after the last time."""
    if not settings.prune_cap:
        return count
    return count - int(round(count * (1 - settings.prune_cap) ** intervals, 6))


def next_count(count: int, goal: int, rounds: int) -> int:
    """Return how many of `count` Gaussians this round leaves, so that `rounds` like it leave `goal`."""
    return round(count * (goal / count) ** (1 / max(1, rounds))) if count > goal else count


def low_scores(scores: Tensor, fixed: float, excess: int, settings: PruningSettings) -> Tensor:
    """Return the mask (N,) of low scores; NaN is not low.

    `fixed`: the fixed threshold; `excess`: how many Gaussians exceed the budget.
    """
    if settings.prune_threshold == "fixed":
        return scores < fixed
    known = ~scores.isnan()
    if settings.prune_threshold == "quantile":
        excess = int(settings.prune_quantile * int(known.sum()))
    return top_k(known, -scores, max(0, excess))


def low_streaks(streaks: Tensor, low: Tensor) -> Tensor:
    """Return the numbers (N,) of pruning rounds in a row with a low score, this one included."""
    return torch.where(low, streaks + 1, 0)


def is_oversized(
    scales: Tensor,  # (N, 3)
    max_radius: Tensor,  # (N,) pixels
    extent: float,
    settings: PruningSettings,
) -> Tensor:
    """Return the mask (N,) of Gaussians too large in the world, or on the screen where that is limited."""
    mask = is_large(scales, LARGEST_SCALE * extent)
    return mask | (max_radius > settings.max_screen_size) if settings.max_screen_size > 0 else mask


def prunable(
    tags: dict[str, Tensor],
    oversized: Tensor,  # (N,) bool
    iteration: int,
    settings: PruningSettings,
) -> Tensor:
    """Return the mask (N,) of Gaussians old enough, and oversized or of low score for long enough."""
    old = iteration - tags["birth"] >= settings.tag_lifespan
    return old & (oversized | (tags["low_streak"] >= settings.tag_patience))
