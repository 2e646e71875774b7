"""Numbers that are none, views that show nothing: said when it happens, with what was good left alone."""

from __future__ import annotations

import shutil

import pytest
from commands import fails

import train
from utils import checkpoints, run_folder

FLAGS = (
    "--iterations 30 --checkpoint_iterations 10 --sh_degree_interval 5 --threads 1 --disable_viewer".split()
)


@pytest.fixture
def spoil(monkeypatch):
    """Has an iteration's gradients spoilt before its step."""

    def at(iteration, name, value, row=3):
        step = train.collect

        def collect(run, due, view):
            step(run, due, view)
            if due.iteration == iteration:
                run.model.raw[name].grad[row] = value

        monkeypatch.setattr(train, "collect", collect)

    return at


@pytest.mark.parametrize("name", ["means", "scales", "sh_rest", "opacities"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_no_number_ends_training_at_once(run_here, scene, tmp_path, spoil, name, value):
    spoil(17, name, value)
    process = run_here("train.py", "-s", scene, "-m", tmp_path / "run", *FLAGS)
    assert fails(process, f"iteration 17: the {name} of 1 of 60 Gaussians have become NaN or infinite")
    kept = run_folder.checkpoint_path(tmp_path / "run", 10)
    assert f"{kept} is from before that" in process.stderr
    assert checkpoints.load_checkpoint(kept)[1]["iteration"] == 10
    assert run_folder.saved_iterations(tmp_path / "run") == []  # no Gaussians that are none


def test_without_a_checkpoint_that_is_said(run_here, scene, tmp_path, spoil):
    spoil(4, "quats", float("nan"))
    process = run_here("train.py", "-s", scene, "-m", tmp_path / "run", *FLAGS)
    assert fails(process, "there is no checkpoint from before that")


def test_a_loss_that_is_no_number_ends_training_at_once(run_here, scene, tmp_path, monkeypatch):
    exact = train.policy.training_loss

    def broken(*images, **options):
        loss, error = exact(*images, **options)
        return loss * float("nan"), error

    monkeypatch.setattr(train.policy, "training_loss", broken)
    process = run_here("train.py", "-s", scene, "-m", tmp_path / "run", *FLAGS)
    assert fails(process, "iteration 1: the means of ")


def test_a_model_that_is_unsound_is_not_written_over_a_good_checkpoint(
    run_here, scene, tmp_path, monkeypatch
):
    saved = []
    monkeypatch.setattr("training.saving.save_checkpoint", lambda path, *_: saved.append(path))
    monkeypatch.setattr(train, "check_numbers", lambda *_: None)  # as on a GPU, between two looks
    step = train.collect

    def collect(run, due, view):
        step(run, due, view)
        run.model.raw["means"].grad[0] = float("nan") if due.iteration == 9 else 0.0

    monkeypatch.setattr(train, "collect", collect)
    process = run_here("train.py", "-s", scene, "-m", tmp_path / "run", *FLAGS)
    assert fails(process, "iteration 10: the means of 1 of 60") and saved == []


def test_a_view_that_shows_nothing_is_named_once(run_here, scene, tmp_path):
    turned = tmp_path / "scene"
    shutil.copytree(scene, turned)
    images = turned / "sparse" / "0" / "images.txt"
    lines = images.read_text().splitlines()
    place = next(index for index, line in enumerate(lines) if line.endswith("view_4.png"))
    words = lines[place].split()
    words[1:8] = "0 0 1 0 0 0 -4".split()  # it looks away from everything
    lines[place] = " ".join(words)
    images.write_text("\n".join(lines))
    process = run_here("train.py", "-s", turned, "-m", tmp_path / "run", *FLAGS)
    assert process.returncode == 0
    assert process.stdout.count("No Gaussian is seen in the view") == 1
    assert "No Gaussian is seen in the view view_4.png: is its camera right?" in process.stdout


def test_a_gaussian_that_explodes_ends_training(run_here, scene, tmp_path, monkeypatch):
    step = train.collect

    def collect(run, due, view):
        step(run, due, view)
        if due.iteration == 6:
            run.model.raw["scales"].data[2, 1] = 200.0  # its exponential is infinite

    monkeypatch.setattr(train, "collect", collect)
    process = run_here("train.py", "-s", scene, "-m", tmp_path / "run", *FLAGS)
    assert fails(process, "iteration 6: the scales of some of 60 Gaussians, too large for a number")
