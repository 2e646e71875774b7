"""One training iteration at real scale: milliseconds per stage and kernel, and how near memory's speed it is.

    python benchmarks/gpu_step.py --gaussians 1000000 3000000 --profile --gsplat --json step.json
    python benchmarks/gpu_step.py --cameras $SCENES/garden [--ply point_cloud.ply]

Random Gaussians, a few pixels wide each, in front of one camera at 1237x822; or the cameras of a COLMAP model
with its points or a trained PLY. Photos are noise and lie on the device. The step is train.py's, at one
iteration that collects statistics, but at which nothing grows. The floor is the time that the parameters of
all Gaussians alone take at the speed of a copy: they are read twice, their gradients written and read, and
Adam reads and writes three numbers for each. With --gsplat, gsplat's whole training step runs on the same
Gaussians.
"""

from __future__ import annotations

import argparse
import inspect
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import utils.before_torch  # noqa: F401  before torch
import torch
from diff_gaussian_rasterization import best_device, take_profile
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

import train
from arguments import VARIANTS, Settings, make_settings
from benchmarks.gsplat_step import GsplatStep
from benchmarks.workload import Views, colmap_views, make_run, model_of_points, random_model, random_view
from gaussian_model import GaussianModel
from training.run import Training, choose_background
from utils.commands import run_command
from utils.files import write_json
from utils.rendering import render

Work = Callable[[], None]
ITERATION = 5001  # all SH degrees are in use, statistics are collected, nothing grows
FLOATS_MOVED = 10  # for every parameter, in one iteration
WARM_UP = 3  # runs that do not count
PROFILED = 5  # steps
COPIES = 10
SHOWN = 24  # kernels printed


def stages(run: Training) -> dict[str, Work]:
    """Return what is timed, by name: each does what the one before it does, and more.

    But that the whole step takes Adam's in the backward pass, as training does, and writes no gradients.
    """

    def forward() -> None:
        with torch.no_grad():
            render(train.next_camera(run), run.model, choose_background(run))

    def differentiate() -> None:
        train.forward_backward(run, ITERATION)
        run.model.optimizer.zero_grad(set_to_none=True)

    def step() -> None:
        train.update(run, ITERATION, train.forward_backward(run, ITERATION, may_step=True))

    return {"forward": forward, "forward and backward": differentiate, "whole step": step}


# Clocks


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(work: Work, device: torch.device, runs: int) -> float:
    """Return the median of `runs`, each of which is waited for."""
    times = []
    for _ in range(WARM_UP + runs):
        wait(device)
        start = time.perf_counter()
        work()
        wait(device)
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[WARM_UP:])


def milliseconds_in_a_row(work: Work, device: torch.device, runs: int) -> float:
    """Return the mean of `runs` that follow each other as in training, where the host runs ahead."""
    wait(device)
    start = time.perf_counter()
    for _ in range(runs):
        work()
    wait(device)
    return 1e3 * (time.perf_counter() - start) / runs


def copy_speed(device: torch.device) -> float:
    """Return bytes per second, read and written together."""
    size = 1 << (28 if device.type == "cuda" else 25)
    source = torch.zeros(size, device=device)
    target = torch.empty_like(source)
    return 2 * 4 * size / (1e-3 * milliseconds(lambda: target.copy_(source), device, COPIES))


# torch 2.4 has no such option, and keeps the events of all cycles.
_OF_ALL_CYCLES = {"acc_events": True} if "acc_events" in inspect.signature(profile).parameters else {}


def kernel_table(work: Work, device: torch.device) -> list[dict[str, Any]]:
    """Return name, calls and microseconds of each kernel in a step, slowest first; of operators on a CPU."""
    on_gpu = device.type == "cuda"
    work()
    wait(device)
    activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    with profile(activities=[activity], **_OF_ALL_CYCLES) as recorded:
        for _ in range(PROFILED):
            work()
        wait(device)
    kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
    rows = [
        {
            "kernel": event.key,
            "calls": event.count / PROFILED,
            "microseconds": (event.self_device_time_total if on_gpu else event.self_cpu_time_total)
            / PROFILED,
        }
        for event in recorded.key_averages()
        if event.device_type == kind
    ]
    return sorted(rows, key=lambda row: -row["microseconds"])


# Memory


def allocated(device: torch.device, what: str = "memory_allocated") -> int:
    """Return bytes of a GPU, or 0 of what torch does not count."""
    return getattr(torch.cuda, what)(device) if device.type == "cuda" else 0


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


# Figures


def count_pairs(run: Training) -> int:
    """Return how many tile-Gaussian pairs the first view has, by the CPU's count of them."""
    raw = {name: values.detach().cpu() for name, values in run.model.raw.items() if name != "latents"}
    take_profile()
    with torch.no_grad():
        render(run.scene.train[0], GaussianModel(raw), torch.zeros(3))
    return take_profile()[1]


def measured(name: str, work: Work, device: torch.device, args: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one whole step."""
    reset_peak(device)
    figures = {
        name: milliseconds(work, device, args.runs),
        f"{name}, in a row": milliseconds_in_a_row(work, device, args.runs),
    }
    peak = allocated(device, "max_memory_allocated")
    kernels = kernel_table(work, device) if args.profile else []
    return {"milliseconds": figures, "peak_bytes": peak, "kernels": kernels}


def measure(run: Training, args: argparse.Namespace, speed: float) -> dict[str, Any]:
    """Return our own figures."""
    device, model = run.model.device, run.model
    work = stages(run)
    parts = {name: milliseconds(work[name], device, args.runs) for name in list(work)[:-1]}
    figures = measured("whole step", work["whole step"], device, args)
    moved = 4 * FLOATS_MOVED * sum(values.numel() for values in model.raw.values())
    times = parts | figures["milliseconds"]
    return figures | {
        "gaussians": len(model),
        "pixels": run.scene.median_pixels,
        "pairs": count_pairs(run),
        "milliseconds": times | {"floor": 1e3 * moved / speed},
        "bytes_per_second": moved / (1e-3 * times["whole step, in a row"]),
    }


def measure_gsplat(run: Training, args: argparse.Namespace) -> dict[str, Any]:
    """Return gsplat's figures, or why there are none: it may be absent, or built for another machine."""
    found: dict[str, Any] = {}
    try:
        for packed in (True, False):
            name, ours = f"gsplat, packed {packed}", allocated(run.model.device)
            found[name] = measured(name, GsplatStep(run, packed), run.model.device, args)
            found[name]["peak_bytes"] -= ours
    except (ImportError, RuntimeError) as problem:
        found["problem"] = f"{type(problem).__name__}: {str(problem).partition(chr(10))[0]}"
    return found


def workloads(
    args: argparse.Namespace, settings: Settings, device: torch.device
) -> Iterator[tuple[GaussianModel, Views]]:
    """Yield what is to be measured, one after the other."""
    if args.cameras is None:
        views = random_view(args.width, args.height, device)
    else:
        views, points = colmap_views(args.cameras, args.width, device)
    if args.ply:
        yield GaussianModel.load_ply(args.ply, device), views
        return
    for count in args.gaussians:
        if args.cameras is None:
            yield random_model(count, views.cameras[0], device), views
        else:
            yield model_of_points(count, points, views.extent, settings, device), views


# Output


def show(figures: dict[str, Any]) -> None:
    size = f"{figures['gaussians']:,} Gaussians, {figures['pairs']:,} tile-Gaussian pairs"
    print(f"{size}, {figures['pixels'] / 1e6:.2f} megapixels")
    show_step(figures)
    times = figures["milliseconds"]
    print(f"  {'whole step over the floor':30} {times['whole step'] / times['floor']:8.2f}")
    print(f"  {'parameters moved':30} {figures['bytes_per_second'] / 1e9:8.0f} GB/s")


def show_step(figures: dict[str, Any]) -> None:
    for name, value in figures["milliseconds"].items():
        print(f"  {name:30} {value:8.2f} ms")
    if figures["peak_bytes"]:
        print(f"  {'peak memory':30} {figures['peak_bytes'] / 1e9:8.2f} GB")
    for row in figures["kernels"][:SHOWN]:
        print(f"    {row['microseconds']:9.1f} us {row['calls']:6.1f} x  {row['kernel'][:80]}")


def show_gsplat(found: dict[str, Any]) -> None:
    for name, figures in found.items():
        if name == "problem":
            print(f"  gsplat: {figures}")
        else:
            show_step(figures)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gaussians", type=int, nargs="+", default=[1_000_000, 3_000_000])
    parser.add_argument(
        "--cameras", type=Path, help="folder with sparse/0 of COLMAP, whose photos are not needed"
    )
    parser.add_argument("--ply", type=Path, help="trained Gaussians, with the --cameras of their scene")
    parser.add_argument("--variant", choices=sorted(VARIANTS), default="3dgs", help="as for train.py")
    parser.add_argument("--width", type=int, default=1237, help="pixels")
    parser.add_argument(
        "--height", type=int, default=822, help="pixels; of --cameras it follows from the width"
    )
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument(
        "--steps", type=int, help="run so many whole steps and nothing else, under a profiler"
    )
    parser.add_argument("--profile", action="store_true", help="also time every kernel (torch 2.5 and later)")
    parser.add_argument("--gsplat", action="store_true", help="beside gsplat's whole step")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    args = parser.parse_args()
    if args.ply and args.cameras is None:
        parser.error("--ply: the cameras of its scene are needed too, give their folder with --cameras")
    return args


def main() -> None:
    args, device = arguments(), best_device()
    settings = make_settings({"variant": args.variant})
    if args.steps:
        for model, views in workloads(args, settings, device):
            milliseconds_in_a_row(stages(make_run(model, views, settings))["whole step"], device, args.steps)
    else:
        report(args, settings, device)


def report(args: argparse.Namespace, settings: Settings, device: torch.device) -> None:
    """Measure every workload; print the figures, and write them after each."""
    speed = copy_speed(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    print(f"{name}: a copy moves {speed / 1e9:.0f} GB/s; variant {args.variant}")
    record = {"device": name, "copy_bytes_per_second": speed, "variant": args.variant, "workloads": []}
    for model, views in workloads(args, settings, device):
        run = make_run(model, views, settings)
        record["workloads"].append(figures := measure(run, args, speed))
        show(figures)
        if args.json:
            write_json(args.json, record)
        if args.gsplat:
            figures["gsplat"] = measure_gsplat(run, args)
            show_gsplat(figures["gsplat"])
    if args.json:
        write_json(args.json, record)


if __name__ == "__main__":
    run_command(main)
