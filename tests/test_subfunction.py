import math

import arguments

import pytest
import subfunction as policy
import torch
from arguments import DensificationSettings, ImportanceSettings, OptimizationSettings, PruningSettings

from fused_ssim import fused_ssim, fused_ssim_map
from utils.rotations import covariances, quats_to_matrices
from utils.sh import rgb_to_sh, sh_to_rgb

DEFAULTS = OptimizationSettings()
DENSIFICATION = DensificationSettings()
PRUNING = PruningSettings()
NO_ERROR = torch.tensor(0.0)


def make_settings(flags):
    """Of plain 3DGS, but for the flags."""
    return arguments.make_settings({"variant": "3dgs"} | flags)


def due(iteration, **flags):
    return policy.phase(iteration, make_settings(flags))


def iterations_with(name, end=30_000, **flags):
    """Those from 1 to `end` in which something is due."""
    settings = make_settings(flags)
    return [i for i in range(1, end + 1) if getattr(policy.phase(i, settings), name)]


def statistics(**columns):
    base = {"gradient_sum": [0.0], "gradient_views": [0], "max_radius": [0]} | columns
    kinds = {"gradient_sum": torch.float32, "gradient_views": torch.int32, "max_radius": torch.int32}
    return {name: torch.tensor(values, dtype=kinds[name]) for name, values in base.items()}


def test_sh_degree_rises_every_1000_iterations():
    degrees = [due(i).sh_degree for i in (1, 999, 1000, 2000, 3000, 30000)]
    assert degrees == [0, 0, 1, 2, 3, 3]
    assert due(30000, sh_degree=1).sh_degree == 1


def test_photos_are_a_quarter_then_half_of_their_size_at_first():
    settings = make_settings({"resolution_schedule": 10})
    divisors = [policy.phase(iteration, settings).divisor for iteration in range(1, 13)]
    assert divisors == [4, 4] + [2] * 8 + [1, 1]
    assert policy.phase(1, make_settings({})).divisor == 1


def test_position_rate_scales_with_the_extent():
    assert policy.position_learning_rate(0, 5.0, DEFAULTS) == pytest.approx(0.00016 * 5)
    assert policy.position_learning_rate(30_000, 5.0, DEFAULTS) == pytest.approx(0.0000016 * 5)


def test_densification_starts_after_500_and_ends_before_15000():
    when = iterations_with("densifies")
    assert (when[0], when[1], when[-1]) == (600, 700, 14_900)
    assert due(14_999).collects_statistics and not due(15_000).collects_statistics


def test_opacity_is_reset_every_3000_until_densification_ends():
    assert iterations_with("resets_opacity") == [3000, 6000, 9000, 12_000]
    assert iterations_with("resets_opacity", 3000, white_background=True) == [500, 3000]
    assert iterations_with("resets_opacity", opacity_control="decay") == []
    assert iterations_with("decays_opacity", opacity_control="decay") == iterations_with("densifies")


def test_errors_are_collected_while_they_decide_and_contributions_until_pruning_ends():
    assert not due(1).collects_errors and due(14_999, densify_by="error").collects_errors
    assert not due(15_000, densify_by="error").collects_errors
    late = {"prune_until_iter": 25_000}
    for kind in ("removal_energy", "both"):
        assert due(24_999, prune_by=kind, importance="full", **late).collects_removal_energy
        assert not due(25_000, prune_by=kind, importance="full", **late).collects_removal_energy
    assert due(1, prune_by="sensitivity").collects_sensitivity
    assert not (due(1).collects_sensitivity or due(1).collects_removal_energy)


def test_gradients_are_accumulated_over_the_views_that_draw_the_gaussian():
    collected = statistics(gradient_sum=[0, 0, 0], gradient_views=[0, 0, 0], max_radius=[0, 9, 0])
    gradients = torch.tensor([[3.0, 4.0, 100.0], [1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    policy.accumulate_gradients(collected, gradients, torch.tensor([2, 0, 7], dtype=torch.int32))
    policy.accumulate_gradients(collected, gradients, torch.tensor([1, 4, 0], dtype=torch.int32))
    assert collected["gradient_sum"].tolist() == [10, 1, 2]
    assert collected["gradient_views"].tolist() == [2, 1, 1]
    assert collected["max_radius"].tolist() == [2, 9, 7]


def test_candidates_reach_the_mean_threshold_and_the_unseen_never_do():
    collected = statistics(gradient_sum=[1.0, 0.9, 0.0], gradient_views=[2, 2, 0], max_radius=[1, 1, 0])
    scores = policy.densification_scores(collected, DENSIFICATION)

    def candidates(threshold):
        settings = DensificationSettings(densify_grad_threshold=threshold)
        return policy.densification_candidates(scores, NO_ERROR, settings).tolist()

    assert candidates(0.5) == [True, False, False]
    assert candidates(0.0) == [True, True, False]


def test_large_means_the_largest_axis():
    scales = torch.tensor([[0.1, 0.1, 0.3], [0.2, 0.2, 0.2]])
    assert policy.is_large(scales, 0.2).tolist() == [True, False]


def test_split_children_follow_their_parent():
    turn = torch.tensor([math.cos(0.4), 0.0, 0.0, math.sin(0.4)])  # about z by 0.8
    count, settings = 20_000, DensificationSettings(split="random")
    parents = {
        "means": torch.tensor([1.0, 2, 3]).repeat(count, 1),
        "scales": torch.tensor([0.5, 0.1, 0.02]).log().repeat(count, 1),
        "quats": (3 * turn).repeat(count, 1),
        "opacities": torch.full((count, 1), 0.7),
        "generation": torch.arange(count, dtype=torch.int32),
    }
    children = policy.split_children(parents, settings, torch.Generator().manual_seed(0))
    assert all(len(values) == 2 * count for values in children.values())
    assert torch.allclose(children["scales"].exp(), torch.tensor([0.5, 0.1, 0.02]) / 1.6)
    assert torch.equal(children["opacities"], torch.full((2 * count, 1), 0.7))
    assert torch.equal(children["generation"], parents["generation"].repeat(2))
    offsets = children["means"] - torch.tensor([1.0, 2, 3])
    axes = quats_to_matrices(turn[None])[0]
    expected = axes @ torch.diag(torch.tensor([0.5, 0.1, 0.02]) ** 2) @ axes.T
    assert torch.allclose(offsets.T @ offsets / (2 * count), expected, atol=4e-3)
    assert offsets.mean(0).abs().max() < 0.01
    again = policy.split_children(parents, settings, torch.Generator().manual_seed(0))
    assert torch.equal(children["means"], again["means"])


def test_halves_along_the_longest_axis_have_their_parents_mean_covariance_and_mass():
    length = policy.HALF_LENGTH
    turn = torch.tensor([math.cos(0.4), 0.0, 0.0, math.sin(0.4)])  # about z by 0.8
    sizes = torch.tensor([[0.5, 0.1, 0.02], [0.1, 0.02, 0.5]])
    parents = {
        "means": torch.tensor([[1.0, 2, 3], [4, 5, 6]]),
        "scales": sizes.log(),
        "quats": (3 * turn).repeat(2, 1),
        "opacities": torch.tensor([[0.6], [0.3]]).logit(),
        "birth": torch.tensor([7, 8], dtype=torch.int32),
    }
    settings = DensificationSettings(split="long_axis")
    children = policy.split_children(parents, settings, torch.Generator())
    assert children["birth"].tolist() == [7, 8, 7, 8]
    axes = quats_to_matrices(turn[None])[0]
    for parent in (0, 1):
        means, scales = children["means"][parent::2], children["scales"][parent::2].exp()
        center = parents["means"][parent]
        assert torch.allclose(means.mean(0), center, atol=1e-6)
        assert scales.amax(1).tolist() == pytest.approx([0.5 * length] * 2)
        assert (means[0] - means[1]).norm().item() == pytest.approx(math.sqrt(1 - length**2), abs=1e-6)
        own = [axes @ torch.diag(size**2) @ axes.T for size in scales]
        apart = [torch.outer(mean - center, mean - center) for mean in means]
        expected = axes @ torch.diag(sizes[parent] ** 2) @ axes.T
        assert torch.allclose(sum(own + apart) / 2, expected, atol=1e-6)
        mass = (children["opacities"][parent::2].sigmoid()[:, 0] * scales.prod(1)).sum()
        assert torch.allclose(mass, parents["opacities"][parent].sigmoid() * sizes[parent].prod())


def tags(**columns):
    count = max(map(len, columns.values()))
    base = {"birth": [0] * count, "generation": [0] * count, "low_streak": [0] * count} | columns
    return {name: torch.tensor(values, dtype=torch.int32) for name, values in base.items()}


def test_low_scores_are_those_below_the_threshold_and_no_number_is_never_low():
    scores = torch.tensor([0.3, 0.004, float("nan"), 0.2])

    def low(excess=0, **settings):
        return policy.low_scores(scores, 0.005, excess, PruningSettings(**settings)).tolist()

    assert low() == [False, True, False, False]
    assert low(prune_threshold="quantile", prune_quantile=0.7) == [False, True, False, True]
    assert low(prune_threshold="quantile", prune_quantile=0.3) == [False] * 4
    assert low(prune_threshold="budget", excess=2) == [False, True, False, True]
    assert low(prune_threshold="budget", excess=-5) == [False] * 4
    assert low(prune_threshold="budget", excess=9) == [True, True, False, True]


def test_size_prunes_only_later_and_on_the_screen_only_when_asked():
    scales = torch.tensor([[0.01] * 3, [0.01, 0.01, 0.21], [0.01] * 3])
    radii = torch.tensor([1, 1, 25], dtype=torch.int32)
    assert policy.is_oversized(scales, radii, 2.0, PRUNING).tolist() == [False, True, False]
    on_screen = PruningSettings(max_screen_size=20)
    assert policy.is_oversized(scales, radii, 2.0, on_screen).tolist() == [False, True, True]
    assert not due(3000).prunes_large and due(3100).prunes_large
    assert due(14_999).prunes_large and not due(15_000).prunes_large


def test_only_the_old_are_pruned_for_a_low_streak_or_their_size():
    settings = PruningSettings(tag_lifespan=300, tag_patience=2)
    those = tags(birth=[0, 0, 701, 700, 0, 701], low_streak=[1, 2, 5, 2, 0, 0])
    oversized = torch.tensor([False, False, False, False, True, True])
    assert policy.prunable(those, oversized, 1000, settings).tolist() == [
        False,
        True,
        False,
        True,
        True,
        False,
    ]
    assert policy.prunable(those, oversized, 1001, settings).tolist() == [False, True, True, True, True, True]
    assert policy.prunable(those, oversized, 702, PRUNING).tolist() == [True, True, True, True, True, True]


def test_streaks_count_rounds_in_a_row():
    streaks = torch.tensor([0, 3, 2], dtype=torch.int32)
    low = torch.tensor([True, True, False])
    assert policy.low_streaks(streaks, low).tolist() == [1, 4, 0]


def test_3dgs_prunes_whenever_it_densifies_and_lower_opacities_at_once():
    assert iterations_with("densifies") == iterations_with("prunes")
    low = policy.low_scores(torch.tensor([0.0049, 0.005]), PRUNING.prune_opacity, 0, PRUNING)
    streaks = policy.low_streaks(torch.zeros(2, dtype=torch.int32), low)
    young = tags(birth=[600, 600]) | {"low_streak": streaks}
    assert policy.prunable(young, torch.zeros(2, dtype=torch.bool), 600, PRUNING).tolist() == [True, False]


def test_pruning_may_go_on_after_densification():
    late = {"prune_until_iter": 25_000}
    assert due(24_900, **late).prunes and not due(25_000, **late).prunes
    assert not due(15_000).prunes


def test_opacity_reset_lowers_only():
    raw = torch.tensor([[0.001], [0.5], [0.999]]).logit()
    assert policy.lowered_opacities(raw).sigmoid()[:, 0].tolist() == pytest.approx(
        [0.001, 0.01, 0.01], rel=1e-5
    )


def test_loss_is_the_mix_of_l1_and_dssim():
    generator = torch.Generator().manual_seed(0)
    image, gt_image = torch.rand(2, 3, 17, 23, generator=generator)
    ssim = fused_ssim(image[None], gt_image[None]).item()
    l1 = (image - gt_image).abs().mean().item()
    loss, error = policy.training_loss(image, gt_image, 0.2)
    assert loss.item() == pytest.approx(0.8 * l1 + 0.2 * (1 - ssim), rel=1e-5)
    assert error is None
    assert policy.training_loss(gt_image, gt_image, 0.2)[0].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("metric", ["l1", "dssim", "mixed"])
def test_pixel_error_is_what_its_metric_says_and_mixed_adds_up_to_the_loss(metric):
    image, gt_image = torch.rand(2, 3, 17, 23, generator=torch.Generator().manual_seed(1))
    loss, error = policy.training_loss(image, gt_image, 0.2, metric)
    l1 = (image - gt_image).abs().mean(0, keepdim=True)
    dssim = 1 - fused_ssim_map(image[None], gt_image[None])[0].mean(0, keepdim=True)
    expected = {"l1": l1, "dssim": dssim, "mixed": 0.8 * l1 + 0.2 * dssim}[metric]
    assert error.shape == (1, 17, 23)
    assert torch.allclose(error, expected, atol=1e-6)
    if metric == "mixed":
        assert error.mean().item() == pytest.approx(loss.item(), rel=1e-5)


def test_pixels_beside_strong_texture_count_less_in_removal_energies():
    photo = torch.full((3, 40, 61), 0.5)
    photo[:, :, 32:] += torch.where(torch.arange(29) % 2 == 0, 0.2, -0.2)  # a variance of 0.04
    weights = policy.energy_weights(photo, contrast=0.01)
    assert weights.shape == (40, 61)
    assert weights[:, :28].min() > 0.999
    assert weights[:, 36:].sub(0.01 / 0.05).abs().max() < 0.01
    assert torch.equal(policy.energy_weights(photo, contrast=0.0), torch.ones(40, 61))
    tiny = policy.energy_weights(photo[:, :1, 31:33], contrast=0.01)
    assert tiny.shape == (1, 2) and tiny.isfinite().all()


# Errors of several views


def errors_of_views(views, **settings):
    """What three Gaussians' errors in `views` come to."""
    collected = {
        "error": torch.zeros(3),
        "error_spread": torch.zeros(3),
        "error_views": torch.zeros(3, dtype=torch.int32),
    }
    drawn = torch.full((3,), len(views), dtype=torch.int32)
    collected |= {"gradient_sum": torch.ones(3), "gradient_views": drawn, "max_radius": drawn}
    settings = DensificationSettings(densify_by="error", error_coherence=0.0, **settings)
    for errors in views:
        policy.accumulate_errors(collected, torch.tensor(errors), settings)
    return policy.densification_scores(collected, settings), collected["error_views"]


@pytest.mark.parametrize(("power", "expected"), [(0.0, [6, 6, 6]), (1.0, [6, 12, 0]), (2.0, [6, 24, 0])])
def test_error_that_pulls_a_gaussian_to_a_side_counts_more(power, expected):
    gradients = {"gradient_sum": [1.0, 4.0, 0.0, 0.0], "gradient_views": [1, 2, 2, 0]}  # 1, 2, 0, none
    collected = statistics(**gradients, max_radius=[0] * 4)
    collected |= {"error": torch.tensor([6.0, 6.0, 6.0, 0.0]), "error_views": torch.tensor([1, 2, 2, 0])}
    settings = DensificationSettings(densify_by="error", error_coherence=power)
    scores = policy.densification_scores(collected, settings)
    assert scores[:3].tolist() == pytest.approx(expected) and scores[3].isnan()


def test_without_any_gradient_no_weight_is_infinite():
    assert policy.coherence(torch.zeros(3), 1.0).tolist() == [0, 0, 0]
    assert policy.coherence(torch.full((2,), math.nan), 1.0).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("power", "expected"), [(0.0, [6, 6, 6]), (1.0, [12, 6, 1.5]), (2.0, [24, 6, 0.375])]
)
def test_error_spread_over_a_larger_gaussian_counts_less(power, expected):
    drawn = {"gradient_sum": [1.0] * 3 + [0.0], "gradient_views": [1, 1, 1, 0]}
    collected = statistics(**drawn, max_radius=[2, 4, 16, 0])  # their median is 4
    collected |= {"error": torch.tensor([6.0, 6.0, 6.0, 0.0]), "error_views": torch.tensor([1, 1, 1, 0])}
    settings = DensificationSettings(densify_by="error", error_fineness=power)
    scores = policy.densification_scores(collected, settings)
    assert scores[:3].tolist() == pytest.approx(expected) and scores[3].isnan()
    assert policy.fineness(torch.zeros(2, dtype=torch.int32), 1.0).tolist() == [1, 1]


VIEWS = [[1.0, 0.0, 0.0], [4.0, 2.0, 0.0], [1.0, 6.0, 0.0]]  # the last Gaussian is never seen


@pytest.mark.parametrize(
    ("settings", "first", "second"),
    [
        ({"error_reduce": "max"}, 4.0, 6.0),
        ({"error_reduce": "mean"}, 2.0, 4.0),
        ({"error_reduce": "mean_drawn"}, 2.0, 8 / 3),
        ({"error_reduce": "mean_std", "error_beta": 2.0}, 2 + 2 * math.sqrt(2), 4 + 2 * 2),
        (
            {"error_reduce": "ema", "error_keep": 0.75},
            0.75 * (0.75 * 1 + 0.25 * 4) + 0.25 * 1,
            0.75 * 2 + 0.25 * 6,
        ),
    ],
    ids=lambda value: value["error_reduce"] if isinstance(value, dict) else "",
)
def test_errors_are_reduced_over_the_views_that_have_them(settings, first, second):
    scores, views = errors_of_views(VIEWS, **settings)
    assert views.tolist() == [3, 2, 0]
    assert scores[:2].tolist() == pytest.approx([first, second], rel=1e-6)
    assert scores[2].isnan()


def test_welford_agrees_with_the_definition_on_many_views():
    views = torch.rand(40, 3, generator=torch.Generator().manual_seed(2)) + 0.1
    scores, _ = errors_of_views(views.tolist(), error_reduce="mean_std", error_beta=1.5)
    assert torch.allclose(scores, views.mean(0) + 1.5 * views.std(0, correction=0), rtol=1e-5)


# Thresholds and limits of growth


def chosen_by_error(scores, picture_error=0.0, **settings):
    settings = DensificationSettings(densify_by="error", **{"error_floor": 0.016} | settings)
    return policy.densification_candidates(
        torch.tensor(scores), torch.tensor(picture_error), settings
    ).tolist()


def test_thresholds_of_the_error():
    scores = [5.0, 1.0, float("nan"), 3.0, 2.0, 4.0]
    of = {value: index for index, value in enumerate(scores)}

    def above(*values):
        return [index in {of[value] for value in values} for index in range(6)]

    assert chosen_by_error(scores, error_threshold="fixed", error_fixed=3.0) == above(5.0, 4.0)
    assert chosen_by_error(scores, error_quantile=0.4) == above(5.0, 4.0)
    assert chosen_by_error(scores, error_quantile=0.2) == above(5.0)
    assert chosen_by_error(scores, error_quantile=0.0) == above()
    deviations = {"error_threshold": "mean_std", "error_deviations": 0.5}  # 3 + 0.5 sqrt(2)
    assert chosen_by_error(scores, **deviations) == above(5.0, 4.0)
    assert chosen_by_error(scores, 280.0, **deviations) == above(5.0)  # the floor: 4.48
    assert chosen_by_error([float("nan")] * 2) == [False, False]


def test_the_typical_error_is_a_root_mean_square():
    error = torch.tensor([[[3.0, 4.0], [0.0, 0.0]]])
    assert policy.typical_error(error) == pytest.approx(2.5)  # the mean is 1.75, that of the upper row 3.5


@pytest.mark.parametrize("seed", range(5))
def test_a_quantile_takes_its_share_whatever_the_distribution(seed):
    scores = torch.rand(1000, generator=torch.Generator().manual_seed(seed)).pow(4) * 10**seed
    assert sum(chosen_by_error(scores.tolist(), error_quantile=0.2)) == 200


def test_equal_errors_exceed_no_threshold_of_their_own():
    assert not any(chosen_by_error([2.0] * 50, error_quantile=0.5))


def test_room_is_what_cap_and_budget_leave():
    def room(count, budget=0, cap=0.05):
        return policy.growth_room(count, budget, DensificationSettings(growth_cap=cap))

    assert room(1000) == 50
    assert room(1000, cap=0.0) == 1000
    assert room(1000, budget=1020) == 20
    assert room(1000, budget=900) == 0


def test_the_highest_candidates_are_taken_and_the_earlier_of_equals():
    scores = torch.tensor([1.0, 9.0, 5.0, 5.0, float("nan"), 5.0])
    candidates = torch.tensor([True, False, True, True, False, True])
    assert policy.top_k(candidates, scores, 2).tolist() == [False, False, True, True, False, False]
    assert torch.equal(policy.top_k(candidates, scores, 4), candidates)
    assert not policy.top_k(candidates, scores, 0).any()


def test_children_are_born_now_one_generation_on():
    rows = tags(birth=[0, 600], generation=[0, 3], low_streak=[4, 1]) | {"means": torch.zeros(2, 3)}
    children = policy.with_newborn_tags(rows, 900)
    assert children["birth"].tolist() == [900, 900]
    assert children["generation"].tolist() == [1, 4]
    assert children["low_streak"].tolist() == [0, 0]
    assert rows["birth"].tolist() == [0, 600]


# Opacities


@pytest.mark.parametrize("importance", [1.0, 0.4])
def test_two_clones_one_behind_the_other_are_as_opaque_as_their_parent(importance):
    opacities = torch.tensor([[0.01], [0.3], [0.9], [0.999999]])
    shared = policy.opacity_after_clone(opacities, importance).sigmoid()
    together = 1 - (1 - importance * shared) ** 2
    assert torch.allclose(together, importance * opacities, atol=1e-5)
    assert ((shared > 0) & (shared < 1)).all()


def test_shared_opacities_of_the_extremes_are_finite():
    assert torch.isfinite(policy.opacity_after_clone(torch.tensor([[0.0], [1.0]]), 1.0)).all()


def test_decay_takes_a_constant_and_stops_above_zero():
    raw = policy.decayed_opacities(torch.tensor([[0.5], [0.0005]]), 0.001)
    assert raw.sigmoid()[0].item() == pytest.approx(0.499, rel=1e-5)
    assert 0 < raw.sigmoid()[1].item() < 1e-5 and torch.isfinite(raw).all()


# Importance and removal energy


def test_importance_penalty_by_hand():
    s = torch.tensor([[0.5], [1.0], [0.0]])
    loss, weight = torch.tensor(0.1), torch.tensor(0.2, dtype=torch.float64)
    assert policy.importance_penalty(s, loss, weight, 0.0).item() == pytest.approx(0.1 * 0.2 * 0.5)
    both = 0.1 * (0.2 * 0.5 + 3 * 0.25 / 3)
    assert policy.importance_penalty(s, loss, weight, 3.0).item() == pytest.approx(both)


def test_lambda_rises_above_the_budget_and_falls_below_it_but_stays_near_what_was_given():
    importances = torch.full((100, 1), 0.5)

    def steered(weight, budget, **changes):
        weight = torch.tensor(weight, dtype=torch.float64)
        settings = ImportanceSettings(**{"importance_control_rate": 0.03} | changes)
        return policy.steered_lambda(weight, importances, budget, settings).item()

    assert steered(0.1, 25) == pytest.approx(0.1 * math.exp(0.03))  # twice the budget
    assert steered(0.1, 50) == pytest.approx(0.1)
    assert steered(0.1, 100) == pytest.approx(0.1 * math.exp(-0.03 / 2))
    assert steered(1.0, 1) == pytest.approx(1.0) and steered(0.01, 1000) == pytest.approx(0.01)
    assert steered(0.1, 1, importance_control_range=1.0) == pytest.approx(0.1)
    assert steered(0.0, 1, lambda_importance=0.0) == 0.0


def test_lambda_is_steered_only_where_asked_and_once_nothing_grows():
    growth = {"densify_until_iter": 1000, "importance": "full", "max_gaussians": 10}
    steered = growth | {"importance_control": "budget"}
    assert [due(i, **steered).steers_importance for i in (999, 1000)] == [False, True]
    assert not due(1000, **growth).steers_importance


def test_baking_leaves_what_the_budget_has_room_for():
    s = torch.tensor([0.1, 0.9, 0.3, 0.7])
    thresholds = {0: 0.5, 1: 0.5, 2: 0.5, 3: 0.3, 4: 0.1, 9: 0.1}
    for budget, threshold in thresholds.items():
        assert policy.baking_threshold(s, budget) == pytest.approx(threshold)
    assert int((s >= policy.baking_threshold(s, 3)).sum()) == 3


def test_relative_energy_is_in_shares_of_the_squared_error_and_skips_the_newborn():
    collected = {"contribution": torch.tensor([2.0, 0.5, 0.0, 1.0])}
    births = torch.tensor([0, 0, 100, 101])
    share = policy.relative_contribution(collected, births, torch.tensor(100.0), torch.tensor(2.0))
    assert share[:3].tolist() == [1.0, 0.25, 0.0]
    assert share[3].isnan()
    before = policy.relative_contribution(collected, births, torch.tensor(-1.0), torch.tensor(math.inf))
    assert before.isnan().all()  # no round is complete: nobody is judged


def test_the_threshold_is_that_of_the_score():
    values = {"prune_opacity": 0.1, "prune_importance": 0.2, "prune_energy": 0.3}
    kinds = {"opacity": 0.1, "importance": 0.2, "removal_energy": 0.3, "both": 0.3}
    for kind, threshold in kinds.items():
        for grows, thin_energy in ((True, 0.4), (True, 0.0), (False, 0.0)):
            settings = PruningSettings(prune_by=kind, thin_energy=thin_energy, **values)
            assert policy.pruning_threshold(settings, grows) == threshold
        settings = PruningSettings(prune_by=kind, thin_energy=0.4, **values)
        assert policy.pruning_threshold(settings, grows=False) == (0.4 if threshold == 0.3 else threshold)


def test_opacities_have_recovered_a_lifespan_after_their_last_reset():
    flags = {"opacity_reset_interval": 1000, "densify_until_iter": 2001, "tag_lifespan": 300}
    settings = make_settings(flags)
    iterations = (999, 1000, 1999, 2000, 4000)
    recovered = [policy.recovered_from_reset(iteration, settings) for iteration in iterations]
    assert recovered == [-math.inf, 1300, 1300, 2300, 2300]
    assert policy.recovered_from_reset(4000, make_settings(flags | {"densify_until_iter": 2000})) == 1300
    assert policy.recovered_from_reset(4000, make_settings(flags | {"opacity_control": "decay"})) == -math.inf


def test_the_pruning_cap_adds_up_over_intervals_in_which_nothing_went():
    assert policy.pruning_cap(100, 1, PruningSettings(prune_cap=0.1)) == 10
    assert policy.pruning_cap(100, 2, PruningSettings(prune_cap=0.1)) == 19
    assert policy.pruning_cap(100, 5, PruningSettings()) == 100


THINNING = {
    "prune_by": "removal_energy",
    "prune_keep": 0.25,
    "densify_until_iter": 1000,
    "prune_until_iter": 2000,
}


def test_thinning_takes_the_same_share_in_every_round_and_ends_at_its_goal():
    count, left = 1600, []
    for rounds in (4, 3, 2, 1):
        count = policy.next_count(count, 100, rounds)
        left.append(count)
    assert left == [800, 400, 200, 100]
    assert policy.next_count(90, 100, 3) == 90
    assert policy.next_count(103, 100, 1) == 100


def test_thinning_rounds_are_those_after_growth_and_before_the_end_of_pruning_or_of_the_run():
    settings = make_settings(THINNING)
    assert [policy.thinning_rounds(i, settings) for i in (1000, 1001, 1900, 1901)] == [10, 9, 1, 0]
    assert policy.thinning_rounds(1000, make_settings(THINNING | {"iterations": 1500})) == 5
    assert [due(i, **THINNING).thins_out for i in (999, 1000)] == [False, True]
    assert not due(1000, densify_until_iter=1000).thins_out


def test_thinning_is_sure_while_enough_of_it_is_left():
    settings = make_settings(THINNING | {"tag_lifespan": 300})
    assert [policy.thinning_is_sure(i, 10, settings) for i in (0, 1600, 1601)] == [True, True, False]
    assert not policy.thinning_is_sure(0, 10, make_settings({"prune_until_iter": 30_000}))


def test_more_than_the_budget_may_grow_only_if_the_rest_is_sure_to_go():
    def room(views=10, **changes):
        return policy.growth_budget(100, views, make_settings(THINNING | changes))

    assert room() == 400
    assert policy.growth_budget(0, 10, make_settings(THINNING)) == 0
    assert room(prune_keep=1.0) == 100
    assert room(tag_lifespan=900) == 400 and room(tag_lifespan=901) == 100  # the last round is at 1900
    assert room(views=400) == 400 and room(views=401) == 100  # energies known after 800, low for 1 round
    assert room(tag_patience=9) == 100
    assert room(prune_keep=1.0, thin_energy=0.5) == 100  # of no budget that a run has
    within = {"prune_keep": 1.0, "thin_energy": 0.5, "max_gaussians": 100}
    assert room(**within) == int(100 / policy.KEPT_WITHIN_BUDGET) and due(1000, **THINNING | within).thins_out
    assert not due(1000, **THINNING | within | {"max_gaussians": 0}).thins_out
    assert room(**within | {"prune_keep": 0.5}) == 200  # what is given by hand wins
    assert room(iterations=1050) == 100


def test_importance_is_learnt_from_its_iteration_on():
    flags = {"importance": "full", "importance_from_iter": 1000, "importance_until_iter": 3000}
    learns = [due(i, **flags).learns_importance for i in (999, 1000, 2999, 3000)]
    assert learns == [False, True, True, False]
    assert [due(i, **flags).bakes_importance for i in (2999, 3000)] == [False, True]
    assert not due(2000).learns_importance and not due(30_000).bakes_importance


def test_importance_is_baked_when_pruning_ends_or_when_asked_at_the_latest_in_the_last_iteration():
    def end(**flags):
        return policy.importance_end(make_settings({"importance": "full"} | flags))

    assert end() == 15_000
    assert end(prune_until_iter=25_000) == 25_000
    assert end(importance_until_iter=2000) == 2000
    assert end(importance_until_iter=2000, prune_by="importance") == 15_000  # it alone prunes
    assert end(prune_until_iter=25_000, iterations=20_000) == 20_000
    assert end(prune_until_iter=25_000, iterations=20_000, prune_by="importance") == 20_000


def test_rotations_and_covariances():
    quarter = torch.tensor([[math.sqrt(0.5), 0, 0, math.sqrt(0.5)]]) * 2  # about z, not normalised
    turned = torch.tensor([[[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]])
    assert torch.allclose(quats_to_matrices(quarter), turned, atol=1e-6)
    packed = covariances(torch.tensor([[1.0, 2, 3]]), quarter)
    assert torch.allclose(packed, torch.tensor([[4.0, 0, 0, 1, 0, 9]]), atol=1e-5)


def test_spherical_harmonics_are_orthonormal_and_colors_come_back():
    directions = torch.nn.functional.normalize(
        torch.randn(100_000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=1
    )
    responses = []
    for base in range(16):
        sh = torch.zeros(1, 16, 1, dtype=torch.float64)
        sh[0, base] = 0.1  # small: the clamp at 0 must not bite
        responses.append((sh_to_rgb(3, sh, directions)[:, 0] - 0.5) * 10)
    responses = torch.stack(responses)
    assert torch.allclose(4 * math.pi * responses @ responses.T / 100_000, torch.eye(16).double(), atol=0.03)
    rgb = torch.tensor([[0.2, 0.5, 0.9]])
    assert torch.allclose(sh_to_rgb(0, rgb_to_sh(rgb)[:, None], torch.tensor([[0.0, 0, 1]])), rgb)


def test_spherical_harmonics_have_the_signs_of_3dgs_files():
    x, y, z = direction = torch.tensor([0.36, 0.48, 0.8], dtype=torch.float64)
    expected = {
        1: -y,
        2: z,
        3: -x,
        4: x * y,
        5: -y * z,
        7: -x * z,
        8: x * x - y * y,
        10: x * y * z,
        12: z * (5 * z * z - 3),
    }
    expected |= {9: -y * (3 * x * x - y * y), 11: -y * (5 * z * z - 1), 13: -x * (5 * z * z - 1)}
    expected |= {14: z * (x * x - y * y), 15: -x * (x * x - 3 * y * y), 6: 3 * z * z - 1}
    for base, value in expected.items():
        sh = torch.zeros(1, 16, 1, dtype=torch.float64)
        sh[0, base] = 0.1
        response = sh_to_rgb(3, sh, direction[None])[0, 0] - 0.5
        assert torch.sign(response) == torch.sign(value), base


def test_colors_are_not_negative():
    assert sh_to_rgb(0, torch.full((1, 1, 3), -9.0), torch.tensor([[0.0, 0, 1]])).tolist() == [[0, 0, 0]]
