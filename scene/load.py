"""Load a scene: a folder with photos, their cameras and points becomes a Scene."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from scene import colmap, transforms
from scene.camera import camera_mean, scene_extent
from scene.depths import find_depth_maps
from scene.memory import available_memory
from scene.photo_cache import Cameras
from scene.points import BLENDER_HALF_SIDE, PointCloud, Region, random_points, read_points
from scene.views import PosedPhoto, load_cameras, require_resolution

DEFAULT_IMAGES = "images"
# Every 8th view is held out, as in Mip-NeRF 360 and most work since.
HOLD_OUT_EVERY = 8
# Half the side of the cube of random points around the cameras, as a multiple of the scene's extent. It is
# wide enough for photos taken around an object and for photos taken outwards from one place.
REGION_PER_EXTENT = 3.0
PHOTO_SHARE = 0.5  # share of the memory that photos may take
_Item = TypeVar("_Item")


@dataclass(frozen=True, eq=False)
class Scene:
    """The cameras and points of a scene.

    `extent` is 1.1 times the largest distance of a training camera to their mean, in world units.
    """

    train: Cameras
    test: Cameras
    points: PointCloud
    extent: float
    source: Path

    @cached_property
    def median_pixels(self) -> float:
        """Return the median number of pixels of the training views."""
        return statistics.median(camera.width * camera.height for camera in self.train.without_images)


def load_scene(
    source_path: str | Path,
    images: str = DEFAULT_IMAGES,
    resolution: int = -1,
    white_background: bool = False,
    eval: bool = False,
    data_device: torch.device | str = "cpu",
    init_points: str | Path = "",
    depths: str = "",
    train_test_exp: bool = False,
    max_memory_gb: float = 0.0,
    seed: int = 0,
    quiet: bool = False,
) -> Scene:
    """Read a COLMAP, NeRF-synthetic (Blender), nerfstudio or instant-ngp scene.

    `images`, `resolution` and `eval` mean what -i, -r and --eval mean in 3DGS.
    `white_background` has no influence: images keep their alpha until `Camera.ground_truth` composites them
    over the background in use.
    `init_points` is a PLY to start from in place of the scene's own points. Without both, random points are
    drawn from `seed`.
    `depths` is a folder of depth maps inside the scene.
    `train_test_exp` trains on held-out views too, but only on their left half; their right half is held out.
    `max_memory_gb` is in 10^9 bytes, 0 means the available memory. Photos that take more than half of it are
    read again whenever they are needed.
    Raise ValueError or FileNotFoundError, with one clear sentence, for bad input.
    """
    source = Path(source_path)
    require_resolution(resolution)
    given = read_points(Path(init_points)) if init_points else None
    found = _read_views(source, images, eval, quiet)
    if not found.train:
        raise ValueError(
            f"{source}: with --eval all of its {len(found.test)} views are held out "
            "and none is left to train on"
        )
    train, test = found.train, found.test
    if train_test_exp:
        train = train + [replace(view, half="left") for view in test]
        test = [replace(view, half="right") for view in test]
    if depths:
        maps = find_depth_maps(source, depths, [view.image_name for view in train], quiet)
        train = [replace(view, depth=maps.get(view.image_name)) for view in train]
    room = PHOTO_SHARE * (1e9 * max_memory_gb or available_memory())
    cameras, cache = load_cameras(train + test, resolution, data_device, room, quiet)
    train_cameras = cameras[: len(train)]
    extent = scene_extent(train_cameras)
    if not extent > 0:
        raise ValueError(
            f"{source}: all {len(train_cameras)} training cameras stand at one point, which gives the scene "
            "no scale; views from at least two places are needed"
        )
    points = given or found.points
    if points is None:
        region = found.region or Region(camera_mean(train_cameras), REGION_PER_EXTENT * extent)
        points = random_points(region, seed)
        if not quiet:
            print(f"No points in {source}: starting from {len(points)} random points (seed {seed}).")
    held_out = Cameras(cameras[len(train) :], cache, len(train))
    return Scene(Cameras(train_cameras, cache), held_out, points, extent, source)


@dataclass(frozen=True)
class _Found:
    """The content of a scene's files, before any photo is read."""

    train: list[PosedPhoto]
    test: list[PosedPhoto]
    points: PointCloud | None  # None: random points are drawn
    region: Region | None = None  # of random points, None: around the cameras


def hold_out(items: list[_Item]) -> tuple[list[_Item], list[_Item]]:
    """Split into items to train on and held-out ones: every 8th, starting with the first."""
    train = [item for index, item in enumerate(items) if index % HOLD_OUT_EVERY]
    return train, items[::HOLD_OUT_EVERY]


def _read_views(source: Path, images: str, eval: bool, quiet: bool) -> _Found:
    """Return views and points by the loader that the folder's files are for.

    Raise FileNotFoundError or ValueError if there is none, or if it finds something missing or wrong.
    """
    _require_folder(source)
    if colmap.find_model(source) is not None:
        views, points = colmap.read_scene(source, images)
        return _Found(*(hold_out(views) if eval else (views, [])), points)
    for name in (transforms.TRAIN_FILE, transforms.FILE):
        if (source / name).is_file() and images != DEFAULT_IMAGES:
            raise ValueError(f"-i {images} is for COLMAP scenes; {source / name} names its images itself")
    if (source / transforms.TRAIN_FILE).is_file():
        train, test = transforms.read_split_files(source, eval)
        path = transforms.find_points(source, {})
        points = read_points(path) if path else None
        return _Found(train, test, points, Region(np.zeros(3), BLENDER_HALF_SIDE))
    if (source / transforms.FILE).is_file():
        read = transforms.read_one_file(source, quiet)
        path = transforms.find_points(source, read.content)
        return _Found(*_split(read, eval), read_points(path) if path else None)
    raise _unknown_scene(source)


def _split(read: transforms.Transforms, eval: bool) -> tuple[list[PosedPhoto], list[PosedPhoto]]:
    """Return training and held-out views.

    The file's own lists of names decide which are held out. Without such lists every 8th view is.
    """
    names = transforms.held_out_names(read)
    if not eval:
        return read.views, []
    if names is None:
        return hold_out(read.views)
    train = [view for view in read.views if view.image_name not in names]
    return train, [view for view in read.views if view.image_name in names]


def _require_folder(source: Path) -> None:
    if not source.exists():
        raise FileNotFoundError(f"scene folder not found: {source}")
    if not source.is_dir():
        raise ValueError(f"a scene is a folder, but {source} is a file")


def _unknown_scene(source: Path) -> Exception:
    wanted = [f"{folder}/cameras.bin or .txt (COLMAP)" for folder in colmap.MODEL_FOLDERS]
    wanted += [f"{transforms.TRAIN_FILE} (Blender)", f"{transforms.FILE} (nerfstudio, instant-ngp)"]
    return FileNotFoundError(f"no scene in {source}: looked for {', '.join(wanted)}")
