"""Several views before each step of Adam: what is added up, when things are due, and that runs go on."""

from __future__ import annotations

import pytest
import torch
from commands import fails
from training_runs import new_run

import subfunction as policy
import train
from arguments import VARIANTS, make_settings
from gaussian_model import ADAM_BETAS
from utils import run_folder

ITERATIONS = 30
FLAGS = f"""--views_per_step 4 --iterations {ITERATIONS} --scale_schedule --densification_interval 5
    --prune_interval 5 --tag_lifespan 10 --error_floor 6e-4 --threads 1 --disable_viewer""".split()


def settings(views, last=30_000, **flags):
    return make_settings({"views_per_step": views, "iterations": last, "variant": "3dgs"} | flags)


def test_steps_hold_each_iteration_once():
    assert policy.step_ends(0, settings(4, 10)) == [4, 8, 10]
    assert [list(policy.step_of(end, settings(4, 10))) for end in (4, 8, 10)] == [
        [1, 2, 3, 4],
        [5, 6, 7, 8],
        [9, 10],
    ]
    assert policy.step_ends(8, settings(4, 10)) == [10] and policy.step_ends(10, settings(4, 10)) == []
    assert policy.step_ends(3, settings(1, 6)) == [4, 5, 6]
    assert policy.step_of(7, settings(4, 10)) == policy.step_of(8, settings(4, 10))


@pytest.mark.parametrize("variant", sorted(VARIANTS))
@pytest.mark.parametrize("views", [3, 4, 7])
def test_what_is_due_once_is_due_in_as_many_steps(variant, views):
    one, several = (make_settings({"variant": variant, "views_per_step": v}) for v in (1, views))
    times = []
    for made in (one, several):
        phases = [policy.phase(end, made) for end in policy.step_ends(0, made)]
        times.append({name: sum(getattr(due, name) for due in phases) for name in policy.EVENTS})
    times[0].pop("steps_importance"), times[1].pop("steps_importance")  # oftener than there are steps
    assert times[0] == times[1] and times[0]["densifies"] > 100


def test_a_step_has_the_state_of_its_last_iteration():
    made = settings(4, resolution_schedule=10)
    assert [policy.phase(end, made).divisor for end in (4, 8, 12)] == [2, 2, 1]
    assert policy.phase(9, made) == policy.phase(12, made) and policy.phase(9, made).iteration == 12


def test_gradients_and_statistics_of_views_add_up(loaded_scene, tmp_path):
    flags = {"variant": "tag", "views_per_step": 3}
    together, names = new_run(loaded_scene, tmp_path, **flags), ("means", "sh_dc", "scales")
    views = [train.forward_backward(together, number) for number in (1, 2, 3)]
    sums = {name: torch.zeros_like(together.model.raw[name]) for name in names}
    alone = new_run(loaded_scene, tmp_path, **flags)
    for number, view in enumerate(views, 1):
        single = train.forward_backward(alone, number)
        assert single.name == view.name and torch.equal(single.errors, view.errors)
        assert torch.equal(single.screen_gradients, view.screen_gradients)
        for name in names:
            sums[name] += alone.model.raw[name].grad
        alone.model.optimizer.zero_grad()
    for name in names:
        assert sums[name].any() and torch.allclose(together.model.raw[name].grad, sums[name], rtol=1e-5)
    train.update(together, 3, *views)
    assert together.model.statistics["gradient_views"].max() == 3
    assert {int(state["step"]) for state in together.model.optimizer.state.values()} == {1}


def test_rates_and_betas_follow_the_number_of_views(loaded_scene, tmp_path):
    one, four = (new_run(loaded_scene, tmp_path, views_per_step=views) for views in (1, 4))
    for run in (one, four):
        train.set_schedules(run, policy.phase(1, run.settings))
    for group, larger in zip(one.model.optimizer.param_groups, four.model.optimizer.param_groups):
        expected = 2 * group["lr"]
        if group["name"] == "means":  # its rate is that of iteration 4
            expected *= policy.position_learning_rate(4, 1, one.settings.optimization)
            expected /= policy.position_learning_rate(1, 1, one.settings.optimization)
        assert larger["lr"] == pytest.approx(expected), group["name"]
        assert group["betas"] == ADAM_BETAS
        assert larger["betas"] == pytest.approx((0.9**4, 0.999**4))


def test_a_round_ends_with_its_last_view(loaded_scene, tmp_path):
    run = new_run(loaded_scene, tmp_path, views_per_step=2)
    count = len(run.scene.train)
    ends = [train.forward_backward(run, number).ends_round for number in range(1, 2 * count + 1)]
    assert ends == ([False] * (count - 1) + [True]) * 2


@pytest.mark.parametrize("variant", ["3dgs", "tag_gradprune_decomp"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(run_here, scene, tmp_path, stop_at, variant):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    begin = ("train.py", "-s", scene, "--variant", variant, *FLAGS, "--save_iterations", 10)
    assert run_here(*begin, "-m", whole).returncode == 0
    assert run_folder.saved_iterations(whole) == [12, ITERATIONS]  # the step that reaches it
    stop_at(16)
    assert run_here(*begin, "-m", stopped).returncode == 130
    stop_at(0)
    process = run_here("train.py", "--resume", "-m", stopped)
    assert process.returncode == 0, process.stderr
    for iteration in (12, ITERATIONS):
        first, second = (run_folder.point_cloud_path(folder, iteration) for folder in (whole, stopped))
        assert first.read_bytes() == second.read_bytes()


def test_no_views_make_no_step(run_here, scene, tmp_path):
    process = run_here("train.py", "-s", scene, "-m", tmp_path / "run", "--views_per_step", 0)
    assert fails(process, "--views_per_step: expected at least 1, got 0")
