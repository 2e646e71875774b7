"""Depth maps that supervise, and exposures of the views: what is read, what is learnt, what is measured."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from commands import fails
from tiny_scene import VIEWS, WIDTH, write_tiny_scene

import subfunction as policy
from arguments import OptimizationSettings
from depth_maps import entry, write_depth, write_parameters
from gaussian_model import GaussianModel
from scene import load_scene
from scene.lenses import DistortedLens
from scene_files import SIZE, Model, write_colmap_scene
from utils.exposures import Exposures
from utils.rendering import render


@pytest.fixture
def source(tmp_path):
    return write_colmap_scene(tmp_path / "scene")


def load(source, **options):
    return load_scene(source, quiet=True, **{"depths": "depths", **options})


# Depth maps


def test_a_map_is_scaled_into_the_scenes_units(source):
    write_depth(source / "depths/view_1.png", 2**14, SIZE)
    write_parameters(source, view_1=entry(2.0, -0.25), view_2=entry(2.0))
    by_name = {camera.image_name: camera for camera in load(source).train}
    assert by_name["view_1.png"].invdepth.shape == (1, SIZE[1], SIZE[0])
    assert by_name["view_1.png"].invdepth.unique().tolist() == [2.0 * 2**14 / 2**16 - 0.25]
    assert by_name["view_2.png"].invdepth is None, "it has no map"
    halved = load(source, resolution=2).train[1].invdepth
    assert halved.shape == (1, SIZE[1] // 2, SIZE[0] // 2)
    assert load_scene(source, quiet=True).train[1].invdepth is None


def test_badly_aligned_maps_are_not_used(source, capsys):
    for index in range(4):
        write_depth(source / f"depths/view_{index}.png", 2**14, SIZE)
    scales = {"view_0": 1.0, "view_1": 1.2, "view_2": 6.0, "view_3": 0.1}
    write_parameters(source, **{name: entry(scale) for name, scale in scales.items()})
    scene = load_scene(source, depths="depths")
    assert [camera.invdepth is not None for camera in scene.train] == [True, True, False, False]
    assert "2 of 4 views have no usable depth map in" in capsys.readouterr().out


def test_maps_of_bent_photos_are_straightened_too(source):
    bends = (20.0, 12.0, 8.0, -0.3)
    shutil.rmtree(source)
    write_colmap_scene(source, Model(cameras={1: ("SIMPLE_RADIAL", *SIZE, bends)}))
    values = np.arange(SIZE[0] * SIZE[1], dtype=np.uint16).reshape(SIZE[1], SIZE[0]) * 100
    write_depth(source / "depths/view_0.png", values, SIZE)
    write_parameters(source, view_0=entry())
    lens = DistortedLens("SIMPLE_RADIAL", *SIZE, bends)
    expected = lens.undistort(values.astype(np.float32) / 2**16)
    np.testing.assert_allclose(load(source).train[0].invdepth[0], expected, atol=1e-6)


def test_inverse_depths_below_zero_are_unknown(source):
    write_depth(source / "depths/view_0.png", 2**10, SIZE)
    write_parameters(source, view_0=entry(1.0, -0.5))
    known = load(source).train[0].invdepth
    assert (known == 0).all()
    assert policy.depth_loss(torch.ones_like(known), known) == 0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda source: shutil.rmtree(source / "depths"), "folder of depth maps not found: .*depths"),
        (
            lambda source: (source / "sparse/0/depth_params.json").unlink(),
            "-d needs .*sparse/0/depth_params.json",
        ),
        (
            lambda source: write_parameters(source, view_0={"scale": 1}),
            "view_0 needs a finite scale and offset",
        ),
        (lambda source: write_parameters(source, view_0=entry(float("nan"))), "view_0 needs a finite scale"),
        (lambda source: write_parameters(source, view_0=[1, 2]), r"view_0 needs a .* got \[1, 2\]"),
        (lambda source: write_parameters(source, view_0=entry(-1.0)), "no depth map with a positive scale"),
        (
            lambda source: write_parameters(source, other=entry()),
            "no depth map for any view, such as view_0.png",
        ),
        (
            lambda source: (source / "depths/view_0.png").write_bytes(b"cut"),
            "view_0.png: .*this is not an image",
        ),
        (lambda source: write_depth(source / "depths/view_0.png", 1, (9, 9)), "view_0.png: the image is 9x9"),
    ],
)
def test_what_is_wrong_with_depth_maps_is_named(source, spoil, message):
    write_depth(source / "depths/view_0.png", 2**14, SIZE)
    write_parameters(source, view_0=entry())
    spoil(source)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load(source)


def test_eight_bit_maps_are_refused(source):
    (source / "depths").mkdir()
    cv2.imwrite(str(source / "depths/view_0.png"), np.zeros(SIZE[::-1], np.uint8))
    write_parameters(source, view_0=entry())
    with pytest.raises(ValueError, match="depth maps are 16-bit PNGs of one channel, this is uint8"):
        load(source)


def test_the_weight_of_the_depth_loss_falls_from_first_to_last():
    settings = OptimizationSettings(iterations=100)
    weights = [policy.depth_weight(iteration, settings) for iteration in (0, 50, 100)]
    assert weights == pytest.approx([1.0, 0.1, 0.01])


def test_depth_maps_draw_the_gaussians_to_them(tmp_path, run_here):
    """The maps say that all is nearer than the points; with them it comes nearer."""
    strong = ["--depth_l1_weight_init", 100, "--depth_l1_weight_final", 100]
    source, mean_invdepth = write_tiny_scene(tmp_path / "scene"), {}
    for index in range(VIEWS):
        write_depth(source / f"depths/view_{index}.png", 2**15)
    write_parameters(source, **{f"view_{index}": entry(1.0) for index in range(VIEWS)})
    for name, flags in (("with", ["-d", "depths", *strong]), ("without", [])):
        model_path = tmp_path / name
        command = ("train.py", "-s", source, "-m", model_path, "--iterations", 200, "--quiet", *flags)
        assert run_here(*command).returncode == 0
        model = GaussianModel.load_ply(
            model_path / "point_cloud/iteration_200/point_cloud.ply", torch.device("cpu")
        )
        camera = load_scene(source, quiet=True).train[4]
        with torch.no_grad():
            mean_invdepth[name] = render(camera, model, torch.zeros(3)).invdepth.mean().item()
    assert mean_invdepth["with"] > mean_invdepth["without"] + 0.02


# Exposures


def test_an_exposure_is_a_matrix_and_an_offset():
    exposures = Exposures(["a", "b"], torch.device("cpu"))
    image = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(exposures.apply(image, "a"), image) and exposures.apply(image, "other") is image
    with torch.no_grad():
        exposures.matrices[1] = torch.tensor([[0.0, 2, 0, 0.5], [1, 0, 0, 0], [0, 0, 3, -1]])
    shown = exposures.apply(image, "b")
    torch.testing.assert_close(shown[0], 2 * image[1] + 0.5)
    torch.testing.assert_close(shown[2], 3 * image[2] - 1)


def test_exposures_come_back_from_their_file(tmp_path):
    exposures = Exposures(["x/a.png", "b.png"], torch.device("cpu"))
    with torch.no_grad():
        exposures.matrices += torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0))
    exposures.save(tmp_path)
    found = Exposures.load(tmp_path, torch.device("cpu"))
    assert torch.equal(found.matrices, exposures.matrices) and found.indices == exposures.indices
    (tmp_path / "exposure.json").write_text('{"b.png": [[1, 2, 3], [4, 5, 6], [7, 8, 9]]}')
    with pytest.raises(ValueError, match="exposure.json: b.png needs three rows of four finite numbers"):
        Exposures.load(tmp_path, torch.device("cpu"))
    (tmp_path / "exposure.json").unlink()
    with pytest.raises(FileNotFoundError, match="exposure.json is missing: .*--train_test_exp"):
        Exposures.load(tmp_path, torch.device("cpu"))


def test_restored_moments_are_on_the_device_of_the_exposures():
    saved = Exposures(["a"], torch.device("cpu"))
    saved.matrices.grad = torch.ones_like(saved.matrices)
    saved.step(0.1)
    restored = Exposures(["a"], torch.device("meta"))
    restored.restore(saved.state_tensors())
    state = restored.optimizer.state[restored.matrices]
    assert {key: value.device.type for key, value in state.items()} == {
        "step": "cpu",
        "exp_avg": "meta",
        "exp_avg_sq": "meta",
    }


def test_held_out_views_are_trained_on_their_left_half_and_measured_on_the_right(tmp_path):
    scene = load_scene(write_tiny_scene(tmp_path), eval=True, train_test_exp=True, quiet=True)
    assert (len(scene.train), len(scene.test)) == (VIEWS, 2)
    left, right = scene.train[-1].mask, scene.test[-1].mask
    assert scene.train[-1].image_name == scene.test[-1].image_name == "view_8.png"
    assert left[:, : WIDTH // 2].all() and not left[:, WIDTH // 2 :].any() and torch.equal(right, ~left)
    assert all(camera.mask is None for camera in scene.train[:-2])


@pytest.fixture(scope="module")
def darkened(tmp_path_factory):
    """The tiny scene, every other photo half as bright."""
    source = write_tiny_scene(tmp_path_factory.mktemp("darkened"))
    for index in range(0, VIEWS, 2):
        path = str(source / f"images/view_{index}.png")
        cv2.imwrite(path, cv2.imread(path) // 2)
    return source


def test_exposures_are_learnt_saved_rendered_and_resumed(darkened, tmp_path, run_here):
    flags = [
        "-s",
        darkened,
        "--eval",
        "--train_test_exp",
        "--threads",
        1,
        "--quiet",
        "--exposure_lr_init",
        0.05,
    ]
    flags += ["--exposure_lr_final", 0.05, "--iterations", 90, "--test_iterations", 90]
    whole, again = tmp_path / "whole", tmp_path / "again"
    assert run_here("train.py", *flags, "-m", whole, "--checkpoint_iterations", 40).returncode == 0
    exposures = Exposures.load(whole, torch.device("cpu"))
    gains = {
        name: exposures.matrices[place].diagonal().mean().item() for name, place in exposures.indices.items()
    }
    dark = [gains[f"view_{index}.png"] for index in range(0, VIEWS, 2)]
    bright = [gains[f"view_{index}.png"] for index in range(1, VIEWS, 2)]
    assert max(dark) < min(bright), "also of the views that are held out but for their left half"

    assert run_here("render.py", "-m", whole, "--quiet").returncode == 0
    assert run_here("metrics.py", "-m", whole, "--skip_lpips", "--quiet").returncode == 0
    measured = json.loads((whole / "results.json").read_text())["ours_90"]["PSNR"]
    logged = json.loads((whole / "config.json").read_text())["measures"]["90"]["test"]["PSNR"]
    assert measured == pytest.approx(logged, abs=0.1), "the right halves, as they were exposed"

    checkpoint = whole / "chkpnt40.safetensors"
    assert run_here("train.py", "--start_checkpoint", checkpoint, "-m", again, "--quiet").returncode == 0
    for name in ("exposure.json", "point_cloud/iteration_90/point_cloud.ply"):
        assert (whole / name).read_bytes() == (again / name).read_bytes()
    (whole / "exposure.json").unlink()
    assert fails(run_here("render.py", "-m", whole), "exposure.json is missing")
