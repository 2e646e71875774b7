"""One training iteration at real scale: milliseconds per stage, and how near memory's speed it is.

    python benchmarks/gpu_step.py --gaussians 1000000 3000000 --json step.json

Random Gaussians, a few pixels wide each, in front of one camera at 1237x822 with a random picture as its
photo. The floor is the time that the parameters of all Gaussians alone take at the speed of a copy: they are
read twice, their gradients written and read, and Adam reads and writes three numbers for each. With --gsplat,
gsplat's own kernels render and differentiate the same Gaussians from the same camera.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import utils.before_torch  # noqa: F401  before torch
import numpy as np
import torch
from diff_gaussian_rasterization import best_device
from torch import Tensor

import subfunction as policy
from arguments import OptimizationSettings
from gaussian_model import GaussianModel
from scene.camera import Camera
from utils.rendering import render

FLOATS_MOVED = 10  # for every parameter, in one iteration
NEAR, FAR = 2.0, 20.0  # depths, world units
PIXELS_WIDE = 1.5  # of one standard deviation, median


def random_camera(width: int, height: int, device: torch.device) -> Camera:
    focal = width / (2 * math.tan(math.radians(30)))
    gt_image = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8).to(device)
    return Camera("random", width, height, focal, focal, width / 2, height / 2, np.eye(4), gt_image)


def random_model(count: int, camera: Camera, device: torch.device) -> GaussianModel:
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    depth = NEAR + (FAR - NEAR) * uniform(count, 1)
    half = torch.tensor([math.tan(camera.FoVx / 2), math.tan(camera.FoVy / 2)])
    means = torch.cat([(2 * uniform(count, 2) - 1) * half * depth, depth], 1)
    pixel = 2 * half[0] * depth / camera.width
    spread = torch.randn(count, 3, generator=generator)
    raw = {
        "means": means,
        "sh_dc": uniform(count, 1, 3) - 0.5,
        "sh_rest": 0.1 * torch.randn(count, 15, 3, generator=generator),
        "opacities": 2 * torch.randn(count, 1, generator=generator) - 1,
        "scales": (PIXELS_WIDE * pixel).log() + 0.5 * spread,
        "quats": torch.randn(count, 4, generator=generator),
    }
    return GaussianModel({name: values.to(device) for name, values in raw.items()})


def stages(
    model: GaussianModel, camera: Camera, settings: OptimizationSettings
) -> dict[str, Callable[[], None]]:
    """What is timed: each does all of what the one before it does, and more."""
    background = torch.zeros(3, device=model.device)

    def forward() -> None:
        with torch.no_grad():
            render(camera, model, background)

    def forward_backward() -> Any:
        view = render(camera, model, background)
        gt_image = camera.ground_truth(background, model.device)
        policy.training_loss(view.image, gt_image, settings.lambda_dssim)[0].backward()
        return view

    def differentiate() -> None:
        forward_backward()
        model.optimizer.zero_grad(set_to_none=True)

    def step() -> None:
        view = forward_backward()
        with torch.no_grad():
            policy.accumulate_gradients(model.statistics, view.means2d.grad, view.radii)
            model.step(view.radii > 0)

    return {"forward": forward, "forward and backward": differentiate, "whole step": step}


def milliseconds(work: Callable[[], None], device: torch.device, runs: int) -> float:
    """Median of `runs`, after three that do not count."""
    times = []
    for _ in range(3 + runs):
        wait(device)
        start = time.perf_counter()
        work()
        wait(device)
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[3:])


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def copy_speed(device: torch.device) -> float:
    """Bytes per second, read and written together."""
    size = 1 << (28 if device.type == "cuda" else 25)
    a = torch.zeros(size, device=device)
    b = torch.empty_like(a)
    return 2 * 4 * size / (1e-3 * milliseconds(lambda: b.copy_(a), device, 10))


def gsplat_forward_backward(model: GaussianModel, camera: Camera) -> Callable[[], None]:
    from gsplat import rasterization

    rows = [[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]]
    lens = torch.tensor(rows, dtype=torch.float32, device=model.device)
    pose = torch.eye(4, device=model.device)

    def work() -> None:
        coefficients = torch.cat([model.sh_dc, model.sh_rest], 1)
        image, _, _ = rasterization(
            model.means, model.raw["quats"], model.scales, model.opacities[:, 0], coefficients,
            pose[None], lens[None], camera.width, camera.height, sh_degree=3,
        )  # fmt: skip
        gt_image = camera.ground_truth(torch.zeros(3, device=model.device), model.device)
        policy.training_loss(image[0].permute(2, 0, 1).contiguous(), gt_image, 0.2)[0].backward()
        model.optimizer.zero_grad(set_to_none=True)

    return work


def measure(count: int, args: argparse.Namespace, device: torch.device, speed: float) -> dict[str, float]:
    camera = random_camera(args.width, args.height, device)
    model = random_model(count, camera, device)
    settings = OptimizationSettings()
    model.start_training(settings)
    timed = {
        name: milliseconds(work, device, args.runs) for name, work in stages(model, camera, settings).items()
    }
    numbers = sum(values[0].numel() for values in model.raw.values())
    timed["floor"] = 1e3 * count * numbers * 4 * FLOATS_MOVED / speed
    if args.gsplat:
        work = gsplat_forward_backward(model, camera)
        timed["gsplat, forward and backward"] = milliseconds(work, device, args.runs)
    return timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gaussians", type=int, nargs="+", default=[1_000_000, 3_000_000])
    parser.add_argument("--width", type=int, default=1237)
    parser.add_argument("--height", type=int, default=822)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--gsplat", action="store_true", help="beside gsplat's kernels")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    args = parser.parse_args()
    device = best_device()
    speed = copy_speed(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}: a copy moves {speed / 1e9:.0f} GB/s; {args.width}x{args.height} pixels")
    figures = {}
    for count in args.gaussians:
        figures[count] = measure(count, args, device, speed)
        print(f"{count:,} Gaussians")
        for stage, time_taken in figures[count].items():
            print(f"  {stage:30} {time_taken:8.2f} ms")
        print(
            f"  {'whole step over the floor':30} {figures[count]['whole step'] / figures[count]['floor']:8.2f}"
        )
    if args.json:
        record = {"device": name, "bytes_per_second": speed, "milliseconds": figures}
        args.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
