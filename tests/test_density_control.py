"""What training does to the Gaussians by what every view tells of them (density_control.py)."""

import math

import pytest
import subfunction as policy
import torch
import train
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
    run = new_run(loaded_scene, tmp_path, variant="tag_gradprune", densify_from_iter=1000)
    views = len(loaded_scene.train)
    cameras = look(run, views)
    assert len({camera.image_name for camera in cameras}) == views > 5
    renderings = [reference_rendering(run, camera) for camera in cameras]
    energy = sum(rendering.statistics.removal_energy for rendering in renderings)
    black = torch.zeros(3)
    squares = [
        (rendering.color - camera.ground_truth(black, run.model.device).double()).square().sum()
        for rendering, camera in zip(renderings, cameras)
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
