"""Render the views of a trained model to PNG files: python render.py -m OUTPUT"""

from __future__ import annotations

import utils.before_torch  # noqa: F401  before torch

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diff_gaussian_rasterization import best_device
from torch import Tensor

from arguments import Settings, given_flags, make_settings, render_parser
from gaussian_model import GaussianModel
from scene import Camera, load_scene
from utils import run_folder
from utils.commands import run_command
from utils.devices import check_data_device
from utils.exposures import Exposures
from utils.images import write_png
from utils.progress import each
from utils.rendering import render


def recorded_settings(folder: Path) -> dict[str, Any]:
    """The settings of the run in `folder`; of a run of another 3DGS program those in cfg_args."""
    return run_folder.read_cfg_args(folder) | run_folder.read_config(folder).get("settings", {})


@torch.no_grad()
def render_views(
    cameras: list[Camera],
    model: GaussianModel,
    exposures: Exposures | None,
    settings: Settings,
    split: str,
    renders: Path,
    truths: Path,
) -> None:
    """Write what model and photos show, numbered alike; earlier pictures there are replaced."""
    for folder in (renders, truths):
        run_folder.remove_pictures(folder)
    background = torch.full((3,), float(settings.model.white_background), device=model.device)
    for index, camera in enumerate(each(cameras, f"Rendering {split} views", settings.run.quiet)):
        name = f"{index:05d}.png"
        image = render(camera, model, background, **vars(settings.pipeline)).image
        if exposures is not None:
            image = exposures.apply(image, camera.image_name)
        write_png(renders / name, to_bytes(image))
        write_png(truths / name, with_mask(to_bytes(camera.ground_truth(background, model.device)), camera))
    if not settings.run.quiet:
        print(f"{len(cameras)} {split} views: {renders}")


def to_bytes(image: Tensor) -> np.ndarray:
    """(3, H, W) in [0, 1] -> (H, W, 3) uint8 array, rounded."""
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()


def with_mask(photo: np.ndarray, camera: Camera) -> np.ndarray:
    """The mask of a view as alpha of its photo, from which metrics.py knows what counts."""
    if camera.mask is None:
        return photo
    return np.dstack([photo, camera.mask.cpu().numpy().astype(np.uint8) * 255])


def main() -> None:
    given = given_flags(render_parser())
    if not given.get("model_path"):
        raise ValueError("which run? give its folder with -m")
    if given["skip_train"] and given["skip_test"]:
        raise ValueError("--skip_train and --skip_test together leave nothing to render")
    folder = Path(given["model_path"])
    settings = make_settings(given, recorded_settings(folder))
    check_data_device(settings.model.data_device)
    iteration = run_folder.choose_iteration(folder, given["iteration"])
    if settings.run.threads:
        torch.set_num_threads(settings.run.threads)

    model = GaussianModel.load_ply(run_folder.point_cloud_path(folder, iteration), best_device())
    model.active_sh_degree = min(model.sh_degree, settings.model.sh_degree)
    exposures = Exposures.load(folder, best_device()) if settings.model.train_test_exp else None
    scene = load_scene(**settings.of_scene())
    for split, cameras, skip in (
        ("train", scene.train, given["skip_train"]),
        ("test", scene.test, given["skip_test"]),
    ):
        if cameras and not skip:
            paths = (run_folder.pictures_path(folder, split, iteration, kind) for kind in ("renders", "gt"))
            render_views(cameras, model, exposures, settings, split, *paths)


if __name__ == "__main__":
    run_command(main)
