"""Gaussians that benchmarks/gpu_step.py trains: random ones before one camera, a PLY, or points of COLMAP."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from arguments import Settings
from gaussian_model import GaussianModel
from scene import Camera, Cameras, PointCloud, Scene, colmap
from scene.camera import scene_extent
from scene.views import target_size
from training.run import Totals, Training
from training.view_order import ViewOrder

NEAR, FAR = 2.0, 20.0  # depths of random Gaussians, world units
PIXELS_WIDE = 1.5  # of one standard deviation, median
FIELD_OF_VIEW = math.radians(60)
JITTER = 0.01  # of points, over the scene's extent


class Views(NamedTuple):
    """Cameras with random photos, and how large the scene is."""

    cameras: list[Camera]
    extent: float  # world units


def random_photo(width: int, height: int, device: torch.device) -> Tensor:
    """Return (H, W, 3) uint8 noise, stored as photos are: channel by channel."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
    return pixels.to(device).permute(1, 2, 0)


def random_view(width: int, height: int, device: torch.device) -> Views:
    """Return one camera at the origin that looks along z."""
    focal = width / (2 * math.tan(FIELD_OF_VIEW / 2))
    photo = random_photo(width, height, device)
    camera = Camera("random", width, height, focal, focal, width / 2, height / 2, np.eye(4), photo)
    return Views([camera], 1.0)


def random_model(count: int, camera: Camera, device: torch.device) -> GaussianModel:
    """Return Gaussians that fill the camera's view, each a few pixels wide."""
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator)

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator)

    depth = NEAR + (FAR - NEAR) * uniform(1)
    half = torch.tensor([math.tan(camera.FoVx / 2), math.tan(camera.FoVy / 2)])
    pixel = 2 * half[0] * depth / camera.width
    raw = {
        "means": torch.cat([(2 * uniform(2) - 1) * half * depth, depth], 1),
        "sh_dc": uniform(1, 3) - 0.5,
        "sh_rest": 0.1 * normal(15, 3),
        "opacities": 2 * normal(1) - 1,
        "scales": (PIXELS_WIDE * pixel).log() + 0.5 * normal(3),
        "quats": normal(4),
    }
    return GaussianModel({name: values.to(device) for name, values in raw.items()})


def colmap_views(folder: Path, width: int, device: torch.device) -> tuple[Views, PointCloud]:
    """Return the cameras of a COLMAP model, `width` pixels wide with noise for photos, and its points.

    FileNotFoundError or ValueError, naming the file, for a model that cannot be read or has no points.
    """
    found, points = colmap.read_geometry(folder)
    if points is None:
        raise ValueError(f"{folder}: its COLMAP model has no points")
    photos: dict[tuple[int, int], Tensor] = {}
    cameras = []
    for view in found:
        lens = view.lens.undistorted
        size = target_size(lens.width, lens.height, width)
        lens = lens.stretched(*size)
        if size not in photos:
            photos[size] = random_photo(*size, device)
        numbers = (*size, lens.fx, lens.fy, lens.cx, lens.cy)
        cameras.append(Camera(view.image_name, *numbers, view.world_to_camera, photos[size]))
    return Views(cameras, scene_extent(cameras)), points


def model_of_points(
    count: int, points: PointCloud, extent: float, settings: Settings, device: torch.device
) -> GaussianModel:
    """Return what training would begin with on `count` of the points, drawn at random and moved a little."""
    drawn, opacity = draw_points(count, points, extent), settings.optimization.initial_opacity
    return GaussianModel.from_points(drawn.xyz, drawn.rgb, settings.model.sh_degree, opacity, device)


def draw_points(count: int, points: PointCloud, extent: float) -> PointCloud:
    """Return `count` of the points, drawn at random and moved a little."""
    random = np.random.default_rng(0)
    chosen = random.integers(0, len(points), count)
    xyz = points.xyz[chosen] + random.normal(scale=JITTER * extent, size=(count, 3))
    return PointCloud(xyz, points.rgb[chosen])


def make_run(model: GaussianModel, views: Views, settings: Settings) -> Training:
    """Return a training run of the model on the views, as train.py holds one."""
    model.start_training(settings.optimization)
    no_points = PointCloud(np.zeros((0, 3)), np.zeros((0, 3), np.uint8))
    scene = Scene(Cameras(views.cameras), Cameras([]), no_points, views.extent, Path())
    generator = torch.Generator().manual_seed(settings.run.seed)
    totals = Totals.at_start(settings.importance.lambda_importance, model.device)
    order = ViewOrder(len(views.cameras), generator, settings.optimization.views_per_step)
    return Training(settings, Path(), scene, model, generator, order, totals)
