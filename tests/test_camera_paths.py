"""Camera paths and films."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from commands import fails

from gaussian_model import GaussianModel
from scene import Camera, load_scene
from scene.camera import camera_to_world
from scene.camera_paths import KINDS, camera_path, catmull_rom, focus, look_at, mean_up
from utils.rendering import render

TARGET = np.array([0.5, -1.0, 0.25])
UP = np.array([0.0, 0.0, 1.0])


def ring(count=8, radius=3.0, height=1.0, share=1.0):
    """Cameras on a circle around TARGET that look at it."""
    turns = np.linspace(0, 2 * np.pi * share, count, endpoint=False)
    centers = TARGET + np.stack([radius * np.cos(turns), radius * np.sin(turns), np.full(count, height)], 1)
    poses = [camera_to_world(look_at(center, TARGET, UP)) for center in centers]
    return [Camera(f"{i}.png", 64, 48, 50.0, 51.0, 32.0, 24.0, pose) for i, pose in enumerate(poses)]


def poses_of(cameras):
    return np.stack([camera_to_world(camera.world_to_camera) for camera in cameras])


def test_the_focus_is_what_all_look_at():
    poses = poses_of(ring())
    np.testing.assert_allclose(focus(poses), TARGET, atol=0.01)
    np.testing.assert_allclose(mean_up(poses), UP, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_path_is_made_of_proper_cameras(kind):
    path = camera_path(ring(), kind, 30)
    assert len(path) == 30 and len({camera.image_name for camera in path}) == 30
    for camera in path:
        rotation = camera.world_to_camera[:3, :3]
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
        assert np.linalg.det(rotation) == pytest.approx(1)
        assert (camera.width, camera.height, camera.fx, camera.image) == (64, 48, 50.0, None)
        x, y, depth, _ = camera.world_to_camera @ [*TARGET, 1.0]
        assert depth > 0 and max(abs(x), abs(y)) / depth < 0.2, "the target is in the middle"


def test_an_orbit_keeps_distance_and_height():
    centers = poses_of(camera_path(ring(share=0.4), "orbit", 24))[:, :3, 3] - TARGET
    np.testing.assert_allclose(centers[:, 2], 1.0, atol=0.01)
    np.testing.assert_allclose(np.linalg.norm(centers[:, :2], axis=1), 3.0, atol=0.05)
    steps = np.linalg.norm(np.diff(centers, axis=0), axis=1)
    assert steps.max() < 1.01 * steps.min(), "and goes all the way round"


def test_an_interpolation_goes_through_its_views():
    cameras = ring(count=5, share=0.5)
    path = poses_of(camera_path(cameras, "interpolate", 17))
    np.testing.assert_allclose(path[::4, :3, 3], poses_of(cameras)[:, :3, 3], atol=1e-9)
    np.testing.assert_allclose(path[::4, :3, :3], poses_of(cameras)[:, :3, :3], atol=1e-6)
    assert len(camera_path(cameras[:1], "interpolate", 3)) == 3


def test_a_curve_through_points_on_a_line_stays_on_it():
    knots = np.array([[0.0, 0.0], [1.0, 2.0], [2.0, 4.0]])
    places = np.linspace(0, 2, 9)
    np.testing.assert_allclose(catmull_rom(knots, places), places[:, None] * [1.0, 2.0], atol=1e-12)


def test_looking_straight_down():
    pose = look_at(np.array([0.0, 0.0, 5.0]), np.zeros(3), UP)
    np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(pose[:3, 2], [0, 0, -1])


# render.py


def test_a_film_of_a_run(run_here, trained):
    av = pytest.importorskip("av")
    folder = trained[0]
    process = run_here("render.py", "-m", folder, "--video", "orbit", "--frames", 6, "--fps", 12)
    video = folder / "video/ours_12/orbit.mp4"
    assert process.returncode == 0 and f"6 frames: {video}" in process.stdout
    with av.open(str(video)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 12
    assert len(frames) == 6 and frames[0].shape == (36, 48, 3)
    assert np.abs(frames[0].astype(int) - frames[3]).mean() > 1, "the camera moves"
    assert [path.name for path in video.parent.iterdir()] == ["orbit.mp4"]


def test_films_are_refused_before_rendering(run_here, trained, monkeypatch):
    folder = trained[0]
    assert fails(
        run_here("render.py", "-m", folder, "--video", "zigzag"), "--video: expected one of orbit, spiral"
    )
    assert fails(
        run_here("render.py", "-m", folder, "--video", "orbit", "--frames", 0), "--frames: expected at"
    )
    monkeypatch.setattr("utils.video.importlib.util.find_spec", lambda name: None)
    assert fails(run_here("render.py", "-m", folder, "--video", "orbit"), "pip install av")


def test_depths_are_written_as_they_are_read(run_here, trained, scene):
    folder = trained[0]
    assert run_here("render.py", "-m", folder, "--skip_train", "--depth", "--quiet").returncode == 0
    depths = folder / "test/ours_12/depth"
    parameters = json.loads((depths / "depth_params.json").read_text())
    stored = cv2.imread(str(depths / "00000.png"), cv2.IMREAD_UNCHANGED)
    assert stored.dtype == np.uint16 and stored.shape == (36, 48)
    camera = load_scene(scene, eval=True, quiet=True).test[0]
    model = GaussianModel.load_ply(folder / "point_cloud/iteration_12/point_cloud.ply", torch.device("cpu"))
    with torch.no_grad():
        shown = render(camera, model, torch.zeros(3), antialiasing=True).invdepth[0].numpy()
    np.testing.assert_allclose(stored / 2**16 * parameters["00000"]["scale"], shown, atol=shown.max() / 2**15)


def test_a_ply_by_others_is_seen_by_the_cameras_of_a_scene(run_here, trained, scene, tmp_path):
    ply, flags = (
        trained[0] / "point_cloud/iteration_12/point_cloud.ply",
        ["--eval", "--antialiasing", "--quiet"],
    )
    process = run_here("render.py", "--ply", ply, "--cameras", scene, "-m", tmp_path, *flags)
    assert process.returncode == 0
    assert run_here("render.py", "-m", trained[0], "--quiet").returncode == 0
    for name in ("renders", "gt"):
        found, expected = (folder / "test" / method / name / "00001.png" for folder, method in
                           ((tmp_path, "ours_0"), (trained[0], "ours_12")))  # fmt: skip
        assert found.read_bytes() == expected.read_bytes()
    assert fails(
        run_here("render.py", "--ply", ply, "-m", tmp_path), "--ply FILE and --cameras SCENE go together"
    )
    assert fails(run_here("render.py", "--ply", scene, "--cameras", scene, "-m", tmp_path), "")
