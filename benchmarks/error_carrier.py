"""The cost of E_k: training iterations with and without the error carrier, in turn.

    python benchmarks/error_carrier.py -s SCENE [-r 2] [--threads 1] [--pairs 60]

For about 10,000 Gaussians and for 300,000 (the scene's points, repeated and jittered). Prints the median of
the paired ratios with its 95 % interval (order statistics of the sign test).
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import utils.before_torch  # noqa: F401  before torch
import numpy as np
import torch

import train
from arguments import make_settings
from benchmarks import STEADY
from scene import PointCloud, Scene, load_scene
from training.run import Training, start

WARM_UP = 3


def resampled(scene: Scene, count: int) -> Scene:
    """Return the scene with `count` points: drawn at random, and moved by a little of its extent."""
    random = np.random.default_rng(0)
    chosen = random.integers(0, len(scene.points.xyz), count)
    jitter = random.normal(scale=0.01 * scene.extent, size=(count, 3))
    points = PointCloud(scene.points.xyz[chosen] + jitter, scene.points.rgb[chosen])
    return dataclasses.replace(scene, points=points)


def wait_for(run: Training) -> None:
    """Return when the device has done all that was queued."""
    run.model.means[0, 0].item()


def milliseconds(run: Training) -> float:
    """Return the milliseconds of one iteration without densification."""
    run.iteration += 1
    begin = time.perf_counter()
    train.update(run, run.iteration, train.forward_backward(run, run.iteration, may_step=True))
    wait_for(run)
    return 1e3 * (time.perf_counter() - begin)


def compare(scene: Scene, flags: dict, pairs: int) -> None:
    kinds = [STEADY | flags | {"densify_by": by} for by in ("gradient", "error")]
    # One seed: the same views in the same order.
    runs = [start(make_settings(kind), scene, Path()) for kind in kinds]
    times = [tuple(map(milliseconds, runs)) for _ in range(pairs + WARM_UP)][WARM_UP:]
    ratios = sorted(with_carrier / without for without, with_carrier in times)
    reach = round(0.98 * len(ratios) ** 0.5)  # 1.96 standard deviations of a fair coin's count
    low, high = (ratios[min(max(len(ratios) // 2 + side, 0), len(ratios) - 1)] for side in (-reach, reach))
    without, with_carrier = (statistics.median(column) for column in zip(*times))
    print(
        f"{len(runs[0].model):,} Gaussians: {without:.1f} ms without, {with_carrier:.1f} ms with carrier; "
        f"ratio {statistics.median(ratios):.3f} (95 %: {low:.3f} to {high:.3f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-s", "--source_path", required=True)
    parser.add_argument("-r", "--resolution", type=int, default=-1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--gaussians", type=int, nargs="+", default=[10_000, 300_000])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    flags = {"source_path": args.source_path, "resolution": args.resolution}
    scene = load_scene(**make_settings(flags).of_scene())
    for count in args.gaussians:
        compare(resampled(scene, count), flags, args.pairs)


if __name__ == "__main__":
    main()
