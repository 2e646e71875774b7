"""No result depends on where a scene's origin is, how it is turned, or in which unit it is measured."""

from __future__ import annotations

import json
import math

import cv2
import numpy as np
import pytest
import torch
from plyfile import PlyData

from commands import FLAGS, fails
from gaussian_model import GaussianModel
from scene import colmap, load_scene
from scene.camera import NEAR, camera_to_world
from scene_files import Model, write_text
from tiny_scene import write_tiny_scene
from training_runs import learn, new_run
from utils.losses import psnr
from utils.rendering import render_beside_photos

UTM = np.array([432187.25, 4649776.5, 213.125])
HALF_TURN_AND_TILT = np.array([0.36, 0.48, -0.8]), 2.2  # axis, angle
THRESHOLD = 0.001  # of densification, in which the tiny scene grows


def rotation(axis: np.ndarray, angle: float) -> np.ndarray:
    """(3, 3), by Rodrigues."""
    return cv2.Rodrigues(axis * angle)[0]


def place_elsewhere(source, move=(0.0, 0.0, 0.0), turn=np.eye(3), scale=1.0):
    """Rewrite the scene's model in coordinates move + scale turn x; returns `source`."""
    views, points = colmap.read_scene(source, "images")
    lens = views[0].lens
    model = Model(cameras={1: ("PINHOLE", lens.width, lens.height, (lens.fx, lens.fy, lens.cx, lens.cy))})
    model.images = []
    for view in views:
        pose = camera_to_world(view.world_to_camera)
        world_to_camera = (turn @ pose[:3, :3]).T
        translation = -world_to_camera @ (move + scale * turn @ pose[:3, 3])
        model.images.append((view.image_name, 1, quaternion(world_to_camera), tuple(map(float, translation))))
    xyz = move + scale * points.xyz @ turn.T
    model.points = [(*map(float, at), *map(int, color)) for at, color in zip(xyz, points.rgb)]
    write_text(source / "sparse/0", model)
    for name in ("cameras", "images", "points3D"):
        (source / f"sparse/0/{name}.bin").unlink(missing_ok=True)
    return source


def quaternion(matrix: np.ndarray) -> tuple[float, ...]:
    """w x y z of a rotation."""
    vector = cv2.Rodrigues(matrix)[0][:, 0]
    angle = float(np.linalg.norm(vector))
    axis = vector / angle if angle else vector
    return (math.cos(angle / 2), *(float(value) for value in math.sin(angle / 2) * axis))


def trained(source, tmp_path, **flags):
    run = new_run(
        load_scene(source, quiet=True), tmp_path, densification_interval=10, iterations=400,
        densify_grad_threshold=THRESHOLD, **flags,
    )  # fmt: skip
    learn(run, 60)
    return run


def quality(run) -> float:
    with torch.no_grad():
        pairs = render_beside_photos(run.scene.train, run.model, torch.zeros(3))
        return sum(psnr(*pair).item() for pair in pairs) / len(run.scene.train)


@pytest.fixture(scope="module")
def at_home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    return trained(write_tiny_scene(folder), folder)


PLACES = {
    "moved": {"move": UTM},
    "in kilometers": {"scale": 0.001},
    "in microns": {"scale": 1e6},
    "moved, in inches": {"move": UTM, "scale": 39.37},
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_the_same_scene_elsewhere_trains_to_the_same(tmp_path, at_home, place):
    run = trained(place_elsewhere(write_tiny_scene(tmp_path), **place), tmp_path)
    assert quality(run) == pytest.approx(quality(at_home), abs=0.15)
    assert len(run.model) == pytest.approx(len(at_home.model), rel=0.05) and len(run.model) > 60
    assert run.scene.unit == pytest.approx(place.get("scale", 1) * at_home.scene.unit, rel=1e-6)
    assert run.scene.train[0].near == pytest.approx(NEAR * run.scene.unit)


def test_a_turned_scene_trains_nearly_to_the_same(tmp_path):
    """Adam steps along the axes of the world, which a rotation changes."""
    home, elsewhere = (write_tiny_scene(tmp_path / name) for name in ("home", "elsewhere"))
    place_elsewhere(elsewhere, UTM, rotation(*HALF_TURN_AND_TILT), 0.03)
    runs = [trained(source, tmp_path, densify_until_iter=0) for source in (home, elsewhere)]
    assert quality(runs[0]) == pytest.approx(quality(runs[1]), abs=0.4) and quality(runs[0]) > 20


def test_only_a_scene_far_from_its_origin_is_shifted(tmp_path, capsys):
    source = write_tiny_scene(tmp_path)
    assert not load_scene(source).shift.any() and "far from its origin" not in capsys.readouterr().out
    for distance, is_far in ((50.0, False), (1000.0, True)):
        place_elsewhere(write_tiny_scene(tmp_path), move=(distance * 4.0, 0.0, 0.0))
        shift = load_scene(source).shift
        assert bool(shift.any()) is is_far and ("far from its origin" in capsys.readouterr().out) is is_far
    assert shift.tolist() == [4000.0, 0.0, -3.0]
    assert np.array_equal(shift, load_scene(source, eval=True).shift)


def test_a_file_says_where_its_positions_are(tmp_path, at_home):
    model = at_home.model.baked("soft")
    model.shift = UTM
    model.save_ply(tmp_path / "a.ply")
    assert PlyData.read(tmp_path / "a.ply").comments[0] == "shift 432187.25 4649776.5 213.125"
    again = GaussianModel.load_ply(tmp_path / "a.ply", torch.device("cpu"))
    assert np.array_equal(again.shift, UTM) and torch.equal(again.means, model.means)
    moved = again.relative_to(UTM + [1.0, 2.0, 3.0])
    expected = model.means - torch.tensor([1.0, 2.0, 3.0])
    assert torch.allclose(moved.means, expected, atol=1e-6) and torch.equal(moved.scales, model.scales)
    content = (tmp_path / "a.ply").read_bytes()
    for malformed in (b"shift 432187.25 oh 213.125", b"shift 432187.25 nan 213.125", b"shift 1 2"):
        (tmp_path / "b.ply").write_bytes(content.replace(b"shift 432187.25 4649776.5 213.125", malformed))
        with pytest.raises(ValueError, match="b.ply: expected a comment 'shift X Y Z'"):
            GaussianModel.load_ply(tmp_path / "b.ply", torch.device("cpu"))


def test_a_georeferenced_scene_through_all_commands(tmp_path, run_here):
    near, far = (write_tiny_scene(tmp_path / name) for name in ("near", "far"))
    place_elsewhere(far, move=UTM)
    results = []
    for source in (near, far):
        folder = tmp_path / f"run_{source.name}"
        process = run_here("train.py", "-s", source, "-m", folder, "--eval", *FLAGS)
        assert process.returncode == 0, process.stderr
        assert ("relative to 432187.0 4649776.0 210.0" in process.stdout) is (source is far)
        for command in (("render.py",), ("metrics.py", "--skip_lpips")):
            assert run_here(*command, "-m", folder, "--quiet").returncode == 0
        results.append(json.loads((folder / "results.json").read_text())["ours_12"]["PSNR"])
    assert results[0] == pytest.approx(results[1], abs=0.3)
    entry = json.loads((folder / "cameras.json").read_text())[0]
    assert entry["shift"] == [432187.0, 4649776.0, 210.0] and max(map(abs, entry["position"])) < 10
    assert PlyData.read(folder / "input.ply").comments[0] == "shift 432187.0 4649776.0 210.0"
    assert json.loads((folder / "config.json").read_text())["shift"] == entry["shift"]
    start = load_scene(far, init_points=folder / "input.ply", quiet=True).points.xyz
    assert np.allclose(start, load_scene(far, quiet=True).points.xyz, atol=1e-5)
    place_elsewhere(far, move=UTM)
    more = ["--start_checkpoint", folder / "chkpnt7.safetensors", "-m", tmp_path / "more", *FLAGS]
    assert fails(run_here("train.py", "-s", far, "--eval", *more), "its cameras have changed")


def test_a_model_of_another_program_in_world_coordinates(tmp_path, at_home, run_here):
    """It has no shift; the scene has one."""
    source = place_elsewhere(write_tiny_scene(tmp_path / "scene"), move=(4096.0, 0.0, 0.0))
    model = at_home.model.baked("soft").relative_to(np.array([-4096.0, 0.0, 0.0]))
    model.shift = np.zeros(3)
    model.save_ply(tmp_path / "theirs.ply")
    render = ("render.py", "--ply", tmp_path / "theirs.ply", "--cameras", source, "-m", tmp_path / "out")
    assert run_here(*render, "--quiet").returncode == 0
    shown = cv2.imread(str(tmp_path / "out/train/ours_0/renders/00000.png"))[..., ::-1] / 255.0
    photo = cv2.imread(str(tmp_path / "out/train/ours_0/gt/00000.png"))[..., ::-1] / 255.0
    assert -10 * math.log10(((shown - photo) ** 2).mean()) > quality(at_home) - 3


def test_a_scene_in_which_no_view_sees_a_point_ends_the_run(tmp_path, run_here):
    """All cameras look away."""
    source = write_tiny_scene(tmp_path / "scene")
    views, points = colmap.read_scene(source, "images")
    model = Model(cameras={1: ("PINHOLE", 48, 36, (50.0, 50.0, 24.0, 18.0))}, images=[])
    for view in views:
        away = view.world_to_camera[:3, :3] * [[-1], [1], [-1]]
        position = camera_to_world(view.world_to_camera)[:3, 3]
        model.images.append((view.image_name, 1, quaternion(away), tuple(map(float, -away @ position))))
    model.points = [(*map(float, at), 9, 99, 200) for at in points.xyz * 0.1]
    write_text(source / "sparse/0", model)
    process = run_here("train.py", "-s", source, "-m", tmp_path / "out", *FLAGS)
    assert process.returncode == 2
    assert "error: no Gaussian is seen in any of the 9 training views: do the cameras of" in process.stderr


@pytest.mark.parametrize("color", [0, 255])
@pytest.mark.parametrize("channels", [1, 3])
def test_points_without_colors_start_from_gray(tmp_path, capsys, color, channels):
    source = write_tiny_scene(tmp_path)
    views, points = colmap.read_scene(source, "images")
    points.rgb[:, :channels] = color
    rows = np.concatenate([points.xyz, points.rgb], 1).tolist()
    lines = [f"{i + 1} {x} {y} {z} {r:g} {g:g} {b:g} 0.5" for i, (x, y, z, r, g, b) in enumerate(rows)]
    (source / "sparse/0/points3D.txt").write_text("\n".join(lines))
    scene = load_scene(source)
    same = {1: "red", 3: "red, green, blue"}[channels]
    assert f"All 60 points have the same {same}: starting from gray.\n" in capsys.readouterr().out
    assert (scene.points.rgb[:, :channels] == 128).all()
    assert np.array_equal(scene.points.rgb[:, channels:], points.rgb[:, channels:])


def test_points_of_which_a_channel_is_black_learn_it(tmp_path):
    source = write_tiny_scene(tmp_path)
    scene = load_scene(source, quiet=True)
    scene.points.rgb[:, 1] = 0
    run = new_run(scene, tmp_path)
    before = run.model.sh_dc.detach().clone()
    learn(run, 10)
    assert ((run.model.sh_dc.detach() - before)[:, 0].abs() > 0).float().mean(0).min() > 0.9
