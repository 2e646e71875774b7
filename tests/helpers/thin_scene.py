"""A wall, a sheet of faint threads before it, and floaters that change nothing: a test for pruning."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from arguments import make_settings
from gaussian_model import GaussianModel
from scene import Cameras, PointCloud, Scene
from scene.camera import Camera
from torch import Tensor
from training.run import start
from training_runs import learn
from utils.rendering import render

SIZE, FOCAL, DISTANCE = 48, 60.0, 4.0
NOISE = 0.02  # of the photos: no model explains it, as in real ones
WALL, THREAD = (150, 150, 150), (10, 20, 40)
FLOATERS = 40
CPU = torch.device("cpu")
ITERATIONS = 2000
SHIPPED = {"variant": "tag_gradprune_decomp", "iterations": ITERATIONS}
# Little growth, and so few kept that it matters which.
SHIPPED |= {"error_floor": 28 / SIZE**2, "error_quantile": 0.2, "growth_cap": 0.05, "prune_keep": 0.16}


@dataclass(frozen=True)
class ThinScene:
    scene: Scene
    clean: Tensor  # (3, H, W) the held-out view without noise
    bare: Tensor  # (3, H, W) the same without the threads

    def error_at_threads(self, model: GaussianModel) -> float:
        """Squared error of the held-out view where the threads are: 1 if only they were missing."""
        with torch.no_grad():
            shown = render(self.scene.test[0], model, torch.zeros(3)).image
        contrast = (self.bare - self.clean).square()
        there = contrast.amax(0) > 0.1 * contrast.max()
        return ((shown - self.clean).square()[:, there].sum() / contrast[:, there].sum()).item()


def is_floater(model: GaussianModel) -> Tensor:
    """(N,) bool: before the wall, where no thread is."""
    return (model.means[:, 0] > 0.25) & (model.means[:, 2] < 0.5)


def is_thread(model: GaussianModel) -> Tensor:
    return (model.means[:, 0] < 0.2) & (model.means[:, 2] < 0.5)


def make_thin_scene(seed: int) -> ThinScene:
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-2.4, 2.4, 17)] * 2), -1).reshape(-1, 2)
    wall = np.c_[grid, np.ones(len(grid))]
    thread = np.array([[x, y, 0.0] for x in np.linspace(-1.2, 0, 5) for y in np.linspace(-1.2, 1.2, 25)])
    floaters = random.uniform((0.4, -1.2, -0.3), (1.3, 1.2, 0.3), (FLOATERS, 3))
    bare = _gaussians(wall, WALL, (0.2, 0.2, 0.01), 0.95)
    gt_image = GaussianModel(_joined(bare, _gaussians(thread, THREAD, (0.07, 0.08, 0.02), 0.2)))
    cameras = [_photo(gt_image, angle, random) for angle in np.linspace(-0.35, 0.35, 9)]
    held_out = cameras.pop(4)
    points = PointCloud(
        np.concatenate([wall, thread, floaters]),
        np.repeat(np.array([WALL, THREAD, WALL], np.uint8), (len(wall), len(thread), FLOATERS), axis=0),
    )
    scene = Scene(Cameras(cameras), Cameras([held_out]), points, extent=2.0, source=Path())
    with torch.no_grad():
        clean, without = (render(held_out, model, torch.zeros(3)).image for model in (gt_image, bare))
    return ThinScene(scene, clean, without)


def _gaussians(
    points: np.ndarray, color: tuple[int, ...], scale: tuple[float, ...], opacity: float
) -> GaussianModel:
    colors = np.tile(np.array(color, np.uint8), (len(points), 1))
    model = GaussianModel.from_points(points, colors, 0, opacity, CPU)
    model.raw["scales"] = torch.tensor(scale).log().repeat(len(points), 1)
    return model


def _joined(first: GaussianModel, second: GaussianModel) -> dict[str, Tensor]:
    return {name: torch.cat([values, second.raw[name]]) for name, values in first.raw.items()}


def _photo(gt_image: GaussianModel, angle: float, random: np.random.Generator) -> Camera:
    cosine, sine = math.cos(angle), math.sin(angle)
    pose = np.eye(4)
    pose[:3, :3] = [[cosine, 0, -sine], [0, 1, 0], [sine, 0, cosine]]
    pose[2, 3] = DISTANCE
    intrinsics = (SIZE, SIZE, FOCAL, FOCAL, SIZE / 2, SIZE / 2)
    with torch.no_grad():
        picture = render(Camera("", *intrinsics, pose), gt_image, torch.zeros(3)).image
    picture = picture + NOISE * torch.from_numpy(random.normal(size=picture.shape)).float()
    photo = (picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
    return Camera(f"{angle:.2f}", *intrinsics, pose, photo)


def trained(thin: ThinScene, seed: int, until: int = ITERATIONS, **flags: object) -> GaussianModel:
    """The model after `until` iterations of the shipped variant, with some flags of its own."""
    run = start(make_settings(SHIPPED | {"seed": seed} | flags), thin.scene, Path())
    learn(run, until)
    return run.model
