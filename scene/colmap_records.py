"""The records of COLMAP's model files, the same in both encodings."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

# COLMAP's number of each camera model -> (name, number of parameters), as in `pycolmap.CameraModelId`.
# Readers need the count of every model to find the end of a record. scene/lenses.py lists the models that can
# be used.
CAMERA_MODELS = {
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8),
    6: ("FULL_OPENCV", 12),
    7: ("FOV", 5),
    8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5),
    10: ("THIN_PRISM_FISHEYE", 12),
    11: ("RAD_TAN_THIN_PRISM_FISHEYE", 16),
    12: ("SIMPLE_DIVISION", 4),
    13: ("DIVISION", 5),
    14: ("SIMPLE_FISHEYE", 3),
    15: ("FISHEYE", 4),
    16: ("EUCM", 6),
    17: ("EQUIRECTANGULAR", 2),
}


class CameraRecord(NamedTuple):
    """A camera as a model file describes it."""

    camera_id: int
    model: str
    width: int  # pixels
    height: int  # pixels
    params: tuple[float, ...]  # in the model's own order


class ImageRecord(NamedTuple):
    """A registered image as a model file describes it."""

    name: str
    camera_id: int
    quaternion: tuple[float, ...]  # (w, x, y, z), world to camera
    translation: tuple[float, ...]  # (3,), world to camera


def cameras_by_id(cameras: list[CameraRecord], path: Path) -> dict[int, CameraRecord]:
    """Return the cameras by id. Raise ValueError, naming `path`, if an id occurs twice."""
    table: dict[int, CameraRecord] = {}
    for camera in cameras:
        if camera.camera_id in table:
            raise ValueError(f"{path} holds camera {camera.camera_id} twice")
        table[camera.camera_id] = camera
    return table
