"""Triangle meshes with vertex colors, made with numpy only. Lengths are in meters, z points up."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Mesh:
    """The vertices, faces, colors and texture coordinates of a triangle mesh."""

    vertices: Array  # (V, 3)
    faces: NDArray[np.int64]  # (F, 3) indices into vertices
    colors: Array  # (V, 3) linear RGB
    uv: Array  # (V, 2) texture coordinates

    def moved(self, offset: ArrayLike) -> Mesh:
        return replace(self, vertices=self.vertices + np.asarray(offset))

    def turned(self, degrees: float, axis: str = "z") -> Mesh:
        """Return the mesh rotated about a coordinate axis through the origin."""
        return replace(self, vertices=self.vertices @ rotation(degrees, axis).T)

    def aligned(self, direction: ArrayLike) -> Mesh:
        """Return the mesh rotated so that its +z points along `direction`."""
        z = np.asarray(direction) / np.linalg.norm(direction)
        x = np.cross([0.0, 1.0, 0.0] if abs(z[1]) < 0.9 else [1.0, 0.0, 0.0], z)
        x /= np.linalg.norm(x)
        return replace(self, vertices=self.vertices @ np.stack([x, np.cross(z, x), z]))

    def normals(self) -> Array:
        """Return unit normals (V, 3), area-weighted over the faces that share a vertex."""
        a, b, c = (self.vertices[self.faces[:, i]] for i in range(3))
        total = np.zeros_like(self.vertices)
        for corner in range(3):
            np.add.at(total, self.faces[:, corner], np.cross(b - a, c - a))
        return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-20)


def rotation(degrees: float, axis: str) -> Array:
    """Return the rotation matrix (3, 3) about the axis "x", "y" or "z"."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
    return matrix


def srgb(code: str) -> Array:
    """Return linear RGB (3,) of "#rrggbb"."""
    encoded = np.array([int(code[i : i + 2], 16) for i in (1, 3, 5)]) / 255.0
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def join(meshes: list[Mesh]) -> Mesh:
    starts = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes[:-1]])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.faces + start for mesh, start in zip(meshes, starts)]),
        np.concatenate([mesh.colors for mesh in meshes]),
        np.concatenate([mesh.uv for mesh in meshes]),
    )


def sheet(
    points: Array,  # (R, C, 3) rows of points
    color: ArrayLike,  # broadcast to (R, C, 3)
    wrap: bool = False,  # the last column joins the first
) -> Mesh:
    """Build the surface through a grid of points; uv runs over [0, 1]^2 along columns and rows."""
    rows, columns, _ = points.shape
    index = np.arange(rows * columns).reshape(rows, columns)
    right = np.roll(index, -1, axis=1) if wrap else index[:, 1:]
    left = index if wrap else index[:, :-1]
    a, b, c, d = left[:-1].ravel(), right[:-1].ravel(), right[1:].ravel(), left[1:].ravel()
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    v, u = np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, columns), indexing="ij")
    colors = np.broadcast_to(np.asarray(color, dtype=np.float64), points.shape).reshape(-1, 3)
    return Mesh(points.reshape(-1, 3), faces, colors, np.stack([u, v], -1).reshape(-1, 2))


def per_row(color: ArrayLike) -> Array:
    """Return a color for `sheet`: (3,) unchanged, (R, 3) as one color for each row."""
    color = np.asarray(color, dtype=np.float64)
    return color[:, None] if color.ndim == 2 else color


def quad(corner: ArrayLike, along_u: ArrayLike, along_v: ArrayLike, color: ArrayLike = (1, 1, 1)) -> Mesh:
    """Build a parallelogram whose uv covers the unit square; it faces along cross(along_u, along_v)."""
    p, u, v = (np.asarray(x, dtype=np.float64) for x in (corner, along_u, along_v))
    return sheet(np.array([[p, p + u], [p + v, p + u + v]]), color)


def box(center: ArrayLike, size: ArrayLike, color: ArrayLike = (1, 1, 1)) -> Mesh:
    """Build an axis-aligned box with flat faces."""
    half = np.diag(np.asarray(size, dtype=np.float64) / 2)
    faces = []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            u, v, n = half[(axis + 1) % 3], half[(axis + 2) % 3], sign * half[axis]
            faces.append(quad(n - u - sign * v, 2 * u, sign * 2 * v, color))
    return join(faces).moved(center)


def lathe(profile: ArrayLike, color: ArrayLike, segments: int = 48) -> Mesh:
    """Build the surface of revolution about z of a profile of (radius, height) pairs."""
    radius, height = np.asarray(profile, dtype=np.float64).T
    angle = np.linspace(0, 2 * np.pi, segments, endpoint=False)
    ring = np.stack([np.cos(angle), np.sin(angle), np.zeros(segments)], -1)
    points = radius[:, None, None] * ring + height[:, None, None] * np.array([0.0, 0.0, 1.0])
    return sheet(points, color, wrap=True)


def ellipsoid(radii: ArrayLike, color: ArrayLike, segments: int = 16) -> Mesh:
    angle = np.linspace(-np.pi / 2, np.pi / 2, segments // 2 + 1)
    ball = lathe(np.stack([np.cos(angle), np.sin(angle)], -1), color, segments)
    return replace(ball, vertices=ball.vertices * np.asarray(radii))


def tube(
    path: ArrayLike,  # (P, 3)
    radius: ArrayLike,  # scalar or (P,)
    color: ArrayLike,  # (3,) or (P, 3)
    sides: int = 6,
    closed: bool = False,
) -> Mesh:
    """Build a round wire along a straight or planar path, open at its ends unless `closed`."""
    path = np.asarray(path, dtype=np.float64)
    path = np.concatenate([path, path[:1]]) if closed else path
    tangent = np.gradient(path, axis=0)
    if closed:
        tangent[0] = tangent[-1] = tangent[0] + tangent[-1]
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    # The direction of least spread is the normal of a planar path, so it is never parallel to a tangent.
    normal = np.linalg.svd(path - path.mean(0))[2][-1]
    side = np.cross(tangent, normal)
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)[None, :, None]
    ring = np.cos(angle) * side[:, None] + np.sin(angle) * np.cross(side, tangent)[:, None]
    radius = np.broadcast_to(np.asarray(radius, dtype=np.float64), len(path))
    return sheet(path[:, None] + radius[:, None, None] * ring, per_row(color), wrap=True)


def ring(radius: float, wire: float, color: ArrayLike, segments: int = 72, sides: int = 8) -> Mesh:
    """Build a torus around z; wire: the radius of its tube."""
    angle = np.linspace(0, 2 * np.pi, segments, endpoint=False)
    path = radius * np.stack([np.cos(angle), np.sin(angle), np.zeros(segments)], -1)
    return tube(path, wire, color, sides, closed=True)


def bezier(start: ArrayLike, middle: ArrayLike, end: ArrayLike, count: int) -> Array:
    """Return points (count, 3) of the quadratic Bézier curve with these control points."""
    a, b, c = (np.asarray(p, dtype=np.float64) for p in (start, middle, end))
    t = np.linspace(0, 1, count)[:, None]
    return (1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c


def ribbon(path: Array, across: ArrayLike, width: ArrayLike, color: ArrayLike) -> Mesh:
    """Build a slightly folded band along a path (P, 3), of widths (P,) in the direction `across`."""
    across = np.asarray(across, dtype=np.float64) / np.linalg.norm(across)
    half = np.broadcast_to(np.asarray(width, dtype=np.float64) / 2, len(path))[:, None] * across
    fold = 0.35 * np.linalg.norm(half, axis=1, keepdims=True) * np.array([0.0, 0.0, -1.0])
    return sheet(np.stack([path - half, path + fold, path + half], 1), per_row(color))


def petal(
    length: float,
    width: float,
    rise: float,
    curl: float,
    inner: ArrayLike,
    outer: ArrayLike,
    fullness: float = 0.75,
) -> Mesh:
    """Build a petal from the origin along +x: it rises by `rise`, bends down by `curl`, and is cupped across.

    A fullness above 1 makes it widest near the tip and ruffles its edge.
    """
    t, s = np.meshgrid(np.linspace(0, 1, 10), np.linspace(-1, 1, 9), indexing="ij")
    breadth = width / 2 * np.clip(np.sin(np.pi * t**fullness), 0, 1) ** 0.6 + 0.08 * width
    x = length * t * (1 - 0.08 * s**2 * t)
    ruffle = 0.12 * max(fullness - 0.75, 0) * t**2 * np.sin(3 * np.pi * s)
    z = rise * t - curl * t**2 + breadth * (0.25 * s**2 + ruffle)
    blend = t[..., None]
    return sheet(
        np.stack([x, breadth * s, z], -1), (1 - blend) * np.asarray(inner) + blend * np.asarray(outer)
    )
