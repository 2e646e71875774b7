"""Read and write images: uint8, RGB or RGBA with straight alpha."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from utils.files import write_atomically
from utils.image_files import decode
from utils.similar_names import hint

# Of photos that OpenCV reads.
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".avif")
JPEG_QUALITY = 95
# Pixels are used if their alpha, or their value in a mask, is at least this.
HALF = 128
# 16384 x 16384. A larger image follows from a mistaken -r.
MOST_PIXELS = 2**28


def read_image(path: str | Path) -> np.ndarray:
    """Return an image as (H, W, 3) uint8 RGB, or (H, W, 4) with straight alpha if a pixel is not opaque.

    An orientation in EXIF or TIFF is not applied, because COLMAP calibrates the pixels as they are stored.
    Gray becomes three channels, more bits become 8. Raise FileNotFoundError or ValueError, naming the file,
    if it is missing, damaged or has another depth.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"image not found: {path}{hint(path)}")
    image = _to_rgb(decode(path))
    if image.shape[2] == 4 and (image[..., 3] == 255).all():
        image = np.ascontiguousarray(image[..., :3])
    return image


def resize_image(
    image: np.ndarray,  # (H, W, 3 or 4) uint8
    width: int,
    height: int,
) -> np.ndarray:
    """Return the image at width x height.

    It is averaged over areas when it shrinks, and interpolated linearly when it grows. Colors are weighted by
    alpha, so that colors of transparent pixels do not bleed into the edges. Raise ValueError if the result
    has more than MOST_PIXELS pixels.
    """
    if image.shape[:2] == (height, width):
        return image
    method = cv2.INTER_AREA if width <= image.shape[1] and height <= image.shape[0] else cv2.INTER_LINEAR
    if width * height > MOST_PIXELS:
        raise ValueError(
            f"an image of {width} x {height} is too large: expected at most {MOST_PIXELS:,} pixels"
        )
    if image.shape[2] == 3:
        return cv2.resize(image, (width, height), interpolation=method)
    premultiplied = image.astype(np.float32)
    premultiplied[..., :3] *= premultiplied[..., 3:] / 255
    resized = cv2.resize(premultiplied, (width, height), interpolation=method)
    resized[..., :3] /= np.maximum(resized[..., 3:], 1e-6) / 255
    return np.clip(np.rint(resized), 0, 255).astype(np.uint8)


def to_bytes(image: Tensor) -> np.ndarray:
    """Return a (3, H, W) image in [0, 1] as an (H, W, 3) uint8 array, rounded."""
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()


def write_png(
    path: str | Path,
    image: np.ndarray,  # (H, W, 3) RGB or (H, W, 4) RGBA, uint8
) -> None:
    """Write a PNG atomically. Raise ValueError, naming the file, if the array is no such image."""
    _write(path, ".png", image, [])


def write_gray(
    path: str | Path,
    image: np.ndarray,  # (H, W) uint8 or uint16
) -> None:
    """Write a PNG of one channel, atomically."""
    _, encoded = cv2.imencode(".png", image)
    write_atomically(path, lambda file: file.write(encoded.tobytes()))


def write_photo(
    path: str | Path,
    image: np.ndarray,  # (H, W, 3) RGB or (H, W, 4) RGBA, uint8
) -> None:
    """Write an image atomically, in the format of its suffix. Raise ValueError as `write_png` does."""
    suffix = Path(path).suffix
    is_jpeg = suffix.lower() in (".jpg", ".jpeg")
    _write(path, suffix, image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if is_jpeg else [])


def write_depth(
    path: str | Path,
    values: np.ndarray,  # (H, W) at least 0
    largest: float,  # the value that is stored as 2^16
) -> None:
    """Write numbers atomically as a 16-bit PNG of one channel."""
    stored = np.clip(np.rint(values / max(largest, 1e-12) * 2**16), 0, 2**16 - 1).astype(np.uint16)
    write_gray(path, stored)


def _write(path: str | Path, suffix: str, image: np.ndarray, options: list[int]) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (3, 4) or image.size == 0:
        raise ValueError(f"{path}: expected an (H, W, 3 or 4) uint8 image, got {image.shape} {image.dtype}")
    order = cv2.COLOR_RGB2BGR if image.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
    _, encoded = cv2.imencode(suffix, cv2.cvtColor(image, order), options)
    write_atomically(path, lambda file: file.write(encoded.tobytes()))


def _to_rgb(stored: np.ndarray) -> np.ndarray:
    """Return (H, W, 3) RGB or (H, W, 4) RGBA of gray, gray with alpha, BGR or BGRA pixels.

    Gray may be (H, W) or (H, W, 1).
    """
    if stored.ndim == 2 or stored.shape[2] == 1:
        return cv2.cvtColor(stored, cv2.COLOR_GRAY2RGB)
    if stored.shape[2] == 2:
        return np.ascontiguousarray(stored[..., [0, 0, 0, 1]])
    return cv2.cvtColor(stored, cv2.COLOR_BGR2RGB if stored.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
