"""Load a scene: a folder with photos, their cameras and points becomes a Scene."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from scene import colmap, transforms
from scene.camera import NEAR, camera_mean, scene_extent
from scene.depths import find_depth_maps
from scene.masks import Masks
from scene.photo_cache import Cameras
from scene.points import BLENDER_HALF_SIDE, PointCloud, Region, random_points, read_points
from scene.split import hold_out, split_views
from scene.views import PosedPhoto, load_cameras, require_resolution, why_blank
from scene.world import find_shift, find_unit, shifted
from utils.memory import share_of_memory
from utils.ply import NO_SHIFT, format_shift
from utils.ranks import ALONE, Ranks
from utils.similar_names import hint

DEFAULT_IMAGES = "images"
# Half the side of the cube of random points around the cameras, as a multiple of the scene's extent. It is
# wide enough for photos taken around an object and for photos taken outwards from one place.
REGION_PER_EXTENT = 3.0
# Share of the memory that photos may take. Smaller ones, which come first, may take a quarter of it besides.
PHOTO_SHARE = 0.4


@dataclass(frozen=True, eq=False)
class Scene:
    """The cameras and points of a scene, in coordinates whose origin is at `shift` in its files."""

    train: Cameras
    test: Cameras
    points: PointCloud
    extent: float  # world units, 1.1 times the largest distance of a training camera to their mean
    source: Path
    unit: float = 1.0  # world units, the length that 1 means in the constants of 3DGS
    shift: np.ndarray = field(default_factory=lambda: NO_SHIFT)  # (3,) float64

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
    data_device: str = "auto",
    init_points: str | Path = "",
    depths: str = "",
    train_test_exp: bool = False,
    max_memory_gb: float = 0.0,
    seed: int = 0,
    quiet: bool = False,
    ranks: Ranks = ALONE,
    places: int = 1,
) -> Scene:
    """Read a COLMAP, NeRF-synthetic (Blender), nerfstudio or instant-ngp scene.

    `images`, `resolution` and `eval` mean what -i, -r and --eval mean in 3DGS.
    `white_background` has no influence: images keep their alpha until `Camera.ground_truth` composites them
    over the background in use.
    `init_points` is a PLY to start from in place of the scene's own points. Without both, random points are
    drawn from `seed`.
    `depths` is a folder of depth maps inside the scene.
    `train_test_exp` trains on held-out views too, but only on their left half; their right half is held out.
    `max_memory_gb` is in 10^9 bytes, 0 means the available memory. Photos that take more than 40 % of it
    are read again whenever they are needed.
    Each of several `ranks` reads the photos that it renders, where steps have `places` views, and others when
    they are needed; the memory is that of each.
    Raise ValueError or FileNotFoundError, with one clear sentence, for bad input.
    """
    source = Path(source_path)
    require_resolution(resolution)
    given = read_points(Path(init_points)) if init_points else None
    found = _read_views(source, images, eval, quiet)
    masks = {view.image_name: view.mask_path for view in found.train + found.test}
    Masks(source).report(masks, quiet)
    if given is not None:
        found = replace(found, points=given)
    place = _place(found, source, seed, quiet)
    train, test = place.train, place.test
    if train_test_exp:
        train = train + [replace(view, half="left") for view in test]
        test = [replace(view, half="right") for view in test]
    if depths:
        maps = find_depth_maps(source, depths, [view.image_name for view in train], quiet)
        train = [replace(view, depth=maps.get(view.image_name)) for view in train]
    room = PHOTO_SHARE * (1e9 * max_memory_gb or share_of_memory())

    def load(train: list[PosedPhoto], test: list[PosedPhoto]) -> tuple[Cameras, list[int]]:
        own = [ranks.renders(number, places) for number in range(len(train))]
        own += [ranks.renders(number, ranks.count) for number in range(len(test))]
        return load_cameras(train + test, resolution, data_device, room, quiet, ranks, own)

    cameras, blank = load(train, test)
    _report_blank(train, train + test, blank, quiet)
    if blank and ranks.count > 1:  # without them other views are this rank's
        train, test = _used(train, 0, blank), _used(test, len(train), blank)
        cameras, blank = load(train, test)
    used = [number for number in range(len(cameras)) if number not in blank]
    return Scene(
        cameras.only([number for number in used if number < len(train)]),
        cameras.only([number for number in used if number >= len(train)]),
        *(place.points, place.extent, source, place.unit, place.shift),
    )


@dataclass(frozen=True)
class _Found:
    """The content of a scene's files, before any photo is read."""

    train: list[PosedPhoto]
    test: list[PosedPhoto]
    points: PointCloud | None  # None: random points are drawn
    region: Region | None = None  # of random points, None: around the cameras


@dataclass(frozen=True)
class _Place:
    """The same in the coordinates of training, with the scene's measures."""

    train: list[PosedPhoto]
    test: list[PosedPhoto]
    points: PointCloud
    extent: float
    unit: float
    shift: np.ndarray


def _place(found: _Found, source: Path, seed: int, quiet: bool) -> _Place:
    """Shift the scene if it is far from its origin, draw random points if it has none, and measure it.

    Raise ValueError if there is no view to train on, or if all of them are at one point.
    """
    if not found.train:
        raise ValueError(
            f"{source}: with --eval all of its {len(found.test)} views are held out "
            "and none is left to train on"
        )
    shift = find_shift(found.train + found.test)
    if shift.any() and not quiet:
        print(f"{source} is far from its origin: positions are written relative to {format_shift(shift)}.")
    train, test = ([shifted(view, shift) for view in views] for views in (found.train, found.test))
    extent = scene_extent(train)
    if not extent > 0:
        raise ValueError(
            f"{source}: all {len(train)} training cameras stand at one point, which gives the scene "
            "no scale; views from at least two places are needed"
        )
    points = found.points
    if points is None:
        region = found.region or Region(camera_mean(train) + shift, REGION_PER_EXTENT * extent)
        points = random_points(region, seed)
        if not quiet:
            print(f"No points in {source}: starting from {len(points)} random points (seed {seed}).")
    points = points.with_colors(quiet).relative_to(shift)
    unit = find_unit(train, points.xyz, extent)
    train, test = ([replace(view, near=NEAR * unit) for view in views] for views in (train, test))
    return _Place(train, test, points, extent, unit, shift)


def _used(views: list[PosedPhoto], first: int, blank: list[int]) -> list[PosedPhoto]:
    return [view for number, view in enumerate(views, first) if number not in blank]


def _report_blank(train: list[PosedPhoto], views: list[PosedPhoto], blank: list[int], quiet: bool) -> None:
    """Print which views are left out because no pixel of them counts.

    Raise ValueError, saying why, if no training view is left.
    """
    if blank and len(set(blank) & set(range(len(train)))) == len(train):
        raise ValueError(f"no pixel of any training view counts: {why_blank(train[0])}")
    if blank and not quiet:
        print(f"{len(blank)} of {len(views)} views are left out, no pixel of them counts:")
        for number in blank[:3]:
            print(f"  {why_blank(views[number])}")


def _read_views(source: Path, images: str, eval: bool, quiet: bool) -> _Found:
    """Return views and points by the loader that the folder's files are for.

    Raise FileNotFoundError or ValueError if there is none, or if it finds something missing or wrong.
    """
    _require_folder(source)
    if colmap.find_model(source) is not None:
        views, points = colmap.read_scene(source, images, quiet)
        return _Found(*(hold_out(views) if eval else (views, [])), points)
    for name in (transforms.TRAIN_FILE, transforms.FILE):
        if (source / name).is_file() and images != DEFAULT_IMAGES:
            raise ValueError(f"-i {images} is for COLMAP scenes; {source / name} names its images itself")
    if (source / transforms.TRAIN_FILE).is_file():
        train, test = transforms.read_split_files(source, eval)
        path = transforms.find_points(source, {}, quiet)
        points = read_points(path) if path else None
        return _Found(train, test, points, Region(np.zeros(3), BLENDER_HALF_SIDE))
    if (source / transforms.FILE).is_file():
        read = transforms.read_one_file(source, quiet)
        path = transforms.find_points(source, read.content, quiet)
        split = split_views(read.views, read.content, read.path, eval, quiet)
        return _Found(*split, read_points(path) if path else None)
    raise _unknown_scene(source)


def _require_folder(source: Path) -> None:
    if not source.exists():
        raise FileNotFoundError(f"scene folder not found: {source}{hint(source)}")
    if not source.is_dir():
        raise ValueError(f"a scene is a folder, but {source} is a file")


def _unknown_scene(source: Path) -> Exception:
    wanted = [f"{folder}/cameras.bin or .txt (COLMAP)" for folder in colmap.MODEL_FOLDERS]
    wanted += [f"{transforms.TRAIN_FILE} (Blender)", f"{transforms.FILE} (nerfstudio, instant-ngp)"]
    return FileNotFoundError(f"no scene in {source}: looked for {', '.join(wanted)}")
