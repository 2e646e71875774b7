"""What comes in: a folder with photos, their cameras and some points becomes a Scene."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from scene import blender, colmap
from scene.camera import Camera, CameraMatrices, scene_extent, viewer_entries
from scene.points import PointCloud
from scene.views import View, load_cameras, require_resolution

__all__ = ["Camera", "CameraMatrices", "PointCloud", "Scene", "load_scene", "viewer_entries"]

DEFAULT_IMAGES = "images"
# Every 8th view is held out (Mip-NeRF 360 and, after it, the field).
HOLD_OUT_EVERY = 8
_Item = TypeVar("_Item")


@dataclass(frozen=True, eq=False)
class Scene:
    """`extent` is in world units: 1.1 times the largest distance of a training camera to their mean."""

    train: list[Camera]
    test: list[Camera]
    points: PointCloud
    extent: float
    source: Path

    @property
    def median_pixels(self) -> float:
        """Of a training view."""
        return statistics.median(camera.width * camera.height for camera in self.train)


def load_scene(
    source_path: str | Path,
    images: str = DEFAULT_IMAGES,
    resolution: int = -1,
    white_background: bool = False,
    eval: bool = False,
    data_device: torch.device | str = "cpu",
    seed: int = 0,
    quiet: bool = False,
) -> Scene:
    """Read a COLMAP or NeRF-synthetic (Blender) scene.

    `images`, `resolution` and `eval` mean what -i, -r and --eval mean in 3DGS. `white_background` changes
    nothing that is read: images keep their alpha until `Camera.ground_truth` composites them over the
    background in use. `seed` is for the random points of a scene without any. ValueError or
    FileNotFoundError, in a sentence, for bad input.
    """
    source = Path(source_path)
    require_resolution(resolution)
    train, test, points = _read_views(source, images, eval, seed, quiet)
    cameras = load_cameras(train + test, resolution, data_device, quiet)
    train_cameras, test_cameras = cameras[: len(train)], cameras[len(train) :]
    extent = scene_extent(train_cameras)
    if not extent > 0:
        raise ValueError(
            f"{source}: all {len(train)} training cameras stand at one point, which gives the scene no "
            "scale; views from at least two places are needed"
        )
    return Scene(train_cameras, test_cameras, points, extent, source)


def hold_out(items: list[_Item]) -> tuple[list[_Item], list[_Item]]:
    """Split into what is trained on and every 8th, starting with the first, which is not."""
    train = [item for index, item in enumerate(items) if index % HOLD_OUT_EVERY]
    return train, items[::HOLD_OUT_EVERY]


def _read_views(
    source: Path, images: str, eval: bool, seed: int, quiet: bool
) -> tuple[list[View], list[View], PointCloud]:
    """Training views, held-out views and points, by whichever loader the folder's files are for."""
    _require_folder(source)
    if colmap.find_model(source) is not None:
        views, points = colmap.read_scene(source, images)
        train, test = hold_out(views) if eval else (views, [])
        if not train:
            raise ValueError(
                f"{source} has a single view; with --eval it is held out and none is left to train on"
            )
        return train, test, points
    if (source / blender.TRAIN_FILE).is_file():
        if images != DEFAULT_IMAGES:
            raise ValueError(
                f"-i {images} is for COLMAP scenes; {source / blender.TRAIN_FILE} names its images itself"
            )
        return *blender.read_views(source, eval), blender.read_points(source, seed, quiet)
    raise _unknown_scene(source)


def _require_folder(source: Path) -> None:
    if not source.exists():
        raise FileNotFoundError(f"scene folder not found: {source}")
    if not source.is_dir():
        raise ValueError(f"a scene is a folder, but {source} is a file")


def _unknown_scene(source: Path) -> Exception:
    if (source / "transforms.json").is_file():
        return ValueError(
            f"{source / 'transforms.json'}: there is no loader for transforms.json of nerfstudio and "
            f"instant-ngp; COLMAP models and Blender's {blender.TRAIN_FILE} can be read"
        )
    wanted = [f"{folder}/cameras.bin or .txt (COLMAP)" for folder in colmap.MODEL_FOLDERS]
    wanted.append(f"{blender.TRAIN_FILE} (Blender)")
    return FileNotFoundError(f"no scene in {source}: looked for {', '.join(wanted)}")
