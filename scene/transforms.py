"""Scenes with cameras in JSON files: NeRF-synthetic (Blender), nerfstudio and instant-ngp."""

from __future__ import annotations

import json
import math
import posixpath
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import numpy as np

from scene.camera import camera_to_world
from scene.lenses import FieldOfView, Lens, PhotoSized
from scene.masks import Masks
from scene.views import (
    PosedPhoto,
    leave_out_missing,
    require_images,
    require_rigid,
    require_unique_names,
)
from utils.similar_names import hint

FILE = "transforms.json"  # of nerfstudio and instant-ngp
TRAIN_FILE = "transforms_train.json"  # of NeRF's Blender script, which writes a file per split
TEST_FILE = "transforms_test.json"
POINT_FILES = ("points3d.ply", "sparse_pc.ply")  # tried in turn; transforms.json may name another
# Cameras of Blender and OpenGL look along -z with y up. Here y is down and z forward.
_FLIP_Y_Z = np.diag([1.0, -1.0, -1.0, 1.0])
_SUFFIXES = ("", ".png", ".jpg", ".jpeg", ".JPG", ".JPEG", ".PNG")  # a file_path may lack its suffix
# nerfstudio's names of camera models, by the formula that their distortion parameters belong to.
_PERSPECTIVE = (
    "SIMPLE_PINHOLE",
    "PINHOLE",
    "SIMPLE_RADIAL",
    "RADIAL",
    "OPENCV",
    "FULL_OPENCV",
    "PERSPECTIVE",
)
_FISHEYE = ("OPENCV_FISHEYE", "FISHEYE")

# Returns the number of a key, or the given one where the key is absent.
ReadNumber = Callable[[str, float | None], float]


@dataclass(frozen=True)
class Transforms:
    """The views of one file, and its whole content."""

    views: list[PosedPhoto]
    content: dict[str, Any]
    path: Path


def read_split_files(source: Path, eval: bool) -> tuple[list[PosedPhoto], list[PosedPhoto]]:
    """Return training and held-out views.

    Without `eval` the views of the test file are trained on too, as in 3DGS.
    Raise FileNotFoundError or ValueError, naming file and frame, if something is missing or wrong.
    """
    train = _read(source / TRAIN_FILE, alpha_is_mask=False)
    test = []
    if eval or (source / TEST_FILE).is_file():
        test = _read(source / TEST_FILE, alpha_is_mask=False).views
    for views, name in ((train.views, TRAIN_FILE), (test, TEST_FILE)):
        require_images(views, source / name)
    require_unique_names(train.views + test, f"{source} ({TRAIN_FILE} and {TEST_FILE} together)")
    return (train.views, test) if eval else (train.views + test, [])


def read_one_file(source: Path, quiet: bool) -> Transforms:
    """Return the content of transforms.json with all views whose image exists, sorted by name.

    Print how many images are missing, unless `quiet`.
    Raise FileNotFoundError or ValueError, naming file and frame, if all are missing or something is wrong.
    """
    read = _read(source / FILE, alpha_is_mask=True)
    depths = sum("depth_file_path" in frame for frame in read.content["frames"])
    if depths and not quiet:
        print(f"The depth maps of {depths} frames in {read.path} are not read (-d reads those of 3DGS).")
    views = sorted(leave_out_missing(read.views, read.path, quiet), key=lambda view: view.image_name)
    require_unique_names(views, read.path)
    return Transforms(views, read.content, read.path)


def find_points(source: Path, content: dict[str, Any], quiet: bool) -> Path | None:
    """Return the scene's PLY of points, None if there is none.

    It is the file that `content` names, or else the first of POINT_FILES that exists. Print if the named one
    is missing, unless `quiet`.
    """
    named = content.get("ply_file_path")
    named = _with_slashes(named) if isinstance(named, str) else ""
    names = ([named] if named else []) + list(POINT_FILES)
    if not quiet and not (source / names[0]).is_file() and names[0] == named:
        print(f"The points that {FILE} names are missing: {source / named}{hint(source / named)}")
    return next((source / name for name in names if (source / name).is_file()), None)


def _read(path: Path, alpha_is_mask: bool) -> Transforms:
    """Read a file. Raise FileNotFoundError or ValueError, naming file and frame, if something is wrong."""
    if not path.is_file():
        raise FileNotFoundError(f"camera file not found: {path}{hint(path)}")
    try:
        content = json.loads(path.read_bytes())  # in UTF-8 or UTF-16, as the file begins
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("frames"), list) or not content["frames"]:
        raise ValueError(f"{path} needs a list 'frames' with at least one frame")
    frames, masks = enumerate(content["frames"]), Masks(path.parent)
    views = [
        _to_view(frame, content, f"{path}, frame {index}", path.parent, alpha_is_mask, masks)
        for index, frame in frames
    ]
    return Transforms(views, content, path)


def _to_view(
    frame: object, content: dict, owner: str, folder: Path, alpha_is_mask: bool, masks: Masks
) -> PosedPhoto:
    if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str) or not frame["file_path"]:
        raise ValueError(f"{owner} has no file_path")
    name = posixpath.normpath(_with_slashes(frame["file_path"]))
    existing = [name + suffix for suffix in _SUFFIXES if (folder / (name + suffix)).is_file()]
    name = existing[0] if existing else name if Path(name).suffix else f"{name}.png"
    owner = f"{owner} ({name})"
    mask = frame.get("mask_path")
    return PosedPhoto(
        name,
        folder / name,
        _lens({**content, **frame}, owner),
        _pose(frame, owner),
        mask_path=folder / _with_slashes(mask) if isinstance(mask, str) and mask else masks.of(name),
        alpha_is_mask=alpha_is_mask,
    )


def _with_slashes(name: str) -> str:
    """Return a file's name as it is written on Windows, with slashes."""
    return name.replace("\\", "/")


def _lens(values: dict, owner: str) -> Lens:
    """Return the lens by focal lengths in pixels (fl_x ...), or without them by angles of view.

    Raise ValueError, naming `owner`, if a number is missing or out of range.
    """

    def number(key: str, otherwise: float | None = None) -> float:
        value = values.get(key, otherwise)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"{owner}: {key} must be a finite number, got {value!r}")
        return float(value)

    size = (number("w", 0), number("h", 0))
    if any(side < 0 or side != int(side) for side in size):
        raise ValueError(f"{owner}: w and h must be the photo's size in pixels, got {size}")
    width, height = map(int, size)
    if "fl_x" in values:
        focal = (number("fl_x"), number("fl_y", values["fl_x"]))
    else:
        focal = FieldOfView(*_angles(values, owner))
    if "cx" in values or "cy" in values or width * height:
        center = (number("cx", width / 2 or None), number("cy", height / 2 or None))
    else:
        center = None
    model, distortion = _distortion(values, number, owner)
    lens = PhotoSized(model, focal, center, distortion)
    if width * height == 0:
        return lens
    try:
        return lens.at_size(width, height)
    except ValueError as problem:
        raise ValueError(f"{owner}: its camera {problem}") from None


def _distortion(values: dict, number: ReadNumber, owner: str) -> tuple[str, tuple[float, ...]]:
    """Return COLMAP's name of the model, and its parameters after the principal point.

    Raise ValueError, naming `owner`, if the model is unknown, or if k4 is given for one that is no fisheye.
    """
    model = values.get("camera_model", "OPENCV_FISHEYE" if values.get("is_fisheye") else "OPENCV")
    k1, k2, k3, k4, p1, p2 = (number(key, 0) for key in ("k1", "k2", "k3", "k4", "p1", "p2"))
    if model in _FISHEYE:
        return "OPENCV_FISHEYE", (k1, k2, k3, k4)
    if model not in _PERSPECTIVE:
        known = ", ".join(_PERSPECTIVE + _FISHEYE)
        raise ValueError(f"{owner}: camera_model must be one of {known}; got {model!r}")
    if k4:
        raise ValueError(f"{owner}: k4 is for fisheye cameras, got {k4} for camera_model {model}")
    return "FULL_OPENCV", (k1, k2, p1, p2, k3, 0.0, 0.0, 0.0)


def _angles(values: dict, owner: str) -> list[float]:
    """Return camera_angle_x, and camera_angle_y where it is given, in radians.

    Raise ValueError, naming `owner`, if one is not between 0 and pi. Pixels are square without the second.
    """
    angles = [values.get("camera_angle_x"), *(values[key] for key in ("camera_angle_y",) if key in values)]
    for key, angle in zip(("camera_angle_x", "camera_angle_y"), angles):
        if isinstance(angle, bool) or not isinstance(angle, (int, float)) or not 0 < angle < math.pi:
            raise ValueError(
                f"{owner}: expected fl_x in pixels, or {key} in radians between 0 and pi; got {angle!r}"
            )
    return list(map(float, angles))


def _pose(frame: dict, owner: str) -> np.ndarray:
    """Return the (4, 4) world to camera pose of a frame.

    The file holds camera to world with OpenGL's axes. Raise ValueError, naming `owner`, if it is not rigid.
    """
    try:
        matrix = np.array(frame.get("transform_matrix"), dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        matrix = np.empty(0)
    if matrix.shape == (3, 4):
        matrix = np.vstack([matrix, (0, 0, 0, 1)])
    if matrix.shape != (4, 4):
        raise ValueError(f"{owner}: transform_matrix must be 4 rows of 4 numbers")
    require_rigid(matrix, owner)
    return camera_to_world(matrix @ _FLIP_Y_Z)
