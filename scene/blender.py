"""NeRF-synthetic scenes: transforms_train.json and transforms_test.json of NeRF's Blender script."""

from __future__ import annotations

import json
import math
import posixpath
from pathlib import Path

import numpy as np

from scene.camera import camera_to_world
from scene.points import PointCloud, random_points, require_finite_points
from scene.views import FieldOfView, View, require_images, require_rigid, require_unique_names
from utils.ply import read_point_cloud

TRAIN_FILE = "transforms_train.json"
TEST_FILE = "transforms_test.json"
POINTS_FILE = "points3d.ply"
# Blender's (OpenGL's) camera looks along -z with y up; here y is down and z forward.
_FLIP_Y_Z = np.diag([1.0, -1.0, -1.0, 1.0])
# Intrinsics of nerfstudio and instant-ngp: where they stand, camera_angle_x alone would misread the camera.
_FOREIGN_KEYS = {"fl_x", "fl_y", "cx", "cy", "k1", "k2", "k3", "k4", "p1", "p2", "camera_model", "is_fisheye"}


def read_views(source: Path, eval: bool) -> tuple[list[View], list[View]]:
    """Training and held-out views. Without `eval`, those of the test file are trained on too, as in 3DGS.

    FileNotFoundError or ValueError, naming file and frame, if something is missing or wrong.
    """
    train = _read_transforms(source / TRAIN_FILE)
    test = _read_transforms(source / TEST_FILE) if eval or (source / TEST_FILE).is_file() else []
    require_unique_names(train + test, f"{source} ({TRAIN_FILE} and {TEST_FILE} together)")
    return (train, test) if eval else (train + test, [])


def read_points(source: Path, seed: int, quiet: bool) -> PointCloud:
    """The scene's points3d.ply, or random points where there is none. Nothing is written into the scene."""
    path = source / POINTS_FILE
    if path.is_file():
        points = PointCloud(*read_point_cloud(path))
        require_finite_points(points, path)
        return points
    points = random_points(seed)
    if not quiet:
        print(f"No {POINTS_FILE} in {source}: starting from {len(points)} random points (seed {seed}).")
    return points


def _read_transforms(path: Path) -> list[View]:
    if not path.is_file():
        raise FileNotFoundError(f"camera file not found: {path}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("frames"), list) or not content["frames"]:
        raise ValueError(f"{path} needs a list 'frames' with at least one frame")
    _refuse_foreign_intrinsics(content, str(path))
    lens = FieldOfView(_angle(content, path))
    frames = enumerate(content["frames"])
    views = [_to_view(frame, lens, f"{path}, frame {index}", path.parent) for index, frame in frames]
    require_images(views, path)
    return views


def _refuse_foreign_intrinsics(values: dict, owner: str) -> None:
    foreign = sorted(_FOREIGN_KEYS & values.keys())
    if foreign:
        raise ValueError(
            f"{owner} holds {', '.join(foreign)}: intrinsics as nerfstudio and instant-ngp write them; "
            "only Blender's camera_angle_x can be read here"
        )


def _angle(content: dict, path: Path) -> float:
    angle = content.get("camera_angle_x")
    if not isinstance(angle, (int, float)) or not 0 < angle < math.pi:
        raise ValueError(
            f"{path}: camera_angle_x must be an angle in radians between 0 and pi, got {angle!r}"
        )
    return float(angle)


def _to_view(frame: object, lens: FieldOfView, owner: str, folder: Path) -> View:
    if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str) or not frame["file_path"]:
        raise ValueError(f"{owner} has no file_path")
    _refuse_foreign_intrinsics(frame, owner)
    name = posixpath.normpath(frame["file_path"])
    if not (folder / name).is_file():
        name += ".png"
    return View(name, folder / name, lens, _world_to_camera(frame, f"{owner} ({name})"))


def _world_to_camera(frame: dict, owner: str) -> np.ndarray:
    try:
        matrix = np.array(frame.get("transform_matrix"), dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        matrix = np.empty(0)
    if matrix.shape != (4, 4):
        raise ValueError(f"{owner}: transform_matrix must be 4 rows of 4 numbers")
    require_rigid(matrix, owner)
    return camera_to_world(matrix @ _FLIP_Y_Z)
