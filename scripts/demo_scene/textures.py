"""The demo scene's bitmap textures, made with numpy: (H, W, 3) uint8 sRGB."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Field = NDArray[np.float64]


def noise(height: int, width: int, cells: tuple[int, int], octaves: int, rng: np.random.Generator) -> Field:
    """Return smooth noise (H, W) in about [-1, 1]. cells: (rows, columns) of the coarsest octave."""
    total = np.zeros((height, width))
    for octave in range(octaves):
        grid = rng.uniform(-1, 1, (cells[0] * 2**octave + 1, cells[1] * 2**octave + 1))
        total += 0.5**octave * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return total


def rgb(code: str) -> Field:
    """Return sRGB (3,) in [0, 255] of "#rrggbb"."""
    return np.array([int(code[i : i + 2], 16) for i in (1, 3, 5)], dtype=np.float64)


def mix(dark: str, light: str, amount: Field) -> Field:
    """Blend two colors by `amount` (H, W), clipped to [0, 1]: (H, W, 3)."""
    return rgb(dark) + np.clip(amount, 0, 1)[..., None] * (rgb(light) - rgb(dark))


def to_image(values: Field) -> Image:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def wood(height: int, width: int, dark: str, light: str, rng: np.random.Generator) -> Field:
    """Draw wood grain along the width: bent year rings, fibers and slow changes of tone."""
    y = np.linspace(0, 1, height)[:, None]
    bend = noise(height, width, (2, 1), 3, rng)
    rings = 0.5 + 0.5 * np.sin(2 * np.pi * (5 * y + 0.9 * bend))
    fibers = noise(height, width, (max(height // 6, 1), 6), 2, rng)
    slow = noise(height, width, (2, 3), 2, rng)
    return mix(dark, light, 0.5 + 0.28 * (rings - 0.5) + 0.14 * fibers + 0.2 * slow)


def planks(size: int, count: int, dark: str, light: str, joints: bool, rng: np.random.Generator) -> Image:
    """Draw `count` boards side by side, each with its own grain and tone, separated by dark gaps."""
    board = size // count
    image = np.zeros((board * count, size, 3))
    for k in range(count):
        rows = image[k * board : (k + 1) * board]
        rows[:] = wood(board, size, dark, light, rng) * rng.uniform(0.86, 1.1)
        rows[:2] *= 0.5
        if joints:
            cut = int(rng.integers(size // 8, size))
            rows[:, cut:] *= rng.uniform(0.85, 1.12)
            rows[:, cut - 2 : cut] *= 0.5
    return to_image(image)


def gingham(size: int, checks: int, cloth: str, thread: str, rng: np.random.Generator) -> Image:
    """Draw a checked cloth: crossing colored bands in a visible weave, with a plain hem."""
    band = (np.arange(size) * 2 * checks // size) % 2
    amount = 0.5 * (band[:, None] + band[None, :])
    k = np.arange(size)
    weave = 0.06 * np.where((k[:, None] // 2 + k[None, :] // 2) % 2, 1.0, -1.0)
    tone = 1 + 0.03 * noise(size, size, (16, 16), 3, rng)
    image = mix(cloth, thread, amount + weave * (amount > 0)) * tone[..., None]
    edge = np.minimum(np.minimum(k, size - 1 - k)[:, None], np.minimum(k, size - 1 - k)[None, :])
    image[edge < size // 50] = rgb(thread)
    return to_image(image)


def wallpaper(
    height: int, width: int, ground: str, motif: str, columns: int, rng: np.random.Generator
) -> Image:
    """Draw a half-drop pattern of small leaves in two close tones over uneven plaster."""
    cell = width // columns
    v, u = np.mgrid[0:height, 0:width].astype(np.float64)
    column = np.floor(u / cell)
    x = (u / cell) % 1 - 0.5
    y = (v / (1.5 * cell) + 0.5 * (column % 2)) % 1 - 0.5
    stem = np.exp(-((x / 0.018) ** 2)) * (np.abs(y) < 0.38)
    leaves = np.zeros_like(x)
    for row in (-0.24, -0.06, 0.12, 0.3):
        along = np.abs(x) / 0.3
        center = row - 0.10 * along
        leaves = np.maximum(leaves, (np.abs(y - center) < 0.055 * np.sin(np.pi * np.clip(along, 0, 1))) * 1.0)
    pattern = cv2.GaussianBlur(np.clip(stem + leaves, 0, 1), (0, 0), 1.2)
    tone = 1 + 0.05 * noise(height, width, (4, 8), 4, rng)
    return to_image(mix(ground, motif, pattern) * tone[..., None])


def rug(size: int, rng: np.random.Generator) -> Image:
    """Draw concentric bands with zigzags, for a round rug."""
    y, x = (np.mgrid[0:size, 0:size] + 0.5) / size * 2 - 1
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    zigzag = np.abs(((angle / (2 * np.pi) * 40) % 1) - 0.5)
    shifted = radius + 0.07 * zigzag * (np.sin(radius * 20) > 0)
    colors = [rgb(c) for c in ("#8c3b2e", "#e6d3ae", "#2f4f5e", "#c98a3a", "#e6d3ae", "#8c3b2e", "#2f4f5e")]
    image = np.array(colors)[np.clip((shifted * 7).astype(int), 0, 6)]
    tufts = 1 + 0.10 * noise(size, size, (size // 8, size // 8), 2, rng)
    return to_image(image * tufts[..., None])


def soil(size: int, rng: np.random.Generator) -> Image:
    """Draw dark mottled soil."""
    return to_image(mix("#2a1c12", "#6b4a30", 0.45 + 0.5 * noise(size, size, (24, 24), 3, rng)))


def landscape(
    height: int, width: int, sky: str, sun: str, hills: list[str], rng: np.random.Generator
) -> Image:
    """Draw a simple painted landscape: a sun above layered hills."""
    v, u = np.mgrid[0:height, 0:width].astype(np.float64) / [[[height]], [[width]]]
    image = mix(sky, "#fff4dd", 0.2 + 0.9 * v + 0.1 * noise(height, width, (6, 4), 3, rng))
    center = rng.uniform(0.3, 0.7)
    image[np.hypot((u - center) * width, (v - 0.32) * height) < 0.13 * width] = rgb(sun)
    for k, color in enumerate(hills):
        line = (
            0.45
            + 0.5 * k / len(hills)
            + 0.09 * np.sin(2 * np.pi * (u * rng.uniform(0.7, 1.6) + rng.uniform()))
        )
        shade = 1 + 0.10 * noise(height, width, (10, 8), 3, rng)
        image = np.where((v > line)[..., None], rgb(color) * shade[..., None], image)
    return to_image(image)


def all_textures(seed: int) -> dict[str, Image]:
    """Draw every bitmap of the scene, by the name of its material."""
    rng = np.random.default_rng(seed)
    hills = (
        ["#7fa3a0", "#4f7f78", "#2d5652"],
        ["#d98f5c", "#b5563c", "#6e2f33"],
        ["#8fa86b", "#5f8450", "#34563a"],
        ["#9d8ab8", "#6f5a94", "#40366b"],
    )
    skies = ("#9cc7d8", "#f0b46a", "#bcd7e6", "#f0c7c0")
    suns = ("#f4d35e", "#fbe9c6", "#f29e4c", "#e4572e")
    arts = {f"art{k}": landscape(320, 256, skies[k], suns[k], hills[k], rng) for k in range(4)}
    return {
        "table": planks(1024, 8, "#7a4a26", "#c78d54", False, rng),
        "floor": planks(1536, 24, "#6d5440", "#a88a6b", True, rng),
        "cloth": gingham(768, 9, "#f7f2e6", "#2f5d8a", rng),
        "wall": wallpaper(768, 1536, "#c9d6c3", "#a9bfa6", 22, rng),
        "rug": rug(768, rng),
        "soil": soil(256, rng),
        **arts,
    }
