"""From what a scene's files say about a photo (a View) to a Camera with its pixels, at the size asked for."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from scene.camera import Camera
from utils.devices import keep_on
from utils.images import read_image, resize_image

# 3DGS's meaning of -r: these divide, -1 keeps images up to WIDEST_UNASKED pixels wide, others are widths.
DIVISORS = (1, 2, 4, 8)
WIDEST_UNASKED = 1600
# OpenCV resizes to nothing wider.
WIDEST = 32767
# Decoding is memory-bound beyond this, and every worker holds one full-size photo.
MOST_WORKERS = 8
# How far R R^T of a pose may be from identity: files round their numbers to about six digits.
ROTATION_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Pinhole:
    """Intrinsics in pixels of a width x height image, pixel centres at +0.5."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float

    def at_size(self, width: int, height: int) -> Pinhole:
        """The intrinsics of the same picture scaled to width x height.

        ValueError if that is another picture: if no one scale explains both sides within a pixel's rounding.
        """
        low = max((width - 1) / self.width, (height - 1) / self.height)
        high = min((width + 1) / self.width, (height + 1) / self.height)
        if low > high:
            raise ValueError(
                f"the image is {width}x{height} pixels, but its camera is {self.width}x{self.height}: "
                "another aspect ratio, so not the picture that was calibrated"
            )
        return self.stretched(width, height)

    def stretched(self, width: int, height: int) -> Pinhole:
        """The intrinsics after resizing to width x height, each axis by its own factor."""
        x, y = width / self.width, height / self.height
        return Pinhole(width, height, self.fx * x, self.fy * y, self.cx * x, self.cy * y)


@dataclass(frozen=True)
class FieldOfView:
    """Square pixels and a centred principal point, known by the horizontal angle of view in radians."""

    angle_x: float

    def at_size(self, width: int, height: int) -> Pinhole:
        focal = width / (2 * math.tan(self.angle_x / 2))
        return Pinhole(width, height, focal, focal, width / 2, height / 2)


@dataclass(frozen=True)
class View:
    """One photo as a scene's files describe it, before its pixels are read."""

    image_name: str
    image_path: Path
    lens: Pinhole | FieldOfView
    world_to_camera: np.ndarray  # (4, 4) float64, x right, y down, z forward


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


def require_unique_names(views: Sequence[View], source: object) -> None:
    """Raise ValueError, naming `source` and the first name, if two views have the same image name."""
    name, times = Counter(view.image_name for view in views).most_common(1)[0]
    if times > 1:
        raise ValueError(
            f"{source} names the image {name} {times} times; every view needs an image of its own"
        )


def require_images(views: Sequence[View], source: object) -> None:
    """Raise FileNotFoundError with the first name, before any is decoded, if an image file is missing."""
    missing = [view for view in views if not view.image_path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"image not found: {missing[0].image_path} ("
            f"{len(missing)} of {len(views)} images named in {source} are missing)"
        )


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
    views: Sequence[View], resolution: int, data_device: torch.device | str, quiet: bool
) -> list[Camera]:
    """The Camera of every view, with its photo read and scaled; photos stay uint8 on `data_device`."""
    workers = min(MOST_WORKERS, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        loaded = pool.map(lambda view: _load_camera(view, resolution, data_device), views)
        bar = tqdm(
            loaded, total=len(views), desc="Reading images", unit="image", disable=True if quiet else None
        )
        cameras, was_limited = zip(*bar, strict=True)
    if any(was_limited) and not quiet:
        print(
            f"Images wider than {WIDEST_UNASKED} pixels were scaled down to {WIDEST_UNASKED}; "
            "-r 1 keeps their full size."
        )
    return list(cameras)


def _load_camera(view: View, resolution: int, data_device: torch.device | str) -> tuple[Camera, bool]:
    """The view's Camera, and whether only the 1600-pixel rule made it smaller."""
    image = read_image(view.image_path)
    height, width = image.shape[:2]
    try:
        lens = view.lens.at_size(width, height)
    except ValueError as error:
        raise ValueError(f"{view.image_path}: {error}") from None
    size = target_size(width, height, resolution)
    pixels = keep_on(data_device, _planar(resize_image(image, *size)))
    lens = lens.stretched(*size)
    camera = Camera(view.image_name, *size, lens.fx, lens.fy, lens.cx, lens.cy, view.world_to_camera, pixels)
    return camera, resolution == -1 and width > WIDEST_UNASKED


def _planar(
    image: np.ndarray,  # (H, W, C)
) -> torch.Tensor:
    """The same (H, W, C), stored channel by channel: `Camera.ground_truth` then has no bytes to shuffle."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).permute(1, 2, 0)
