"""PLY files: colored point clouds (x y z, red green blue), and Gaussians as columns of float32."""

from __future__ import annotations

import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from plyfile import PlyData, PlyElement, PlyParseError
from torch import Tensor

from utils.files import write_atomically
from utils.ranks import Ranks
from utils.similar_names import hint

POSITION = ("x", "y", "z")
NORMAL = ("nx", "ny", "nz")
COLOR = ("red", "green", "blue")
# A comment in the header of a file whose positions are relative to a point: of x y z, where that is.
SHIFT = "shift"
BINARY = b"format binary"  # how the second line of a binary file begins
NO_SHIFT = np.zeros(3)
SHIFT_ROOM = 160  # bytes that the comments about a shift take at most


def read_point_cloud(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Return positions (P, 3) float64 and colors (P, 3) uint8 of a PLY file, ASCII or binary.

    A shift that the file states is added. Colors may be stored as 8 or 16 bit integers or as floats in
    [0, 1]. Raise FileNotFoundError or ValueError, naming the file, if it is missing, damaged, or lacks
    positions or colors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"point cloud not found: {path}{hint(path)}")
    vertices, comments = _read_vertices(path)
    xyz = np.stack([vertices[name] for name in POSITION], axis=1).astype(np.float64)
    rgb = np.stack([vertices[name] for name in COLOR], axis=1)
    return xyz + parse_shift(comments, path), _to_uint8(rgb, path)


def write_point_cloud(
    path: str | Path,
    xyz: np.ndarray,  # (P, 3)
    rgb: np.ndarray,  # (P, 3) uint8
    shift: np.ndarray = NO_SHIFT,  # (3,) that was subtracted from the positions
) -> None:
    """Write a binary PLY, atomically. The normals are zero: 3DGS tools insist on the columns."""
    if xyz.shape != rgb.shape or xyz.ndim != 2 or xyz.shape[1] != 3 or rgb.dtype != np.uint8:
        raise ValueError(
            f"{path}: expected positions (P, 3) and uint8 colors (P, 3), "
            f"got {xyz.shape} and {rgb.shape} {rgb.dtype}"
        )
    columns = [(name, "<f4") for name in POSITION + NORMAL] + [(name, "u1") for name in COLOR]
    vertices = np.zeros(len(xyz), dtype=columns)
    for axis in range(3):
        vertices[POSITION[axis]] = xyz[:, axis]
        vertices[COLOR[axis]] = rgb[:, axis]
    element = PlyElement.describe(vertices, "vertex")
    write_atomically(path, PlyData([element], byte_order="<", comments=shift_comments(shift)).write)


def format_shift(shift: np.ndarray) -> str:
    """Return the three numbers, exactly."""
    return " ".join(f"{float(value)!r}" for value in shift)


def shift_comments(shift: np.ndarray) -> list[str]:
    """Return the comments of a file whose positions had `shift` (3,) subtracted from them."""
    if not np.any(shift):
        return []
    return [f"{SHIFT} {format_shift(shift)}", "add the shift to x y z for the scene's own coordinates"]


def parse_shift(comments: Sequence[str], path: str | os.PathLike) -> np.ndarray:
    """Return the (3,) float64 shift of a file; 0 without one. Raise ValueError if it is malformed."""
    found = [comment.split()[1:] for comment in comments if comment.split()[:1] == [SHIFT]]
    if not found:
        return NO_SHIFT
    try:
        shift = np.array(found[0], np.float64).reshape(3)
    except ValueError:
        shift = np.full(3, np.nan)
    if not np.isfinite(shift).all():
        raise ValueError(f"{path}: expected a comment '{SHIFT} X Y Z', got {' '.join(found[0])!r}")
    return shift


def _read_vertices(path: Path) -> tuple[np.ndarray, list[str]]:
    """Return the vertex table, checked to have scalar positions and colors, and the comments."""
    try:
        data = _parse(path)
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
    return vertices, data.comments


def _parse(path: Path) -> PlyData:
    with path.open("rb") as file:
        file.readline()
        if file.readline(len(BINARY)) == BINARY:
            file.seek(0)
            return PlyData.read(file)  # mapped into memory; other streams are read number by number
    # Given a file, plyfile leaves it open behind text formats.
    return PlyData.read(BytesIO(path.read_bytes()))


def _to_uint8(rgb: np.ndarray, path: Path) -> np.ndarray:
    if rgb.dtype == np.uint8:
        return rgb
    if rgb.dtype.newbyteorder("=") == np.uint16:
        return ((rgb.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if rgb.dtype.kind == "f" and ((rgb >= 0) & (rgb <= 1)).all():
        return np.rint(rgb * 255).astype(np.uint8)
    between = f" between {rgb.min()} and {rgb.max()}" if rgb.size else ""
    raise ValueError(
        f"{path}: colors must be 8 or 16 bit unsigned integers or floats in [0, 1], got {rgb.dtype}{between}"
    )


# Gaussians


def read_gaussians(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """Return the vertex table, a structured array (N,), and the shift (3,) of its positions.

    Raise ValueError if the file is no PLY or has no such table, FileNotFoundError if it is missing.
    """
    if beginning := _known_beginning(path):
        raise ValueError(f"{path}: not a PLY file of Gaussians but {beginning}")
    try:
        data = PlyData.read(os.fspath(path), mmap=False)
        return data["vertex"].data, parse_shift(data.comments, path)
    except (PlyParseError, KeyError, ValueError, MemoryError, OverflowError) as problem:
        raise ValueError(f"{path}: not a PLY file of Gaussians ({problem})") from problem


BEGINNINGS = {  # of files that are given as models by mistake
    b"\x1f\x8b": "a gzip file, as SPZ is; give the PLY that it was made from",
    b"NGSP": "an SPZ file; give the PLY that it was made from",
    b"PK": "a ZIP file, as SOG is; give the PLY that it was made from",
    b"\x80": "a Python pickle, as a checkpoint of 3DGS is; give its point_cloud.ply",
}


def _known_beginning(path: str | os.PathLike) -> str:
    """Return what a file of another kind is, by its first bytes; empty for all others."""
    with open(path, "rb") as file:
        start = file.read(4)
    return next((kind for magic, kind in BEGINNINGS.items() if start.startswith(magic)), "")


def kind_of_vertices(names: Sequence[str]) -> str:
    """Return what a table of vertices that are not Gaussians holds, by its columns; empty if unclear."""
    present = set(names)
    if {"packed_position", "packed_rotation"} <= present:
        return "a compressed PLY; give the PLY that it was made from"
    if {"scale_0", "scale_1", "f_dc_0"} <= present and "scale_2" not in present:
        return "a PLY of 2D Gaussians (surfels), which have two scales; this renders 3D ones"
    if {"x", "y", "z"} <= present and "f_dc_0" not in present:
        return "a point cloud; train.py --init_points starts from one"
    return ""


def write_gaussians(
    path: str | os.PathLike,
    names: Sequence[str],
    columns: dict[str, Tensor],
    shift: np.ndarray,  # (3,) that was subtracted from the positions
    ranks: Ranks,
) -> None:
    """Write float32 columns (N,) under `names`, atomically; those that are not in `columns` are 0.

    The first of several ranks writes the rows of all, one rank's after the other's.
    """
    rows = torch.zeros(len(next(iter(columns.values()))), len(names))
    for name, values in columns.items():
        rows[:, names.index(name)] = values.cpu()
    counts = ranks.counts(len(rows), rows.device)
    parts = ranks.to_first(rows, counts)

    def write(file: BinaryIO) -> None:
        file.write(_header(names, sum(counts), shift))
        for part in parts:
            file.write(part.numpy().astype("<f4", copy=False).tobytes())

    if ranks.is_first:
        try:
            write_atomically(path, write)
        finally:
            list(parts)  # of ranks that wait until they are heard
    else:
        list(parts)


def _header(names: Sequence[str], count: int, shift: np.ndarray = NO_SHIFT) -> bytes:
    empty = PlyElement.describe(np.zeros(0, dtype=_float_row(names)), "vertex")
    text = PlyData([empty], byte_order="<", comments=shift_comments(shift)).header + "\n"
    return text.replace("element vertex 0", f"element vertex {count}").encode("ascii")


def file_size(names: Sequence[str], count: int) -> int:
    """Return the bytes of a file of `count` rows, without a shift, as `write_gaussians` writes it."""
    return len(_header(names, count)) + 4 * len(names) * count


def float_columns(vertices: np.ndarray, names: Sequence[str]) -> Tensor:
    """Return the named columns of a vertex table as float32 (N, C); infinity where that is too small.

    Raise ValueError if one holds lists.
    """
    if lists := [name for name in names if vertices.dtype[name].kind == "O"]:
        raise ValueError(f"the vertex properties {' '.join(lists)} are lists, expected numbers")
    values = np.empty((len(vertices), len(names)), np.float32)
    with np.errstate(over="ignore"):
        for index, name in enumerate(names):
            values[:, index] = vertices[name]
    return torch.from_numpy(values)


def channels_first(values: Tensor) -> list[Tensor]:
    """Return the columns (N,) of (N, bases, 3), all of red first, or of (N, C).

    They are views: a copy of all would be large.
    """
    channels = values.transpose(1, 2) if values.dim() == 3 else values[:, None]
    return [column for channel in channels.unbind(1) for column in channel.unbind(1)]


def channels_last(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Undo `channels_first`: (N, C) becomes (N, *shape)."""
    if len(shape) == 1:
        return values
    return values.reshape(len(values), shape[1], shape[0]).transpose(1, 2).contiguous()


def _float_row(names: Sequence[str]) -> list[tuple[str, str]]:
    return [(name, "<f4") for name in names]
