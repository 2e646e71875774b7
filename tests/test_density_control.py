"""What training does to the Gaussians by what every view tells of them (density_control.py)."""

import math
from dataclasses import replace

import pytest
import subfunction as policy
import torch
import train
from arguments import make_settings
from subfunction import phase
from training import density_control
from training_runs import learn, new_run, reference_rendering
from utils.rendering import render


def look(run, views):
    """Take in some views of a model that stays as it is; which cameras they were."""
    cameras = []
    for iteration in range(run.iteration + 1, run.iteration + views + 1):
        view = train.forward_backward(run, iteration)
        cameras += [camera for camera in run.scene.train if camera.image_name == view.name]
        with torch.no_grad():
            density_control.collect(run, phase(iteration, run.settings), view)
    run.iteration += views
    return cameras


def close(found, expected):
    return torch.allclose(found.double(), expected, rtol=1e-3, atol=1e-5 * expected.max().item())


def test_a_round_adds_up_removal_energies_and_errors_of_all_its_views(loaded_scene, tmp_path):
    run = new_run(
        loaded_scene, tmp_path, variant="tag_gradprune", densify_from_iter=1000, energy_contrast=0.0
    )
    views = len(loaded_scene.train)
    cameras = look(run, views)
    assert len({camera.image_name for camera in cameras}) == views > 5
    renderings = [reference_rendering(run, camera) for camera in cameras]
    energy = sum(rendering.statistics.removal_energy for rendering in renderings)
    black = torch.zeros(3)
    photos = [camera.ground_truth(black, run.model.device) for camera in cameras]
    squares = [
        (rendering.color - photo.double()).square().sum() for rendering, photo in zip(renderings, photos)
    ]
    share = (sum(squares) / len(run.model)).item()
    assert close(run.model.statistics["contribution"], energy)
    assert run.totals.mean_error_per_gaussian.item() == pytest.approx(share, rel=1e-4)
    scores = density_control.pruning_scores(run)
    assert close(scores, energy / share)
    look(run, views - 1)  # an incomplete round changes nothing
    assert torch.equal(density_control.pruning_scores(run), scores)
    run.model.tags["birth"][0] = run.iteration
    look(run, 1)
    scores = density_control.pruning_scores(run)
    assert scores[0].isnan() and close(scores[1:], energy[1:] / share)


def test_removal_energies_count_pixels_by_contrast_and_leave_masked_ones_out(loaded_scene, tmp_path):
    run = new_run(loaded_scene, tmp_path, variant="tag_gradprune", energy_contrast=0.02)
    camera = loaded_scene.train[0]
    masked = replace(camera, mask=torch.arange(camera.width)[None].expand(camera.height, -1) > 9)
    due, gt_image = phase(1, run.settings), camera.ground_truth(torch.zeros(3), run.model.device)
    weights = train.weights_of_pixels(run, due, masked, gt_image)
    expected = policy.energy_weights(gt_image, 0.02) * masked.mask
    assert torch.equal(weights, expected) and 0 < weights[:, 10:].min() < 0.9
    due = phase(1, make_settings({"variant": "tag"}))
    assert train.weights_of_pixels(run, due, camera, gt_image) is None  # no energies are asked for


def thinned_run(loaded_scene, tmp_path, **flags):
    """A run whose growth ends at iteration 100, and of which one round of views has been seen since."""
    shared = {"variant": "tag_gradprune_decomp", "importance": "none", "densify_until_iter": 100}
    shared |= {"prune_until_iter": 1000, "tag_lifespan": 0, "tag_patience": 1, "prune_cap": 0.1}
    run = new_run(loaded_scene, tmp_path, densify_from_iter=0, **shared | flags)
    run.iteration = 99
    views = len(loaded_scene.train)
    look(run, views - len(run.views.remaining) % views)
    return run


def pruned_at(run, iteration):
    with torch.no_grad():
        return density_control.prune(run, phase(iteration, run.settings))


def test_thinning_by_energy_waits_until_the_energies_are_measured_anew(loaded_scene, tmp_path):
    run = thinned_run(loaded_scene, tmp_path, thin_energy=1e6)  # everything is low
    views, count = len(loaded_scene.train), len(run.model)
    assert pruned_at(run, 200) == 0  # the round began while Gaussians grew
    look(run, views)
    assert pruned_at(run, 300) == math.ceil(round((1 - 0.9**2) * count, 6))  # two intervals
    count = len(run.model)
    assert pruned_at(run, 400) == 0
    run.iteration = 400
    look(run, views)  # began before the thinning
    assert pruned_at(run, 500) == 0
    look(run, views)
    assert pruned_at(run, 600) == math.ceil(round((1 - 0.9**3) * count, 6))


def test_energies_are_no_measure_while_opacities_recover_from_a_reset(loaded_scene, tmp_path):
    flags = {"variant": "tag_gradprune", "opacity_reset_interval": 100, "densify_until_iter": 150}
    flags |= {"prune_until_iter": 1000, "tag_lifespan": 150, "tag_patience": 1, "prune_energy": 1e6}
    run = new_run(loaded_scene, tmp_path, densify_from_iter=0, **flags)
    views = len(loaded_scene.train)
    look(run, views)
    run.iteration = 249
    look(run, views)  # begins at the first round's end, before the opacities have recovered
    assert pruned_at(run, 300) == 0
    look(run, views)
    with pytest.raises(ValueError, match="pruned the last"):
        pruned_at(run, 300)


def test_thinning_drops_what_is_worth_less_than_its_threshold(loaded_scene, tmp_path):
    run = thinned_run(loaded_scene, tmp_path, prune_cap=1.0)
    look(run, len(loaded_scene.train))
    scores = density_control.pruning_scores(run)
    run.settings.pruning.thin_energy = scores.median().item()
    kept = run.model.means[scores >= scores.median()]
    assert pruned_at(run, 300) > 10 and torch.equal(run.model.means, kept)


def test_the_least_error_is_that_of_rounds_after_growth_once_it_has_ended(loaded_scene, tmp_path):
    run = thinned_run(loaded_scene, tmp_path)
    views, totals = len(loaded_scene.train), run.totals
    totals.mean_error_per_gaussian.fill_(1e-9)  # of small photos, say
    look(run, views)
    error = totals.mean_error_per_gaussian.item()
    assert error > 1e-6
    look(run, views)  # from here on the least one
    totals.mean_error_per_gaussian.fill_(error / 2)
    look(run, views)
    assert totals.mean_error_per_gaussian.item() == error / 2


@pytest.mark.parametrize("importance", ["none", "full"])
def test_sensitivity_is_how_the_loss_changes_with_the_factor_on_an_opacity(
    loaded_scene, tmp_path, importance
):
    flags = {"variant": "tag", "prune_by": "sensitivity", "importance": importance, "importance_from_iter": 1}
    run = new_run(loaded_scene, tmp_path, importance_gate="soft", densify_from_iter=1000, **flags)
    train.set_schedules(run, phase(1, run.settings))
    views = len(loaded_scene.train)
    cameras, energy = look(run, views), run.model.statistics["contribution"].clone()
    losses, slopes = [], torch.zeros(len(run.model))
    for camera in cameras:
        factor = torch.ones(len(run.model), 1, requires_grad=True)
        s = 1 if importance == "none" else run.model.compute_importance().detach()
        image = render(camera, run.model, torch.zeros(3), importance=factor * s).image
        gt_image = camera.ground_truth(torch.zeros(3), run.model.device)
        losses.append(policy.training_loss(image, gt_image, run.settings.optimization.lambda_dssim)[0])
        slopes += torch.autograd.grad(losses[-1], factor)[0][:, 0].abs()
    assert close(energy, slopes.double()) and energy.max() > 0
    share = (sum(losses) / len(run.model)).item()
    assert run.totals.mean_error_per_gaussian.item() == pytest.approx(share, rel=1e-5)
    run.model.tags["birth"] -= 1000  # old enough
    run.settings.pruning.prune_energy = density_control.pruning_scores(run).median().item()
    streaks, prune_mask = density_control.select_for_pruning(run, phase(600, run.settings))
    assert torch.equal(streaks == 1, density_control.pruning_scores(run) < run.settings.pruning.prune_energy)


def chosen_alone(run, index):
    run.model.statistics["error"].zero_()
    run.model.statistics["error_views"].fill_(1)
    run.model.statistics["error"][index] = 1e6


@pytest.mark.parametrize("gate", ["none", "sampled", "soft"])
def test_a_clone_and_its_parent_are_together_as_opaque_as_the_parent_was(loaded_scene, tmp_path, gate):
    flags = {"variant": "tag", "percent_dense": 100.0, "error_floor": 0.0, "densify_from_iter": 1000}
    if gate != "none":
        flags |= {"importance": "full", "importance_gate": gate, "importance_from_iter": 2}
    run = new_run(loaded_scene, tmp_path, **flags)
    learn(run, 5)
    chosen_alone(run, 4)
    opacity, others = run.model.opacities[4].item(), run.model.opacities[5:].detach()
    s = run.model.compute_importance()[4].item() if gate == "soft" else 1.0
    with torch.no_grad():
        assert density_control.densify(run, phase(100, run.settings)) == (1, 0)
    pair = run.model.opacities[[4, -1], 0].tolist()
    expected = (1 - math.sqrt(1 - s * opacity)) / s
    assert pair == pytest.approx([expected, expected], rel=1e-4) and expected < 0.6 * opacity
    assert torch.equal(run.model.opacities[5:-1], others)


@pytest.mark.parametrize("control", ["reset", "decay", "none"])
def test_opacities_are_lowered_as_asked(loaded_scene, tmp_path, control):
    flags = {"opacity_control": control, "opacity_decay": 0.02, "opacity_reset_interval": 200}
    run = new_run(loaded_scene, tmp_path, variant="no_tag", **flags)
    learn(run, 5)
    raw = run.model.raw["opacities"]
    moment = run.model.optimizer.state[raw]["exp_avg"].clone()
    before = run.model.opacities.detach()
    assert moment.abs().min() > 0 and before.min() > 0.05
    with torch.no_grad():
        density_control.control_opacity(run, phase(200, run.settings))
    after, raw = run.model.opacities.detach(), run.model.raw["opacities"]
    expected = {"reset": torch.full_like(before, 0.01), "decay": before - 0.02, "none": before}[control]
    assert torch.allclose(after, expected, atol=1e-6)
    kept = run.model.optimizer.state[raw]["exp_avg"]
    assert torch.equal(kept, torch.zeros_like(moment) if control == "reset" else moment)


def test_opacities_are_left_alone_between_times(loaded_scene, tmp_path):
    for control in ("reset", "decay"):
        run = new_run(loaded_scene, tmp_path, opacity_control=control, opacity_reset_interval=200)
        before = run.model.raw["opacities"]
        with torch.no_grad():
            density_control.control_opacity(run, phase(150, run.settings))
        assert run.model.raw["opacities"] is before
