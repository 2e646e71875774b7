"""Scenes of COLMAP: a model in sparse/0 or sparse beside a folder of photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from scene import colmap_binary, colmap_text
from scene.colmap_records import CameraRecord, ImageRecord
from scene.lenses import DistortedLens, Pinhole, make_lens
from scene.masks import Masks
from scene.photo_list import photo_files
from scene.points import PointCloud, read_points
from scene.views import PosedPhoto, require_images, require_rigid, require_unique_names
from utils.rotations import quats_to_matrices
from utils.similar_names import hint

MODEL_FOLDERS = ("sparse/0", "sparse")
# COLMAP writes unit quaternions. One shorter than this has lost its direction.
SHORTEST_QUATERNION = 1e-6
_READERS = {".bin": colmap_binary, ".txt": colmap_text}
_NEEDED = ("cameras", "images")
_POINTS = "points3D"


def find_model(source: Path) -> Path | None:
    """Return the folder of the scene's COLMAP model, None if there is none."""
    for name in MODEL_FOLDERS:
        folder = source / name
        if any((folder / (part + suffix)).is_file() for part in (*_NEEDED, _POINTS) for suffix in _READERS):
            return folder
    return None


def read_scene(source: Path, images: str, quiet: bool = True) -> tuple[list[PosedPhoto], PointCloud | None]:
    """Return every registered image, sorted by name, and the points, None if the model has none.

    `images` is the name of the folder with the photos. They may be scaled versions of those that COLMAP saw.
    Unless `quiet`, print if it holds photos that the model does not, or another model in sparse/ more of
    them. Raise FileNotFoundError or ValueError, naming the file, if something is missing, damaged or not
    supported.
    """
    views, points = read_geometry(source, images)
    folder = source / images
    if not folder.is_dir():
        raise FileNotFoundError(
            f"image folder not found: {folder} (-i names it inside the scene){hint(folder)}"
        )
    model = find_model(source)
    require_images(views, model / f"images{_encoding(model)}")
    if not quiet:
        _report_other_photos(source, folder, model, len(views))
    return views, points


def _report_other_photos(source: Path, folder: Path, model: Path, count: int) -> None:
    """Print what the folder of photos holds beside those of the model, and which model is larger."""
    photos = len(photo_files(folder))
    others = {path: count_images(path) for path in (source / "sparse").iterdir() if path != model}
    largest = max(others, key=others.get, default=model)
    text = f"{folder} holds {photos} photos, {model} has cameras for {count} of them"
    if others.get(largest, 0) > count:
        text += f", but {largest} for {others[largest]}: put that model into {model} to train on it"
    elif photos <= count:
        return
    print(f"{text}.")


def count_images(model: Path) -> int:
    """Return how many images a model has, 0 if there is no complete one in the folder."""
    if not any((model / f"images{suffix}").is_file() for suffix in _READERS):
        return 0
    try:
        suffix = _encoding(model)
        return len(_READERS[suffix].read_images(model / f"images{suffix}"))
    except (ValueError, FileNotFoundError):
        return 0


def read_geometry(source: Path, images: str = "images") -> tuple[list[PosedPhoto], PointCloud | None]:
    """Return the same, whether the photos are there or not."""
    model = find_model(source)
    if model is None:
        raise FileNotFoundError(
            f"no COLMAP model in {' or '.join(str(source / name) for name in MODEL_FOLDERS)}"
        )
    suffix = _encoding(model)
    reader = _READERS[suffix]
    cameras = reader.read_cameras(model / f"cameras{suffix}")
    image_file = model / f"images{suffix}"
    records = sorted(reader.read_images(image_file), key=lambda record: record.name)
    if not records:
        raise ValueError(f"{image_file} holds no images")
    masks = Masks(source)
    views = [_to_view(record, cameras, source / images, model, masks) for record in records]
    require_unique_names(views, image_file)
    return views, _read_points(model, suffix)


def _encoding(model: Path) -> str:
    """Return the suffix that both needed files of the model have.

    Binary files are preferred, as in COLMAP. Raise FileNotFoundError if no suffix has both files.
    """
    for suffix in _READERS:
        if all((model / (part + suffix)).is_file() for part in _NEEDED):
            return suffix
    parts = (*_NEEDED, _POINTS)
    found = sorted(
        part + suffix for part in parts for suffix in _READERS if (model / (part + suffix)).is_file()
    )
    raise FileNotFoundError(
        f"{model} needs cameras and images, both as .bin or both as .txt; it only has {', '.join(found)}"
    )


def _read_points(model: Path, preferred: str) -> PointCloud | None:
    """Return the points of the PLY that 3DGS writes, else of the model's own file, else of VGGT's PLY."""
    own = [f"{_POINTS}{suffix}" for suffix in (preferred, *_READERS)]
    for path in (model / name for name in (f"{_POINTS}.ply", *own, "points.ply")):
        if path.suffix == ".ply" and path.is_file():
            return read_points(path)
        if path.is_file():
            points = _READERS[path.suffix].read_points(path)
            points.require_finite(path)
            return points if len(points) else None
    return None


def _to_view(
    record: ImageRecord, cameras: dict[int, CameraRecord], folder: Path, model: Path, masks: Masks
) -> PosedPhoto:
    if not record.name:
        raise ValueError(f"{model}: an image without a name")
    if record.camera_id not in cameras:
        raise ValueError(
            f"{model}: image {record.name!r} uses camera {record.camera_id}, which is not in the model"
        )
    lens = _lens(cameras[record.camera_id], model)
    name = record.name
    if not (folder / name).is_file():
        name = name.replace("\\", "/")  # of a model made on Windows
    return PosedPhoto(name, folder / name, lens, _pose(record, model), masks.of(name))


def _lens(camera: CameraRecord, model: Path) -> Pinhole | DistortedLens:
    try:
        return make_lens(camera.model, camera.width, camera.height, camera.params)
    except ValueError as problem:
        raise ValueError(f"{model}: camera {camera.camera_id} {problem}") from None


def _pose(record: ImageRecord, model: Path) -> np.ndarray:
    """Return the (4, 4) world to camera pose of an image.

    The quaternion may have any length but 0. Raise ValueError if it is 0 or a number is not finite.
    """
    owner = f"{model}: image {record.name!r}"
    quaternion = torch.tensor([record.quaternion], dtype=torch.float64)
    if quaternion.norm() < SHORTEST_QUATERNION:
        raise ValueError(f"{owner}: its rotation quaternion is zero")
    pose = np.eye(4)
    pose[:3, :3] = quats_to_matrices(quaternion)[0].numpy()
    pose[:3, 3] = record.translation
    require_rigid(pose, owner)
    return pose
