"""Render the views of a trained model to PNG files, or a video: python render.py -m OUTPUT"""

from __future__ import annotations

import utils.before_torch  # noqa: F401  before torch

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diff_gaussian_rasterization import best_device
from torch import Tensor

from arguments import Settings, given_flags, make_settings, render_parser
from gaussian_model import GaussianModel
from scene import Camera, load_scene
from scene.camera_paths import KINDS, camera_path
from utils import run_folder
from utils.commands import printer, run_command
from utils.devices import check_data_device
from utils.exposures import Exposures
from utils.files import refuse_foreign, refuse_inputs, remove_leftovers, write_json
from utils.images import to_bytes, write_depth, write_png
from utils.progress import each
from utils.ranks import PATIENCE_AT_THE_END, Ranks
from utils.rendering import background_color, render
from utils.video import require_video_writer, write_video


DEPTH_PARAMETERS = "depth_params.json"  # described in docs/scenes.md


@dataclass
class Job:
    """The model to render, with its exposures and settings."""

    model: GaussianModel
    exposures: Exposures | None
    settings: Settings
    ranks: Ranks

    @torch.no_grad()
    def show(self, camera: Camera) -> tuple[Tensor, Tensor]:
        """Return the image (3, H, W) and inverse depths (1, H, W) of a view.

        The view's exposure, if there are exposures, is applied to the image.
        """
        rendered = render(camera, self.model, self.background, **vars(self.settings.pipeline))
        if self.exposures is None:
            return rendered.image, rendered.invdepth
        return self.exposures.apply(rendered.image, camera.image_name), rendered.invdepth

    @property
    def background(self) -> Tensor:
        return background_color(self.settings.model.white_background, self.model.device)


def render_views(
    job: Job, cameras: list[Camera], folder: Path, split: str, iteration: int, depth: bool
) -> None:
    """Write renders and ground-truth images, numbered alike, and replace earlier ones.

    depth: write inverse depths too. Several ranks render every so many of the views each.
    """
    kinds = ("renders", "gt", "depth")
    renders, gt_images, depths = (run_folder.images_path(folder, split, iteration, kind) for kind in kinds)
    for image_folder in (renders, gt_images, depths) if job.ranks.is_first else ():
        run_folder.remove_images(image_folder)
    job.ranks.wait()
    largest = torch.zeros(len(cameras), dtype=torch.float64)
    own = range(job.ranks.rank, len(cameras), job.ranks.count)
    for index in each(own, f"Rendering {split} views", job.settings.run.quiet):
        name, camera = f"{index:05d}", cameras[index]
        image, invdepth = job.show(camera)
        write_png(renders / f"{name}.png", to_bytes(image))
        if camera.image is not None:
            gt_image = camera.ground_truth(job.background, job.model.device)
            write_png(gt_images / f"{name}.png", with_mask(to_bytes(gt_image), camera))
        if depth:
            largest[index] = invdepth.max().item()
            write_depth(depths / f"{name}.png", invdepth[0].cpu().numpy(), largest[index].item())
    largest = job.ranks.sum(largest)
    if depth and job.ranks.is_first:
        scales = {f"{index:05d}": scale for index, scale in enumerate(largest.tolist())}
        parameters = {name: {"scale": scale, "offset": 0.0} for name, scale in scales.items()}
        write_json(depths / DEPTH_PARAMETERS, parameters)
    if not job.settings.run.quiet:
        print(f"{len(cameras)} {split} views: {renders}")


def render_video(job: Job, cameras: list[Camera], kind: str, options: dict[str, Any], path: Path) -> None:
    """Render a camera path of one of KINDS around `cameras` and write it to `path` as a video."""
    path_cameras = camera_path(cameras, kind, options["frames"])
    images = (
        to_bytes(job.show(camera)[0])
        for camera in each(path_cameras, f"Rendering {kind}", job.settings.run.quiet)
    )
    remove_leftovers(path.parent)
    write_video(path, images, options["fps"])
    if not job.settings.run.quiet:
        print(f"{len(path_cameras)} frames: {path}")


def with_mask(gt_image: np.ndarray, camera: Camera) -> np.ndarray:
    """Add a view's mask to its ground-truth image (H, W, 3) as alpha, from which metrics.py reads it."""
    if camera.mask is None:
        return gt_image
    return np.dstack([gt_image, camera.mask.cpu().numpy().astype(np.uint8) * 255])


def check_flags(given: dict[str, Any]) -> None:
    """Raise ValueError for flags that are invalid, alone or together."""
    if not given.get("model_path"):
        raise ValueError("which run? give its folder with -m")
    if given["skip_train"] and given["skip_test"] and not given["video"]:
        raise ValueError("--skip_train and --skip_test together leave nothing to render")
    if bool(given["ply"]) != bool(given["cameras"]):
        raise ValueError("--ply FILE and --cameras SCENE go together")
    for name in ("frames", "fps"):
        if given[name] < 1:
            raise ValueError(f"--{name}: expected at least 1, got {given[name]}")
    if given["video"]:
        if given["video"] not in KINDS:
            raise ValueError(f"--video: expected one of {', '.join(KINDS)}, got {given['video']!r}")
        require_video_writer()


def refuse_other_files(folder: Path, iteration: int, given: dict[str, Any]) -> None:
    """Raise ValueError if rendering would replace a file of another kind."""
    if given["video"]:
        refuse_foreign(video_path(folder, iteration, given["video"]), rb"(?s).{4}ftyp")
    for split in ("train", "test") if given["depth"] else ():
        path = run_folder.images_path(folder, split, iteration, "depth") / DEPTH_PARAMETERS
        refuse_foreign(path, rb'\{\s*"\d{5,}": \{\s*"scale"')


def video_path(folder: Path, iteration: int, kind: str) -> Path:
    return folder / "video" / f"ours_{iteration}" / f"{kind}.mp4"


def find_model(given: dict[str, Any], folder: Path) -> tuple[Settings, Path, int]:
    """Return settings, PLY and iteration: of the run in `folder`, or of the file given with --ply."""
    if given["ply"]:
        return make_settings(given | {"source_path": given["cameras"]}), Path(given["ply"]), 0
    settings = make_settings(given, run_folder.recorded_settings(folder))
    iteration = run_folder.choose_iteration(folder, given["iteration"])
    return settings, run_folder.point_cloud_path(folder, iteration), iteration


def main() -> None:
    given = given_flags(render_parser())
    check_flags(given)
    ranks = Ranks.connect(best_device(), PATIENCE_AT_THE_END)
    try:
        render_run(given, ranks)
    finally:
        ranks.disconnect()


def render_run(given: dict[str, Any], ranks: Ranks) -> None:
    """Render what the flags ask for, one of `ranks`."""
    folder = Path(given["model_path"])
    settings, ply, iteration = find_model(given, folder)
    check_data_device(settings.model.data_device)
    refuse_inputs(run_folder.files_like(folder, *run_folder.RENDERED), [ply, *settings.inputs(folder)])
    refuse_other_files(folder, iteration, given)
    settings.run.quiet |= not ranks.is_first
    if settings.run.threads:
        torch.set_num_threads(settings.run.threads)

    model = GaussianModel.load_ply(ply, best_device(), printer(settings.run.quiet))
    model.active_sh_degree = min(model.sh_degree, settings.model.sh_degree)
    exposures = Exposures.load(folder, best_device()) if settings.model.train_test_exp else None
    scene = load_scene(**settings.of_scene(), ranks=ranks, places=ranks.count)
    job = Job(model.relative_to(scene.shift), exposures, settings, ranks)
    if given["video"] and not ranks.is_first:
        return
    if given["video"]:
        video = video_path(folder, iteration, given["video"])
        render_video(job, (scene.train + scene.test).without_images, given["video"], given, video)
        return
    for split, cameras, skip in (
        ("train", scene.train, given["skip_train"]),
        ("test", scene.test, given["skip_test"]),
    ):
        if cameras and not skip:
            render_views(job, cameras, folder, split, iteration, given["depth"])


if __name__ == "__main__":
    run_command(main)
