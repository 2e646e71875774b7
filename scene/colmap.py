"""Scenes from COLMAP: sparse/0 (or sparse) beside a folder of photos."""

from __future__ import annotations

import math
import shlex
from pathlib import Path

import numpy as np
import torch

from scene import colmap_binary, colmap_text
from scene.colmap_records import CameraRecord, ImageRecord
from scene.points import PointCloud, require_finite_points
from scene.views import Pinhole, View, require_images, require_rigid, require_unique_names
from utils.rotations import quats_to_matrices

MODEL_FOLDERS = ("sparse/0", "sparse")
# COLMAP writes unit quaternions; anything this short has lost its direction.
SHORTEST_QUATERNION = 1e-6
_READERS = {".bin": colmap_binary, ".txt": colmap_text}
_PARTS = ("cameras", "images", "points3D")


def find_model(source: Path) -> Path | None:
    """The folder of the scene's COLMAP model, None if there is none."""
    for name in MODEL_FOLDERS:
        folder = source / name
        if any((folder / (part + suffix)).is_file() for part in _PARTS for suffix in _READERS):
            return folder
    return None


def read_scene(source: Path, images: str) -> tuple[list[View], PointCloud]:
    """Every registered image, sorted by name, and the points.

    `images` is the name of the folder with the photos, which may be scaled versions of those that COLMAP saw.
    FileNotFoundError or ValueError, naming the file, if something is missing, damaged or not supported.
    """
    model = find_model(source)
    if model is None:
        raise FileNotFoundError(
            f"no COLMAP model in {' or '.join(str(source / name) for name in MODEL_FOLDERS)}"
        )
    suffix = _encoding(model)
    reader = _READERS[suffix]
    cameras = reader.read_cameras(model / f"cameras{suffix}")
    image_file = model / f"images{suffix}"
    records = reader.read_images(image_file)
    if not records:
        raise ValueError(f"{image_file} holds no images")
    folder = source / images
    if not folder.is_dir():
        raise FileNotFoundError(f"image folder not found: {folder} (-i names it inside the scene)")
    views = [
        _to_view(record, cameras, folder, model) for record in sorted(records, key=lambda record: record.name)
    ]
    require_unique_names(views, image_file)
    require_images(views, image_file)
    points = reader.read_points(model / f"points3D{suffix}")
    require_finite_points(points, model / f"points3D{suffix}")
    return views, points


def _encoding(model: Path) -> str:
    """The suffix that all three files of the model have; binary is preferred, as COLMAP does."""
    for suffix in _READERS:
        if all((model / (part + suffix)).is_file() for part in _PARTS):
            return suffix
    found = sorted(
        part + suffix for part in _PARTS for suffix in _READERS if (model / (part + suffix)).is_file()
    )
    raise FileNotFoundError(
        f"{model} needs cameras, images and points3D, all as .bin or all as .txt; "
        f"it only has {', '.join(found)}"
    )


def _to_view(record: ImageRecord, cameras: dict[int, CameraRecord], folder: Path, model: Path) -> View:
    if record.camera_id not in cameras:
        raise ValueError(
            f"{model}: image {record.name!r} uses camera {record.camera_id}, which is not in the model"
        )
    lens = _to_pinhole(cameras[record.camera_id], folder, model)
    return View(record.name, folder / record.name, lens, _world_to_camera(record, model))


def _to_pinhole(camera: CameraRecord, folder: Path, model: Path) -> Pinhole:
    """The camera's intrinsics; ValueError if it has a lens distortion or makes no sense."""
    if camera.model == "PINHOLE":
        fx, fy, cx, cy = camera.params
    elif camera.model == "SIMPLE_PINHOLE":
        fx, cx, cy = camera.params
        fy = fx
    else:
        raise ValueError(
            f"{model}: camera {camera.camera_id} has the model {camera.model}; only PINHOLE and "
            "SIMPLE_PINHOLE can be trained on. Undistort the photos first: "
            + _undistort_command(folder, model)
        )
    if not all(map(math.isfinite, camera.params)) or min(fx, fy, camera.width, camera.height) <= 0:
        raise ValueError(
            f"{model}: camera {camera.camera_id} needs a positive size and focal length and finite "
            f"parameters; got {camera.width}x{camera.height} and {list(camera.params)}"
        )
    return Pinhole(camera.width, camera.height, fx, fy, cx, cy)


def _undistort_command(folder: Path, model: Path) -> str:
    """What to type; the result is a scene with its model in sparse, which can be read."""
    output = f"{folder.parent.resolve()}_undistorted"
    flags = ("--image_path", folder, "--input_path", model, "--output_path", output)
    return shlex.join(["colmap", "image_undistorter", *map(str, flags)])


def _world_to_camera(record: ImageRecord, model: Path) -> np.ndarray:
    """(4, 4) from COLMAP's quaternion, of any length but 0, and translation."""
    owner = f"{model}: image {record.name!r}"
    quaternion = torch.tensor([record.quaternion], dtype=torch.float64)
    if quaternion.norm() < SHORTEST_QUATERNION:
        raise ValueError(f"{owner}: its rotation quaternion is zero")
    pose = np.eye(4)
    pose[:3, :3] = quats_to_matrices(quaternion)[0].numpy()
    pose[:3, 3] = record.translation
    require_rigid(pose, owner)
    return pose
