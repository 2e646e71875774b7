from __future__ import annotations

import json
import math

import numpy as np
import pytest

from scene import load_scene
from scene.lenses import DistortedLens
from scene_files import SIZE, blender_pose, quantized_photo, write_blender_scene, write_photo
from utils.ply import write_point_cloud


def change_train(source, change) -> None:
    """Let `change` edit the content of transforms_train.json."""
    path = source / "transforms_train.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def load(source, **options):
    return load_scene(source, quiet=True, **options)


def test_eval_holds_out_the_test_file(tmp_path):
    scene = load(write_blender_scene(tmp_path), eval=True)
    assert [camera.image_name for camera in scene.train] == [
        "train/r_0.png",
        "train/r_1.png",
        "train/r_2.png",
    ]
    assert [camera.image_name for camera in scene.test] == ["test/r_0.png", "test/r_1.png"]


def test_without_eval_all_views_are_trained_on(tmp_path):
    scene = load(write_blender_scene(tmp_path))
    assert (len(scene.train), len(scene.test)) == (5, 0)


def test_test_file_is_needed_only_for_eval(tmp_path):
    write_blender_scene(tmp_path)
    (tmp_path / "transforms_test.json").unlink()
    assert len(load(tmp_path).train) == 3
    with pytest.raises(FileNotFoundError, match="camera file not found: .*transforms_test.json"):
        load(tmp_path, eval=True)


def test_intrinsics_follow_the_angle(tmp_path):
    camera = load(write_blender_scene(tmp_path, angle=0.7)).train[0]
    assert camera.FoVx == pytest.approx(0.7)
    assert camera.fx == camera.fy
    assert (camera.width, camera.height, camera.cx, camera.cy) == (*SIZE, SIZE[0] / 2, SIZE[1] / 2)


def by_angle(size, focal):
    return 2 * math.atan(size / 2 / focal)


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("k1", [0.0, 0.05])
def test_all_intrinsics_count_whatever_names_the_focal_length(tmp_path, sized, k1):
    """By focal lengths in pixels and by angles of view: the same cameras, with the same photos."""
    more = {"cx": 11.0, "cy": 8.0, "k1": k1} | ({"w": SIZE[0], "h": SIZE[1]} if sized else {})
    angles = {"camera_angle_x": by_angle(SIZE[0], 20.0), "camera_angle_y": by_angle(SIZE[1], 21.0)}
    cameras = []
    for name, focal in (("pixels", {"fl_x": 20.0, "fl_y": 21.0}), ("angles", angles)):
        source = write_blender_scene(tmp_path / name)
        change_train(source, lambda content: (content.pop("camera_angle_x"), content.update(focal | more)))
        cameras.append(load(source).train[1])
    first, second = cameras
    numbers = [(c.fx, c.fy, c.cx, c.cy, c.width, c.height) for c in cameras]
    assert numbers[0] == pytest.approx(numbers[1]) and np.array_equal(first.image, second.image)
    if not k1:
        assert numbers[0] == pytest.approx((20, 21, 11, 8, *SIZE))


def test_pose_is_turned_from_opengl(tmp_path):
    """A point in front of Blender's camera (its -z), above (+y), lies at +z and -y here."""
    camera = load(write_blender_scene(tmp_path)).train[1]
    in_blender = np.array([0.25, 0.5, -3.0, 1.0])
    world = np.array(blender_pose(1)) @ in_blender
    np.testing.assert_allclose(camera.world_to_camera @ world, (0.25, -0.5, 3.0, 1.0), atol=1e-12)
    np.testing.assert_allclose(camera.camera_center, (2.0, -2.0, 4.0), atol=1e-6)


def test_alpha_survives(tmp_path):
    camera = load(write_blender_scene(tmp_path)).train[2]
    assert np.array_equal(camera.image, quantized_photo(2, channels=4))


def test_file_path_with_extension(tmp_path):
    write_blender_scene(tmp_path)
    change_train(tmp_path, lambda content: content["frames"][0].update(file_path="train/r_0.png"))
    assert load(tmp_path).train[0].image_name == "train/r_0.png"


def test_random_points_follow_the_seed_and_nothing_is_written(tmp_path, capsys):
    write_blender_scene(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    scene = load_scene(tmp_path, seed=3)
    assert f"No points in {tmp_path}: starting from 100000 random points (seed 3)." in capsys.readouterr().out
    points = scene.points
    assert points.xyz.shape == points.rgb.shape == (100_000, 3) and points.rgb.dtype == np.uint8
    assert np.abs(points.xyz).max() <= 1.3 and points.xyz.std() == pytest.approx(1.3 / math.sqrt(3), rel=0.01)
    assert points.rgb.min() == 0 and points.rgb.max() == 255
    assert np.array_equal(load(tmp_path, seed=3).points.xyz, points.xyz)
    assert not np.array_equal(load(tmp_path, seed=4).points.xyz, points.xyz)
    assert sorted(tmp_path.rglob("*")) == before


def test_points3d_ply_is_used(tmp_path):
    write_blender_scene(tmp_path)
    write_point_cloud(tmp_path / "points3d.ply", np.array([[1.0, 2.0, 3.0]]), np.array([[4, 5, 6]], np.uint8))
    points = load(tmp_path).points
    assert points.xyz.tolist() == [[1, 2, 3]] and points.rgb.tolist() == [[4, 5, 6]]


def test_empty_points3d_ply_is_refused(tmp_path):
    write_blender_scene(tmp_path)
    write_point_cloud(tmp_path / "points3d.ply", np.zeros((0, 3)), np.zeros((0, 3), np.uint8))
    with pytest.raises(ValueError, match="points3d.ply holds no points"):
        load(tmp_path)


def test_image_folder_flag_is_refused(tmp_path):
    with pytest.raises(ValueError, match="-i images_4 is for COLMAP scenes"):
        load(write_blender_scene(tmp_path), images="images_4")


def _matrix(value):
    return lambda content: content["frames"][1].update(transform_matrix=value)


def _changed_pose(row: int, column: int, value: float):
    pose = blender_pose(1)
    pose[row][column] = value
    return _matrix(pose)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda content: content.clear(), "needs a list 'frames' with at least one frame"),
        (lambda content: content.update(frames=[]), "needs a list 'frames' with at least one frame"),
        (
            lambda content: content.pop("camera_angle_x"),
            "expected fl_x in pixels, or camera_angle_x in radians between 0 and pi; got None",
        ),
        (lambda content: content.update(camera_angle_x=0), "camera_angle_x in radians .* got 0"),
        (lambda content: content.update(camera_angle_x=float("nan")), "camera_angle_x in radians .* got nan"),
        (lambda content: content.update(camera_angle_x="0.7"), "camera_angle_x in radians .* got '0.7'"),
        (lambda content: content.update(fl_x="20"), "frame 0 .*: fl_x must be a finite number, got '20'"),
        (lambda content: content.update(fl_x=20, w=24, h=16.5), r"w and h must be .* got \(24.0, 16.5\)"),
        (lambda content: content.update(fl_x=20, cx=3), "cy must be a finite number, got None"),
        (lambda content: content.update(fl_x=-20), "r_0.png: needs a positive size and focal length"),
        (lambda content: content.update(fl_x=20, k4=0.1), "k4 is for fisheye cameras, got 0.1"),
        (
            lambda content: content["frames"][1].update(fl_x=20, camera_model="EQUIRECTANGULAR"),
            "frame 1 .*: camera_model must be one of .*; got 'EQUIRECTANGULAR'",
        ),
        (lambda content: content["frames"][1].pop("file_path"), "frame 1 has no file_path"),
        (
            lambda content: content["frames"][1].pop("transform_matrix"),
            r"frame 1 \(train/r_1.png\): transform_matrix must be",
        ),
        (_matrix([[1, 2], [3]]), "transform_matrix must be 4 rows of 4 numbers"),
        (_matrix([[10**400] * 4] * 4), "transform_matrix must be 4 rows of 4 numbers"),
        (
            _changed_pose(0, 3, float("nan")),
            r"frame 1 \(train/r_1.png\): its pose holds a number that is not finite",
        ),
        (_changed_pose(0, 0, 2.0), "its pose is not a rotation and a translation"),
        (_changed_pose(2, 2, -1.0), "its pose is not a rotation and a translation"),
        (_changed_pose(3, 3, 2.0), "its pose is not a rotation and a translation"),
        (
            lambda content: content["frames"][1].update(file_path="train/r_0"),
            r"names the image train/r_0.png 2 times",
        ),
    ],
)
def test_bad_transforms_are_refused(tmp_path, change, message):
    write_blender_scene(tmp_path)
    change_train(tmp_path, change)
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


def test_broken_json_is_named(tmp_path):
    write_blender_scene(tmp_path)
    (tmp_path / "transforms_train.json").write_text('{"frames": [')
    with pytest.raises(ValueError, match="transforms_train.json is not valid JSON: Expecting value"):
        load(tmp_path)
    (tmp_path / "transforms_train.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match="transforms_train.json needs a list 'frames'"):
        load(tmp_path)


def test_missing_image_is_named(tmp_path):
    write_blender_scene(tmp_path)
    (tmp_path / "train/r_1.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"image not found: .*train/r_1.png \(1 of 3 images named in .*_train"
    ):
        load(tmp_path)


def test_real_blender_scene(scenes_dir):
    source = scenes_dir / "chair_blender"
    if not source.is_dir():
        pytest.skip(f"no {source}")
    scene = load(source, eval=True)
    assert (len(scene.train), len(scene.test)) == (100, 50)
    camera = scene.train[0]
    assert (camera.width, camera.height, camera.image.shape) == (400, 400, (400, 400, 4))
    directions = [
        camera.world_to_camera[2, :3] @ -camera.camera_center.double().numpy() for camera in scene.train
    ]
    assert min(directions) > 3.5, "every camera of this set looks at the origin from about 4 units away"


# transforms.json of nerfstudio and instant-ngp


def write_transforms(source, count=4, frames=(), **content):
    """transforms.json with `count` photos of SIZE; `frames` holds what the first frames have of their own."""
    listed = []
    for index in range(count):
        write_photo(source / f"images/{index}.png", quantized_photo(index))
        listed.append({"file_path": f"images/{index}.png", "transform_matrix": blender_pose(index)})
    for frame, own in zip(listed, frames):
        frame.update(own)
    intrinsics = {"fl_x": 20, "fl_y": 21, "cx": 11, "cy": 8.5, "w": SIZE[0], "h": SIZE[1]}
    (source / "transforms.json").write_text(json.dumps({**intrinsics, "frames": listed, **content}))
    return source


def test_pixel_intrinsics_and_poses(tmp_path):
    camera = load(write_transforms(tmp_path)).train[1]
    assert (camera.image_name, camera.fx, camera.fy, camera.cx, camera.cy) == (
        "images/1.png",
        20,
        21,
        11,
        8.5,
    )
    assert np.array_equal(camera.image, quantized_photo(1))
    world = np.array(blender_pose(1)) @ (0.25, 0.5, -3.0, 1.0)
    np.testing.assert_allclose(camera.world_to_camera @ world, (0.25, -0.5, 3.0, 1.0), atol=1e-12)


def test_a_frames_own_intrinsics_win(tmp_path):
    write_transforms(tmp_path, frames=[{}, {"fl_x": 30, "camera_model": "OPENCV"}])
    assert [camera.fx for camera in load(tmp_path).train] == [20, 30, 20, 20]


def test_intrinsics_of_unknown_size_are_in_pixels_of_the_photo(tmp_path):
    write_transforms(tmp_path, w=0, h=0)
    assert (load(tmp_path).train[0].cx, load(tmp_path, resolution=2).train[0].cx) == (11, 5.5)


@pytest.mark.parametrize(
    ("content", "model", "bends"),
    [
        ({"k1": 0.05, "k2": -0.08, "p1": -1e-3, "p2": 2e-4}, "OPENCV", (0.05, -0.08, -1e-3, 2e-4)),
        ({"k1": 0.05, "k3": 0.01, "camera_model": "OPENCV"}, "FULL_OPENCV", (0.05, 0, 0, 0, 0.01, 0, 0, 0)),
        ({"k1": 0.1, "k4": 0.01, "camera_model": "OPENCV_FISHEYE"}, "OPENCV_FISHEYE", (0.1, 0, 0, 0.01)),
        ({"k1": 0.1, "k2": 0.02, "is_fisheye": True}, "OPENCV_FISHEYE", (0.1, 0.02, 0, 0)),
    ],
)
def test_distorted_photos_are_straightened(tmp_path, content, model, bends):
    camera = load(write_transforms(tmp_path, **content)).train[2]
    lens = DistortedLens(model, *SIZE, (20.0, 21.0, 11.0, 8.5, *bends))
    assert np.array_equal(camera.image, lens.undistort(quantized_photo(2)))
    assert (camera.fx, camera.fy) == pytest.approx((lens.undistorted.fx, lens.undistorted.fy))


def test_missing_photos_are_reported_and_left_out(tmp_path, capsys):
    write_transforms(tmp_path, count=6)
    for index in (1, 2, 4, 5):
        (tmp_path / f"images/{index}.png").unlink()
    assert len(load_scene(tmp_path).train) == 2
    named = f"4 of 6 images named in {tmp_path}/transforms.json are missing and left out: images/1.png, "
    assert named + "images/2.png, images/4.png, ...\n" in capsys.readouterr().out
    for index in (0, 3):
        (tmp_path / f"images/{index}.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"images/0.png \(6 of 6 images"):
        load(tmp_path)


def test_every_8th_is_held_out_unless_the_file_says_which(tmp_path):
    scene = load(write_transforms(tmp_path, count=9), eval=True)
    assert [camera.image_name for camera in scene.test] == ["images/0.png", "images/8.png"]
    write_transforms(tmp_path, count=9, test_filenames=["./images/3.png"])
    scene = load(tmp_path, eval=True)
    assert [camera.image_name for camera in scene.test] == ["images/3.png"] and len(scene.train) == 8


def test_points_of_the_file_that_is_named_or_given(tmp_path):
    for number, name in enumerate(("sparse_pc.ply", "mine.ply", "given.ply")):
        points = np.full((number + 1, 3), 0.5)
        write_point_cloud(tmp_path / name, points, np.zeros((number + 1, 3), np.uint8))
    assert len(load(write_transforms(tmp_path)).points) == 1
    assert len(load(write_transforms(tmp_path, ply_file_path="mine.ply")).points) == 2
    assert len(load(tmp_path, init_points=tmp_path / "given.ply").points) == 3
    with pytest.raises(FileNotFoundError, match="point cloud not found: .*none.ply"):
        load(tmp_path, init_points=tmp_path / "none.ply")


def test_random_points_lie_around_the_cameras(tmp_path, capsys):
    scene = load_scene(write_transforms(tmp_path), seed=3)
    assert f"No points in {tmp_path}: starting from 100000 random points (seed 3)" in capsys.readouterr().out
    centers = np.stack([camera.camera_center.numpy() for camera in scene.train])
    offsets = scene.points.xyz - centers.mean(0)
    assert np.abs(offsets).max() <= 3 * scene.extent and np.abs(offsets).max() > 2.9 * scene.extent


def test_file_paths_without_suffix_or_with_backslashes(tmp_path):
    write_transforms(tmp_path, frames=[{"file_path": "images/0"}, {"file_path": ".\\images\\1.png"}])
    assert [camera.image_name for camera in load(tmp_path).train[:2]] == ["images/0.png", "images/1.png"]


def test_poses_of_three_rows(tmp_path):
    write_transforms(tmp_path, frames=[{"transform_matrix": blender_pose(0)[:3]}])
    np.testing.assert_allclose(load(tmp_path).train[0].camera_center, (1.0, -2.0, 4.0))


def test_real_scene_of_instant_ngp(scenes_dir, tmp_path, capsys):
    source = scenes_dir / "fox_ngp"
    if not source.is_dir():
        pytest.skip(f"no {source}")
    scene = load(source, resolution=4, eval=True)
    assert (len(scene.train), len(scene.test)) == (43, 7)
    assert scene.train[0].width == 135 and scene.train[0].fx != pytest.approx(687.76 / 4, rel=1e-3)
    for name in ("images", "transforms.json"):
        found = source / ("transforms_unfiltered.json" if name != "images" else name)
        (tmp_path / name).symlink_to(found)
    assert len(load_scene(tmp_path, resolution=8).train) == 50
    assert "17 of 67 images named in" in capsys.readouterr().out
