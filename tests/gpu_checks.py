"""The project on a make-believe GPU: its commands run, and its training loop waits where it must.

test_make_believe_gpu.py runs this in a child process; alone it is
`python tests/make_believe_gpu.py tests/gpu_checks.py [pytest's flags]`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import train
from arguments import VARIANTS, make_settings
from depth_maps import entry, write_depth, write_parameters
from gaussian_model import GaussianModel
from make_believe_gpu import recorded_waits
from scene import load_scene
from scene_files import write_photo
from tiny_scene import HEIGHT, VIEWS, WIDTH, write_tiny_scene
from training.run import Training, start
from utils.progress import Progress

ITERATIONS = 40
# All that a long run does happens in these iterations too.
FLAGS = f"""-r 2 --iterations {ITERATIONS} --scale_schedule --densification_interval 5 --prune_interval 5
    --densify_grad_threshold 0.0001 --tag_lifespan 5 --prune_energy 0.05 --prune_opacity 0.09
    --error_floor 0.01 --eval --disable_viewer --quiet""".split()
KERNELS_READ = "the kernels read how many pairs there are at utils/rendering.py"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene whose photos have masks and depth maps."""
    folder = write_tiny_scene(tmp_path_factory.mktemp("scenes") / "tiny")
    mask = np.full((HEIGHT, WIDTH), 255, np.uint8)
    mask[:, :6] = 0
    for index in range(VIEWS):
        write_photo(folder / f"masks/view_{index}.png", mask)
        write_depth(folder / f"depths/view_{index}.png", 2**14)
    write_parameters(folder, **{f"view_{index}": entry() for index in range(VIEWS)})
    return folder


@pytest.fixture(scope="module")
def maskless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_scene(tmp_path_factory.mktemp("scenes") / "maskless")


# The make-believe GPU itself


def test_operations_on_two_devices_are_refused():
    there, here = torch.ones(3, device="gpu"), torch.ones(3)
    with pytest.raises(
        RuntimeError, match=r"same device, but add got some on gpu:0 and, of shape \(3,\), on the CPU"
    ):
        there + here
    with pytest.raises(RuntimeError, match="same device"):
        torch.cat([here, there])
    with pytest.raises(RuntimeError, match="same device"):
        there[torch.tensor([True, False, True], device="gpu")] = here[:2]
    assert (there + torch.tensor(2.0)).cpu().tolist() == [3, 3, 3]
    assert there.device == torch.device("gpu:0") and here.device.type == "cpu"


def test_what_crosses_to_numpy_is_refused():
    with pytest.raises((TypeError, RuntimeError)):
        torch.ones(3, device="gpu").numpy()


@pytest.mark.parametrize(
    "wait",
    [
        lambda there: there.sum().item(),
        lambda there: bool((there > 0).any()),
        lambda there: there.tolist(),
        lambda there: there.cpu(),
        lambda there: there.nonzero(),
        lambda there: there[there > 0],
        lambda there: there[torch.tensor([0])],
        lambda there: there.masked_select(there > 0),
        lambda there: there.unique(),
        lambda there: torch.equal(there, there),
        lambda there: there.copy_(torch.ones(3)),
        lambda there: torch.ones(3).to("gpu"),
        lambda there: torch.ones(3).to("gpu", non_blocking=True),  # not from page-locked memory
        lambda there: torch.tensor([1.0, 2.0], device="gpu"),
        lambda there: torch.as_tensor(np.ones(3), device="gpu"),
        lambda there: there.new_tensor([1.0]),
    ],
)
def test_each_wait_is_recorded_with_its_place(wait):
    there = torch.ones(3, device="gpu")
    with recorded_waits() as waits:
        wait(there)
    assert len(waits) == 1 and f"at tests/gpu_checks.py:{wait.__code__.co_firstlineno}" in waits[0]


def test_what_cuda_queues_is_no_wait():
    there, mask = (
        torch.ones(3, requires_grad=True, device="gpu"),
        torch.zeros(3, dtype=torch.bool, device="gpu"),
    )
    with recorded_waits() as waits:
        (2 * there).sum().backward()
        torch.ones(3).pin_memory().to("gpu", non_blocking=True)
        there.detach()[mask] = 0
        there.detach()[torch.zeros(1, dtype=torch.int64, device="gpu")]
        torch.full((3,), 1.0, device="gpu"), torch.zeros_like(there)
    assert waits == [] and there.grad.cpu().tolist() == [2, 2, 2]


# Commands


def read_history(folder: Path) -> tuple[dict[str, int], list[bool]]:
    """Return how many Gaussians were cloned, split and pruned, and when importance was being learned."""
    history = json.loads((folder / "history.json").read_text())
    names = ("cloned", "split", "pruned")
    learning = ["s_k" in entry["values"] for entry in history["distributions"]]
    return {name: sum(step[name] for step in history["steps"]) for name in names}, learning


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_every_variant_trains(run_here, maskless, tmp_path, variant):
    done = run_here("train.py", "-s", maskless, "-m", tmp_path, "--variant", variant, *FLAGS)
    assert done.returncode == 0, done.stderr
    changes, learning = read_history(tmp_path)
    assert changes["cloned"] + changes["split"] > 0 and changes["pruned"] > 0, changes
    if VARIANTS[variant].get("importance", "none") != "none":
        assert any(learning) and not learning[-1]  # started and baked
    assert json.loads((tmp_path / "config.json").read_text())["machine"]["device"] == "gpu"


def test_everything_at_once_is_trained_resumed_rendered_measured_and_exported(
    run_here, source, tmp_path
):  # fmt: skip
    flags = "--variant tag_gradprune_decomp --optimizer_type sparse_adam --random_background --train_test_exp"
    flags = [*flags.split(), "-d", "depths", "--test_iterations", 20, "--checkpoint_iterations", 23]
    whole, again = tmp_path / "whole", tmp_path / "again"
    commands = [
        ("train.py", "-s", source, "-m", whole, *FLAGS, *flags),
        ("train.py", "--start_checkpoint", whole / "chkpnt23.safetensors", "-m", again, "--quiet"),
        ("render.py", "-m", whole, "--depth", "--quiet"),
        ("metrics.py", "-m", whole, "--skip_lpips", "--quiet"),
        ("report.py", "-m", whole, "--quiet"),
        ("export.py", "-m", whole, "--formats", "splat", "--quiet"),
    ]
    for command in commands:
        done = run_here(*command)
        assert done.returncode == 0, (command[0], done.stdout, done.stderr)
    name = f"point_cloud/iteration_{ITERATIONS}/point_cloud.ply"
    assert (whole / name).read_bytes() == (again / name).read_bytes()
    assert (whole / "exposure.json").read_bytes() == (again / "exposure.json").read_bytes()


def test_the_benchmark_of_a_step_runs_there_without_the_profile_of_the_cpu(run_here, maskless):
    flags = ("-r", 4, "--iterations", 2, "--threads", 1)
    done = run_here("benchmarks.train_step.py", "-s", maskless, *flags)
    assert done.returncode == 0 and "Gaussians on gpu" in done.stdout, (done.stdout, done.stderr)
    assert "kernel blend" not in done.stdout


def test_full_eval_trains_on_it_too(run_here, maskless, tmp_path):
    arguments = ("--scenes", maskless, "--variants", "3dgs", "--skip_lpips", "--output_path", tmp_path)
    done = run_here("full_eval.py", *arguments, "--", "--iterations", 3, "-r", 4)
    assert done.returncode == 0, (done.stdout, done.stderr)
    record = json.loads((tmp_path / "maskless/3dgs/seed_0/config.json").read_text())
    assert record["machine"]["device"] == "gpu"


# Waits


def new_run(source: Path, tmp_path: Path, **flags) -> Training:
    settings = make_settings({"source_path": str(source), "resolution": 2, "quiet": True} | flags)
    return start(settings, load_scene(**settings.of_scene()), tmp_path)


def waits_of_iterations(run: Training, count: int) -> Iterator[list[str]]:
    """Run the next iterations; give the waits of each."""
    for iteration in range(run.iteration + 1, run.iteration + count + 1):
        with recorded_waits() as waits:
            train.training_step(run, iteration, Progress(0, 1, quiet=True), None)
        run.iteration = iteration
        yield waits


FEATURES = {
    "3dgs": {"variant": "3dgs"},
    "tag": {"variant": "tag"},
    "gates": {"variant": "tag_gradprune_decomp", "importance_from_iter": 2},
    "sensitivity": {"prune_by": "sensitivity"},
    "sparse_adam": {"optimizer_type": "sparse_adam"},
    "random backgrounds": {"random_background": True},
    "exposures": {"train_test_exp": True},
    "masks": {},
    "depths": {"depths": "depths"},
    "photos on the CPU": {"data_device": "cpu"},
    "photos on disk": {"max_memory_gb": 1e-9},
}
FEATURES["all"] = {name: value for flags in FEATURES.values() for name, value in flags.items()}


@pytest.mark.parametrize("name", FEATURES)
def test_a_usual_iteration_waits_once(source, maskless, tmp_path, name):
    masked = name in ("masks", "depths", "photos on disk", "all")
    run = new_run(source if masked else maskless, tmp_path, **FEATURES[name])
    for iteration, waits in enumerate(waits_of_iterations(run, 9), 1):
        if iteration != FEATURES[name].get("importance_from_iter"):
            assert len(waits) == 1 and waits[0].startswith(KERNELS_READ), (iteration, waits)
    assert (run.scene.train.without_images[0].image is None) == ("max_memory_gb" in FEATURES[name])


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_photos_stay_on_it_if_they_fit(source, tmp_path, device):
    run = new_run(source, tmp_path, depths="depths", data_device=device)
    for camera in run.scene.train:
        for pixels in (camera.image, camera.mask, camera.invdepth):
            assert pixels is None or pixels.device.type == {"auto": "gpu"}.get(device, device)
    assert any(camera.mask is not None and camera.invdepth is not None for camera in run.scene.train)


def test_rows_move_after_one_wait(source, tmp_path):
    run = new_run(source, tmp_path, variant="tag_gradprune_decomp", importance_from_iter=1)
    list(waits_of_iterations(run, 2))
    model: GaussianModel = run.model
    chosen = torch.arange(len(model), device=model.device) % 2 == 0
    with torch.no_grad(), recorded_waits() as waits:
        rows = model.rows(chosen)
        assert len(waits) == 1
        model.append(rows)
        assert len(waits) == 1
        model.keep(torch.ones(len(model), dtype=torch.bool, device=model.device))
        assert len(waits) == 2
        model.baked("rounded")
        assert len(waits) == 3


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, "-q", "-p", "no:cacheprovider", *sys.argv[1:]]))
