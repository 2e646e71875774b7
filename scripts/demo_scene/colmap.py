"""The writer of COLMAP's binary format (https://colmap.github.io/format.html), for one PINHOLE camera."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from demo_scene.cameras import DemoView, intrinsics
from demo_scene.points import PIXEL_NOISE, SparsePoints
from demo_scene.shapes import Array

PINHOLE = 1  # COLMAP's id of the camera model with parameters fx, fy, cx, cy
CAMERA_ID = 1


def quaternion(rotation: Array) -> Array:
    """Return the unit quaternion (4,) w, x, y, z with w >= 0 of a rotation (3, 3) (Bar-Itzhack 2000)."""
    m = rotation
    k = np.array(
        [
            [m[0, 0] + m[1, 1] + m[2, 2], m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]],
            [m[2, 1] - m[1, 2], m[0, 0] - m[1, 1] - m[2, 2], m[0, 1] + m[1, 0], m[0, 2] + m[2, 0]],
            [m[0, 2] - m[2, 0], m[0, 1] + m[1, 0], m[1, 1] - m[0, 0] - m[2, 2], m[1, 2] + m[2, 1]],
            [m[1, 0] - m[0, 1], m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], m[2, 2] - m[0, 0] - m[1, 1]],
        ]
    )
    q = np.linalg.eigh(k)[1][:, -1]
    return q if q[0] >= 0 else -q


def cameras_file(width: int) -> bytes:
    """Return the content of cameras.bin."""
    width, height, focal = intrinsics(width)
    head = struct.pack("<QiiQQ", 1, CAMERA_ID, PINHOLE, width, height)
    return head + struct.pack("<4d", focal, focal, width / 2, height / 2)


def observations(points: SparsePoints, views: int) -> tuple[list[list[tuple]], list[list[tuple[int, int]]]]:
    """Return (x, y, point id) per view, and (image id, index into that view's list) per point.

    Ids count from 1.
    """
    on_view: list[list[tuple]] = [[] for _ in range(views)]
    tracks = []
    for number, (track, pixels) in enumerate(zip(points.tracks, points.pixels), start=1):
        tracks.append([(int(k) + 1, len(on_view[k])) for k in track])
        for k, (x, y) in zip(track, pixels):
            on_view[k].append((x, y, number))
    return on_view, tracks


def images_file(views: list[DemoView], on_view: list[list[tuple]]) -> bytes:
    """Return the content of images.bin; on_view: the observations per view."""
    out = [struct.pack("<Q", len(views))]
    for number, (view, seen) in enumerate(zip(views, on_view), start=1):
        out.append(struct.pack("<i7di", number, *quaternion(view.rotation), *view.translation, CAMERA_ID))
        out.append(view.name.encode() + b"\0" + struct.pack("<Q", len(seen)))
        out += [struct.pack("<ddq", *entry) for entry in seen]
    return b"".join(out)


def points_file(points: SparsePoints, tracks: list[list[tuple[int, int]]]) -> bytes:
    """Return the content of points3D.bin; tracks: the observations per point."""
    out = [struct.pack("<Q", len(tracks))]
    for number, track in enumerate(tracks, start=1):
        position, color = points.positions[number - 1], points.colors[number - 1].tolist()
        out.append(struct.pack("<Q3d3BdQ", number, *position, *color, PIXEL_NOISE, len(track)))
        out += [struct.pack("<ii", *entry) for entry in track]
    return b"".join(out)


def write_model(folder: Path, views: list[DemoView], points: SparsePoints, width: int) -> None:
    """Write cameras.bin, images.bin and points3D.bin."""
    on_view, tracks = observations(points, len(views))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cameras.bin").write_bytes(cameras_file(width))
    (folder / "images.bin").write_bytes(images_file(views, on_view))
    (folder / "points3D.bin").write_bytes(points_file(points, tracks))
