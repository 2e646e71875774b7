"""COLMAP's text model files (https://colmap.github.io/format.html)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from scene.colmap_records import CAMERA_MODELS, CameraRecord, ImageRecord, cameras_by_id
from scene.points import PointCloud

_PARAMETER_COUNTS = dict(CAMERA_MODELS.values())


def read_cameras(path: Path) -> dict[int, CameraRecord]:
    """Return the cameras by id. Raise ValueError, naming the line, if one is malformed."""
    cameras = []
    for number, line in _content_lines(path):
        try:
            cameras.append(_parse_camera(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    return cameras_by_id(cameras, path)


def read_images(path: Path) -> list[ImageRecord]:
    """Return name, camera and pose of every image, without its 2D points.

    Raise ValueError, naming the line, if one is malformed.
    """
    images = []
    with path.open(encoding="utf-8", errors="surrogateescape") as file:
        lines = enumerate(file, start=1)
        for number, line in lines:
            if _is_content(line):
                try:
                    images.append(_parse_image(line))
                except ValueError as error:
                    raise ValueError(f"{path}, line {number}: {error}") from None
                _require_points2d(path, *next(lines, (number + 1, "")))
    return images


def read_points(path: Path) -> PointCloud:
    """Return all points without their tracks. Raise ValueError, naming the line, if one is malformed."""
    rows = []
    for number, line in _content_lines(path):
        try:
            rows.append(_parse_point(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    return PointCloud(table[:, :3].copy(), table[:, 3:].astype(np.uint8))


def _is_content(line: str) -> bool:
    stripped = line.lstrip()
    return bool(stripped) and not stripped.startswith("#")


def _content_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number and text of every line that is neither empty nor a comment."""
    with path.open(encoding="utf-8", errors="surrogateescape") as file:
        for number, line in enumerate(file, start=1):
            if _is_content(line):
                yield number, line


def _parse_camera(line: str) -> CameraRecord:
    fields = line.split()
    if len(fields) < 4:
        raise ValueError(f"expected CAMERA_ID MODEL WIDTH HEIGHT PARAMS..., got {line.strip()!r}")
    model, params = fields[1], tuple(float(field) for field in fields[4:])
    if model not in _PARAMETER_COUNTS:
        raise ValueError(f"camera {fields[0]} has the unknown camera model {model}")
    if len(params) != _PARAMETER_COUNTS[model]:
        raise ValueError(f"camera model {model} has {_PARAMETER_COUNTS[model]} parameters, got {len(params)}")
    return CameraRecord(int(fields[0]), model, int(fields[2]), int(fields[3]), params)


def _parse_image(line: str) -> ImageRecord:
    fields = line.split(maxsplit=9)
    if len(fields) < 10:
        raise ValueError(f"expected IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, got {line.strip()!r}")
    numbers = tuple(float(field) for field in fields[1:8])
    return ImageRecord(fields[9].strip(), int(fields[8]), numbers[:4], numbers[4:])


def _require_points2d(path: Path, number: int, line: str) -> None:
    """Raise ValueError unless `line`, which follows an image, can hold 2D points.

    A point has three numbers. A line without points is empty.
    """
    if len(line.split()) % 3:
        raise ValueError(
            f"{path}, line {number}: expected the 2D points of the image before it (X Y POINT3D_ID each, "
            f"or an empty line), got {line.strip()[:80]!r}"
        )


def _parse_point(line: str) -> list[float]:
    """Return x, y, z, red, green, blue."""
    fields = line.split(maxsplit=8)
    if len(fields) < 8:
        raise ValueError(f"expected POINT3D_ID X Y Z R G B ERROR TRACK..., got {line.strip()!r}")
    values = [float(field) for field in fields[1:7]]
    if not all(0 <= value <= 255 for value in values[3:]):
        raise ValueError(f"colors must lie in 0..255, got {' '.join(fields[4:7])}")
    return values
