"""From what a scene's files say about a photo (a View) to a Camera with its pixels, at the size asked for."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from scene.camera import Camera
from scene.depths import DepthMap
from scene.lenses import DistortedLens, Lens, Pinhole, require_same_image
from scene.photo_cache import PhotoCache, pixel_bytes
from utils.devices import keep_on
from utils.images import HALF, read_image, resize_image

# 3DGS's meaning of -r: these divide, -1 keeps images up to WIDEST_UNASKED pixels wide, others are widths.
DIVISORS = (1, 2, 4, 8)
WIDEST_UNASKED = 1600
# OpenCV resizes to nothing wider.
WIDEST = 32767
MASK_FOLDER = "masks"  # beside the image folder
# Decoding is memory-bound beyond this, and every worker holds one full-size photo.
MOST_WORKERS = 8
# How far R R^T of a pose may be from identity: files round their numbers to about six digits.
ROTATION_TOLERANCE = 1e-3


@dataclass(frozen=True)
class PosedPhoto:
    """One photo as a scene's files describe it, before its pixels are read."""

    image_name: str
    image_path: Path
    lens: Lens
    world_to_camera: np.ndarray  # (4, 4) float64, x right, y down, z forward
    mask_path: Path | None = None  # a picture, black where the photo does not count
    alpha_is_mask: bool = True  # else a transparent pixel shows the background
    depth: DepthMap | None = None
    half: str = ""  # "left" or "right": only that half of the photo counts


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
    """Raise FileNotFoundError with the first name, before any is decoded, if an image file is missing."""
    missing = [view for view in views if not view.image_path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"image not found: {missing[0].image_path} ("
            f"{len(missing)} of {len(views)} images named in {source} are missing)"
        )


def leave_out_missing(views: Sequence[PosedPhoto], source: object, quiet: bool) -> list[PosedPhoto]:
    """The views whose image file is there; the others are reported. FileNotFoundError if none is."""
    there = [view for view in views if view.image_path.is_file()]
    if not there:
        require_images(views, source)
    missing = [view.image_name for view in views if not view.image_path.is_file()]
    if missing and not quiet:
        names = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        print(f"{len(missing)} of {len(views)} images named in {source} are missing and left out: {names}")
    return there


def find_mask(folder: Path, image_name: str) -> Path | None:
    """The mask of an image in FOLDER/masks: of the same name, plus .png (COLMAP), or with .png instead."""
    name = Path(image_name)
    if name.parts[0] in ("images", "input"):  # names in transforms.json hold the image folder
        name = Path(*name.parts[1:])
    candidates = (name.with_name(f"{name.name}.png"), name, name.with_suffix(".png"))
    paths = (folder / MASK_FOLDER / candidate for candidate in candidates)
    return next((path for path in paths if path.is_file()), None)


def require_resolution(resolution: int) -> None:
    """Raise ValueError unless `resolution` means something as -r."""
    if resolution != -1 and not 1 <= resolution <= WIDEST:
        raise ValueError(
            f"resolution (-r) must be -1, a divisor 1, 2, 4 or 8, or a width in pixels up to {WIDEST}; "
            f"got {resolution}"
        )


def target_size(width: int, height: int, resolution: int) -> tuple[int, int]:
    """(width, height) at which an image is used for training, given -r; rounded as 3DGS does."""
    require_resolution(resolution)
    if resolution in DIVISORS:
        return max(1, round(width / resolution)), max(1, round(height / resolution))
    if resolution == -1:
        resolution = min(width, WIDEST_UNASKED)
    return resolution, max(1, height * resolution // width)


def load_cameras(
    views: Sequence[PosedPhoto], resolution: int, data_device: torch.device | str, room: float, quiet: bool
) -> tuple[list[Camera], PhotoCache | None]:
    """The Camera of every view, with its photo read and scaled; photos stay uint8 on `data_device`.

    If photos, masks and depths need more than `room` bytes, every one of them is read now, so that what is damaged
    is found, but they are not kept: the cameras are blank, and the shelf has them.
    """
    cache = PhotoCache(lambda number: _load_camera(views[number], resolution, data_device)[0], room)
    workers = min(MOST_WORKERS, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        loaded = pool.map(lambda view: _load_camera(view, resolution, data_device), views)
        bar = tqdm(
            loaded, total=len(views), desc="Reading images", unit="image", disable=True if quiet else None
        )
        cameras, was_limited, taken = [], False, 0
        for camera, limited in bar:
            taken, was_limited = taken + pixel_bytes(camera), was_limited or limited
            if taken > room and cameras and cameras[-1].image is not None:
                cameras = [without_images(kept) for kept in cameras]  # what was kept so far is given up too
            cameras.append(camera if taken <= room else without_images(camera))
    if was_limited and not quiet:
        print(
            f"Images wider than {WIDEST_UNASKED} pixels were scaled down to {WIDEST_UNASKED}; "
            "-r 1 keeps their full size."
        )
    if taken <= room:
        return cameras, None
    if not quiet:
        print(
            f"{len(views)} photos take {taken / 1e9:.1f} GB, there is room for {room / 1e9:.1f} GB "
            "(--max_memory_gb): they are read again whenever they are needed."
        )
    return cameras, cache


def without_images(camera: Camera) -> Camera:
    """The same without its pixels."""
    return camera if camera.image is None else replace(camera, image=None, mask=None, invdepth=None)


def _load_camera(view: PosedPhoto, resolution: int, data_device: torch.device | str) -> tuple[Camera, bool]:
    """The view's Camera, and whether only the 1600-pixel rule made it smaller."""
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
        mask = keep_on(data_device, torch.from_numpy(_scaled_mask(lens.undistort(mask), *size)))
    lens = lens.undistorted.stretched(*size)
    camera = Camera(
        view.image_name,
        *size,
        *(lens.fx, lens.fy, lens.cx, lens.cy),
        view.world_to_camera,
        keep_on(data_device, _planar(pixels)),
        mask,
        None if invdepth is None else keep_on(data_device, invdepth),
    )
    return camera, resolution == -1 and width > WIDEST_UNASKED


def read_mask(
    view: PosedPhoto,
    image: np.ndarray,  # (H, W, 3 or 4) uint8
) -> np.ndarray | None:
    """(H, W) uint8, 255 where the photo counts, else 0; None if all of it does. ValueError for a wrong size."""
    counts = np.full(image.shape[:2], True)
    if view.mask_path is not None:
        mask = read_image(view.mask_path)
        try:
            require_same_image(image.shape[1::-1], mask.shape[1::-1])
        except ValueError:
            raise ValueError(
                f"{view.mask_path} is {mask.shape[1]}x{mask.shape[0]} pixels, "
                f"but its photo {view.image_path} is {image.shape[1]}x{image.shape[0]}"
            ) from None
        bright = (mask[..., :3].max(-1) >= HALF) & (mask[..., -1] >= HALF if mask.shape[2] == 4 else True)
        counts = _scaled_mask(bright.astype(np.uint8) * 255, *image.shape[1::-1])
    if view.alpha_is_mask and image.shape[2] == 4:
        counts = counts & (image[..., 3] >= HALF)
    middle = image.shape[1] // 2
    if view.half == "left":
        counts[:, middle:] = False
    if view.half == "right":
        counts[:, :middle] = False
    return None if counts.all() else counts.astype(np.uint8) * 255


def _read_depth(depth: DepthMap, lens: Pinhole | DistortedLens, size: tuple[int, int]) -> torch.Tensor:
    """(1, H, W) float32 inverse depths at `size`, straightened; `lens` is at the size of the photo."""
    values = depth.read()
    try:
        lens = lens.at_size(*values.shape[::-1])
    except ValueError as error:
        raise ValueError(f"{depth.path}: {error}") from None
    values = lens.undistort(values)
    shrinks = size[0] <= values.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return torch.from_numpy(cv2.resize(values, size, interpolation=method))[None]


def _scaled_mask(
    mask: np.ndarray,  # (H, W) uint8
    width: int,
    height: int,
) -> np.ndarray:
    """(height, width) bool: pixels that lie wholly in what counts."""
    method = cv2.INTER_AREA if width <= mask.shape[1] else cv2.INTER_NEAREST
    return cv2.resize(mask, (width, height), interpolation=method) >= 255


def _planar(
    image: np.ndarray,  # (H, W, C)
) -> torch.Tensor:
    """The same (H, W, C), stored channel by channel: `Camera.ground_truth` then has no bytes to shuffle."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).permute(1, 2, 0)
