"""Turn the description of a photo in a scene's files into a Camera with its pixels, at the size of -r."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from tqdm import tqdm

from scene.camera import NEAR, Camera
from scene.depths import DepthMap
from scene.lenses import DistortedLens, Lens, Pinhole
from scene.masks import scaled_mask, used_pixels
from scene.photo_cache import Cameras, PhotoCache, pixel_bytes
from utils.devices import device_for_photos, keep_on
from utils.images import HALF, read_image, resize_image
from utils.ranks import ALONE, Ranks
from utils.similar_names import hint

# The meaning of -r in 3DGS: DIVISORS divide the size, -1 keeps images up to WIDEST_BY_DEFAULT pixels wide,
# other numbers are widths.
DIVISORS = (1, 2, 4, 8)
WIDEST_BY_DEFAULT = 1600
# OpenCV cannot resize to a larger width.
WIDEST = 32767
# Decoding is memory-bound with more workers, and each holds a photo of full size.
MOST_WORKERS = 8
# Largest distance of R R^T of a pose from the identity: files round their numbers to about six digits.
ROTATION_TOLERANCE = 1e-3


@dataclass(frozen=True)
class PosedPhoto:
    """One photo as a scene's files describe it, before its pixels are read."""

    image_name: str
    image_path: Path
    lens: Lens
    world_to_camera: np.ndarray  # (4, 4) float64, x right, y down, z forward
    mask_path: Path | None = None  # an image, black where pixels of the photo are ignored
    alpha_is_mask: bool = True  # False: transparent pixels show the background
    depth: DepthMap | None = None
    half: str = ""  # "left" or "right": the pixels of the other half are ignored
    near: float = NEAR  # world units


def require_rigid(
    pose: np.ndarray,  # (4, 4)
    owner: str,
) -> None:
    """Raise ValueError, naming `owner`, unless `pose` is finite and a rotation with a translation."""
    if not np.isfinite(pose).all():
        raise ValueError(f"{owner}: its pose holds a number that is not finite")
    rotation = pose[:3, :3]
    error = np.abs(rotation @ rotation.T - np.eye(3)).max()
    if error > ROTATION_TOLERANCE or np.linalg.det(rotation) < 0 or not np.array_equal(pose[3], (0, 0, 0, 1)):
        raise ValueError(f"{owner}: its pose is not a rotation and a translation: {pose.tolist()}")


def require_unique_names(views: Sequence[PosedPhoto], source: object) -> None:
    """Raise ValueError, naming `source` and the first name, if two views have the same image name."""
    name, times = Counter(view.image_name for view in views).most_common(1)[0]
    if times > 1:
        raise ValueError(
            f"{source} names the image {name} {times} times; every view needs an image of its own"
        )


def require_images(views: Sequence[PosedPhoto], source: object) -> None:
    """Raise FileNotFoundError, naming the first file, if an image is missing. No image is decoded."""
    missing = [view for view in views if not view.image_path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"image not found: {missing[0].image_path} ("
            f"{len(missing)} of {len(views)} images named in {source} are missing)"
            f"{hint(missing[0].image_path)}"
        )


def leave_out_missing(views: Sequence[PosedPhoto], source: object, quiet: bool) -> list[PosedPhoto]:
    """Return the views whose image file exists. Print how many are missing, unless `quiet`.

    Raise FileNotFoundError if all are missing.
    """
    existing = [view for view in views if view.image_path.is_file()]
    if not existing:
        require_images(views, source)
    missing = [view for view in views if not view.image_path.is_file()]
    if missing and not quiet:
        names = ", ".join(view.image_name for view in missing[:3]) + (", ..." if len(missing) > 3 else "")
        print(
            f"{len(missing)} of {len(views)} images named in {source} are missing and left out: {names}"
            f"{hint(missing[0].image_path)}"
        )
    return existing


def require_resolution(resolution: int) -> None:
    """Raise ValueError unless `resolution` is a valid value of -r."""
    if resolution != -1 and not 1 <= resolution <= WIDEST:
        raise ValueError(
            f"resolution (-r) must be -1, a divisor 1, 2, 4 or 8, or a width in pixels up to {WIDEST}; "
            f"got {resolution}"
        )


def target_size(width: int, height: int, resolution: int) -> tuple[int, int]:
    """Return the (width, height) at which an image is used with -r `resolution`, rounded as in 3DGS.

    Raise ValueError if `resolution` is not valid.
    """
    require_resolution(resolution)
    if resolution in DIVISORS:
        return max(1, round(width / resolution)), max(1, round(height / resolution))
    if resolution == -1:
        resolution = min(width, WIDEST_BY_DEFAULT)
    return resolution, max(1, height * resolution // width)


def load_cameras(
    views: Sequence[PosedPhoto],
    resolution: int,
    data_device: str,
    room: float,
    quiet: bool,
    ranks: Ranks = ALONE,
    is_own: Sequence[bool] | None = None,
) -> tuple[Cameras, list[int]]:
    """Return the Camera of every view with its photo, read and scaled, and the numbers of blank views.

    No pixel of a blank view counts. Photos stay uint8 on `data_device`; auto: see `device_for_photos`. If
    photos, masks and depth maps need more than `room` bytes, they are read when they are needed. Every file
    is read once in either case, so that damaged ones are found. Each of several `ranks` reads those that are
    its own (None: all), and later others when they are needed. Raise FileNotFoundError or ValueError, naming
    the file, for damaged ones.
    """
    own = [number for number in range(len(views)) if is_own is None or is_own[number]]
    with ranks.all_or_none("read its photos"):
        cameras, facts, taken = _read_all({number: views[number] for number in own}, resolution, room, quiet)
    facts = _facts_of_all(facts, len(views), ranks)
    if any(fact.was_limited for fact in facts) and not quiet:
        print(
            f"Images wider than {WIDEST_BY_DEFAULT} pixels were scaled down to {WIDEST_BY_DEFAULT}; "
            "-r 1 keeps their full size."
        )
    device, about_device = device_for_photos(data_device, taken if taken <= room else math.inf)
    if taken <= room:
        if about_device and not quiet:
            print(about_device)
        for number in own:  # one at a time: they exist twice meanwhile
            cameras[number] = keep_pixels(cameras[number], device)
    elif not quiet:
        print(
            f"{len(own)} photos take {taken / 1e9:.1f} GB, there is room for {room / 1e9:.1f} GB "
            "(--max_memory_gb): they are read again whenever they are needed."
        )
    cache = None
    if taken > room or len(own) < len(views):
        cache = PhotoCache(
            lambda number: keep_pixels(_load_camera(views[number], resolution)[0], device),
            room if taken > room else 0,  # those of other ranks are not kept
        )
    blank = [number for number, fact in enumerate(facts) if fact.is_blank]
    known = [cameras.get(number) or _camera(view, *facts[number][:6]) for number, view in enumerate(views)]
    return Cameras(known, cache), blank


class _Facts(NamedTuple):
    """What reading a photo tells of its view."""

    width: int  # pixels
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    is_blank: bool
    was_limited: bool  # scaled down by the default limit of 1600 pixels


def _read_all(
    views: dict[int, PosedPhoto], resolution: int, room: float, quiet: bool
) -> tuple[dict[int, Camera], dict[int, _Facts], int]:
    """Return cameras, facts and the bytes of all pixels. Beyond `room` the cameras have no pixels."""
    workers = min(MOST_WORKERS, os.cpu_count() or 1)
    cameras, facts, taken = dict[int, Camera](), dict[int, _Facts](), 0
    with ThreadPoolExecutor(workers) as pool:
        loaded = pool.map(lambda view: _load_camera(view, resolution), views.values())
        bar = tqdm(
            loaded, total=len(views), desc="Reading images", unit="image", disable=True if quiet else None
        )
        for number, (camera, was_limited) in zip(views, bar):
            is_blank = camera.mask is not None and not camera.mask.any()
            lens = camera.fx, camera.fy, camera.cx, camera.cy
            facts[number] = _Facts(camera.width, camera.height, *lens, is_blank, was_limited)
            had_room, taken = taken <= room, taken + pixel_bytes(camera)
            if taken > room and had_room:  # the images that were kept until now are dropped too
                cameras = {kept: without_images(cameras[kept]) for kept in cameras}
            cameras[number] = camera if taken <= room else without_images(camera)
    return cameras, facts, taken


def _facts_of_all(own: dict[int, _Facts], count: int, ranks: Ranks) -> list[_Facts]:
    """Return what the ranks together know of all views."""
    rows = torch.zeros(count, len(_Facts._fields), dtype=torch.float64)
    for number, facts in own.items():
        rows[number] = torch.tensor(facts, dtype=torch.float64)
    found = ranks.sum(rows).tolist()
    return [_Facts(int(width), int(height), *numbers) for width, height, *numbers in found]


def _camera(view: PosedPhoto, *lens: float) -> Camera:
    """Return the camera of a view without pixels. lens: width, height, fx, fy, cx, cy."""
    return Camera(view.image_name, *lens, view.world_to_camera, near=view.near)


def without_images(camera: Camera) -> Camera:
    """Return the camera without its pixels."""
    return camera if camera.image is None else replace(camera, image=None, mask=None, invdepth=None)


def keep_pixels(camera: Camera, device: torch.device) -> Camera:
    """Return the camera with its photo, mask and depth map on `device`."""
    held = {"image": camera.image, "mask": camera.mask, "invdepth": camera.invdepth}
    kept = {name: keep_on(device, pixels) for name, pixels in held.items() if pixels is not None}
    return replace(camera, **kept)


def _load_camera(view: PosedPhoto, resolution: int) -> tuple[Camera, bool]:
    """Return the Camera of a view, and whether the default limit of 1600 pixels scaled it down."""
    image = read_image(view.image_path)
    height, width = image.shape[:2]
    try:
        lens = view.lens.at_size(width, height)
    except ValueError as error:
        raise ValueError(f"{view.image_path}: {error}") from None
    size = target_size(width, height, resolution)
    mask = read_mask(view, image)
    invdepth = None if view.depth is None else _read_depth(view.depth, lens, size)
    if view.alpha_is_mask:
        image = image[..., :3]
    pixels = resize_image(lens.undistort(image), *size)
    if mask is not None:
        mask = torch.from_numpy(scaled_mask(lens.undistort(mask), *size))
    lens = lens.undistorted.stretched(*size)
    camera = _camera(view, *size, lens.fx, lens.fy, lens.cx, lens.cy)
    camera = replace(camera, image=_planar(pixels), mask=mask, invdepth=invdepth)
    return camera, resolution == -1 and width > WIDEST_BY_DEFAULT


def read_mask(
    view: PosedPhoto,
    image: np.ndarray,  # (H, W, 3 or 4) uint8
) -> np.ndarray | None:
    """Return the (H, W) uint8 mask of a photo: 255 in pixels to use, 0 in ignored ones; None if all are used.

    Raise ValueError, naming the file, if the mask image has another aspect ratio than the photo.
    """
    is_used = used_pixels(image, view.image_path, view.mask_path, view.alpha_is_mask)
    middle = image.shape[1] // 2
    if view.half == "left":
        is_used[:, middle:] = False
    if view.half == "right":
        is_used[:, :middle] = False
    return None if is_used.all() else is_used.astype(np.uint8) * 255


def why_blank(view: PosedPhoto) -> str:
    """Return why no pixel of a view counts: `masks/a.png: its largest value is 1, ...`."""
    largest = 255 if view.mask_path is None else read_image(view.mask_path)[..., :3].max()
    if largest < HALF:
        return (
            f"{view.mask_path}: its largest value is {largest}, but pixels of the photo count where its mask "
            f"is white, from {HALF} to 255"
        )
    image = read_image(view.image_path)
    if view.alpha_is_mask and image.shape[2] == 4 and image[..., 3].max() < HALF:
        return f"{view.image_path}: all of its pixels are transparent (alpha below {HALF})"
    return f"{view.image_path}: its masks leave no pixel at this size"


def _read_depth(depth: DepthMap, lens: Pinhole | DistortedLens, size: tuple[int, int]) -> torch.Tensor:
    """Return (1, H, W) float32 inverse depths, undistorted and scaled to `size` (width, height).

    `lens` is that of the photo at its full size. Raise ValueError, naming the file, if the map has another
    aspect ratio.
    """
    values = depth.read()
    try:
        lens = lens.at_size(*values.shape[::-1])
    except ValueError as error:
        raise ValueError(f"{depth.path}: {error}") from None
    values = lens.undistort(values)
    shrinks = size[0] <= values.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return torch.from_numpy(cv2.resize(values, size, interpolation=method))[None]


def _planar(
    image: np.ndarray,  # (H, W, C)
) -> torch.Tensor:
    """Return the (H, W, C) image, stored channel by channel: `Camera.ground_truth` need not reorder it."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).permute(1, 2, 0)
