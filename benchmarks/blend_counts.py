"""What the blend kernels of a GPU meet in the scene of gpu_step.py. Needs no GPU.

    python benchmarks/blend_counts.py --gaussians 3000000

Every so many tiles are blended here, and counted: entries of their lists until all pixels have ended, and
the splats that a chunk (8x4 pixels) or a warp (two chunks) meets. Times the instructions of a loop
(gpu_counts.py) they say how long a kernel takes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from diff_gaussian_rasterization import GaussianRasterizer
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.workload import random_model, random_view
from utils.commands import run_command
from utils.rendering import gaussians_of, rasterizer_settings

TILE, CHUNK_WIDTH, CHUNK_HEIGHT = 16, 8, 4  # pixels
BUCKET = 32  # entries that a warp looks at together
SMALLEST_ALPHA, LARGEST_ALPHA, SMALLEST_TRANSMITTANCE = 1 / 255, 0.99, 1e-4
COUNTS = ("entries", "chunk buckets", "warp buckets", "chunk meets", "warp meets", "blended pixels")


def alphas(rows: Tensor, left: int, top: int) -> Tensor:
    """Return alpha (M, 256) of splats (M, 16) at the pixels of a tile; 0 where they are not seen."""
    x, y, quad_u, shear, quad_v = (rows[:, j, None, None] for j in range(5))
    dx = left + torch.arange(TILE) + 0.5 - x
    dy = (top + torch.arange(TILE) + 0.5)[:, None] - y
    footprint = rows[:, 9, None, None] * (quad_u * (dx - shear * dy) ** 2 + quad_v * dy**2).exp2()
    alpha = (rows[:, 10, None, None] * footprint).clamp(max=LARGEST_ALPHA)
    return torch.where(footprint >= SMALLEST_ALPHA, alpha, 0.0).flatten(1)


def count_tile(rows: Tensor, left: int, top: int, width: int, height: int) -> Tensor:
    """Return COUNTS of one tile, whose splats (M, 16) are in the order of depth."""
    alpha = alphas(rows, left, top)
    seen = alpha > 0
    listed = seen.any(1)
    alpha, seen = alpha[listed], seen[listed]
    pixels = torch.arange(TILE * TILE)
    inside = (left + pixels % TILE < width) & (top + pixels // TILE < height)
    alive = ((1 - alpha.double()).cumprod(0) >= SMALLEST_TRANSMITTANCE) & inside
    blended = seen & alive

    def by_chunk(values: Tensor) -> Tensor:
        """Return which chunks (M, 4, 2) have a pixel of `values` (M, 256)."""
        shape = (-1, TILE // CHUNK_HEIGHT, CHUNK_HEIGHT, TILE // CHUNK_WIDTH, CHUNK_WIDTH)
        return values.view(shape).transpose(2, 3).flatten(3).any(3)

    def by_warp(chunks: Tensor) -> Tensor:
        """Return which warps (M, 2, 2) have one of the chunks (M, 4, 2)."""
        return chunks[:, 0::2] | chunks[:, 1::2]

    living, met = by_chunk(alive), by_chunk(blended)
    starts = living[::BUCKET]
    numbers = (living.flatten(1).any(1), starts, by_warp(starts), met, by_warp(met), blended)
    return torch.stack([values.sum() for values in numbers])


def count(gaussians: int, width: int, height: int, step: int) -> tuple[Tensor, int]:
    """Return COUNTS of the whole picture, estimated from every `step`th tile, and the visible Gaussians."""
    camera = random_view(width, height, torch.device("cpu")).cameras[0]
    model = random_model(gaussians, camera, torch.device("cpu"))
    settings = rasterizer_settings(camera, model, torch.zeros(3))
    with torch.no_grad():
        gaussians_seen = gaussians_of(model, camera)
        rows, depths, radii = GaussianRasterizer(settings).project(
            means2D=torch.zeros_like(model.means), **gaussians_seen
        )
    order = depths.argsort(stable=True)
    rows = rows[order[radii[order] > 0]]
    x, y, half_width, half_height = rows[:, 0], rows[:, 1], rows[:, 6], rows[:, 7]
    across, down = -(-width // TILE), -(-height // TILE)
    tiles = range(0, across * down, step)
    total = torch.zeros(len(COUNTS), dtype=torch.int64)
    for tile in tiles:
        left, top = tile % across * TILE, tile // across * TILE
        near = (x + half_width > left) & (x - half_width < left + TILE)
        near &= (y + half_height > top) & (y - half_height < top + TILE)
        total += count_tile(rows[near], left, top, width, height)
    return total.double() * (across * down / len(tiles)), len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gaussians", type=int, default=3_000_000)
    parser.add_argument("--width", type=int, default=1237)
    parser.add_argument("--height", type=int, default=822)
    parser.add_argument("--every", type=int, default=7, help="of so many tiles one is counted")
    args = parser.parse_args()
    total, visible = count(args.gaussians, args.width, args.height, args.every)
    print(f"visible: {visible:,}")
    for name, number in zip(COUNTS, total.tolist()):
        print(f"{name}: {number / 1e6:.2f} million")
    useful = total[COUNTS.index("blended pixels")] / total[COUNTS.index("chunk meets")] / 32
    print(f"lanes with work in a chunk's meet: {useful:.0%}")


if __name__ == "__main__":
    run_command(main)
