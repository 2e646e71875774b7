"""Photos between disk and memory: uint8, RGB or RGBA with straight alpha."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from utils.files import write_atomically

JPEG_QUALITY = 95
HALF = 128  # what has more alpha, or is brighter in a mask, counts
MOST_PIXELS = 2**28  # 16384 x 16384: more is a mistaken -r, not a photo


def read_image(path: str | Path) -> np.ndarray:
    """The image as (H, W, 3) uint8 RGB, or (H, W, 4) with straight alpha where some pixel is not opaque.

    Pixels come as stored: an EXIF orientation is not applied, because COLMAP calibrates the stored pixels
    too. Grey becomes three channels, 16 bit becomes 8. FileNotFoundError or ValueError, naming the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"image not found: {path}")
    stored = _decode(path)
    if stored.dtype == np.uint16:
        stored = ((stored.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if stored.dtype != np.uint8:
        raise ValueError(f"{path}: images need 8 or 16 bits per channel, this one holds {stored.dtype}")
    image = _to_rgb(stored)
    if image.shape[2] == 4 and (image[..., 3] == 255).all():
        image = np.ascontiguousarray(image[..., :3])
    return image


def resize_image(
    image: np.ndarray,  # (H, W, 3 or 4) uint8
    width: int,
    height: int,
) -> np.ndarray:
    """The image at width x height: averaged over areas when it shrinks, linearly interpolated when it grows.

    Colours are weighted by alpha, so that what hides under transparent pixels does not bleed into the edges.
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
    """(3, H, W) in [0, 1] -> (H, W, 3) uint8 array, rounded."""
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()


def write_png(
    path: str | Path,
    image: np.ndarray,  # (H, W, 3) RGB or (H, W, 4) RGBA, uint8
) -> None:
    """Write a PNG, atomically. ValueError if the array is no such image."""
    _write(path, ".png", image, [])


def write_photo(
    path: str | Path,
    image: np.ndarray,  # (H, W, 3) RGB or (H, W, 4) RGBA, uint8
) -> None:
    """Write an image in the format of its name, atomically. ValueError as for a PNG."""
    suffix = Path(path).suffix
    is_jpeg = suffix.lower() in (".jpg", ".jpeg")
    _write(path, suffix, image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if is_jpeg else [])


def write_depth(
    path: str | Path,
    values: np.ndarray,  # (H, W) at least 0
    largest: float,  # what 2^16 stands for
) -> None:
    """Write numbers as a 16-bit PNG of one channel, atomically."""
    stored = np.clip(np.rint(values / max(largest, 1e-12) * 2**16), 0, 2**16 - 1).astype(np.uint16)
    _, encoded = cv2.imencode(".png", stored)
    write_atomically(path, lambda file: file.write(encoded.tobytes()))


def _write(path: str | Path, suffix: str, image: np.ndarray, options: list[int]) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (3, 4) or image.size == 0:
        raise ValueError(f"{path}: expected an (H, W, 3 or 4) uint8 image, got {image.shape} {image.dtype}")
    order = cv2.COLOR_RGB2BGR if image.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
    _, encoded = cv2.imencode(suffix, cv2.cvtColor(image, order), options)
    write_atomically(path, lambda file: file.write(encoded.tobytes()))


def _decode(path: Path) -> np.ndarray:
    """The pixels as OpenCV orders and stores them; IMREAD_UNCHANGED keeps alpha and depth, ignores EXIF."""
    data = np.frombuffer(path.read_bytes(), np.uint8)
    try:
        stored = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
    except cv2.error as error:
        raise ValueError(f"{path} cannot be decoded: {error.err}") from None
    if stored is None:
        raise ValueError(
            f"{path} ({len(data)} bytes) is damaged or not an image in a format that OpenCV reads"
        )
    return stored


def _to_rgb(stored: np.ndarray) -> np.ndarray:
    """(H, W), (H, W, 1 grey / 2 grey, alpha / 3 BGR / 4 BGRA) -> (H, W, 3 or 4) RGB(A)."""
    if stored.ndim == 2 or stored.shape[2] == 1:
        return cv2.cvtColor(stored, cv2.COLOR_GRAY2RGB)
    if stored.shape[2] == 2:
        return np.ascontiguousarray(stored[..., [0, 0, 0, 1]])
    return cv2.cvtColor(stored, cv2.COLOR_BGR2RGB if stored.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
