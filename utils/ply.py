"""Coloured point clouds as PLY files: x y z, red green blue."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from plyfile import PlyData, PlyElement, PlyParseError

from utils.files import write_atomically

POSITION = ("x", "y", "z")
NORMAL = ("nx", "ny", "nz")
COLOR = ("red", "green", "blue")


def read_point_cloud(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """(P, 3) float64 positions and (P, 3) uint8 colours of a PLY file, ASCII or binary.

    Colours may be stored as 8 or 16 bit integers or as floats in [0, 1]. FileNotFoundError or ValueError,
    naming the file, if it is missing, damaged, or lacks positions or colours.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"point cloud not found: {path}")
    vertices = _read_vertices(path)
    xyz = np.stack([vertices[name] for name in POSITION], axis=1).astype(np.float64)
    rgb = np.stack([vertices[name] for name in COLOR], axis=1)
    return xyz, _to_uint8(rgb, path)


def write_point_cloud(
    path: str | Path,
    xyz: np.ndarray,  # (P, 3)
    rgb: np.ndarray,  # (P, 3) uint8
) -> None:
    """Write a binary PLY, atomically. The normals are zero: 3DGS tools insist on the columns."""
    if xyz.shape != rgb.shape or xyz.ndim != 2 or xyz.shape[1] != 3 or rgb.dtype != np.uint8:
        raise ValueError(
            f"{path}: expected positions (P, 3) and uint8 colours (P, 3), "
            f"got {xyz.shape} and {rgb.shape} {rgb.dtype}"
        )
    columns = [(name, "<f4") for name in POSITION + NORMAL] + [(name, "u1") for name in COLOR]
    vertices = np.zeros(len(xyz), dtype=columns)
    for axis in range(3):
        vertices[POSITION[axis]] = xyz[:, axis]
        vertices[COLOR[axis]] = rgb[:, axis]
    data = PlyData([PlyElement.describe(vertices, "vertex")], byte_order="<")
    write_atomically(path, data.write)


def _read_vertices(path: Path) -> np.ndarray:
    """The vertex table, checked to have scalar positions and colours."""
    try:
        data = PlyData.read(
            BytesIO(path.read_bytes())
        )  # given a file, plyfile leaves it open behind text formats
    except (PlyParseError, ValueError, MemoryError, OverflowError) as error:
        raise ValueError(f"{path} is damaged or not a PLY file: {error}") from None
    if "vertex" not in data:
        raise ValueError(f"{path} has no element 'vertex', only {[element.name for element in data]}")
    vertices = data["vertex"].data
    missing = [name for name in POSITION + COLOR if name not in vertices.dtype.names]
    if missing:
        raise ValueError(
            f"{path} lacks the vertex properties {' '.join(missing)}; "
            f"needed are x y z red green blue, found are {' '.join(vertices.dtype.names)}"
        )
    lists = [name for name in POSITION + COLOR if vertices.dtype[name].kind == "O"]
    if lists:
        raise ValueError(f"{path}: the vertex properties {' '.join(lists)} are lists, expected numbers")
    return vertices


def _to_uint8(rgb: np.ndarray, path: Path) -> np.ndarray:
    if rgb.dtype == np.uint8:
        return rgb
    if rgb.dtype.newbyteorder("=") == np.uint16:
        return ((rgb.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if rgb.dtype.kind == "f" and ((rgb >= 0) & (rgb <= 1)).all():
        return np.rint(rgb * 255).astype(np.uint8)
    raise ValueError(
        f"{path}: colours must be 8 or 16 bit unsigned integers or floats in [0, 1], got {rgb.dtype} "
        f"between {rgb.min()} and {rgb.max()}"
    )
