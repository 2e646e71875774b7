"""COLMAP's binary model files (https://colmap.github.io/format.html).

Every count in a file is checked against the size of the file before it is used.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

import numpy as np

from scene.colmap_records import CAMERA_MODELS, CameraRecord, ImageRecord, cameras_by_id
from scene.points import PointCloud

_COUNT = struct.Struct("<Q")
_CAMERA = struct.Struct("<iiQQ")  # id, model, width, height
_IMAGE = struct.Struct("<i4d3di")  # id, quaternion, translation, camera id
_POINT2D_BYTES = 24  # x, y, point id
_POINT = np.dtype([("id", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8")])  # a track follows
_TRACK_ELEMENT_BYTES = 8  # image id, index of the 2D point


def read_cameras(path: Path) -> dict[int, CameraRecord]:
    """Return the cameras by id. Raise ValueError if the file is damaged or names an unknown camera model."""
    reader = _Reader(path)
    cameras = [_read_camera(reader, index) for index in range(reader.count("cameras", _CAMERA.size))]
    reader.finish()
    return cameras_by_id(cameras, path)


def read_images(path: Path) -> list[ImageRecord]:
    """Return name, camera and pose of every image, without its 2D points.

    Raise ValueError if the file is damaged.
    """
    reader = _Reader(path)
    smallest = _IMAGE.size + 1 + _COUNT.size
    images = [_read_image(reader, index) for index in range(reader.count("images", smallest))]
    reader.finish()
    return images


def read_points(path: Path) -> PointCloud:
    """Return all points without their tracks. Raise ValueError if the file is damaged."""
    reader = _Reader(path)
    count = reader.count("points", _POINT.itemsize + _COUNT.size)
    offsets = np.fromiter((_skip_point(reader, index) for index in range(count)), np.int64, count)
    reader.finish()
    # Tracks of uneven length lie between the records. An array with a record at every byte lets NumPy read
    # all of them at once.
    everywhere = np.ndarray(
        max(0, reader.size - _POINT.itemsize + 1), _POINT, buffer=reader.data, strides=(1,)
    )
    records = everywhere[offsets]
    return PointCloud(records["xyz"].copy(), records["rgb"].copy())


def _read_camera(reader: _Reader, index: int) -> CameraRecord:
    what = f"camera {index}"
    camera_id, model, width, height = reader.unpack(_CAMERA, what)
    if model not in CAMERA_MODELS:
        raise ValueError(f"{reader.path}: camera {camera_id} has the unknown camera model number {model}")
    name, parameters = CAMERA_MODELS[model]
    return CameraRecord(camera_id, name, width, height, reader.unpack(struct.Struct(f"<{parameters}d"), what))


def _read_image(reader: _Reader, index: int) -> ImageRecord:
    what = f"image {index}"
    _, *pose, camera_id = reader.unpack(_IMAGE, what)
    name = reader.string(what)
    (points,) = reader.unpack(_COUNT, what)
    reader.skip(points * _POINT2D_BYTES, what)
    return ImageRecord(name, camera_id, tuple(pose[:4]), tuple(pose[4:]))


def _skip_point(reader: _Reader, index: int) -> int:
    """Skip one point and its track. Return the offset in bytes at which the point starts."""
    start = reader.position
    what = f"point {index}"
    reader.skip(_POINT.itemsize, what)
    (track,) = reader.unpack(_COUNT, what)
    reader.skip(track * _TRACK_ELEMENT_BYTES, what)
    return start


class _Reader:
    """A position in a memory-mapped file that never leaves the file.

    Its methods raise ValueError, naming what was being read, where the file is too short or too long.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0
        self.size = path.stat().st_size
        self.data = b""
        if self.size:
            with path.open("rb") as file:
                self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def skip(self, size: int, what: str) -> int:
        """Advance by `size` bytes. Return the position before."""
        start = self.position
        if size > self.size - start:
            raise ValueError(
                f"{self.path} ends too early: {what} needs {size} bytes at {start}, the file has {self.size}"
            )
        self.position += size
        return start

    def unpack(self, layout: struct.Struct, what: str) -> tuple:
        """Read one record."""
        return layout.unpack_from(self.data, self.skip(layout.size, what))

    def string(self, what: str) -> str:
        """Read a zero-terminated file name."""
        end = self.data.find(b"\0", self.position)
        if end < 0:
            raise ValueError(f"{self.path} ends too early: {what} has a name without an end")
        start = self.skip(end + 1 - self.position, what)
        return os.fsdecode(self.data[start:end])

    def count(self, what: str, smallest: int) -> int:
        """Read the number of records at the start of the file.

        Raise ValueError if that many records of at least `smallest` bytes cannot fit into the file.
        """
        (count,) = self.unpack(_COUNT, f"the number of {what}")
        if count * smallest > self.size - self.position:
            raise ValueError(
                f"{self.path} says that it holds {count} {what}, more than fit in its {self.size} bytes: "
                "it is cut off, or not such a file"
            )
        return count

    def finish(self) -> None:
        """Raise ValueError if bytes are left behind the last record."""
        if self.position != self.size:
            raise ValueError(
                f"{self.path} has {self.size - self.position} bytes behind its last record: "
                "it is damaged, or not such a file"
            )
