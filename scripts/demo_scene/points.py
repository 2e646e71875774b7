"""The sparse points, like those of structure from motion: seen in several views, denser on texture."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import drjit as dr
import mitsuba as mi
import numpy as np
from numpy.typing import NDArray

from demo_scene.cameras import HOLD_OUT, DemoView, intrinsics, project
from demo_scene.shapes import Array

PIXEL_NOISE = 0.4  # pixels, standard deviation of a point's position in the image it is taken from
COLOR_NOISE = 3.0  # of 255, standard deviation
COLOR_AGREEMENT = 40.0  # of 255; a point matches a view if its color there differs by less
OCCLUSION_SLACK = 0.01  # m
TRACK = (2, 3)  # fewest and most views that record a point; more would only make the files larger


@dataclass(frozen=True)
class SparsePoints:
    """The points of a COLMAP model with their observations."""

    positions: Array  # (P, 3)
    colors: NDArray[np.uint8]  # (P, 3)
    tracks: list[NDArray[np.int64]]  # for each point, the indices of the views that see it
    pixels: list[Array]  # for each point, (len(track), 2) positions in those views


def cast(scene: mi.Scene, origin: Array, directions: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Return the distance (N,) to the first surface along unit directions (N, 3), and whether it is glass.

    The distance is infinite if there is no surface.
    """
    ray = mi.Ray3f(mi.Point3f(origin.tolist()), mi.Vector3f(directions.T.astype(np.float32)))
    hit = scene.ray_intersect(ray)
    glass = hit.is_valid() & mi.has_flag(hit.bsdf().flags(), mi.BSDFFlags.DeltaTransmission)
    return np.array(dr.select(hit.is_valid(), hit.t, dr.inf), dtype=np.float64), np.array(glass)


def textured_pixels(image: NDArray[np.uint8], count: int, rng: np.random.Generator) -> Array:
    """Sample pixel positions (count, 2) with a density that grows with the image gradient."""
    gray = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float64), (0, 0), 1.0)
    change = np.hypot(cv2.Sobel(gray, -1, 1, 0), cv2.Sobel(gray, -1, 0, 1))
    chance = (np.minimum(change, 80.0) + 4.0).ravel()
    index = rng.choice(len(chance), count, replace=False, p=chance / chance.sum())
    return np.stack([index % image.shape[1], index // image.shape[1]], -1) + rng.uniform(0, 1, (count, 2))


def surface_points(
    scene: mi.Scene, view: DemoView, image: NDArray[np.uint8], count: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Return noisy positions and colors (0 to 255) of up to `count` points behind a view's pixels.

    Points on glass are left out.
    """
    width, height, focal = intrinsics(image.shape[1])
    pixel = textured_pixels(image, count, rng)
    local = np.concatenate([(pixel - [width / 2, height / 2]) / focal, np.ones((count, 1))], 1)
    direction = local @ view.rotation
    length = np.linalg.norm(direction, axis=1, keepdims=True)
    distance, glass = cast(scene, view.center, direction / length)
    keep = np.isfinite(distance) & ~glass
    position = view.center + distance[keep, None] * (direction / length)[keep]
    position += rng.normal(0, PIXEL_NOISE / focal, position.shape) * distance[keep, None]
    column, row = pixel[keep].astype(int).T
    return position, image[row, column] + rng.normal(0, COLOR_NOISE, position.shape)


def visible(
    scene: mi.Scene, view: DemoView, image: NDArray[np.uint8], points: Array, colors: Array
) -> tuple[Array, NDArray[np.bool_]]:
    """Return pixel positions (P, 2) in a view, and the mask (P,) of points seen there with their color."""
    height, width = image.shape[:2]
    pixel, depth = project(view, points, width)
    seen = (depth > 0.05) & (pixel >= 1).all(1) & (pixel < [width - 1, height - 1]).all(1)
    offset = points - view.center
    distance = np.linalg.norm(offset, axis=1)
    seen &= cast(scene, view.center, offset / distance[:, None])[0] > distance - OCCLUSION_SLACK
    column, row = np.where(seen[:, None], pixel, 0).astype(int).T
    return pixel, seen & (np.abs(image[row, column] - colors).mean(1) < COLOR_AGREEMENT)


def sparse_points(
    scene: mi.Scene, views: list[DemoView], images: list[NDArray[np.uint8]], count: int, seed: int
) -> SparsePoints:
    """Return `count` points of the training views, with the views that see them.

    Raise ValueError if fewer points are seen in enough views.
    """
    rng = np.random.default_rng(seed)
    training = [k for k in range(len(views)) if k % HOLD_OUT != 0]
    each = 3 * count // len(training)  # more than needed, because points without a second view are dropped
    found = [surface_points(scene, views[k], images[k], each, rng) for k in training]
    points, colors = (np.concatenate(parts) for parts in zip(*found))
    sightings = [visible(scene, view, image, points, colors) for view, image in zip(views, images)]
    pixels, seen = (np.stack(parts, 1) for parts in zip(*sightings))
    matched = rng.permutation(np.flatnonzero(seen.sum(1) >= TRACK[0]))[:count]
    if len(matched) < count:
        raise ValueError(f"only {len(matched)} of {count} points are seen in {TRACK[0]} views or more")
    tracks = [np.sort(rng.permutation(np.flatnonzero(seen[p]))[: TRACK[1]]) for p in matched]
    rounded = np.clip(np.round(colors[matched]), 0, 255).astype(np.uint8)
    on_views = [pixels[p, track] for p, track in zip(matched, tracks)]
    return SparsePoints(points[matched], rounded, tracks, on_views)


def color_disagreement(points: SparsePoints, views: list[DemoView], images: list[NDArray[np.uint8]]) -> float:
    """Return the mean absolute difference (of 255) between the colors of points and of their pixels."""
    differences = []
    for position, color, track in zip(points.positions, points.colors, points.tracks):
        for k in track:
            column, row = project(views[k], position[None], images[k].shape[1])[0][0].astype(int)
            differences.append(np.abs(images[k][row, column].astype(float) - color).mean())
    return float(np.mean(differences))
