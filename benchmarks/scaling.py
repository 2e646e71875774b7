"""What several processes cost and gain: bytes and time in exchange, measured here, and a model of up to 64.

    python benchmarks/scaling.py -s $SCENES/fox --width 280 --gaussians 100000 --ranks 1 2

Trains Gaussians drawn of a COLMAP model's points, before its cameras and with noise for photos, with each
number of ranks in turn, one thread each. A step renders a view at each rank. The model takes from the run of
one rank what a Gaussian costs in a view, what it costs in a step, and what a view costs besides. A step of R
ranks, with links that carry so many GB/s, then takes

    N each_view + view + N / R each_step + sent / link,        sent = 4 * 33 V (R - 1) / R bytes:

V of the N Gaussians are in view; their splats go out as 17 numbers, gradients come back as 16.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import utils.before_torch  # noqa: F401  before torch

import torch
from diff_gaussian_rasterization import best_device, cpu_info, take_profile
from torch import Tensor

import train
from arguments import make_settings
from benchmarks import STEADY
from benchmarks.workload import colmap_views, draw_points, make_run
from gaussian_model import GaussianModel
from scene import PointCloud
from subfunction import step_of
from training.run import Training
from utils.commands import run_command
from utils.ranks import Ranks
from utils.run_folder import machine, peak_memory

WARM_UP = 3
NUMBERS_OF_A_SPLAT, NUMBER_BYTES = 17 + 16, 4  # there and back
MODELLED = (1, 2, 4, 8, 16, 32, 64)


class CountingRanks(Ranks):
    """Ranks that count what they send, and for how long they are at it: waiting for each other included."""

    bytes, seconds = 0, 0.0

    def start_counting(self) -> None:
        self.bytes, self.seconds = 0, 0.0

    def sent(self, rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
        began = time.perf_counter()
        out = super().sent(rows, sent, received)
        self.seconds += time.perf_counter() - began
        self.bytes += (len(rows) - sent[self.rank]) * rows[:1].numel() * rows.element_size()
        return out

    def sum(self, values: Tensor) -> Tensor:
        began = time.perf_counter()
        total = super().sum(values)
        self.seconds += time.perf_counter() - began
        return total


def own_model(args: argparse.Namespace, points: PointCloud, extent: float, ranks: Ranks) -> GaussianModel:
    """Return this rank's share of the Gaussians, as large as they are among all."""
    drawn, device = draw_points(args.gaussians, points, extent), best_device()
    own = slice(ranks.rank, None, ranks.count)
    model = GaussianModel.from_points(drawn.xyz[own], drawn.rgb[own], 3, 0.1, device)
    model.raw["scales"] -= torch.tensor(float(ranks.count)).log() / 3
    return model


def step(run: Training, first: int) -> dict[str, float]:
    """Run one step; return the seconds of its views and of the update, and how many Gaussians are seen."""
    views_of_step, began = step_of(first, run.settings), time.perf_counter()
    if run.ranks.count == 1:
        views = [train.forward_backward(run, first)]
    else:
        views = train.forward_backward_together(run, views_of_step)
    rendered = time.perf_counter()
    train.update(run, views_of_step[-1], *views)
    visible = sum(int((view.radii > 0).sum()) for view in views) / len(views)
    return {"views": rendered - began, "update": time.perf_counter() - rendered, "visible": visible}


def measure(args: argparse.Namespace) -> None:
    """Train as one of the ranks; the first prints the means over ranks and steps, and of visible the sum."""
    torch.set_num_threads(1)
    ranks = CountingRanks.connect(best_device())
    views, points = colmap_views(Path(args.source_path), args.width, best_device())
    run = make_run(
        own_model(args, points, views.extent, ranks), views, make_settings(STEADY | {"variant": args.variant})
    )
    run.ranks = ranks
    run.model.sort_by_place()
    for number in range(WARM_UP):
        step(run, number * ranks.count + 1)
    ranks.wait()
    take_profile(), ranks.start_counting()
    laps = [step(run, number * ranks.count + 1) for number in range(WARM_UP, WARM_UP + args.steps)]
    found = {name: sum(lap[name] for lap in laps) for name in laps[0]}
    kernels, _ = take_profile()
    found |= {"kernels": sum(kernels.values()), "exchange": ranks.seconds, "bytes": ranks.bytes}
    found["projecting"] = kernels["project"] + kernels["project_backward"]
    numbers = torch.tensor([*found.values(), args.steps * peak_memory()], dtype=torch.float64)
    means = (Ranks.sum(ranks, numbers) / ranks.count / args.steps).tolist()
    means = dict(zip((*found, "memory"), means))
    means["visible"] *= ranks.count
    if ranks.is_first:
        print(json.dumps(means))
    ranks.disconnect()


def measured(ranks: int) -> dict[str, float]:
    """Return what this command finds with so many processes."""
    launcher = [sys.executable]
    if ranks > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    alone = {"RANK": "0", "WORLD_SIZE": "1"}
    process = subprocess.run(
        [*launcher, *sys.argv],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | alone,
        text=True,
        capture_output=True,
    )
    if process.returncode:
        raise OSError(f"{ranks} processes failed:\n{process.stderr}")
    return json.loads(process.stdout.splitlines()[-1])


class Model:
    """Seconds and bytes of a step of any number of ranks, from what one rank takes."""

    def __init__(self, gaussians: int, one: dict[str, float]) -> None:
        self.gaussians, self.visible = gaussians, one["visible"]
        self.each_view, self.each_step = one["projecting"] / gaussians, one["update"] / gaussians
        self.view = one["views"] - one["projecting"]

    def sent(self, ranks: int) -> float:
        return NUMBER_BYTES * NUMBERS_OF_A_SPLAT * self.visible * (ranks - 1) / ranks

    def seconds(self, ranks: int, link: float) -> float:
        own = self.gaussians * (self.each_view + self.each_step / ranks) + self.view
        return own + self.sent(ranks) / (1e9 * link)


def report(args: argparse.Namespace, results: dict[int, dict[str, float]]) -> None:
    print(f"{args.gaussians:,} Gaussians, {args.width} pixels wide, {machine(cpu_info())}")
    for ranks, found in results.items():
        seconds = found["views"] + found["update"]
        print(
            f"{ranks:3} ranks: {1e3 * seconds:8.1f} ms a step, {1e3 * seconds / ranks:.1f} a view; "
            f"kernels {1e3 * found['kernels']:.1f}, exchange {1e3 * found['exchange']:.1f} of it; "
            f"{found['bytes'] / 1e6:.1f} MB sent by each, {found['memory'] / 1e9:.2f} GB of memory each"
        )
    if 1 not in results:
        return
    model = Model(args.gaussians, results[1])
    costs = f"{1e9 * model.each_view:.0f} ns a Gaussian and view, {1e9 * model.each_step:.0f} ns one and step"
    print(f"model: {costs}, {1e3 * model.view:.1f} ms a view, {model.visible:,.0f} in view")
    for ranks in sorted({*MODELLED, *results}):
        speed = [ranks * model.seconds(1, link) / model.seconds(ranks, link) for link in args.links]
        text = ", ".join(
            f"{times:.2f} times as fast at {link} GB/s" for times, link in zip(speed, args.links)
        )
        print(f"{ranks:3} ranks: {model.sent(ranks) / 1e6:8.1f} MB sent by each, {text}")


def main() -> None:
    args = arguments()
    if "RANK" in os.environ:
        return measure(args)
    report(args, {ranks: measured(ranks) for ranks in args.ranks})


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-s", "--source_path", required=True, help="folder with a COLMAP model")
    parser.add_argument("--width", type=int, default=400, help="of the pictures, pixels")
    parser.add_argument("--gaussians", type=int, default=100_000)
    parser.add_argument("--variant", default="3dgs", help="as for train.py")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--links", type=float, nargs="+", default=[1.25, 25.0], help="GB/s")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
