"""The method on real training steps: E_k, tags, budgets, importance (docs/method.md)."""

import math

import numpy as np
import pytest
import torch
import train
from arguments import VARIANTS, make_settings
from gaussian_model import INPUTS, SMALLEST_ALPHA, GaussianModel, gate, gaussians_in_ply
from plain_ssim import plain_ssim_map
from subfunction import phase
from training import density_control
from training import monitoring
from training.density_control import collect, densify_and_prune
from training.resume import find_resume_point, resume
from training.run import choose_background
from training.saving import save_if_due, save_state
from training_runs import explicit_errors, learn, new_run
from utils.counter_random import random_key
from utils.progress import Progress
from utils.rendering import render
from utils.run_folder import point_cloud_path


# E_k

SHARE_OF_DSSIM = {"l1": 0.0, "dssim": 1.0, "mixed": 0.3}  # in E(u)


def pixel_errors(image, gt_image, share):
    """E(u) (H, W) by its definition, from the pictures alone."""
    image, gt_image = image.double(), gt_image.double()
    dssim = 1 - plain_ssim_map(image[None], gt_image[None], "same")[0].mean(0)
    return (1 - share) * (image - gt_image).abs().mean(0) + share * dssim


@pytest.mark.parametrize("metric", SHARE_OF_DSSIM)
def test_e_k_of_a_training_step_is_the_sum_over_the_pixels(loaded_scene, tmp_path, metric):
    run = new_run(loaded_scene, tmp_path, variant="no_tag", error_metric=metric, lambda_dssim=0.3)
    learn(run, 3)
    camera = loaded_scene.train[run.views.remaining[-1]]
    view = train.forward_backward(run, 4)
    error = pixel_errors(view.shown.image, camera.ground_truth(torch.zeros(3), "cpu"), SHARE_OF_DSSIM[metric])
    expected = explicit_errors(run, camera, error)
    found = view.errors
    assert (expected > 0).sum() > 30
    assert torch.allclose(found.double(), expected, rtol=1e-4, atol=1e-5 * expected.max().item())


def test_the_scale_of_the_auxiliary_loss_is_undone_to_the_bit(loaded_scene, tmp_path):
    errors = []
    for scale in (2.0**-10, 2.0**-20):
        run = new_run(loaded_scene, tmp_path, variant="no_tag", aux_scale=scale)
        view = train.forward_backward(run, 1)
        with torch.no_grad():
            collect(run, phase(1, run.settings), view)
        errors.append(run.model.statistics["error"])
    assert errors[0].max() > 0 and torch.equal(*errors)


def test_e_k_changes_no_other_gradient(loaded_scene, tmp_path):
    gradients = []
    for densify_by in ("gradient", "error"):
        run = new_run(loaded_scene, tmp_path, densify_by=densify_by)
        view = train.forward_backward(run, 1)
        assert (view.errors is not None) == (densify_by == "error")
        gradients.append({name: values.grad for name, values in run.model.raw.items()})
        gradients[-1]["screen"] = view.screen_gradients
    for name, without in gradients[0].items():
        assert torch.equal(without, gradients[1][name]), name


def test_e_k_of_several_views_is_their_largest_not_their_sum(loaded_scene, tmp_path):
    run = new_run(loaded_scene, tmp_path, variant="no_tag", densify_from_iter=1000)
    largest = torch.zeros(len(run.model), dtype=torch.float64)
    for iteration in range(1, 6):  # the model stays as it is: no step is taken
        camera = loaded_scene.train[run.views.remaining[-1] if run.views.remaining else 0]
        if not run.views.remaining:
            run.views.remaining = list(range(len(loaded_scene.train)))
            camera = loaded_scene.train[run.views.remaining[-1]]
        view = train.forward_backward(run, iteration)
        largest = torch.maximum(largest, explicit_errors(run, camera, view.shown.pixel_errors))
        with torch.no_grad():
            collect(run, phase(iteration, run.settings), view)
    errors = run.model.statistics["error"].double()
    assert torch.allclose(errors, largest, rtol=1e-4, atol=1e-5 * largest.max().item())


def test_views_of_all_sizes_count_alike(loaded_scene, tmp_path):
    class Twice:
        """The scene, said to be of larger pictures elsewhere."""

        def __getattr__(self, name):
            return 2 * loaded_scene.median_pixels if name == "median_pixels" else getattr(loaded_scene, name)

    found = []
    for either in (loaded_scene, Twice()):
        run = new_run(either, tmp_path, variant="no_tag")
        view = train.forward_backward(run, 1)
        with torch.no_grad():
            collect(run, phase(1, run.settings), view)
        found.append(run.model.statistics["error"])
    assert found[0].max() > 0 and torch.equal(2 * found[0], found[1])


def test_smaller_views_count_as_many_pixels_as_they_stand_for(loaded_scene, tmp_path, monkeypatch):
    monkeypatch.setattr("scene.smaller.SMALLEST_SIDE", 4)
    found = []
    for full_from in (0, 2):
        run = new_run(
            loaded_scene, tmp_path, variant="tag_gradprune", resolution_schedule=full_from, energy_contrast=0
        )
        for name in ("opacities", "scales"):
            with torch.no_grad():
                run.model.raw[name] += 1  # broad enough for both sizes
        view = train.forward_backward(run, 1)
        with torch.no_grad():
            collect(run, phase(1, run.settings), view)
        sums = [run.model.statistics[name].sum() for name in ("error", "contribution_so_far", "max_radius")]
        found.append(torch.stack([*map(torch.Tensor.double, sums), run.totals.error_so_far]))
    full, smaller = found
    assert view.pixels < loaded_scene.median_pixels / 3, "a quarter"
    assert torch.allclose(smaller, full, rtol=0.05), (smaller / full).tolist()


# Tags


def gone_on_with(run, folder):
    """What a later command makes of the run's checkpoint."""
    path = folder / f"chkpnt{run.iteration}.safetensors"
    save_state(run, path)
    return resume(find_resume_point({"start_checkpoint": str(path)}), run.scene, folder)


def test_tags_through_clone_split_prune_and_resume(loaded_scene, tmp_path, monkeypatch):
    monkeypatch.setattr(GaussianModel, "sort_by_place", lambda model: None)  # who is who is told by the row
    run = new_run(loaded_scene, tmp_path, variant="tag", error_floor=0.0, growth_cap=0.5)
    model = run.model
    learn(run, 10)
    model.statistics["error"].zero_()
    model.statistics["error_views"].fill_(1)
    sizes = model.scales.amax(1)
    run.settings.densification.percent_dense = sizes.median().item() / loaded_scene.extent
    large, small = sizes.argmax().item(), sizes.argmin().item()
    model.statistics["error"][[large, small]] = 5.0
    model.tags["generation"][large], model.tags["birth"][small] = 2, 7
    model.tags["low_streak"][small] = 1
    count, small_mean = len(model), model.means[small].detach().clone()
    run.iteration = 99
    with torch.no_grad():
        densify_and_prune(run, phase(100, run.settings))
    assert len(model) == count + 2
    assert model.tags["birth"][-3:].tolist() == [100, 100, 100]  # the clone, the two halves
    assert model.tags["generation"][-3:].tolist() == [1, 3, 3]
    parent = (model.means[:-3] == small_mean).all(1).nonzero().item()
    assert model.tags["birth"][parent] == 7 and model.tags["generation"][parent] == 0
    assert model.tags["low_streak"][parent] == 0  # it starts anew, unless the round at hand finds it low
    assert (model.tags["birth"][:-3] <= 7).all()
    model.tags["generation"] = torch.arange(len(model), dtype=torch.int32)  # tells who is who from here on
    low = [0, -3, -2, -1]  # one of the scene's and the three newborn
    with torch.no_grad():
        model.raw["opacities"][low] = -9.0  # far below the threshold
    before = model.rows(torch.ones(len(model), dtype=torch.bool))
    left_by_round = (  # patience of 2 rounds, lifespan of 300: who is left, and the streaks of the four
        (200, slice(None), [1, 1, 1, 1]),
        (300, slice(1, None), [0, 2, 2, 2]),  # another has the first one's place
        (400, slice(1, -3), [0, 0, 0, 0]),
    )
    for iteration, left, streaks in left_by_round:
        run = gone_on_with(run, tmp_path)
        with torch.no_grad():
            densify_and_prune(run, phase(iteration, run.settings))
        run.iteration = iteration
        for name in ("means", "birth", "generation"):
            assert torch.equal((run.model.raw | run.model.tags)[name], before[name][left]), (name, iteration)
        expected = torch.zeros(len(run.model), dtype=torch.int32)
        expected[low] = torch.tensor(streaks, dtype=torch.int32)
        assert torch.equal(run.model.tags["low_streak"], expected), iteration


# Budgets


def grown_run(loaded_scene, tmp_path, **flags):
    shared = {"variant": "tag_gradprune", "densification_interval": 10, "prune_interval": 10}
    shared |= {"iterations": 150, "densify_until_iter": 101, "growth_cap": 0.5, "error_floor": 4e-4}
    run = new_run(loaded_scene, tmp_path, **shared | flags)
    learn(run, run.settings.optimization.iterations)
    return run


def count(run):
    return len(run.model.baked(run.settings.importance.importance_gate))


@pytest.mark.parametrize("budget", [80, 133])
@pytest.mark.parametrize("densify_by", ["error", "gradient"])
def test_a_budget_is_used_but_never_exceeded(loaded_scene, tmp_path, budget, densify_by):
    flags = {"densify_by": densify_by, "tag_lifespan": 30, "prune_until_iter": 150}
    assert count(grown_run(loaded_scene, tmp_path, **flags)) > budget
    assert 0.98 * budget <= count(grown_run(loaded_scene, tmp_path, max_gaussians=budget, **flags)) <= budget


def test_a_round_prunes_no_more_than_its_cap(loaded_scene, tmp_path):
    run = new_run(loaded_scene, tmp_path, prune_opacity=0.99, prune_cap=0.05)  # all are low
    assert int(density_control.select_for_pruning(run, phase(600, run.settings))[1].sum()) == math.ceil(
        0.05 * len(run.model)
    )


@pytest.mark.parametrize("importance", ["none", "full"])
def test_thinning_keeps_its_share_or_fills_the_budget(loaded_scene, tmp_path, importance):
    flags = {"prune_by": "both", "importance": importance, "importance_from_iter": 20, "tag_lifespan": 10}
    flags |= {"iterations": 201, "prune_until_iter": 201, "scale_rates": False}
    run = grown_run(loaded_scene, tmp_path, **flags, prune_keep=0.25)
    grown = run.totals.grown.item()
    assert count(run) == pytest.approx(0.25 * grown, rel=0.02)
    budget = round(0.3 * grown)
    run = grown_run(loaded_scene, tmp_path, **flags, prune_keep=0.5, max_gaussians=budget)
    assert run.totals.grown > 1.5 * budget
    assert 0.98 * budget <= count(run) <= budget


def test_the_controller_fills_the_budget_by_importance_alone(loaded_scene, tmp_path):
    flags = {"prune_by": "importance", "importance": "full", "importance_from_iter": 20, "tag_lifespan": 10}
    flags |= {"iterations": 211, "prune_until_iter": 201, "prune_keep": 0.5, "max_gaussians": 100}
    run = grown_run(loaded_scene, tmp_path, **flags, importance_control="budget", lambda_importance=0.01)
    assert run.totals.grown > 150
    assert run.model.network is None and 98 <= count(run) <= 100
    assert 0.001 <= run.totals.lambda_importance <= 0.1 and run.totals.lambda_importance != 0.01


def test_the_file_of_a_run_that_prunes_to_its_end_fills_the_budget(loaded_scene, tmp_path):
    flags = {"variant": "tag_gradprune_decomp", "prune_by": "importance", "importance_from_iter": 20}
    flags |= {"prune_until_iter": 30_000, "importance_until_iter": 0, "importance_start": 0.4}
    run = grown_run(loaded_scene, tmp_path, **flags, max_gaussians=100, iterations=210)
    assert run.model.network is None and 98 <= count(run) == len(run.model) <= 100


STEERED = {"variant": "tag_gradprune_decomp", "prune_by": "importance", "importance_control": "budget"}
STEERED |= {"scale_schedule": False, "importance_from_iter": 1000}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"max_gaussians": 0}, "which one.*--target_size_mb"),
        ({"variant": "tag"}, "there is none to prune by"),
        ({"variant": "tag", "prune_by": "opacity"}, "there is none to steer"),
        ({"prune_by": "both"}, "from iteration 15000 on.*baked at 15000.*--prune_by"),
        ({"iterations": 7000}, "from iteration 15000 on.*baked at 7000.*--scale_schedule"),
        (
            {"iterations": 1000, "importance_control": "fixed"},
            "--prune_by importance: .*from iteration 1000 on, and baked at 1000.*--scale_schedule",
        ),
    ],
)
def test_importance_that_could_not_be_learnt_or_steered_is_an_error(change, complaint):
    train.check_schedules(make_settings(STEERED | {"max_gaussians": 9}))
    with pytest.raises(ValueError, match=complaint):
        train.check_schedules(make_settings(STEERED | {"max_gaussians": 9} | change))


def test_a_target_size_bounds_the_file(loaded_scene, tmp_path):
    target = 0.03
    run = new_run(loaded_scene, tmp_path, variant="tag", target_size_mb=target)
    size = []
    for extra in (0, 1):
        repeated = torch.arange(run.budget + extra) % len(run.model)
        model = GaussianModel({name: rows[repeated] for name, rows in run.model.raw.items()})
        model.sh_degree = 3
        model.save_ply(tmp_path / "x.ply")
        size.append((tmp_path / "x.ply").stat().st_size)
    assert 0.98 * 1e6 * target < size[0] <= 1e6 * target < size[1] + 64
    assert gaussians_in_ply(100, 3) == 0
    limited = new_run(loaded_scene, tmp_path, target_size_mb=target, max_gaussians=7)
    assert limited.budget == 7


def test_more_points_than_the_budget_are_thinned_out_from_the_start(loaded_scene, tmp_path):
    run = new_run(loaded_scene, tmp_path, max_gaussians=25)
    assert len(run.model) == 25
    points = {tuple(point) for point in loaded_scene.points.xyz.astype("float32").tolist()}
    assert {tuple(point) for point in run.model.means.tolist()} < points
    again, other = (new_run(loaded_scene, tmp_path, max_gaussians=25, seed=seed) for seed in (0, 1))
    assert torch.equal(run.model.means, again.model.means)
    assert not torch.equal(run.model.means, other.model.means)


# Importance


def importance_run(loaded_scene, tmp_path, iterations=8, **flags):
    flags = {"variant": "tag_gradprune_decomp", "importance_from_iter": 3, "importance_interval": 1} | flags
    run = new_run(loaded_scene, tmp_path, **flags)
    learn(run, iterations)
    return run


def test_importance_never_sees_opacity(loaded_scene, tmp_path):
    run = importance_run(loaded_scene, tmp_path)
    before = run.model.compute_importance().detach()
    assert before.std() > 0
    with torch.no_grad():
        run.model.raw["opacities"].copy_(torch.randn(len(run.model), 1))
    assert torch.equal(run.model.compute_importance(), before)
    with torch.no_grad():
        run.model.raw["scales"] += 1
    assert not torch.equal(run.model.compute_importance(), before)


@pytest.mark.parametrize("kind", sorted(INPUTS))
def test_importance_starts_late_at_its_start_value(loaded_scene, tmp_path, kind):
    run = importance_run(loaded_scene, tmp_path, iterations=2, importance=kind, importance_start=0.9)
    assert run.model.compute_importance() is None
    train.set_schedules(run, phase(3, run.settings))
    assert torch.allclose(run.model.compute_importance(), torch.tensor(0.9))
    learn(run, 10)
    learnt = run.model.compute_importance().detach()
    assert not torch.allclose(learnt, torch.tensor(0.9), atol=1e-4)
    assert (learnt.std() > 1e-6) == (kind != "constant"), (
        "each Gaussian its own, unless there is nothing to see"
    )


def test_the_price_of_the_undecided_reaches_the_network(loaded_scene, tmp_path):
    gradients = []
    for price in (0.0, 2.0):
        run = importance_run(loaded_scene, tmp_path, 2, importance_start=0.9, lambda_binary=price)
        train.set_schedules(run, phase(3, run.settings))
        loss = train.forward_backward(run, 3).loss.item()
        with torch.enable_grad():
            s = run.model.hold_importance()
            run.model.compute_importance().backward(s.grad)
        gradients.append(run.model.network.bias.grad.item())
    slope = (1 - 2 * 0.9) * 0.9 * (1 - 0.9)  # of s (1 - s) by the logit of s, where all s are 0.9
    assert gradients[1] - gradients[0] == pytest.approx(2.0 * loss * slope, rel=1e-3)


def test_importance_stays_between_its_steps_and_learns_from_all_views_between_them(
    loaded_scene, tmp_path, monkeypatch
):
    run = importance_run(loaded_scene, tmp_path, 2, importance_interval=4, importance_from_iter=1)
    held = run.model.hold_importance()
    network = {name: values.clone() for name, values in run.model.network.state_dict().items()}
    gathered = held.grad.clone()
    for iteration in (3, 4):
        view = train.forward_backward(run, iteration)
        assert run.model.hold_importance() is held and view.radii.any()
        added, gathered = held.grad - gathered, held.grad.clone()
        assert added.any()
        if iteration == 3:
            train.update(run, iteration, view)
            assert all(
                torch.equal(values, network[name]) for name, values in run.model.network.state_dict().items()
            )
    with torch.no_grad():
        run.model.network.out.fill_(0.1)  # so that the latents have an influence
    whole = run.model.network(run.model.raw)
    inputs = (run.model.network.bias, run.model.raw["latents"])
    expected, of_latents = torch.autograd.grad(whole, inputs, gathered)
    found = []
    monkeypatch.setattr(run.model, "step", lambda _: found.append(run.model.raw["latents"].grad.clone()))
    train.update(run, 4, view)
    assert torch.allclose(found[0], of_latents, rtol=1e-4, atol=1e-5 * of_latents.abs().max().item())
    assert not torch.equal(run.model.network.bias, network["bias"]) and run.model.network.bias.grad is None
    moment = run.model.network_optimizer.state[run.model.network.bias]["exp_avg"]
    assert torch.allclose(moment, 0.1 * expected, rtol=1e-4), "Adam's first step, by the sum of all four"
    assert run.model.hold_importance() is not held and run.model.hold_importance().grad is None


def test_importance_is_evaluated_anew_when_rows_change(loaded_scene, tmp_path):
    run = importance_run(loaded_scene, tmp_path, 2, importance_interval=100, importance_from_iter=1)
    held = run.model.hold_importance()
    run.model.keep(torch.arange(len(run.model)) != 3)
    fewer = run.model.hold_importance()
    run.model.append(run.model.rows(torch.arange(len(run.model)) < 2))
    assert len(held) - 1 == len(fewer) == len(run.model.hold_importance()) - 2


@pytest.mark.parametrize("done", [4, 6])  # right after a step of the network, and between two
def test_importance_goes_on_from_a_checkpoint_between_its_steps(loaded_scene, tmp_path, done):
    run = importance_run(loaded_scene, tmp_path, done, importance_interval=4)
    again = gone_on_with(run, tmp_path)
    for either in (run, again):
        learn(either, 7)
    theirs = again.model.state_tensors()
    for name, values in run.model.state_tensors().items():
        assert torch.equal(values, theirs[name]), name


def test_the_share_of_the_error_never_rises(loaded_scene, tmp_path):
    """Else pruning, which raises the error, would lead to more pruning."""
    run, shares = new_run(loaded_scene, tmp_path, variant="tag_gradprune"), []
    for spoil in (False, False, True, False):
        if spoil:  # nearly nothing is seen: the error of this round is large
            with torch.no_grad():
                run.model.raw["opacities"].fill_(-8.0)
        learn(run, len(loaded_scene.train))
        shares.append(run.totals.mean_error_per_gaussian.item())
    assert shares == sorted(shares, reverse=True) and shares[1] < shares[0]
    assert shares[2] == shares[1], "the spoilt round"


@pytest.mark.parametrize(
    ("kind", "prune_by"), [("sampled", "importance"), ("soft", "importance"), ("sampled", "both")]
)
def test_baked_importance_leaves_what_a_file_would_hold(loaded_scene, tmp_path, kind, prune_by):
    """Opacities times s in the file, without those that nobody sees, where energies judge what is left."""
    flags = {"importance_until_iter": 20, "prune_until_iter": 20 if prune_by == "importance" else 1000}
    flags |= {"prune_by": prune_by, "thin_energy": 0, "densify_until_iter": 20}
    run = importance_run(loaded_scene, tmp_path, importance_gate=kind, importance_start=0.6, **flags)
    with torch.no_grad():
        run.model.raw["latents"].normal_(std=3.0, generator=torch.Generator().manual_seed(0))
        run.model.network.out.copy_(torch.linspace(-1, 1, 32))
    s = run.model.compute_importance()
    assert (s < 0.5).any() and (s > 0.5).any()
    kind = "soft" if prune_by == "both" else kind
    expected, before = run.model.baked(kind), len(run.model)
    train.set_schedules(run, phase(20, run.settings))
    assert run.model.network is None and "latents" not in run.model.raw
    assert {group["name"] for group in run.model.optimizer.param_groups} == set(expected.raw)
    for name, values in expected.raw.items():
        assert torch.equal(run.model.raw[name], values), name
    assert (len(run.model) < before) == (kind == "sampled")
    assert run.history.record["steps"][-1]["pruned"] == before - len(run.model)
    run.iteration = 20
    learn(run, 3)
    assert run.model.network is None, "it does not start again"
    assert all(torch.isfinite(values).all() for values in run.model.raw.values())


@pytest.mark.parametrize("prune_by", ["both", "importance"])
def test_files_saved_on_the_way_hold_what_baking_would_leave(loaded_scene, tmp_path, prune_by):
    run = importance_run(loaded_scene, tmp_path, importance_gate="sampled", prune_by=prune_by)
    run.settings.run.save_iterations = [3]
    with torch.no_grad():
        run.model.raw["latents"].normal_(std=3.0, generator=torch.Generator().manual_seed(0))
        run.model.network.out.copy_(torch.linspace(-1, 1, 32))
    save_if_due(run, 3, Progress(0, 3, quiet=True))
    saved = GaussianModel.load_ply(point_cloud_path(tmp_path, 3), run.model.device)
    expected = run.model.baked("soft" if prune_by == "both" else "sampled")
    assert len(saved) == len(expected) == run.measures["3"]["gaussians"]
    assert torch.equal(saved.raw["opacities"], expected.raw["opacities"])


def test_settling_leaves_what_fills_the_budget(loaded_scene, tmp_path):
    flags = {"importance_until_iter": 20, "importance_start": 0.4, "max_gaussians": 30, "thin_energy": 0}
    flags |= {"prune_by": "importance", "prune_until_iter": 20, "densify_until_iter": 20}
    run = importance_run(loaded_scene, tmp_path, **flags)
    with torch.no_grad():
        run.model.raw["latents"].normal_(generator=torch.Generator().manual_seed(0))
    before, run.settings.densification.max_gaussians = len(run.model), 20
    best = run.model.means[run.model.compute_importance()[:, 0].topk(20).indices]
    assert before > 20 and (run.model.compute_importance() < 0.5).all()
    train.set_schedules(run, phase(20, run.settings))
    assert {tuple(m) for m in run.model.means.tolist()} == {tuple(m) for m in best.tolist()}


def test_children_inherit_the_latent(loaded_scene, tmp_path):
    run = importance_run(loaded_scene, tmp_path)
    model = run.model
    with torch.no_grad():
        model.raw["latents"].copy_(torch.arange(len(model))[:, None].expand(-1, 4))
    model.statistics["error"].fill_(1.0)
    model.statistics["error_views"].fill_(1)
    model.statistics["error"][4] = 1e6
    run.settings.densification.error_floor = run.settings.densification.error_coherence = 0.0
    with torch.no_grad():
        cloned, split = density_control.densify(run, phase(100, run.settings))
    born = model.tags["birth"] == 100
    assert cloned + split >= 1 and born.any()
    assert (model.raw["latents"][born] == 4.0).all()


def test_gates():
    s = torch.tensor([[0.2], [0.5], [0.9]], requires_grad=True)
    assert torch.equal(gate(s, "soft", key=0), s)
    assert gate(s, "rounded", key=0)[:, 0].tolist() == [0, 1, 1]
    draws = torch.stack([gate(s, "sampled", random_key(0, iteration)).detach() for iteration in range(4000)])
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    assert torch.allclose(draws.mean(0), s.detach(), atol=0.03)
    for kind in ("soft", "rounded", "sampled"):
        (gradient,) = torch.autograd.grad(gate(s, kind, key=0).sum(), s)
        assert torch.equal(gradient, torch.ones_like(s))


def test_random_gates_and_backgrounds_follow_from_seed_and_iteration(loaded_scene, tmp_path):
    runs = [importance_run(loaded_scene, tmp_path, random_background=True, seed=seed) for seed in (1, 1, 2)]
    runs[1].generator.manual_seed(5)  # has no part in them
    gates, backgrounds = [], []
    for run, iteration in zip([*runs, runs[0]], (4, 4, 4, 5)):
        importance = torch.full((len(run.model), 1), 0.5)
        gates.append(train.new_gates(run, phase(iteration, run.settings), importance))
        backgrounds.append(choose_background(run, iteration))
    for drawn in (gates, backgrounds):
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[3])
    assert torch.equal(choose_background(runs[0]), torch.zeros(3))  # for measuring


def test_the_exported_file_shows_what_the_importance_leaves(loaded_scene, tmp_path):
    run = importance_run(loaded_scene, tmp_path, importance_gate="soft")
    with torch.no_grad():
        run.model.network.bias.fill_(0.3)
    baked, background = run.model.baked("soft"), choose_background(run)
    baked.save_ply(tmp_path / "x.ply")
    read = GaussianModel.load_ply(tmp_path / "x.ply", run.model.device)
    read.active_sh_degree = baked.active_sh_degree
    camera = loaded_scene.train[0]
    with torch.no_grad():
        folded = render(camera, baked, background).image
        assert torch.allclose(render(camera, read, background).image, folded, atol=1e-5)
        trained = render(camera, run.model, background, importance=run.model.compute_importance()).image
        assert (
            (trained - folded).abs().mean()
            < 0.004
            < (trained - render(camera, run.model, background).image).abs().mean()
        )


def test_the_record_says_how_importance_goes_with_what_it_leaves_of_opacity(loaded_scene, tmp_path):
    run = importance_run(loaded_scene, tmp_path, importance="latent")
    monitoring.record_distributions(run, 1)
    assert "s_k" in run.history.record["distributions"][0]["values"]
    with torch.no_grad():
        run.model.network.out.fill_(1.0)
        run.model.network.hidden.fill_(1.0)
        run.model.raw["latents"].zero_()
        run.model.raw["latents"][::2] = 1.0
    monitoring.record_distributions(run, 2)
    s, o = (
        values.detach()[:, 0].double().numpy()
        for values in (run.model.compute_importance(), run.model.opacities)
    )
    expected = np.corrcoef(s, s * o)[0, 1]
    assert run.history.record["distributions"][1]["importance_correlation"] == pytest.approx(expected)


def test_no_correlation_with_what_does_not_vary():
    rising, constant = torch.arange(4.0)[:, None], torch.ones(4, 1)
    assert monitoring.correlation(rising, 2 * rising + 1) == pytest.approx(1)
    assert monitoring.correlation(rising, -rising) == pytest.approx(-1)
    assert monitoring.correlation(rising, constant) is None
    assert monitoring.correlation(rising[:1], rising[:1]) is None


def test_what_nobody_can_see_is_not_exported(loaded_scene, tmp_path):
    run = importance_run(loaded_scene, tmp_path, importance="latent")
    with torch.no_grad():
        run.model.network.bias.fill_(-5.0)
        run.model.network.out.fill_(1.0)
        run.model.network.hidden.fill_(1.0)
        run.model.network.hidden_bias.zero_()
        run.model.raw["latents"].zero_()
        run.model.raw["latents"][:10] = 1.0
    baked = run.model.baked("sampled")
    assert len(baked) == 10
    assert torch.allclose(baked.opacities, run.model.opacities[:10], atol=1e-6)
    assert (run.model.baked("soft").opacities >= SMALLEST_ALPHA * 0.999).all()


def test_importance_prunes_without_any_opacity_rule(loaded_scene, tmp_path):
    run = importance_run(
        loaded_scene, tmp_path, prune_by="importance", tag_lifespan=0, tag_patience=1, prune_cap=0
    )
    with torch.no_grad():
        run.model.raw["opacities"].fill_(-9.0)
    assert not density_control.select_for_pruning(run, phase(100, run.settings))[1].any()
    network, run.model.network = run.model.network, None  # as before importance is learnt: nobody is judged
    for kind in ("fixed", "quantile"):
        run.settings.pruning.prune_threshold, run.settings.pruning.prune_quantile = kind, 0.5
        assert not density_control.select_for_pruning(run, phase(100, run.settings))[1].any(), kind
    run.model.network, run.settings.pruning.prune_threshold = network, "fixed"
    with torch.no_grad():
        run.model.network.bias.fill_(-9.0)
    assert density_control.select_for_pruning(run, phase(100, run.settings))[1].all()


@pytest.mark.parametrize(("kind", "gone"), [("gradient", [1]), ("importance", [0]), ("both", [0, 1])])
def test_a_low_energy_or_a_low_importance_prunes_by_both(loaded_scene, tmp_path, kind, gone):
    flags = {"tag_lifespan": 0, "tag_patience": 1, "prune_cap": 0}
    run = importance_run(loaded_scene, tmp_path, prune_by=kind, importance="latent", **flags)
    network, latents, totals = run.model.network, run.model.raw["latents"], run.totals
    with torch.no_grad():
        for weights, value in ((network.hidden, 1), (network.hidden_bias, 0), (network.out, 1)):
            weights.fill_(value)
        network.bias.fill_(-1.0)
        latents.fill_(1.0)
        latents[0] = 0.0  # s = sigmoid(-1) < 1/2
    totals.round_start.fill_(8), totals.mean_error_per_gaussian.fill_(4.0)
    run.model.statistics["contribution"].fill_(1.0)
    run.model.statistics["contribution"][1] = 0.03  # 0.0075 of the share of one Gaussian, less than 0.01
    assert (
        density_control.select_for_pruning(run, phase(100, run.settings))[1].nonzero()[:, 0].tolist() == gone
    )


# Variants

ROWS = ("3dgs", "no_tag", "tag", "tag_25k", "tag_gradprune", "tag_gradprune_decomp")
TABLE = {  # docs/method.md: what sets the rows apart
    "densify_by": ("gradient", "error", "error", "error", "error", "error"),
    "scale_schedule": (False, True, True, True, True, True),
    "resolution_schedule": (0, 15_000, 15_000, 15_000, 15_000, 15_000),
    "growth_cap": (0.0, 0.03, 0.03, 0.03, 0.03, 0.03),
    "split": ("random", "long_axis", "long_axis", "long_axis", "long_axis", "long_axis"),
    "percent_dense": (0.01, 0.0, 0.0, 0.0, 0.0, 0.0),
    "clone_opacity": ("kept", "corrected", "corrected", "corrected", "corrected", "corrected"),
    "scale_rates": (False, True, True, True, True, True),
    "position_lr_final": (1.6e-6, 8e-6, 8e-6, 8e-6, 8e-6, 8e-6),
    "tag_lifespan": (0, 0, 300, 300, 300, 300),
    "tag_patience": (1, 1, 2, 2, 2, 2),
    "prune_by": ("opacity", "opacity", "opacity", "opacity", "removal_energy", "both"),
    "prune_until_iter": (0, 0, 0, 25_000, 0, 25_000),
    "prune_cap": (0.0, 0.0, 0.0, 0.0, 0.0, 0.1),
    "thin_energy": (0.0, 0.0, 0.0, 0.0, 0.0, 1.0),
    "importance": ("none", "none", "none", "none", "none", "full"),
    "importance_from_iter": (1000, 1000, 1000, 1000, 1000, 10_000),
    "importance_until_iter": (0, 0, 0, 0, 0, 15_000),
}
IN_ALL = {  # and what all have in common
    "densify_until_iter": 15_000, "densification_interval": 100, "prune_interval": 100,
    "feature_lr": 0.0025, "scaling_lr": 0.005, "opacity_lr": 0.025, "sh_degree_interval": 1000,
    "error_metric": "mixed", "error_reduce": "max", "error_coherence": 1.0, "error_fineness": 0.0,
    "error_threshold": "quantile", "error_quantile": 0.2, "error_floor": 2e-4, "aux_scale": 2.0**-20,
    "opacity_control": "reset", "prune_threshold": "fixed",
    "prune_opacity": 0.005, "prune_importance": 0.5, "prune_energy": 0.01,
    "prune_keep": 1.0, "energy_contrast": 0.01,
    "importance_interval": 10, "importance_gate": "sampled",
    "importance_control": "fixed",
    "lambda_importance": 0.1, "lambda_binary": 0.0, "max_gaussians": 0, "target_size_mb": 0.0,
}  # fmt: skip


@pytest.mark.parametrize("variant", ROWS)
def test_variants_are_the_rows_of_the_table(variant):
    settings = make_settings({"variant": variant}).flat()
    expected = IN_ALL | {name: values[ROWS.index(variant)] for name, values in TABLE.items()}
    assert {name: settings[name] for name in expected} == expected
    assert set(VARIANTS[variant]) <= set(TABLE)


def test_the_table_has_all_variants_and_a_lambda_given_by_hand_wins():
    assert tuple(VARIANTS) == ROWS
    settings = make_settings({"variant": "tag_gradprune_decomp", "lambda_importance": 0.3}).flat()
    assert settings["lambda_importance"] == 0.3 and settings["prune_by"] == "both"


def test_the_gap_between_file_and_training_render_is_reported(loaded_scene, tmp_path):
    gaps = {}
    for kind in ("soft", "sampled"):
        run = new_run(
            loaded_scene,
            tmp_path,
            variant="tag_gradprune_decomp",
            importance_gate=kind,
            importance_from_iter=1,
        )
        learn(run, 3)
        state = run.generator.get_state()
        monitoring.report_export_gap(run, 3, Progress(0, 3, quiet=True))
        assert torch.equal(state, run.generator.get_state())  # measuring changes nothing
        gaps[kind] = run.measures["3"]["export_gap"]
        assert monitoring.export_gap_iterations(run) == {7_000, 14_999, 30_000}
    assert 0 < gaps["soft"]["mean"] < gaps["soft"]["percentile_99.9"] < 3 * SMALLEST_ALPHA  # faint rims only
    assert gaps["sampled"]["mean"] > 5 * gaps["soft"]["mean"]  # s = 0.95: a twentieth is drawn as 0
