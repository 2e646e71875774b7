"""benchmarks/gpu_step.py: what it trains, what it reports, and gsplat's step with a stand-in for gsplat."""

import importlib
import json
import sys
from types import ModuleType

import pytest
import torch
from test_gpu_smoke import on_the_make_believe_gpu
from test_make_believe_gpu import run_there
from tiny_scene import VIEWS, write_tiny_scene

from arguments import make_settings
from benchmarks.gsplat_step import GsplatStep
from benchmarks.workload import colmap_views, make_run, random_model, random_view

SMALL = ["--gaussians", "300", "--width", "48", "--height", "36", "--runs", "2"]
SETTINGS = make_settings({})
CPU = torch.device("cpu")


def tiny_run():
    views = random_view(48, 36, CPU)
    return make_run(random_model(300, views.cameras[0], CPU), views, SETTINGS)


class Strategy:
    """gsplat's, as far as it is called; it notes which gradients there are when it is asked."""

    def __init__(self):
        self.calls = []

    def initialize_state(self, scene_scale):
        return {}

    def step_pre_backward(self, params, optimizers, state, step, info):
        self.calls.append(("before", params["means"].grad is not None))

    def step_post_backward(self, params, optimizers, state, step, info, packed):
        self.calls.append((packed, params["means"].grad is not None))


def rasterization(
    means, quats, scales, opacities, colors, viewmats, lenses, width, height, sh_degree, packed
):
    """An image that depends on all Gaussians."""
    assert viewmats.shape == (1, 4, 4) and lenses.shape == (1, 3, 3) and sh_degree == 3
    value = sum(tensor.mean() for tensor in (means, quats, scales, opacities, colors))
    return value.expand(1, height, width, 3), None, {"packed": packed}


@pytest.fixture
def gsplat(monkeypatch):
    package, strategy = ModuleType("gsplat"), ModuleType("gsplat.strategy")
    package.rasterization, strategy.DefaultStrategy = rasterization, Strategy
    monkeypatch.setitem(sys.modules, "gsplat", package)
    monkeypatch.setitem(sys.modules, "gsplat.strategy", strategy)


@pytest.mark.parametrize("packed", [True, False])
def test_gsplat_s_step_collects_statistics_and_moves_every_tensor(gsplat, packed):
    run = tiny_run()
    step = GsplatStep(run, packed)
    before = {name: values.detach().clone() for name, values in step.params.items()}
    ours = {name: values.detach().clone() for name, values in run.model.raw.items()}
    step()
    assert step.strategy.calls == [("before", False), (packed, True)]
    assert set(before) == {"means", "sh0", "shN", "opacities", "scales", "quats"}
    assert not any(torch.equal(before[name], step.params[name]) for name in before)
    assert all(torch.equal(ours[name], run.model.raw[name]) for name in ours)


def test_figures_are_printed_and_written_and_gsplat_may_be_absent(run_here, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gsplat", None)
    record = tmp_path / "step.json"
    done = run_here("benchmarks.gpu_step.py", *SMALL, "--profile", "--gsplat", "--json", record)
    assert done.returncode == 0, done.stderr
    (figures,) = json.loads(record.read_text())["workloads"]
    assert list(figures["milliseconds"])[:4] == [
        "forward", "forward and backward", "whole step", "whole step, in a row"
    ]  # fmt: skip
    assert figures["gaussians"] == 300 and figures["pairs"] > 300 and figures["bytes_per_second"] > 0
    assert "Rasterize" in {row["kernel"] for row in figures["kernels"]}
    assert figures["gsplat"]["problem"].startswith("ModuleNotFoundError: ")
    assert "whole step over the floor" in done.stdout and "gsplat: ModuleNotFoundError" in done.stdout


def test_gsplat_s_figures_stand_beside_ours(run_here, gsplat, tmp_path):
    record = tmp_path / "step.json"
    done = run_here("benchmarks.gpu_step.py", *SMALL, "--gsplat", "--json", record)
    assert done.returncode == 0, done.stderr
    (figures,) = json.loads(record.read_text())["workloads"]
    assert set(figures["gsplat"]) == {"gsplat, packed True", "gsplat, packed False"}


@on_the_make_believe_gpu
def test_devices_do_not_mix(project_dir):
    done = run_there(project_dir / "benchmarks/gpu_step.py", *SMALL, "--variant", "tag_gradprune_decomp")
    assert done.returncode == 0 and done.stdout.startswith("gpu: "), done.stderr


def test_cameras_and_points_of_colmap_without_photos(run_here, tmp_path):
    folder = write_tiny_scene(tmp_path / "scene")
    for photo in (folder / "images").iterdir():
        photo.unlink()
    views, points = colmap_views(folder, 24, CPU)
    assert len(views.cameras) == VIEWS and len(points) and views.extent > 0
    assert {(camera.width, camera.height) for camera in views.cameras} == {(24, 18)}
    assert views.cameras[0].ground_truth(torch.zeros(3), CPU).shape == (3, 18, 24)
    done = run_here("benchmarks.gpu_step.py", *SMALL, "--cameras", folder)
    assert done.returncode == 0 and "300 Gaussians" in done.stdout, done.stderr


def test_a_ply_comes_with_the_cameras_of_its_scene(run_here, tmp_path):
    ply, folder = tmp_path / "trained.ply", write_tiny_scene(tmp_path / "scene")
    tiny_run().model.save_ply(ply)
    done = run_here("benchmarks.gpu_step.py", *SMALL, "--ply", ply, "--cameras", folder)
    assert done.returncode == 0 and "300 Gaussians" in done.stdout, done.stderr
    done = run_here("benchmarks.gpu_step.py", *SMALL, "--ply", ply)
    assert done.returncode == 2 and "--ply: the cameras of its scene are needed too" in done.stderr


def test_a_model_without_points_is_refused(tmp_path):
    folder = write_tiny_scene(tmp_path / "scene")
    for path in (folder / "sparse/0").glob("points3D.*"):
        path.unlink()
    with pytest.raises(ValueError, match="scene: its COLMAP model has no points"):
        colmap_views(folder, 24, CPU)


def test_a_profiler_sees_whole_steps_alone(run_here, monkeypatch):
    gpu_step = importlib.import_module("benchmarks.gpu_step")
    calls = []
    forward_backward = gpu_step.train.forward_backward
    monkeypatch.setattr(
        gpu_step.train,
        "forward_backward",
        lambda *given, **may: calls.append(1) or forward_backward(*given, **may),
    )
    done = run_here("benchmarks.gpu_step.py", *SMALL, "--steps", "2")
    assert (done.returncode, done.stdout, len(calls)) == (0, "", 2), done.stderr
